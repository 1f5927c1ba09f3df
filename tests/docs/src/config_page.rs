//! The configuration reference.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::pages::cell;
use crate::program::{Program, ProgramError};
use crate::schema::{Field, Section, sections};

const HEAD: &str = "\
<!-- Made by `make docs` from the programs. Change the doc comments of the code, not this file. -->
# Configuration

Each process reads one TOML file, `--config FILE`. A field that is not in it has its default; an unknown field,
a wrong type or a value out of its limits is refused with a message that names it, and exit code 2.

* `--set FIELD=VALUE`, as often as needed, goes over the file: `--set log.segment_bytes=1048576`. VALUE is TOML, or
  else text (a field that takes text takes `1` as text, too); an empty one leaves the field unset.
* `--check` says whether the configuration is valid, and ends with code 0 or 2.
* `--print-config-schema` prints the JSON schema of the file, `--print-metrics` the [metrics](METRICS.md).
* `RUST_LOG` sets the level of the log: `error`, `warn`, `info` (default), `debug`, `trace`, or `target=level`.

An address is `host:port`; an IPv6 address is put in brackets, `[fd00::1]:7001`.
";

/// Files that show a program's minimal config; they are checked with the program.
pub fn examples(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files: &[&str] = match name {
        "broker-node" => &["broker-node.toml"],
        "storage-node" => &["storage-node.toml"],
        "meta-service" => &["meta-service-sled.toml", "meta-service-etcd.toml"],
        _ => &[],
    };
    files.iter().map(|file| folder.join(file)).collect()
}

/// The whole page.
pub fn make(programs: &[Program]) -> Result<String, ProgramError> {
    let mut page = HEAD.to_owned();
    for program in programs {
        // Writing to a String does not fail.
        let _ = writeln!(page, "\n## {}\n", program.name);
        let sections = sections(&program.schema()?);
        for file in examples(program.name) {
            let _ = writeln!(page, "```toml\n{}```\n", std::fs::read_to_string(file)?);
        }
        for section in &sections {
            page += &table(section);
        }
    }
    Ok(page)
}

fn table(section: &Section) -> String {
    let mut text = String::new();
    if !section.path.is_empty() {
        let title = match section.list {
            true => format!("[[{}]]", section.path),
            false => format!("[{}]", section.path),
        };
        let note = if section.optional { " Absent by default." } else { "" };
        let _ = writeln!(text, "\n### `{title}`\n\n{}{note}\n", section.about);
    }
    if section.fields.is_empty() {
        return text;
    }
    text += "| Field | Type | Default | Unit | Meaning and limits |\n|---|---|---|---|---|\n";
    for field in &section.fields {
        let default = match &field.default {
            Some(value) => shown(value, unit(&field.name)),
            None if field.required => "**required**".to_owned(),
            None => "–".to_owned(),
        };
        let unit = unit(&field.name).unwrap_or_default();
        let (name, kind, meaning) = (&field.name, &field.kind, cell(&meaning(field)));
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {unit} | {meaning} |");
    }
    text
}

fn meaning(field: &Field) -> String {
    let mut text = field.help.clone();
    if let Some((low, high)) = field.bounds {
        let bound = |number: u64| match unit(&field.name).and_then(|unit| in_words(number, unit)) {
            Some(words) => format!("{number} ({words})"),
            None => number.to_string(),
        };
        let _ = write!(text, " From {} to {}.", bound(low), bound(high));
    }
    let choices = field.choices.iter().map(|(value, help)| {
        let help = help.trim_end_matches('.');
        if help.is_empty() { format!("`\"{value}\"`") } else { format!("`\"{value}\"`: {help}") }
    });
    let choices: Vec<String> = choices.collect();
    if !choices.is_empty() {
        let _ = write!(text, " One of {}.", choices.join("; "));
    }
    text
}

/// The unit that a field's name ends in, whatever `_max` or `_min` follows.
fn unit(name: &str) -> Option<&'static str> {
    let words: Vec<&str> = name.split('_').filter(|word| !matches!(*word, "max" | "min")).collect();
    match words.as_slice() {
        [.., "bytes", "per", "s"] => Some("bytes/s"),
        [.., "per", "s"] => Some("1/s"),
        [.., "bytes"] | ["bytes", ..] => Some("bytes"),
        [.., "ms"] => Some("ms"),
        [.., "s"] => Some("s"),
        [.., "percent"] => Some("%"),
        _ => None,
    }
}

/// The default as in the file, and large ones in words, too.
fn shown(value: &Value, unit: Option<&str>) -> String {
    let text = match value {
        Value::Array(values) if values.is_empty() => "[]".to_owned(),
        value => value.to_string(),
    };
    match value.as_u64().and_then(|number| in_words(number, unit?)) {
        Some(words) => format!("`{text}` ({words})"),
        None => format!("`{text}`"),
    }
}

fn in_words(number: u64, unit: &str) -> Option<String> {
    let steps: &[(u64, &str)] = match unit {
        "bytes" | "bytes/s" => {
            &[(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        }
        "ms" => &[(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")],
        "s" => &[(86_400, "d"), (3_600, "h"), (60, "min")],
        _ => &[],
    };
    let (step, name) = steps.iter().find(|(step, _)| number > 0 && number.is_multiple_of(*step))?;
    let per = if unit.ends_with("/s") { "/s" } else { "" };
    Some(format!("{} {name}{per}", number / step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_in_names() {
        for (name, expected) in [
            ("drain_timeout_ms", Some("ms")),
            ("keep_alive_max_s", Some("s")),
            ("run_bytes_max", Some("bytes")),
            ("bytes_max", Some("bytes")),
            ("fetch_bytes_per_s", Some("bytes/s")),
            ("walk_sessions_per_s", Some("1/s")),
            ("disk_high_percent", Some("%")),
            ("shards", None),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
    }

    #[test]
    fn large_defaults_are_told_in_words() {
        assert_eq!(shown(&Value::from(33_554_432_u64), Some("bytes")), "`33554432` (32 MiB)");
        assert_eq!(shown(&Value::from(604_800_000_u64), Some("ms")), "`604800000` (7 d)");
        assert_eq!(shown(&Value::from(1_500), Some("ms")), "`1500`");
        assert_eq!(shown(&Value::from("a"), None), "`\"a\"`");
    }
}
