//! What a process refuses to start with or to talk to, and how it says so.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::{Command, Output, Stdio};

use holdfast_e2e::cluster::{Cluster, Shape, program};

const PROGRAMS: [&str; 3] = ["meta-service", "storage-node", "broker-node"];

/// A config that is right but for what is in `wrong`, which replaces the field of the same name.
fn run(binary: &str, wrong: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("data_dir = {:?}", folder.path().join("data"));
    let mut fields =
        vec!["name = \"one\"", "grpc_listen = \"127.0.0.1:1\"", "http_listen = \"127.0.0.1:2\""];
    match binary {
        "meta-service" => fields.push(&data),
        "storage-node" => fields.extend(["meta = [\"127.0.0.1:3\"]", &data]),
        _ => fields.extend(["meta = [\"127.0.0.1:3\"]", "mqtt_listen = \"127.0.0.1:4\""]),
    }
    let name = wrong.split(' ').next().unwrap();
    fields.retain(|field| !field.starts_with(&format!("{name} =")));
    fields.push(wrong);
    let path = folder.path().join("wrong.toml");
    fs::write(&path, fields.join("\n")).unwrap();
    let mut command = Command::new(program(binary));
    command.arg("--config").arg(path).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_wrong_config_names_field_value_and_what_is_allowed() {
    for binary in PROGRAMS {
        for (wrong, told) in [
            ("grpc_listen = \"nowhere\"", vec!["grpc_listen", "nowhere", "host:port"]),
            ("grpc_listen = 7", vec!["grpc_listen", "7", "string"]),
            ("colour = \"red\"", vec!["colour", "grpc_listen"]),
            ("name = \"\"", vec!["name", "letters"]),
        ] {
            let output = run(binary, wrong);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{binary} {wrong}: {error}");
            for word in told {
                assert!(error.contains(word), "{binary} {wrong}: {word} is not in {error:?}");
            }
        }
    }
}

#[test]
fn a_missing_config_file_is_named() {
    for binary in PROGRAMS {
        let mut command = Command::new(program(binary));
        let output = command.args(["--config", "/nowhere/x.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{binary}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/x.toml"), "{binary}");
    }
}

#[tokio::test]
async fn a_storage_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::with(Shape { gateways: 1, ..Shape::default() }).await;
    cluster.kill("storage-1").await;
    cluster.kill("meta-1").await;
    // A meta-service that begins anew is another cluster.
    let meta = cluster.processes().iter().find(|process| process.name == "meta-1").unwrap();
    fs::remove_dir_all(meta.data.as_ref().unwrap()).unwrap();
    cluster.start_again("meta-1");
    cluster.await_process("meta-1", true).await;
    let before = cluster.log("storage-1").len();
    cluster.start_again("storage-1");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !cluster.log("storage-1")[before..].contains("cluster") {
        assert!(std::time::Instant::now() < deadline, "nothing is said about the cluster");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let status = cluster.status().await;
    let storage = status.processes.iter().find(|process| process.name == "storage-1").unwrap();
    assert!(!storage.ready, "{storage:?}");
}
