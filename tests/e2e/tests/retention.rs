//! Retention by need, on real processes: what is unread stays or is counted, what is read goes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape, program};
use holdfast_e2e::packet::{Connect, Version};

const PATIENCE: Duration = Duration::from_secs(60);
const DROPPED: &str = "holdfast_storage_generations_dropped_total";
const LOST: &str = "holdfast_messages_lost_unread_total";
const WALKED: &str = "holdfast_storage_sessions_walked_total";

async fn cluster(settings: &[&str]) -> Cluster {
    let small = ["storage.shard.run_bytes_max=65536", "storage.shard.generation_bytes_max=200000"];
    let settings = small.iter().chain(settings).map(|text| (*text).to_owned()).collect();
    Cluster::with(Shape { settings, ..Shape::default() }).await
}

async fn subscribe_and_leave(cluster: &Cluster, name: &str, filter: &str) {
    let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, name)).await;
    client.subscribe(&[(filter, 1)]).await;
    client.disconnect().await;
}

async fn publish(cluster: &Cluster, count: usize) {
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(2), &connect).await;
    for number in 0..count {
        let payload = format!("{number:>500}");
        assert_eq!(publisher.publish(&format!("t/{}", number % 7), payload, 1).await, 0);
    }
    publisher.disconnect().await;
}

/// Reads what is there for a session, up to a message that is sent now.
async fn read_all(cluster: &Cluster, name: &str) -> Vec<Vec<u8>> {
    let mut client = Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, name)).await;
    assert!(client.session_present);
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(1), &connect).await;
    publisher.publish("t/3", "end", 1).await;
    publisher.disconnect().await;
    let got = client.collect_until("end").await;
    client.disconnect().await;
    got.into_iter().map(|publish| publish.payload.to_vec()).filter(|it| it != b"end").collect()
}

async fn total(cluster: &Cluster, metric: &str) -> f64 {
    let mut total = 0.0;
    for name in cluster.names("storage") {
        total += cluster.metrics(&name).await.get(metric).copied().unwrap_or(0.0);
    }
    total
}

async fn await_total(cluster: &Cluster, metric: &str, is_met: impl Fn(f64) -> bool) -> f64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = total(cluster, metric).await;
        if is_met(now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{metric} is {now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the registry says of the messages that a session has lost.
fn lost(cluster: &Cluster, name: &str) -> u64 {
    let mut command = Command::new(program("holdfast"));
    command.args(["sessions", "list", "--json", "--prefix", name, "--data"]).arg(cluster.data());
    let listed: serde_json::Value =
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let session =
        listed["sessions"].as_array().unwrap().iter().find(|one| one["client_id"] == name);
    session.map_or(0, |session| session["lost"].as_u64().unwrap())
}

fn run_bytes(cluster: &Cluster) -> Vec<u64> {
    let of = |name: String| {
        let files = fs::read_dir(cluster.data().join(name).join("runs")).unwrap();
        files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
    };
    cluster.names("storage").into_iter().map(of).collect()
}

#[tokio::test]
async fn what_is_unread_stays_and_what_is_read_goes_no_acked_loss() {
    let cluster =
        cluster(&["storage.retention.mode=\"consumed\"", "storage.retention.walk_interval_ms=200"])
            .await;
    subscribe_and_leave(&cluster, "reader", "t/#").await;
    // Nothing comes for them: they hold nothing up, connected or not.
    subscribe_and_leave(&cluster, "absent", "other/#").await;
    let connect = Connect::durable(Version::V5, "present");
    let mut present = Client::connect(&cluster.mqtt(1), &connect).await;
    present.subscribe(&[("other/#", 1)]).await;
    publish(&cluster, 900).await;
    // Several walks find that the reader has not read.
    let walked = total(&cluster, WALKED).await;
    await_total(&cluster, WALKED, |now| now > walked + 20.0).await;
    assert_eq!(total(&cluster, DROPPED).await, 0.0, "unread, but dropped");
    let before = run_bytes(&cluster);
    assert!(before.iter().all(|bytes| *bytes > 400_000), "{before:?}");

    let got = read_all(&cluster, "reader").await;
    assert_eq!(got.len(), 900);
    assert!(got.is_sorted(), "out of order");
    await_total(&cluster, DROPPED, |dropped| dropped >= 2.0).await;
    let deadline = Instant::now() + PATIENCE;
    while run_bytes(&cluster).iter().any(|bytes| *bytes > 250_000) {
        assert!(Instant::now() < deadline, "runs stay: {:?}", run_bytes(&cluster));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(total(&cluster, LOST).await, 0.0);
    assert_eq!(lost(&cluster, "reader") + lost(&cluster, "absent"), 0);
    present.ping().await.unwrap();
}

#[tokio::test]
async fn what_goes_unread_by_age_is_counted_per_session_no_silent_drop() {
    let cluster = cluster(&[
        "storage.shard.message_retention_ms=1",
        // Dropped only once it is counted.
        "storage.retention.doomed_patience_ms=3600000",
    ])
    .await;
    subscribe_and_leave(&cluster, "all", "t/#").await;
    subscribe_and_leave(&cluster, "some", "t/3").await;
    subscribe_and_leave(&cluster, "none", "other/#").await;
    publish(&cluster, 900).await;
    await_total(&cluster, DROPPED, |dropped| dropped >= 2.0).await;
    let some = (0..900).filter(|number| number % 7 == 3).count();
    for (name, sent) in [("all", 900), ("some", some), ("none", 0)] {
        let got = if sent == 0 { 0 } else { read_all(&cluster, name).await.len() };
        let deadline = Instant::now() + PATIENCE;
        while got + usize::try_from(lost(&cluster, name)).unwrap() != sent {
            assert!(Instant::now() < deadline, "{name}: {got} came, {} lost", lost(&cluster, name));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(got < sent || sent == 0, "{name}");
    }
    let listed = lost(&cluster, "all") + lost(&cluster, "some");
    assert!(listed > 0);
    assert_eq!(total(&cluster, LOST).await, listed as f64);
    let logs = cluster.names("storage").iter().map(|name| cluster.log(name)).collect::<String>();
    assert!(logs.contains("messages are removed unread"));
}
