//! The image that deploy/Dockerfile builds, and the chart's pods in it, by podman: as nobody, without
//! capabilities, on a root that nobody can write to.
//!
//! Nothing is pulled: the base is made of the libraries of this machine, the programs are those that the
//! tests run everywhere else. What compiles them in the Dockerfile is left out by that.

#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod network;
mod pod;
mod podman;

use holdfast_deploy::chart::Rendering;
use holdfast_deploy::manifests::Manifests;
use serde_json::{Value, json};

use self::cluster::Pods;
use self::podman::{IMAGE, PROGRAMS, Podman};

/// Without what `ldd` names, and without line tables, of a debug build. Nothing else may get in.
const IMAGE_BYTES_MAX: u64 = 160_000_000;

#[test]
fn an_image_is_small_and_starts_its_program_as_nobody() {
    let Some(podman) = Podman::start() else { return };
    let targets = [
        ("broker-node", json!(["1883/tcp", "7001/tcp", "8081/tcp"])),
        ("meta-service", json!(["7000/tcp", "8080/tcp", "8081/tcp"])),
        ("storage-node", json!(["7002/tcp", "8081/tcp"])),
    ];
    for (target, ports) in targets {
        podman.build_target(target, target);
        let image = inspect(&podman, target);
        let config = &image["Config"];
        assert_eq!(config["User"], "65532:65532", "{target}");
        assert_eq!(config["Entrypoint"], json!([format!("/usr/local/bin/{target}")]));
        assert_eq!(config["Cmd"], json!(["--config", format!("/etc/holdfast/{target}.toml")]));
        let exposed: Vec<&String> = config["ExposedPorts"].as_object().unwrap().keys().collect();
        assert_eq!(json!(exposed), ports, "{target}");
        assert_eq!(config["StopSignal"], "SIGTERM");
        let probe = "http://127.0.0.1:8081/health/ready";
        let check = json!(["CMD", "/usr/local/bin/holdfast", "probe", probe]);
        assert_eq!(image["Healthcheck"]["Test"], check, "{target}");
        let help = podman.run_in(target, &["--help"]);
        assert!(help.contains("--config") && help.contains("--print-config-schema"), "{help}");
    }
    podman.build();
    let image = inspect(&podman, IMAGE);
    let config = &image["Config"];
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/holdfast"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!((label("version"), label("revision")), (json!("7.8.9"), json!("abcdef")));
    assert_eq!((label("title"), label("licenses")), (json!("holdfast"), json!("Apache-2.0")));
    let bytes: u64 =
        podman.run(&["image", "inspect", IMAGE, "--format", "{{.Size}}"]).parse().unwrap();
    assert!(bytes < IMAGE_BYTES_MAX, "the image has {bytes} bytes");
    start_each_program(&podman);
}

fn inspect(podman: &Podman, image: &str) -> Value {
    let images: Vec<Value> =
        serde_json::from_str(&podman.run(&["image", "inspect", image])).unwrap();
    images.into_iter().next().unwrap()
}

/// Programs say what they are, and refuse a config that is not there.
fn start_each_program(podman: &Podman) {
    for name in PROGRAMS {
        let path = format!("/usr/local/bin/{name}");
        assert!(
            podman.run_entry(&path, &["--version"]).contains(env!("CARGO_PKG_VERSION")),
            "{name}"
        );
    }
    for name in ["broker-node", "meta-service", "storage-node"] {
        let path = format!("/usr/local/bin/{name}");
        let schema: Value =
            serde_json::from_str(&podman.run_entry(&path, &["--print-config-schema"])).unwrap();
        assert!(schema["properties"]["name"].is_object(), "{name}: {schema}");
        let refused = podman.try_entry(&path, &["--config", "/nowhere.toml"]);
        assert_eq!(refused.status.code(), Some(2), "{name} with a config that is not there");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("/nowhere.toml"), "{said}");
    }
}

#[test]
fn pods_of_the_laptop_example_form_a_cluster() {
    let Some(podman) = Podman::start() else { return };
    let manifests = Manifests::parse(&Rendering::of("examples/laptop.yaml").text());
    podman.build();
    let Some(mut pods) = Pods::play(&podman, &manifests) else { return };
    assert_eq!(pods.names().len(), 1 + 3 + 2, "{:?}", pods.names());
    pods.await_ready();
    for name in pods.names() {
        let one = pods.inspect(name);
        assert_eq!(one["HostConfig"]["ReadonlyRootfs"], true, "{name}");
        assert_eq!(one["Config"]["User"], "65532:65532", "{name}");
        assert!(one["HostConfig"]["Memory"].as_u64().unwrap() > 0, "{name}");
        let security = one["HostConfig"]["SecurityOpt"].to_string();
        assert!(security.contains("no-new-privileges"), "{name}: {security}");
        let status = pods.status_of_init(name);
        assert!(status.contains("CapEff:\t0000000000000000"), "{name}: {status}");
        assert!(status.contains("Uid:\t65532"), "{name}: {status}");
        assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
    }
    pods.pass_the_charts_test(&manifests);
    pods.stop_each_in_its_grace_period();
}
