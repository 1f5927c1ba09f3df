//! Every preset, example and ci file with both helms, against the schemas of several Kubernetes versions.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::Command;

use holdfast_deploy::chart::{Helm, Rendering};
use holdfast_deploy::manifests::{Manifests, list, name_of, text};
use holdfast_deploy::tools::{run, said, tool};
use serde_json::Value;

const KUBERNETES: [&str; 4] = ["1.28", "1.31", "1.34", "1.36"];
/// Kinds of others that no Kubernetes schema knows; `custom_resources_have_what_they_need` looks at them.
const CUSTOM: [&str; 4] = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"];

#[test]
fn helm_finds_nothing_to_complain_of() {
    for rendering in Rendering::all() {
        for helm in Helm::ALL {
            rendering.lint(helm).unwrap_or_else(|said| panic!("{} {helm:?}: {said}", rendering.name));
        }
    }
}

#[test]
fn both_helms_render_the_same_and_it_is_valid_in_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for rendering in Rendering::all() {
        let three = rendering.text();
        let four = rendering.template(Helm::Four).unwrap();
        assert!(three == four, "{}: helm 3 and 4 differ", rendering.name);
        let path = folder.path().join(format!("{}.yaml", rendering.name));
        fs::write(&path, three).unwrap();
        files.push(path);
    }
    for version in KUBERNETES {
        let mut command = Command::new(tool("kubernetes-validate/bin/kubernetes-validate"));
        let output = run(command.args(["--strict", "--quiet", "-k", version]).args(&files));
        let said = said(&output);
        let custom = |line: &&str| {
            let known = |kind: &&str| line.contains(&format!("Couldn't find schema for kind {kind} "));
            !CUSTOM.iter().any(|kind| known(kind))
        };
        let wrong: Vec<&str> = said.lines().filter(custom).collect();
        assert!(output.status.success() && wrong.is_empty(), "Kubernetes {version}: {wrong:#?}");
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.yaml");
    let right = Rendering::defaults().text();
    for (what, instead) in [("replicas: 2", "replicass: 2"), ("containerPort: 1883", "containerPort: mqtt")] {
        assert!(right.contains(what));
        fs::write(&path, right.replacen(what, instead, 1)).unwrap();
        let mut command = Command::new(tool("kubernetes-validate/bin/kubernetes-validate"));
        let output = run(command.args(["--strict", "--quiet", "-k", "1.34"]).arg(&path));
        assert!(!output.status.success(), "{instead} was not found: {}", said(&output));
    }
}

#[test]
fn custom_resources_have_what_they_need() {
    let mut seen = Vec::new();
    for rendering in Rendering::all() {
        let manifests = Manifests::parse(&rendering.text());
        for kind in CUSTOM {
            for object in manifests.of(kind) {
                check_custom(kind, object);
                seen.push(kind);
            }
        }
    }
    assert!(CUSTOM.iter().all(|kind| seen.contains(kind)), "{seen:?}");
}

/// Fields that the definitions of these kinds require, and those alone that they know of what we use.
fn check_custom(kind: &str, object: &Value) {
    let spec = &object["spec"];
    let known: &[&str] = match kind {
        "ServiceMonitor" => &["namespaceSelector", "selector", "endpoints"],
        "PodMonitor" => &["namespaceSelector", "selector", "podMetricsEndpoints"],
        "PrometheusRule" => &["groups"],
        _ => &["secretName", "commonName", "duration", "renewBefore", "privateKey", "usages", "issuerRef"],
    };
    let fields: Vec<&String> = spec.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), known.len(), "{kind} {}: {fields:?}", name_of(object));
    assert!(known.iter().all(|field| !spec[*field].is_null()), "{kind}: {fields:?}");
    for endpoint in list(&spec["endpoints"]).iter().chain(list(&spec["podMetricsEndpoints"])) {
        assert_eq!((text(&endpoint["port"]), text(&endpoint["path"])), ("http", "/metrics"));
        assert!(list(&endpoint["relabelings"]).iter().any(|rule| rule["targetLabel"] == "job"));
    }
    for rule in list(&spec["groups"]).iter().flat_map(|group| list(&group["rules"])) {
        assert!(rule["alert"].is_string() != rule["record"].is_string(), "{rule}");
        assert!(rule["expr"].is_string(), "{rule}");
    }
    if kind == "Certificate" {
        assert_eq!(text(&spec["issuerRef"]["kind"]), "ClusterIssuer");
    }
}
