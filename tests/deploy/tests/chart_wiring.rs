//! What the objects of a rendering say of each other, and of themselves, for every preset, example and ci file.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;

use holdfast_deploy::chart::{Helm, Rendering};
use holdfast_deploy::manifests::{Manifests, list, name_of, selects, text};
use serde_json::{Value, json};

/// Release names that are no strings in YAML, that are no names in DNS, or that are as long as helm allows.
const RELEASES: [&str; 6] = [
    "n",
    "y",
    "1e3",
    "0123",
    "a.b-holdfast",
    "a-release-with-a-name-of-fifty-three-characters-in-it",
];

fn renderings() -> Vec<(String, Manifests)> {
    let named =
        RELEASES.iter().map(|release| Rendering::of("ci/zones-values.yaml").release(release));
    let all = Rendering::all().into_iter().chain(named);
    all.map(|rendering| (rendering.name.clone(), Manifests::parse(&rendering.upgrade().text())))
        .collect()
}

#[test]
fn names_are_valid_in_dns_and_labels_are_strings() {
    for (name, manifests) in renderings() {
        for object in manifests.all() {
            let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
            // Kubernetes adds to the names of pods, and puts those of StatefulSets and Jobs into labels.
            let longest = if matches!(kind, "StatefulSet" | "Job") { 52 } else { 63 };
            assert!(is_dns_name(name_of(object), longest), "{name}: {kind} {}", name_of(object));
            check_strings(&name, &metadata["annotations"], usize::MAX);
            check_strings(&name, &metadata["labels"], 63);
            check_strings(&name, &object["spec"]["selector"]["matchLabels"], 63);
            if kind != "ConfigMap" {
                assert!(
                    metadata["namespace"].is_string() || object["metadata"]["labels"].is_null()
                );
            }
        }
        for (_, pod) in manifests.pod_templates() {
            check_strings(&name, &pod["metadata"]["labels"], 63);
            check_strings(&name, &pod["metadata"]["annotations"], usize::MAX);
            check_strings(&name, &pod["spec"]["nodeSelector"], 63);
            for constraint in list(&pod["spec"]["topologySpreadConstraints"]) {
                check_strings(&name, &constraint["labelSelector"]["matchLabels"], 63);
            }
        }
    }
}

fn is_dns_name(name: &str, longest: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= longest
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c != '-')
        && name.chars().all(inner)
}

fn check_strings(name: &str, map: &Value, longest: usize) {
    for (key, value) in map.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_else(|| panic!("{name}: {key} is no string: {value}"));
        assert!(value.len() <= longest, "{name}: {key} is too long: {value}");
    }
}

#[test]
fn releases_of_any_name_are_valid_with_both_helms() {
    for release in RELEASES {
        let rendering = Rendering::defaults().release(release);
        let three = rendering.text();
        assert!(three == rendering.template(Helm::Four).unwrap(), "{release}");
        // Readers of YAML differ in what is a boolean or a number, and most take what an API server refuses: no
        // value may be the bare name.
        let is_bare = |line: &&str| {
            line.ends_with(&format!(": {release}")) || line.ends_with(&format!("- {release}"))
        };
        let bare: Vec<&str> = three.lines().filter(is_bare).collect();
        assert!(
            bare.is_empty() || release.len() > 3 && release.contains('-'),
            "{release}: {bare:?}"
        );
        let manifests = Manifests::parse(&three);
        let instance = &manifests.of("StatefulSet").next().unwrap()["metadata"]["labels"];
        assert_eq!(text(&instance["app.kubernetes.io/instance"]), release);
    }
}

#[test]
fn selectors_find_pods_and_ports_have_names() {
    for (name, manifests) in renderings() {
        let pods: Vec<&Value> = manifests.pod_templates().map(|(_, pod)| pod).collect();
        for (object, pod) in manifests.pod_templates() {
            if let Some(selector) = object["spec"]["selector"].get("matchLabels") {
                assert!(
                    selects(selector, &pod["metadata"]["labels"]),
                    "{name}: {}",
                    name_of(object)
                );
            }
        }
        for service in manifests.of("Service") {
            let chosen = pods
                .iter()
                .filter(|pod| selects(&service["spec"]["selector"], &pod["metadata"]["labels"]));
            let chosen: Vec<&&Value> = chosen.collect();
            assert!(!chosen.is_empty(), "{name}: {} has no pods", name_of(service));
            for port in list(&service["spec"]["ports"]) {
                let has =
                    |pod: &&&Value| ports(pod).any(|(known, _)| known == text(&port["targetPort"]));
                assert!(chosen.iter().all(has), "{name}: {} {port}", name_of(service));
            }
        }
        for budget in manifests.of("PodDisruptionBudget") {
            let selector = &budget["spec"]["selector"]["matchLabels"];
            assert!(pods.iter().any(|pod| selects(selector, &pod["metadata"]["labels"])), "{name}");
        }
        for policy in manifests.of("NetworkPolicy") {
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            let chosen: Vec<_> =
                pods.iter().filter(|pod| selects(selector, &pod["metadata"]["labels"])).collect();
            assert!(!chosen.is_empty(), "{name}: {}", name_of(policy));
            // Every port that a pod has is open to somebody, and no other.
            let opened =
                list(&policy["spec"]["ingress"]).iter().flat_map(|rule| list(&rule["ports"]));
            let mut opened: Vec<u64> = opened.filter_map(|port| port["port"].as_u64()).collect();
            let mut has: Vec<u64> = ports(chosen[0]).map(|(_, port)| port).collect();
            opened.sort_unstable();
            has.sort_unstable();
            assert_eq!(opened, has, "{name}: {}", name_of(policy));
        }
    }
}

fn ports(pod: &Value) -> impl Iterator<Item = (&str, u64)> {
    let all =
        list(&pod["spec"]["containers"]).iter().flat_map(|container| list(&container["ports"]));
    all.map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap()))
}

#[test]
fn what_pods_mount_is_there() {
    for (name, manifests) in renderings() {
        for (object, pod) in manifests.pod_templates() {
            let claims = list(&object["spec"]["volumeClaimTemplates"]).iter().map(name_of);
            let volumes = list(&pod["spec"]["volumes"]).iter().map(|volume| text(&volume["name"]));
            let known: Vec<&str> = claims.chain(volumes).collect();
            let mounts =
                list(&pod["spec"]["containers"]).iter().flat_map(|one| list(&one["volumeMounts"]));
            for mount in mounts {
                assert!(
                    known.contains(&text(&mount["name"])),
                    "{name}: {}: {mount}",
                    name_of(object)
                );
            }
            for volume in list(&pod["spec"]["volumes"]) {
                if let Some(config) = volume["configMap"]["name"].as_str() {
                    assert!(manifests.find("ConfigMap", config).is_some(), "{name}: {config}");
                }
            }
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            let made = manifests.find("ServiceAccount", account);
            assert!(made.is_some() || account == "default", "{name}: {account}");
            assert!(made.is_none_or(|made| made["automountServiceAccountToken"] == false));
        }
    }
}

#[test]
fn every_container_is_locked_in() {
    for (name, manifests) in renderings() {
        for (object, pod) in manifests.pod_templates() {
            let (who, spec) = (format!("{name}: {}", name_of(object)), &pod["spec"]);
            assert_eq!(spec["automountServiceAccountToken"], false, "{who}");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{who}");
            assert_eq!(spec["securityContext"]["runAsUser"], 65532, "{who}");
            assert_eq!(
                spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{who}"
            );
            let context = &spec["containers"][0]["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{who}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{who}");
            assert_eq!(list(&context["capabilities"]["drop"]), ["ALL"], "{who}");
        }
    }
}

#[test]
fn pods_have_time_to_stop() {
    let manifests = Manifests::parse(&Rendering::of("ci/everything-on-values.yaml").text());
    let grace = |kind, name| &manifests.get(kind, name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    // preStop 5 s + drain_timeout_ms 12.5 s + drain_delay_ms 1 s + 20 s, each rounded up.
    assert_eq!(grace("Deployment", "rel-holdfast-gateway"), 39);
    // drain_timeout_ms 30.001 s + 20 s.
    assert_eq!(grace("StatefulSet", "rel-holdfast-storage"), 51);
    assert_eq!(grace("Deployment", "rel-holdfast-meta"), 30);
}

#[test]
fn a_changed_config_starts_pods_anew() {
    let checksum = |sets: &[&str]| {
        let manifests = Manifests::parse(&Rendering::defaults().set(sets).text());
        let pod = |kind, name| {
            manifests.get(kind, name)["spec"]["template"]["metadata"]["annotations"].clone()
        };
        [pod("StatefulSet", "rel-holdfast-storage"), pod("Deployment", "rel-holdfast-gateway")]
    };
    let before = checksum(&[]);
    let after = checksum(&["storage.config.shard.disk_high_percent=85"]);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1], after[1]);
}

#[test]
fn numbers_of_a_config_stay_what_they_were() {
    let sets = ["storage.config.shard.generation_bytes_max=4294967296", "storage.config.name_of=x"];
    let manifests =
        Manifests::parse(&Rendering::of("ci/everything-on-values.yaml").set(&sets).text());
    let file =
        text(&manifests.get("ConfigMap", "rel-holdfast-storage")["data"]["storage-node.toml"]);
    let config: toml::Table = file.parse().unwrap();
    assert_eq!(config["shard"]["generation_bytes_max"].as_integer(), Some(4_294_967_296));
    assert_eq!(config["shard"]["disk_high_percent"].as_integer(), Some(85));
    assert_eq!(
        config["retention"]["override"][0]["message_retention_ms"].as_integer(),
        Some(86_400_000)
    );
    let filter = config["retention"]["override"][1]["filter"].as_str();
    assert_eq!(filter, Some("with \"quotes\" & <brackets>/+"));
}

#[test]
fn a_zone_takes_its_storage_nodes_away_by_itself() {
    let manifests = Manifests::parse(&Rendering::of("examples/three-zones.yaml").upgrade().text());
    let jobs: Vec<&Value> = manifests.of("Job").collect();
    let sets: Vec<&str> =
        manifests.of("StatefulSet").map(name_of).filter(|name| name.contains("storage")).collect();
    assert_eq!((jobs.len(), sets.len()), (6, 3));
    for set in sets {
        for (hook, suffix, more) in
            [("pre-upgrade", "", None), ("pre-rollback", "-rollback", Some("--if-reachable"))]
        {
            let job =
                jobs.iter().find(|job| name_of(job) == format!("{set}-drain{suffix}")).unwrap();
            assert_eq!(text(&job["metadata"]["annotations"]["helm.sh/hook"]), hook);
            let args = list(&job["spec"]["template"]["spec"]["containers"][0]["args"]);
            let prefix = format!("{set}-");
            let wanted = ["sites", "shrink", "--prefix", &prefix, "--to", "2", "--wait"]
                .into_iter()
                .chain(more);
            assert_eq!(args.iter().map(text).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        }
    }
}

#[test]
fn claims_that_would_be_deleted_are_never_left_undrained() {
    let sets = ["storage.persistence.retentionPolicy.whenScaled=Delete"];
    let text = Rendering::defaults().set(&sets).upgrade().text();
    assert!(text.contains("- shrink") && !text.contains("--if-reachable"));
    // The first installation has nothing to drain.
    assert!(!Rendering::defaults().text().contains("pre-upgrade"));
}

/// What an API server refuses to apply, or takes in a way that nobody meant.
#[test]
fn given_values_replace_those_of_the_chart_and_stand_there_once() {
    let tag = format!("a{}-b", "-".repeat(62));
    let tag = format!("image.tag={tag}");
    let sets = [
        "gateway.extraEnv[0].name=RUST_LOG",
        "gateway.extraEnv[0].value=trace",
        "gateway.updateStrategy.type=Recreate",
        "storage.updateStrategy.type=OnDelete",
        "storage.updateStrategy.rollingUpdate.partition=1",
        "commonLabels.app\\.kubernetes\\.io/part-of=iot",
        "commonLabels.app\\.kubernetes\\.io/component=other",
        "defaults.podLabels.everywhere=x",
        &tag,
    ];
    let manifests = Manifests::parse(&Rendering::defaults().set(&sets).upgrade().text());
    let gateways = manifests.get("Deployment", "rel-holdfast-gateway");
    assert_eq!(gateways["metadata"]["labels"]["app.kubernetes.io/part-of"], "iot");
    assert_eq!(gateways["metadata"]["labels"]["app.kubernetes.io/component"], "gateway");
    assert_eq!(gateways["metadata"]["labels"]["app.kubernetes.io/version"], "a");
    assert_eq!(gateways["spec"]["strategy"], json!({"type": "Recreate"}));
    let nodes = manifests.get("StatefulSet", "rel-holdfast-storage");
    assert_eq!(nodes["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    let env = list(&gateways["spec"]["template"]["spec"]["containers"][0]["env"]);
    let levels: Vec<&Value> = env.iter().filter(|one| one["name"] == "RUST_LOG").collect();
    assert_eq!(levels, [&json!({"name": "RUST_LOG", "value": "trace"})]);
    for (object, pod) in manifests.pod_templates() {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["everywhere"], "x", "{}", name_of(object));
        assert_ne!(labels["app.kubernetes.io/component"], "other");
    }
}

#[test]
fn gateways_accept_both_families_where_their_service_has_them() {
    let listens = |sets: &[&str]| {
        let manifests = Manifests::parse(&Rendering::defaults().set(sets).text());
        let file =
            manifests.get("ConfigMap", "rel-holdfast-gateway")["data"]["broker-node.toml"].clone();
        let config: toml::Table = text(&file).parse().unwrap();
        config["mqtt_listen"].as_str().unwrap().to_owned()
    };
    assert_eq!(listens(&[]), "0.0.0.0:1883");
    assert_eq!(listens(&["gateway.service.ipFamilyPolicy=PreferDualStack"]), "[::]:1883");
    assert_eq!(listens(&["gateway.service.ipFamilies={IPv4,IPv6}"]), "[::]:1883");
}

#[test]
fn no_object_is_there_twice() {
    let shared = ["gateway", "storage", "meta"].map(|one| format!("{one}.serviceAccount.name=one"));
    let shared = Rendering::defaults().set(&shared.each_ref().map(String::as_str));
    let shared = ("a ServiceAccount for three".to_owned(), Manifests::parse(&shared.text()));
    for (name, manifests) in renderings().into_iter().chain([shared]) {
        let mut seen = HashSet::new();
        for object in manifests.all() {
            let (kind, namespace) = (text(&object["kind"]), &object["metadata"]["namespace"]);
            let is_new = seen.insert((kind, namespace.to_string(), name_of(object)));
            assert!(is_new, "{name}: {kind} {}", name_of(object));
        }
    }
}
