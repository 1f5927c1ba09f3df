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
async fn the_laptop_example_serves() {
    let node = Node::start(manifests(Rendering::of("examples/laptop.yaml")));
    assert_eq!(count(&node), (2, 3, 1, 0));
    serves(node).await;
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
    publish_and_read_back(&node).await;
    // What `helm test` and `helm upgrade` start.
    node.run("Pod", "rel-holdfast-test-roundtrip");
    let status = node.run("Pod", "rel-holdfast-test-status");
    assert!(status.contains("rel-holdfast-storage-2"), "{status}");
    let drained = node.run("Job", "rel-holdfast-storage-drain");
    assert!(drained.contains("no site named rel-holdfast-storage-N"), "{drained}");
    for (pod, code) in node.stop() {
        // etcd ends itself by the signal that it got.
        let wanted = if pod.contains("-etcd-") { None } else { Some(0) };
        assert!(code == wanted || code == Some(0), "{pod} ended with {code:?}");
    }
}

/// An offline session at one gateway, messages at the other, and back there.
async fn publish_and_read_back(node: &Node) {
    let gateways = node.of("gateway");
    let [first, other] = [0, 1].map(|index| format!("{}:1883", gateways[index].address));
    let durable = Connect::durable(Version::V5, "device-1");
    let mut device = Client::connect(&first, &durable).await;
    assert_eq!(device.subscribe(&[("telemetry/#", 1)]).await, [1]);
    device.disconnect().await;
    let mut sender = Client::connect(&other, &Connect::durable(Version::V5, "sender")).await;
    for number in 0..MESSAGES {
        let code = sender.publish(&format!("telemetry/{number}"), number.to_string(), 1).await;
        assert!(code < 0x80, "{code:#x}");
    }
    sender.disconnect().await;
    let mut device = Client::connect(&other, &durable).await;
    assert!(device.session_present);
    let messages = device.collect(usize::try_from(MESSAGES).unwrap()).await;
    let mut numbers: Vec<u32> = messages
        .iter()
        .map(|message| String::from_utf8_lossy(&message.payload).parse().unwrap())
        .collect();
    // In order within a topic, and these are as many topics as messages.
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    device.disconnect().await;
}
