//! Every preset, example and ci file with both helms, against the schemas of several Kubernetes versions.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;
use std::fs;
use std::process::Command;

use holdfast_deploy::chart::{self, Helm, Rendering};
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
            rendering
                .lint(helm)
                .unwrap_or_else(|said| panic!("{} {helm:?}: {said}", rendering.name));
        }
    }
}

/// What the validator finds in manifests by the schemas of a version.
fn findings(version: &str, texts: &[(String, String)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    let mut command = Command::new(tool("kubernetes-validate/bin/kubernetes-validate"));
    command.args(["--strict", "--quiet", "-k", version]).current_dir(&folder);
    for (index, (name, text)) in texts.iter().enumerate() {
        // Most objects are the same in all of them, and the validator is slow.
        let new: Vec<&str> = text.split("---\n").filter(|one| seen.insert(*one)).collect();
        let file = format!("{index}-{name}.yaml");
        fs::write(folder.path().join(&file), new.join("---\n")).unwrap();
        command.arg(file);
    }
    let output = run(&mut command);
    let is_custom = |line: &str| {
        CUSTOM.iter().any(|kind| line.contains(&format!("Couldn't find schema for kind {kind} ")))
    };
    let said = said(&output);
    let mut found: Vec<String> =
        said.lines().filter(|line| !is_custom(line)).map(str::to_owned).collect();
    if !output.status.success() {
        found.push(output.status.to_string());
    }
    found
}

#[test]
fn both_helms_render_the_same_and_it_is_valid_in_every_version() {
    let mut texts = Vec::new();
    for rendering in Rendering::all() {
        // Dashboards are long, and their ConfigMaps are looked at below.
        let rendering = rendering.set(&["metrics.dashboards.enabled=false"]).upgrade();
        let three = rendering.text();
        let four = rendering.template(Helm::Four).unwrap();
        assert!(three == four, "{}: helm 3 and 4 differ", rendering.name);
        texts.push((rendering.name, three));
    }
    for version in KUBERNETES {
        assert_eq!(findings(version, &texts), Vec::<String>::new(), "Kubernetes {version}");
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let right = Rendering::defaults().text();
    for (what, instead) in
        [("replicas: 2", "replicass: 2"), ("containerPort: 1883", "containerPort: mqtt")]
    {
        assert!(right.contains(what));
        let wrong = right.replacen(what, instead, 1);
        assert!(
            !findings("1.34", &[("wrong".to_owned(), wrong)]).is_empty(),
            "{instead} was not found"
        );
    }
}

#[test]
fn dashboards_and_alerts_are_those_of_the_files() {
    let manifests = Manifests::parse(&Rendering::of("ci/everything-on-values.yaml").text());
    let files = fs::read_dir(chart::folder().join("files/dashboards")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        let (stem, file) = (path.file_stem().unwrap(), path.file_name().unwrap());
        let name = format!("rel-holdfast-dashboard-{}", stem.to_str().unwrap());
        let object = manifests.get("ConfigMap", &name);
        assert_eq!(text(&object["metadata"]["labels"]["grafana_dashboard"]), "1");
        let shown: Value =
            serde_json::from_str(text(&object["data"][file.to_str().unwrap()])).unwrap();
        let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(shown, written, "{name}");
    }
    let alerts = fs::read_to_string(chart::folder().join("files/alerts.yaml")).unwrap();
    let alerts: Value = serde_yaml_ng::from_str(&alerts).unwrap();
    let shown = list(&manifests.get("PrometheusRule", "rel-holdfast")["spec"]["groups"]);
    let (last, groups) = shown.split_last().unwrap();
    assert_eq!((groups, text(&last["name"])), (list(&alerts["groups"]), "more"));
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
        _ => &["secretName", "duration", "renewBefore", "privateKey", "usages", "issuerRef"],
    };
    // A certificate has one of these, as below.
    let name_of_certificate =
        |field: &str| kind == "Certificate" && ["commonName", "dnsNames"].contains(&field);
    let fields = spec.as_object().unwrap().keys().filter(|field| !name_of_certificate(field));
    let fields: Vec<&String> = fields.collect();
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
        assert_eq!(spec["dnsNames"].is_null(), spec["commonName"].is_string(), "{spec}");
        assert!(spec["issuerRef"]["name"].is_string() && !list(&spec["usages"]).is_empty());
    }
}
