//! Alert rules and dashboards, with promtool and a real Prometheus on a live cluster.

#![allow(clippy::unwrap_used, missing_docs)]

mod dashboard;
mod live;
mod prometheus;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use holdfast_deploy::tools::{root, run, said, tool};
use holdfast_e2e::cluster::program;
use serde_json::Value;

use self::dashboard::{dashboards, panels};
use self::rules::alerts;

fn promtool(args: &[&str]) {
    let output = run(Command::new(tool("prometheus/promtool")).args(args).current_dir(root()));
    assert!(output.status.success(), "promtool {args:?}: {}", said(&output));
}

#[test]
fn alert_rules_pass_their_tests() {
    promtool(&["check", "rules", "--lint-fatal", rules::ALERTS]);
    promtool(&["test", "rules", rules::TESTS]);
    let tests = fs::read_to_string(root().join(rules::TESTS)).unwrap();
    for alert in alerts() {
        let fires = format!("alertname=\"{}\"", alert.name);
        assert!(tests.contains(&fires), "no test lets {} fire", alert.name);
    }
}

#[test]
fn every_alert_says_what_to_do_and_where_it_is_described() {
    let (mut names, page) =
        (BTreeSet::new(), fs::read_to_string(root().join("deploy/OPERATIONS.md")));
    let headings: BTreeSet<String> = page
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    for alert in alerts() {
        assert!(names.insert(alert.name.clone()), "two alerts are called {}", alert.name);
        assert!(["critical", "warning"].contains(&alert.severity.as_str()), "{}", alert.name);
        assert!(!alert.summary.is_empty() && alert.description.len() > 80, "{}", alert.name);
        let anchor = alert.runbook_url.strip_prefix("deploy/OPERATIONS.md#").unwrap_or_default();
        assert!(headings.contains(anchor), "{}: no section {anchor:?}", alert.name);
    }
}

#[test]
fn the_scrape_config_is_right() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in
        [("deploy/prometheus.yaml", "prometheus.yaml"), (rules::ALERTS, "alerts.yaml")]
    {
        fs::copy(root().join(from), folder.path().join(to)).unwrap();
    }
    promtool(&["check", "config", folder.path().join("prometheus.yaml").to_str().unwrap()]);
}

#[test]
fn dashboards_are_as_they_are_generated_and_complete() {
    let script = root().join("deploy/grafana/dashboards.py");
    let checked = run(Command::new("python3").arg(script).arg("--check"));
    assert!(checked.status.success(), "{}", said(&checked));
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}");
        assert!(dashboard["schemaVersion"].as_u64() >= Some(39), "{name}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<&str> =
            variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(variables, ["datasource", "namespace", "job", "instance"], "{name}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {}", panel["title"]);
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            for (x, y) in (0..at("w")).flat_map(|x| (0..at("h")).map(move |y| (x, y))) {
                assert!(at("x") + x < 24, "{name}: {} is too far right", panel["title"]);
                let free = taken.insert((at("x") + x, at("y") + y));
                assert!(free, "{name}: {} covers another panel", panel["title"]);
            }
        }
        for panel in panels(&dashboard) {
            assert!(panel.description.len() > 10, "{name}: {} has no description", panel.title);
            assert!(!panel.unit.is_empty(), "{name}: {} has no unit", panel.title);
            assert!(!panel.expressions.is_empty(), "{name}: {} shows nothing", panel.title);
        }
    }
    assert_eq!(uids.len(), 4);
}

/// Names of all metrics that a program describes.
fn described(name: &str) -> BTreeSet<String> {
    let output = run(Command::new(program(name)).arg("--print-metrics"));
    assert!(output.status.success(), "{}", said(&output));
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}
