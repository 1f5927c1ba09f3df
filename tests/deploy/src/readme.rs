//! The table of values in the chart's README, made of the comments in values.yaml.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Path of the value.
    pub key: String,
    /// As in the file, in one line.
    pub default: String,
    /// What its comment says.
    pub description: String,
}

/// What begins the comment of a value that gets a row.
const MARK: &str = "# -- ";
/// The table is between these lines of the README.
const BEGIN: &str = "<!-- values: begin -->";
const END: &str = "<!-- values: end -->";

/// Reads the file line by line: a comment that begins with the mark belongs to the key below it.
pub fn rows(values: &str) -> Vec<Row> {
    let parsed: Value = serde_yaml_ng::from_str(values).expect("valid YAML");
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment = None;
    let mut rows = Vec::new();
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(description) = text.strip_prefix(MARK) {
            comment = Some(description.trim().to_owned());
            continue;
        }
        let Some((key, _)) = text.split_once(':').filter(|(key, _)| is_key(key)) else { continue };
        path.retain(|(of, _)| *of < indent);
        path.push((indent, key.to_owned()));
        if let Some(description) = comment.take() {
            let keys: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
            let value = keys.iter().fold(&parsed, |value, key| &value[*key]);
            let default = serde_json::to_string(value).expect("JSON");
            rows.push(Row { key: keys.join("."), default, description });
        }
    }
    rows
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-/.".contains(c))
        && !text.starts_with('-')
}

/// Paths of values that have no row, neither themselves nor by what they are in.
pub fn undescribed(values: &str) -> Vec<String> {
    let parsed: Value = serde_yaml_ng::from_str(values).expect("valid YAML");
    let described: BTreeSet<String> = rows(values).into_iter().map(|row| row.key).collect();
    let mut missing = Vec::new();
    collect(&parsed, String::new(), &described, &mut missing);
    missing
}

fn collect(value: &Value, path: String, described: &BTreeSet<String>, missing: &mut Vec<String>) {
    if described.contains(&path) {
        return;
    }
    match value.as_object().filter(|table| !table.is_empty()) {
        Some(table) => table.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            collect(value, path, described, missing);
        }),
        None => missing.push(path),
    }
}

/// The README with the table as it should be.
pub fn with_table(readme: &str, values: &str) -> String {
    let (before, rest) = readme.split_once(BEGIN).expect("the beginning of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    format!("{before}{BEGIN}\n{}{END}{after}", table(values))
}

fn table(values: &str) -> String {
    let mut text = String::new();
    let mut section = "";
    let rows = rows(values);
    for row in &rows {
        let (top, _) = row.key.split_once('.').unwrap_or(("", &row.key));
        if text.is_empty() || top != section {
            section = top;
            let title = if top.is_empty() { "All" } else { top };
            let _ = write!(text, "\n### {title}\n\n| Value | Default | Meaning |\n|---|---|---|\n");
        }
        let (default, description) =
            (row.default.replace('|', "\\|"), row.description.replace('|', "\\|"));
        let _ = writeln!(text, "| `{}` | `{default}` | {description} |", row.key);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: &str =
        "# no row\na:\n  # -- Number | of b.\n  b: 3\n  # -- All of c.\n  c:\n    d: [1]\n  e: 1\n";

    #[test]
    fn a_marked_comment_makes_a_row() {
        let rows = rows(VALUES);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].key.as_str(), rows[0].default.as_str()), ("a.b", "3"));
        assert_eq!(rows[1].default, r#"{"d":[1]}"#);
        assert_eq!(undescribed(VALUES), ["a.e"]);
    }

    #[test]
    fn the_table_is_put_between_the_marks() {
        let readme = format!("x\n{BEGIN}\nold\n{END}\ny\n");
        let told = with_table(&readme, VALUES);
        assert!(
            told.starts_with("x\n") && told.ends_with("\ny\n") && !told.contains("old"),
            "{told}"
        );
        assert!(told.contains("| `a.b` | `3` | Number \\| of b. |"), "{told}");
    }
}
