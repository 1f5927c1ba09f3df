//! Lines for a human. A closed pipe on the other side ends no cluster.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// Prints one line to stdout.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    // The reader is gone (`holdfast up | head`): nobody is left to tell.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints an error to stderr.
pub(crate) fn error(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "holdfast: {text}");
}

/// Prints one line of JSON to stdout.
pub(crate) fn json(value: &impl Serialize) {
    // What we print consists of strings, numbers and lists, which always have a JSON form.
    line(serde_json::to_string(value).unwrap_or_default());
}

/// Bytes for a human.
pub(crate) fn size(bytes: u64) -> String {
    let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter();
    let (mut whole, mut rest, mut unit) = (bytes, 0, "B");
    while whole >= 1024
        && let Some(next) = units.next()
    {
        (whole, rest, unit) = (whole / 1024, whole % 1024, next);
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{} {unit}", rest * 10 / 1024) }
}

/// Rows in columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let format_row = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    rows.iter().map(format_row).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "  a     b\n  long  c");
    }
}
