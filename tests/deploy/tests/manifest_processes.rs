//! The real programs, started with exactly what the rendered manifests give to their containers.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_deploy::certificates::Authority;
use holdfast_deploy::chart::Rendering;
use holdfast_deploy::kubelet::{Node, address};
use holdfast_deploy::manifests::Manifests;
use holdfast_e2e::client::Client;
use holdfast_e2e::packet::{Connect, Version};

const MESSAGES: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_laptop_example_serves_and_is_drained_before_it_is_scaled_in() {
    let laptop = Rendering::of("examples/laptop.yaml");
    let larger = manifests(laptop.clone().set(&["storage.replicas=4"]));
    let mut node = Node::start(larger);
    assert_eq!(count(&node), (2, 4, 1, 0));
    node.await_ready().await;
    leave_messages(&node).await;
    let drained = node.run_of(&manifests(laptop), "Job", "rel-holdfast-storage-drain");
    assert!(drained.contains("drained: rel-holdfast-storage-3"), "{drained}");
    assert_eq!(node.scale_in("rel-holdfast-storage-3"), Some(0));
    read_messages(&node).await;
    node.run("Pod", "rel-holdfast-test-roundtrip");
    stops(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_defaults_with_an_etcd_of_three_serve() {
    let node = Node::start(manifests(Rendering::defaults()));
    assert_eq!(count(&node), (2, 3, 2, 3));
    serves(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_etcd_of_its_own_over_tls_serves() {
    // Pods here find each other by address. Whoever opens a connection does so from 127.0.0.1.
    let addresses: Vec<String> = (1..=10).map(address).chain(["127.0.0.1".to_owned()]).collect();
    let authority = Authority::default();
    let secrets = [
        authority.secret("rel-holdfast-etcd-server", &addresses),
        authority.secret("rel-holdfast-etcd-client", &[]),
    ];
    let rendered = manifests(Rendering::of("ci/own-etcd-tls-values.yaml"));
    serves(Node::start(rendered.with(secrets))).await;
}

/// Presets and examples alike: whoever takes its config lives, though nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn programs_take_every_config_of_the_chart() {
    for rendering in Rendering::all() {
        // Without probes there is nothing to see, and other names of variables mean nothing here.
        if ["everything-off-values", "names-values"].contains(&rendering.name.as_str()) {
            continue;
        }
        let manifests = Manifests::parse(&rendering.text());
        let mut node = Node::start_one_of_each(manifests);
        assert!(
            !node.of("gateway").is_empty() && !node.of("storage").is_empty(),
            "{}",
            rendering.name
        );
        node.await_live().await;
    }
}

/// As an upgrade, for its hooks. Few threads, because all pods share one machine; small segments of the log, because
/// they share its disk.
fn manifests(rendering: Rendering) -> Manifests {
    let sets = [
        "gateway.config.worker_threads=1",
        "storage.config.worker_threads=1",
        "storage.config.log.segment_bytes=8388608",
        "admin.password=a-password-for-this-test",
    ];
    Manifests::parse(&rendering.set(&sets).upgrade().text())
}

fn count(node: &Node) -> (usize, usize, usize, usize) {
    let of = |component| node.of(component).len();
    (of("gateway"), of("storage"), of("meta"), of("etcd"))
}

async fn serves(mut node: Node) {
    node.await_ready().await;
    leave_messages(&node).await;
    read_messages(&node).await;
    // What `helm test` and `helm upgrade` start.
    node.run("Pod", "rel-holdfast-test-roundtrip");
    let status = node.run("Pod", "rel-holdfast-test-status");
    assert!(status.contains("rel-holdfast-storage-2"), "{status}");
    let drained = node.run("Job", "rel-holdfast-storage-drain");
    assert!(drained.contains("no site named rel-holdfast-storage-N"), "{drained}");
    stops(node);
}

fn stops(node: Node) {
    for (pod, code) in node.stop() {
        // etcd ends itself by the signal that it got.
        let is_fine = code == Some(0) || (code.is_none() && pod.contains("-etcd-"));
        assert!(is_fine, "{pod} ended with {code:?}");
    }
}

fn gateway(node: &Node, index: usize) -> String {
    format!("{}:1883", node.of("gateway")[index].address)
}

fn device() -> Connect {
    Connect::durable(Version::V5, "device-1")
}

/// An offline session at one gateway, and messages for it at the other.
async fn leave_messages(node: &Node) {
    let mut device = Client::connect(&gateway(node, 0), &device()).await;
    assert_eq!(device.subscribe(&[("telemetry/#", 1)]).await, [1]);
    device.disconnect().await;
    let mut sender =
        Client::connect(&gateway(node, 1), &Connect::durable(Version::V5, "sender")).await;
    for number in 0..MESSAGES {
        let code = sender.publish(&format!("telemetry/{number}"), number.to_string(), 1).await;
        assert!(code < 0x80, "{code:#x}");
    }
    sender.disconnect().await;
}

/// The session comes back at the other gateway.
async fn read_messages(node: &Node) {
    let mut device = Client::connect(&gateway(node, 1), &device()).await;
    assert!(device.session_present);
    let messages = device.collect(usize::try_from(MESSAGES).unwrap()).await;
    let number = |payload: &[u8]| String::from_utf8_lossy(payload).parse().unwrap();
    let mut numbers: Vec<u32> = messages.iter().map(|message| number(&message.payload)).collect();
    // In order within a topic, and these are as many topics as messages.
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    device.disconnect().await;
}
