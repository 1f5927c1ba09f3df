//! The dashboards as data.

use std::collections::BTreeSet;
use std::fs;

use holdfast_deploy::tools::root;
use serde_json::Value;

/// A panel that shows something.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) unit: String,
    /// With variables filled in, as a viewer who chooses nothing would see it.
    pub(crate) expressions: Vec<String>,
}

/// All dashboards by file name.
pub(crate) fn dashboards() -> Vec<(String, Value)> {
    let folder = fs::read_dir(root().join("helm/holdfast/files/dashboards")).unwrap();
    let mut all: Vec<(String, Value)> = folder
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// All panels of a dashboard but the headings.
pub(crate) fn panels(dashboard: &Value) -> Vec<Panel> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").map(panel_of).collect()
}

fn panel_of(panel: &Value) -> Panel {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets = panel["targets"].as_array().into_iter().flatten();
    Panel {
        title: text(&panel["title"]),
        description: text(&panel["description"]),
        unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
        expressions: targets.map(|target| filled_in(&text(&target["expr"]))).collect(),
    }
}

fn filled_in(expression: &str) -> String {
    let values = [
        ("$namespace", ".*"),
        ("$job", ".*"),
        ("$instance", ".*"),
        ("$__rate_interval", "10s"),
        ("$__range", "1m"),
    ];
    let filled =
        values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!filled.contains('$'), "unknown variable in {expression}");
    filled
}

/// Names of the metrics in an expression.
pub(crate) fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| {
        word.starts_with("holdfast_")
            || word.starts_with("process_")
            || ["up", "ALERTS"].contains(word)
    });
    names.map(str::to_owned).collect()
}
