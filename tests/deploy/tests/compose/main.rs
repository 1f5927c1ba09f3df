//! deploy/compose.yaml: read by a strict reader, and its processes run as it says, each on a loopback address of
//! its own instead of in a container.

#![allow(clippy::unwrap_used, missing_docs)]

mod file;
mod loopback;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use holdfast_deploy::manifests::{list, text};
use holdfast_deploy::tools::{root, said, tool};
use serde_json::{Value, json};

use self::file::{file, services};
use self::loopback::Loopback;

#[test]
fn a_strict_reader_takes_the_file() {
    let script =
        "import sys, compose_spec; compose_spec.PyCompose.from_json(sys.stdin.read()).validate()";
    let mut python = Command::new(tool("compose/bin/python"));
    python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(file().to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn every_service_is_confined_and_has_time_to_stop() {
    for service in services() {
        let (name, value) = (&service.name, &service.value);
        assert_eq!(value["read_only"], true, "{name}");
        assert_eq!(value["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(value["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(value["logging"]["options"]["max-size"], "10m", "{name}");
        assert!(
            value["image"].as_str().unwrap().contains(':'),
            "{name} has an image without a tag"
        );
        if name == "holdfast" {
            continue;
        }
        assert_eq!(value["restart"], "unless-stopped", "{name}");
        assert!(value["healthcheck"]["test"].is_array(), "{name}");
        if service.program().is_some() {
            assert_eq!(value["user"], "65532:65532", "{name}");
            assert!(service.grace_s() >= 15, "{name}");
        }
    }
}

#[test]
fn what_is_mounted_is_there_and_no_volume_is_shared_by_mistake() {
    let mut volumes = Vec::new();
    for service in services() {
        for (from, _) in service.mounts() {
            if from.starts_with('.') {
                let path = root().join("deploy").join(&from);
                assert!(path.exists(), "{}: {} is not there", service.name, path.display());
            } else {
                volumes.push(from);
            }
        }
    }
    volumes.sort();
    let declared = file()["volumes"].as_object().unwrap().clone();
    for volume in declared.keys() {
        let users = volumes.iter().filter(|name| *name == volume).count();
        // The password of the admin API: both meta-services and the command need it.
        assert_eq!(users, if volume == "admin" { 3 } else { 1 }, "{volume}");
    }
}

#[test]
fn addresses_name_services_that_listen_there() {
    let services = services();
    let knows = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let service = services.iter().find(|service| service.name == host);
        let service = service.unwrap_or_else(|| panic!("{address}: no such service"));
        if service.program().is_none() {
            return ["2379", "9090"].contains(&port);
        }
        fs::read_to_string(service.mounted(&service.command()[1]))
            .unwrap()
            .contains(&format!(":{port}\""))
    };
    for name in ["storage-node.toml", "broker-node.toml", "meta-service.toml"] {
        let text = fs::read_to_string(root().join("deploy/compose").join(name)).unwrap();
        let config: toml::Table = toml::from_str(&text).unwrap();
        let lists = [config.get("meta"), config.get("etcd").and_then(|etcd| etcd.get("endpoints"))];
        for address in lists.into_iter().flatten().flat_map(|list| list.as_array().unwrap()) {
            let address = address.as_str().unwrap().trim_start_matches("http://").to_owned();
            assert!(knows(&address), "{name}: nobody listens at {address}");
        }
    }
    let text_of = |path: &str| fs::read_to_string(root().join("deploy").join(path)).unwrap();
    let scrapes: Value = serde_yaml_ng::from_str(&text_of("prometheus.yaml")).unwrap();
    let mut targets = Vec::new();
    for job in list(&scrapes["scrape_configs"]) {
        targets.extend(
            list(&job["static_configs"][0]["targets"]).iter().map(|target| text(target).to_owned()),
        );
    }
    assert!(targets.iter().all(|target| knows(target)), "{targets:?}");
    for service in services.iter().filter(|service| service.program().is_some()) {
        let target = format!("{}:8081", service.name);
        assert!(targets.contains(&target), "{target} is not scraped");
    }
    let sources: Value =
        serde_yaml_ng::from_str(&text_of("compose/grafana/datasources.yaml")).unwrap();
    let url = text(&sources["datasources"][0]["url"]).trim_start_matches("http://");
    assert!(knows(url), "{url}");
}

#[test]
fn its_processes_form_a_cluster_and_stop_in_time() {
    let mut cluster = Loopback::start(&services());
    cluster.await_healthy();
    let status = cluster.command(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["healthy"], true, "{status:#}");
    cluster.command(&["sites", "list"]);
    let (one, other) = (cluster.at("gateway-1:1883"), cluster.at("gateway-2:1883"));
    cluster.command(&["check", "--mqtt", &one, "--other", &other]);
    cluster.stop_all_at_once();
}
