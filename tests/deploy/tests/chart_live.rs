//! What the chart does about a release that runs.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use holdfast_deploy::chart::{Helm, Rendering};
use holdfast_deploy::live::Live;
use holdfast_deploy::manifests::{Manifests, name_of, text};
use serde_json::{Value, json};

fn live(before: &Rendering) -> Live {
    Live::serve(&Manifests::parse(&before.text()))
}

fn refused(before: &Rendering, after: Rendering) -> String {
    let after = after.over(&live(before));
    let told = Helm::ALL.map(|helm| after.template(helm).expect_err("refused"));
    assert!(told.iter().all(|told| told.contains("The values do not fit together")), "{told:?}");
    told[0].clone()
}

#[test]
fn storage_is_drained_when_it_gets_less_and_only_then() {
    let of = |replicas: &str| Rendering::defaults().set(&[&format!("storage.replicas={replicas}")]);
    let live = live(&of("4"));
    for (replicas, drains) in [("3", true), ("4", false), ("5", false)] {
        for helm in Helm::ALL {
            let text = of(replicas).over(&live).template(helm).unwrap();
            assert_eq!(text.contains("helm.sh/hook: \"pre-upgrade\""), drains, "{replicas}");
            assert!(text.contains("helm.sh/hook: \"pre-rollback\""), "{replicas}");
        }
    }
}

#[test]
fn storage_nodes_whose_set_is_away_are_told_by_their_claims() {
    let of = |replicas: &str| Rendering::defaults().set(&[&format!("storage.replicas={replicas}")]);
    let claim = |name: &str| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}});
    // As after `kubectl delete statefulset --cascade=orphan`.
    let running = Manifests::parse(&of("4").text());
    let others = running.all().iter().filter(|object| name_of(object) != "rel-holdfast-storage");
    let others: Vec<Value> = others.cloned().collect();
    for (claims, drains) in [(3, false), (4, true)] {
        let claims =
            (0..claims).map(|ordinal| claim(&format!("data-rel-holdfast-storage-{ordinal}")));
        let live = Live::serve(&Manifests::of_objects(others.iter().cloned().chain(claims)));
        assert_eq!(of("3").over(&live).text().contains("helm.sh/hook: \"pre-upgrade\""), drains);
    }
}

#[test]
fn an_installation_that_failed_before_it_had_storage_needs_no_drain() {
    let again = Rendering::defaults().upgrade();
    assert!(again.text().contains("helm.sh/hook: \"pre-upgrade\""));
    let again = again.with_apis(&["apiregistration.k8s.io/v1"]);
    assert!(!again.text().contains("helm.sh/hook: \"pre-upgrade\""));
}

#[test]
fn storage_that_cannot_be_drained_is_not_taken_away() {
    let without = |replicas: &str| {
        Rendering::defaults().set(&["admin.enabled=false", &format!("storage.replicas={replicas}")])
    };
    let told = refused(&without("4"), Rendering::defaults());
    assert!(told.contains("storage.replicas: fewer storage nodes need the admin API"), "{told}");
    let told = refused(&without("4"), without("3"));
    assert!(told.contains("upgrade to admin.enabled=true alone first"), "{told}");
    // To switch the API on, and to have more, is no trouble.
    let grown = Rendering::defaults().set(&["storage.replicas=5"]).over(&live(&without("4")));
    assert!(!grown.template(Helm::Three).unwrap().contains("pre-upgrade"));
}

#[test]
fn a_zone_is_emptied_before_it_goes() {
    let zones = |names: &[&str]| {
        let sets =
            names.iter().enumerate().map(|(index, zone)| format!("storage.zones[{index}].{zone}"));
        let sets: Vec<String> = sets.collect();
        Rendering::defaults().set(&sets.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let told = refused(&zones(&["name=a", "name=b", "name=c"]), zones(&["name=a", "name=b"]));
    assert!(
        told.contains("rel-holdfast-storage-c would be removed with 3 storage nodes"),
        "{told}"
    );
    assert!(told.contains("first set `replicas: 0` for c"), "{told}");
    let emptied = Manifests::parse(&zones(&["name=a", "name=b", "name=c"]).text());
    let emptied: Vec<_> = emptied.all().to_vec();
    let emptied = Manifests::of_objects(emptied.into_iter().map(|mut object| {
        if object["metadata"]["name"] == "rel-holdfast-storage-c" {
            object["spec"]["replicas"] = 0.into();
        }
        object
    }));
    let after = zones(&["name=a", "name=b"]).over(&Live::serve(&emptied));
    assert!(after.template(Helm::Three).is_ok());
}

#[test]
fn what_never_changes_is_kept() {
    let defaults = Rendering::defaults();
    let told = refused(&defaults, Rendering::of("examples/laptop.yaml"));
    assert!(told.contains("meta.store: the running release has its metadata in etcd"), "{told}");
    let told = refused(&Rendering::of("examples/laptop.yaml"), defaults.clone());
    assert!(told.contains("meta.store: the running release has its metadata in sled"), "{told}");
    let told = refused(&defaults, defaults.clone().set(&["etcd.replicas=5"]));
    assert!(told.contains("etcd.replicas: there are 3 members"), "{told}");
    let told = refused(&defaults, Rendering::of("examples/three-zones.yaml"));
    assert!(told.contains("storage.zones: the running release has none"), "{told}");
    let told = refused(&defaults, Rendering::of("ci/own-etcd-tls-values.yaml"));
    assert!(told.contains("etcd.tls.enabled: members know each other by URLs"), "{told}");
    for component in ["storage", "etcd"] {
        let set = format!("{component}.persistence.size=64Gi");
        let told = refused(&defaults, defaults.clone().set(&[&set]));
        assert!(told.contains(&format!("{component}.persistence.size: claims of")), "{told}");
        assert!(told.contains("--cascade=orphan"), "{told}");
    }
    for (set, wanted) in [
        ("fullnameOverride=other", "the running release has other names (rel-holdfast-storage)"),
        ("nameOverride=other", "the running release has other names (rel-holdfast-storage)"),
        ("clusterDomain=other.local", "clusterDomain: is part of the names"),
        ("etcd.prefix=/other/", "etcd.prefix: the running release has its metadata below another"),
        ("global.storageClass=fast", "storage.persistence.storageClass: claims of rel-holdfast-st"),
        ("etcd.persistence.labels.a=b", "etcd.persistence.labels: claims of rel-holdfast-etcd"),
        ("storage.persistence.annotations.a=b", "storage.persistence.annotations: claims of"),
        ("storage.persistence.accessModes[0]=ReadWriteOncePod", "storage.persistence.accessModes"),
        ("storage.persistence.selector.matchLabels.a=b", "storage.persistence.selector: claims"),
    ] {
        let told = refused(&defaults, defaults.clone().set(&[set]));
        assert!(told.contains(wanted), "{set}: {told}");
    }
    let external = Rendering::of("ci/plain-external-etcd-values.yaml");
    let told = refused(&defaults, external.clone());
    assert!(told.contains("in the chart's own etcd, which would be removed: keep it"), "{told}");
    let told = refused(&external, defaults.clone());
    assert!(told.contains("in an etcd of yours, and it does not move"), "{told}");
    let sled = Rendering::of("examples/laptop.yaml");
    let told = refused(&sled, sled.clone().set(&["meta.persistence.storageClass=fast"]));
    assert!(told.contains("meta.persistence.storageClass: claims of"), "{told}");
    // An API server writes sizes in its own way.
    let written = live(
        &defaults.clone().set(&["storage.persistence.size=1.5Gi", "etcd.persistence.size=2048Mi"]),
    );
    let same = defaults
        .set(&["storage.persistence.size=1536Mi", "etcd.persistence.size=2Gi"])
        .over(&written);
    assert!(same.template(Helm::Three).is_ok());
}

#[test]
fn kinds_that_nobody_brought_are_missed_in_words() {
    let apis = ["apiregistration.k8s.io/v1", "monitoring.coreos.com/v1/PodMonitor"];
    let everything = |file| Rendering::of(file).with_apis(&apis);
    for (rendering, wanted) in [
        (
            everything("ci/default-values.yaml").set(&["metrics.serviceMonitor.enabled=true"]),
            "metrics.serviceMonitor.enabled: this Kubernetes cluster does not know",
        ),
        (
            everything("ci/default-values.yaml").set(&["metrics.prometheusRule.enabled=true"]),
            "monitoring.coreos.com/v1/PrometheusRule: install the Prometheus operator first",
        ),
        (
            everything("ci/own-etcd-tls-values.yaml"),
            "etcd.tls.certManager.enabled: this Kubernetes cluster does not know cert-manager.io",
        ),
    ] {
        for helm in Helm::ALL {
            let told = rendering.template(helm).expect_err("refused");
            assert!(told.contains(wanted), "{told}");
        }
    }
    let known = everything("ci/default-values.yaml").set(&["metrics.podMonitor.enabled=true"]);
    assert!(known.template(Helm::Four).is_ok());
}

#[test]
fn nothing_is_refused_where_nothing_changes() {
    for rendering in Rendering::all() {
        let live = live(&rendering);
        assert!(rendering.over(&live).template(Helm::Three).is_ok());
    }
}

#[test]
fn a_password_that_was_drawn_stays() {
    let before = Rendering::defaults().set(&["admin.password=drawn-long-ago"]);
    for helm in Helm::ALL {
        let after =
            Manifests::parse(&Rendering::defaults().over(&live(&before)).template(helm).unwrap());
        let kept = after.get("Secret", "rel-holdfast-admin");
        assert_eq!(text(&kept["data"]["password"]), "ZHJhd24tbG9uZy1hZ28=");
        assert_eq!(text(&kept["metadata"]["annotations"]["helm.sh/resource-policy"]), "keep");
    }
}

#[test]
fn an_autoscaler_begins_with_the_gateways_that_there_are() {
    let before = Rendering::defaults().set(&["gateway.replicas=7"]);
    let scaled = Rendering::defaults().set(&["gateway.autoscaling.enabled=true"]);
    let after = Manifests::parse(&scaled.clone().over(&live(&before)).text());
    assert_eq!(after.get("Deployment", "rel-holdfast-gateway")["spec"]["replicas"], 7);
    // One that there was from the beginning has the number to itself, in later upgrades and rollbacks, too.
    let first = scaled.text();
    let later = scaled.clone().over(&Live::serve(&Manifests::parse(&first))).text();
    for text in [first, later] {
        let manifests = Manifests::parse(&text);
        let gateways = manifests.get("Deployment", "rel-holdfast-gateway");
        assert!(gateways["spec"]["replicas"].is_null());
    }
}

#[test]
fn a_package_holds_all_that_is_rendered() {
    for helm in Helm::ALL {
        let folder = tempfile::tempdir().unwrap();
        let archive = Rendering::package(helm, folder.path());
        assert!(fs::metadata(&archive).unwrap().len() > 10_000);
        let rendering = Rendering::of("ci/everything-on-values.yaml").upgrade();
        assert!(rendering.clone().at(&archive).text() == rendering.text());
    }
}
