//! What is printed after an installation. `helm template` leaves it out, and `helm install` wants a cluster: so a copy
//! of the chart has it in a ConfigMap.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_deploy::chart::folder;
use holdfast_deploy::manifests::{Manifests, text};
use holdfast_deploy::tools::{run, said, tool};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// The notes for values of a file and others.
fn notes(file: Option<&str>, sets: &[&str]) -> String {
    let copied = tempfile::tempdir().unwrap();
    copy(&folder(), copied.path());
    let templates = copied.path().join("templates");
    let written = fs::read_to_string(templates.join("NOTES.txt")).unwrap();
    let shown = format!(
        "{{{{ define \"notes\" }}}}{written}{{{{ end }}}}\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: notes\n\
         data:\n  notes: |\n{{{{ include \"notes\" . | indent 4 }}}}\n"
    );
    fs::write(templates.join("notes.yaml"), shown).unwrap();
    let mut command = Command::new(tool("helm3/helm"));
    command
        .args(["template", "rel"])
        .arg(copied.path())
        .args(["--show-only", "templates/notes.yaml"]);
    command.args(file.iter().flat_map(|file| ["--values".into(), folder().join(file)]));
    let output = run(command.args(sets.iter().flat_map(|set| ["--set", set])));
    assert!(output.status.success(), "{}", said(&output));
    let manifests = Manifests::parse(&String::from_utf8(output.stdout).unwrap());
    text(&manifests.get("ConfigMap", "notes")["data"]["notes"]).to_owned()
}

#[test]
fn they_tell_where_to_connect_and_how_to_get_in() {
    let told = notes(None, &[]);
    for wanted in [
        "3 storage nodes, 2 gateways, metadata on etcd",
        "inside of the cluster to  rel-holdfast-mqtt.default.svc.cluster.local:1883",
        "port-forward service/rel-holdfast-mqtt 1883:1883",
        "get secret rel-holdfast-admin -o jsonpath='{.data.password}'",
        "helm -n default test rel",
        "kubectl -n default delete pvc,secret,job,pod -l app.kubernetes.io/instance=rel",
        "a hook moves the data of the last ones away first",
        "There are just as many storage nodes as replicas of a shard (3)",
    ] {
        assert!(told.contains(wanted), "no {wanted:?} in:\n{told}");
    }
    assert!(!told.contains("sled") && !told.contains("<no value>"), "{told}");
}

#[test]
fn they_warn_of_what_the_values_mean() {
    let cases: [(Option<&str>, &[&str], &str); 10] = [
        (None, &["gateway.service.type=NodePort"], "set gateway.mqttAdvertise to host:port"),
        (Some("values-large.yaml"), &[], "Storage nodes do not know their zone"),
        (None, &["gateway.service.type=LoadBalancer"], "Clients are not authenticated"),
        (None, &["admin.service.type=NodePort"], "The admin API has no TLS"),
        (Some("examples/laptop.yaml"), &[], "Metadata lies in one volume"),
        (None, &["etcd.replicas=1"], "etcd has one member"),
        (None, &["cluster.replicationFactor=1"], "Every message has one copy"),
        (None, &["gateway.replicas=1"], "There is a single gateway"),
        (None, &["admin.enabled=false"], "The admin API is off"),
        (
            None,
            &["storage.persistence.retentionPolicy.whenScaled=Delete"],
            "Volumes of storage nodes are deleted",
        ),
    ];
    let usual = notes(None, &[]);
    for (file, sets, wanted) in cases {
        assert!(!usual.contains(wanted), "{usual}");
        let told = notes(file, sets);
        assert!(told.contains(wanted), "{sets:?}: no {wanted:?} in:\n{told}");
    }
}
