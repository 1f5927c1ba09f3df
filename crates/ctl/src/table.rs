//! Rows in columns as wide as their widest cell, cut to the terminal.

use crate::console::{self, Tone};

/// Between two columns.
const GAP: &str = "  ";
/// A column is not cut below this.
const WIDTH_MIN: usize = 8;

/// What a table shows of one thing. The same type is its JSON form.
pub(crate) trait Row {
    /// Titles of the columns. One that begins with `-` is left out where there is no room for it; `>` after
    /// that has its cells at the right.
    const TITLES: &'static [&'static str];

    /// As many cells as titles.
    fn cells(&self) -> Vec<Cell>;
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// In a colour.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        // A control character of a client id shall not reach the terminal.
        let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Cell { text: text.into().chars().map(clean).collect(), tone }
    }

    /// A dash for nothing.
    pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> Cell {
        value.map_or_else(|| Cell::from("-"), |value| Cell::from(value.to_string()))
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn fit(&self, width: usize, right: bool) -> String {
        let text = if self.width() > width {
            self.text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        } else {
            self.text.clone()
        };
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        let painted = self.tone.paint(&text);
        if right { padding + &painted } else { painted + &padding }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell::from(number.to_string())
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Cell {
        Cell::from(number.to_string())
    }
}

/// The rows with titles, as wide as the terminal at most.
pub(crate) fn render<R: Row>(rows: &[R]) -> String {
    render_within(rows, console::width().unwrap_or(usize::MAX))
}

/// Prints the rows, or says on stderr that there are none.
pub(crate) fn show<R: Row>(rows: &[R], none: &str) {
    match rows {
        [] => console::note(none),
        rows => console::line(render(rows)),
    }
}

/// One column, as its title describes it.
#[derive(Debug, Clone, Copy)]
struct Column {
    at: usize,
    title: &'static str,
    right: bool,
    spare: bool,
    width: usize,
}

fn render_within<R: Row>(rows: &[R], room: usize) -> String {
    let lines: Vec<Vec<Cell>> = rows.iter().map(Row::cells).collect();
    let columns = R::TITLES.iter().enumerate().map(|(at, described)| {
        let spare = described.starts_with('-');
        let described = described.trim_start_matches('-');
        let title = described.trim_start_matches('>');
        let cells = lines.iter().filter_map(|line| line.get(at)).map(Cell::width);
        let width = cells.max().unwrap_or(0).max(title.chars().count());
        Column { at, title, right: described.starts_with('>'), spare, width }
    });
    let columns = fitted(columns.collect(), room);
    let titles = columns.iter().map(|column| Cell::toned(column.title, Tone::Title));
    let titles: Vec<String> =
        titles.zip(&columns).map(|(cell, column)| cell.fit(column.width, column.right)).collect();
    let cells = |line: &Vec<Cell>| -> Vec<String> {
        let of = |column: &Column| Some(line.get(column.at)?.fit(column.width, column.right));
        columns.iter().filter_map(of).collect()
    };
    let text = |cells: Vec<String>| cells.join(GAP).trim_end().to_owned();
    let lines = std::iter::once(titles).chain(lines.iter().map(cells));
    lines.map(text).collect::<Vec<_>>().join("\n")
}

/// Leaves spare columns out, from the last on, until all fit; then takes from the widest, and from the
/// first, which says what a row is about, at last.
fn fitted(mut columns: Vec<Column>, room: usize) -> Vec<Column> {
    let fits = |columns: &[Column]| {
        let gaps = GAP.len() * columns.len().saturating_sub(1);
        columns.iter().map(|column| column.width).sum::<usize>() + gaps <= room
    };
    while !fits(&columns)
        && let Some(spare) = columns.iter().rposition(|column| column.spare)
    {
        columns.remove(spare);
    }
    while !fits(&columns) {
        let is_wide = |column: &&mut Column| column.width > WIDTH_MIN;
        let Some((first, others)) = columns.split_first_mut() else { break };
        let widest = others.iter_mut().filter(is_wide).max_by_key(|column| column.width);
        let Some(widest) = widest.or_else(|| Some(first).filter(is_wide)) else { break };
        widest.width -= 1;
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line(&'static str, u64);

    impl Row for Line {
        const TITLES: &'static [&'static str] = &["name", ">count"];

        fn cells(&self) -> Vec<Cell> {
            vec![self.0.into(), self.1.into()]
        }
    }

    #[test]
    fn columns_line_up_and_numbers_are_at_the_right() {
        let text = render_within(&[Line("a", 5), Line("longer", 12)], 80);
        assert_eq!(text, "name    count\na           5\nlonger     12");
    }

    #[test]
    fn the_widest_column_gives_way_to_a_narrow_terminal() {
        let text = render_within(&[Line("a-very-long-client-id", 5)], 17);
        assert_eq!(text, "name        count\na-very-lo…      5");
    }

    #[test]
    fn spare_columns_go_first() {
        struct Wide;
        impl Row for Wide {
            const TITLES: &'static [&'static str] = &["name", "-address", "->count", "state"];

            fn cells(&self) -> Vec<Cell> {
                ["storage-1", "127.0.0.1:27526", "12", "up"].map(Cell::from).to_vec()
            }
        }
        assert_eq!(render_within(&[Wide], 80).lines().count(), 2);
        assert!(render_within(&[Wide], 80).contains("127.0.0.1:27526     12  up"));
        assert_eq!(
            render_within(&[Wide], 33),
            "name       address          state\nstorage-1  127.0.0.1:27526  up"
        );
        assert_eq!(render_within(&[Wide], 20), "name       state\nstorage-1  up");
    }

    #[test]
    fn a_client_id_cannot_write_on_the_terminal() {
        let text = render_within(&[Line("a\u{1b}[2Jb\n", 5)], 80);
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text:?}");
    }
}
