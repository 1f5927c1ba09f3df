//! What a storage node does with its disk, on real processes: damage, runs and generations, retention,
//! a replica that comes back too late for the log.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Version};

async fn subscribe_and_leave(cluster: &Cluster, name: &str, filter: &str) {
    let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, name)).await;
    client.subscribe(&[(filter, 1)]).await;
    client.disconnect().await;
}

async fn publish(cluster: &Cluster, from: usize, count: usize, bytes: usize) {
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(2), &connect).await;
    for number in from..from + count {
        let payload = format!("{number:>bytes$}");
        assert_eq!(publisher.publish(&format!("t/{}", number % 7), payload, 1).await, 0);
    }
    publisher.disconnect().await;
}

async fn collect(cluster: &Cluster, name: &str, count: usize) -> Vec<usize> {
    let mut client = Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, name)).await;
    assert!(client.session_present);
    let got = client.collect(count).await;
    let number =
        |payload: &[u8]| std::str::from_utf8(payload).unwrap().trim().parse::<usize>().unwrap();
    got.iter().map(|publish| number(&publish.payload)).collect()
}

/// Flips a bit of the first place in the site log that holds these bytes.
fn damage(data: &Path, needle: &[u8]) -> bool {
    for file in fs::read_dir(data.join("log")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).position(|window| window == needle);
        if let Some(at) = found {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_flipped_byte_costs_one_replica_which_joins_anew_no_acked_loss() {
    let mut cluster = Cluster::start().await;
    subscribe_and_leave(&cluster, "reader", "t/#").await;
    publish(&cluster, 1_000_000, 50, 10).await;
    cluster.kill("storage-1").await;
    assert!(damage(&cluster.data().join("storage-1"), b"1000010"), "message not in the site log");
    cluster.start_again("storage-1");
    cluster.await_process("storage-1", true).await;
    assert!(cluster.log("storage-1").contains("damaged and will not vote"));
    cluster.await_log(&["storage-1", "storage-2", "storage-3"], "voters changed").await;
    cluster.await_metric("storage-1", "holdfast_storage_replicas_quarantined", |n| n == 0.0).await;
    cluster.await_metric("storage-1", "holdfast_storage_replicas", |n| n == 16.0).await;
    // The new replica votes: without it there is no majority now.
    cluster.kill("storage-2").await;
    publish(&cluster, 1_000_050, 50, 10).await;
    let got = collect(&cluster, "reader", 100).await;
    assert_eq!(got, (1_000_000..1_000_100).collect::<Vec<_>>());
}

#[tokio::test]
async fn messages_in_many_runs_and_generations_survive_everything() {
    let settings =
        ["storage.shard.run_bytes_max=65536", "storage.shard.generation_bytes_max=200000"];
    let settings = settings.map(str::to_owned).to_vec();
    let mut cluster = Cluster::with(Shape { settings, ..Shape::default() }).await;
    subscribe_and_leave(&cluster, "wide", "t/#").await;
    subscribe_and_leave(&cluster, "narrow", "t/3").await;
    publish(&cluster, 0, 1_400, 500).await;
    cluster
        .await_metric("storage-1", "holdfast_storage_run_written_bytes_total", |n| n > 4e5)
        .await;
    cluster.kill_all().await;
    cluster.up_again().await;
    publish(&cluster, 1_400, 70, 500).await;
    assert_eq!(collect(&cluster, "wide", 1_470).await, (0..1_470).collect::<Vec<_>>());
    assert_eq!(collect(&cluster, "narrow", 210).await, (3..1_470).step_by(7).collect::<Vec<_>>());
}

#[tokio::test]
async fn retention_drops_the_oldest_and_counts_it_no_silent_drop() {
    let settings = [
        "storage.shard.run_bytes_max=65536",
        "storage.shard.generation_bytes_max=200000",
        "storage.shard.message_retention_ms=1",
    ];
    let settings = settings.map(str::to_owned).to_vec();
    let cluster = Cluster::with(Shape { settings, ..Shape::default() }).await;
    subscribe_and_leave(&cluster, "reader", "t/#").await;
    publish(&cluster, 0, 900, 500).await;
    cluster.await_log(&["storage-1", "storage-2", "storage-3"], "dropping generation").await;
    // It is counted by the shard's leader when it is applied, just after that line.
    let counted = |name| {
        cluster
            .await_metric(name, "holdfast_storage_generations_dropped_total", |count| count > 0.0)
    };
    tokio::select! {
        () = counted("storage-1") => {}
        () = counted("storage-2") => {}
        () = counted("storage-3") => {}
    }
    publish(&cluster, 900, 1, 500).await;
    let connect = Connect::durable(Version::V5, "reader");
    let mut client = Client::connect(&cluster.mqtt(2), &connect).await;
    let got = client.collect_until(&format!("{:>500}", 900)).await;
    assert!(!got.is_empty() && got.len() < 900, "{} of 901 came", got.len());
}

#[tokio::test]
async fn a_replica_that_missed_too_much_gets_a_snapshot_and_the_runs() {
    let settings = [
        "storage.shard.run_bytes_max=65536",
        "storage.log.segment_bytes=1048576",
        "storage.log.bytes_max=8388608",
    ];
    let settings = settings.map(str::to_owned).to_vec();
    let mut cluster = Cluster::with(Shape { settings, ..Shape::default() }).await;
    subscribe_and_leave(&cluster, "reader", "t/#").await;
    publish(&cluster, 0, 10, 100).await;
    cluster.kill("storage-3").await;
    publish(&cluster, 10, 400, 50_000).await;
    cluster.start_again("storage-3");
    cluster.await_process("storage-3", true).await;
    publish(&cluster, 410, 10, 100).await;
    cluster.await_log(&["storage-3"], "snapshot installed").await;
    cluster.await_log(&["storage-3"], "all runs fetched").await;
    // Now it is needed for a majority.
    cluster.kill("storage-1").await;
    publish(&cluster, 420, 10, 100).await;
    assert_eq!(collect(&cluster, "reader", 430).await, (0..430).collect::<Vec<_>>());
}
