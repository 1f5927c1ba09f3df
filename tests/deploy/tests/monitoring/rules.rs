//! The alert rules as data.

use std::fs;

use holdfast_deploy::tools::root;
use serde_json::Value;

/// The rules.
pub(crate) const ALERTS: &str = "helm/holdfast/files/alerts.yaml";
/// Their tests.
pub(crate) const TESTS: &str = "deploy/prometheus/alerts_test.yaml";

/// One rule.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) severity: String,
    pub(crate) summary: String,
    pub(crate) description: String,
    pub(crate) runbook_url: String,
}

/// All rules.
pub(crate) fn alerts() -> Vec<Alert> {
    let text = fs::read_to_string(root().join(ALERTS)).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(alert).collect()
}

fn alert(rule: &Value) -> Alert {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{rule}")).to_owned();
    let annotations = &rule["annotations"];
    Alert {
        name: text(&rule["alert"]),
        expression: text(&rule["expr"]),
        severity: text(&rule["labels"]["severity"]),
        summary: text(&annotations["summary"]),
        description: text(&annotations["description"]),
        runbook_url: text(&annotations["runbook_url"]),
    }
}
