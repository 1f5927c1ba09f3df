//! How fast session rows reach etcd, and how many bytes one takes. Run it by name:
//! `cargo test -p meta-service --test service -- --ignored --nocapture rows_per_second`.

use std::time::Instant;

use etcd_client::GetOptions;
use holdfast_proto::{
    meta::{SessionChange, SessionFeed},
    shard::{ClientKey, SessionRow, Subscription},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{etcd::Cluster, failover::Process};

const ROWS: usize = 40_000;
const MESSAGE_ROWS: usize = 100;
const SHARDS: u32 = 8;

fn row(n: usize) -> SessionRow {
    let subscription = |kind: &str| Subscription {
        filter: format!("site/{n:08}/{kind}/+/state"),
        options: 1,
        since: vec![1_000_000; 16],
        ..Subscription::default()
    };
    SessionRow {
        epoch: 12,
        instance: 3,
        expiry_interval_s: 86_400,
        disconnected_at_ms: 1_790_000_000_000,
        subscriptions: vec![subscription("sensor"), subscription("target")],
        cursor: vec![123_456_789; 16],
        last_used_ms: 1_790_000_000_000,
        protocol_level: 5,
        ..SessionRow::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rows_per_second() {
    let (etcd, directory) = (Cluster::start(3).await, tempfile::tempdir().unwrap());
    let process = Process::start(directory.path(), &etcd, "meta", 10);
    process.until_elected().await;
    let cluster_id = process.describe().await.unwrap().cluster_id;
    let (messages, feed) = mpsc::channel(64);
    let mut client = process.client().await;
    let mut answers = client.feed_sessions(ReceiverStream::new(feed)).await.unwrap().into_inner();
    let per_shard = ROWS / SHARDS as usize;
    let began = Instant::now();
    tokio::spawn(async move {
        for shard in 0..SHARDS {
            let parts = per_shard / MESSAGE_ROWS;
            for part in 0..parts {
                let change = |n: usize| {
                    let n = (shard as usize * parts + part) * MESSAGE_ROWS + n;
                    let client = ClientKey { namespace: 0, client_id: format!("device-{n:08}") };
                    SessionChange { client: Some(client), row: Some(row(n)) }
                };
                let message = SessionFeed {
                    cluster_id: cluster_id.clone(),
                    shard,
                    to_index: u64::from(part + 1 == parts) * 7,
                    resync_begin: part == 0,
                    resync_end: part + 1 == parts,
                    changes: (0..MESSAGE_ROWS).map(change).collect(),
                    ..SessionFeed::default()
                };
                if messages.send(message).await.is_err() {
                    return;
                }
            }
        }
        // Answers are read to the end first.
        messages.closed().await;
    });
    let mut whole = 0;
    while whole < SHARDS {
        let done = answers.message().await.unwrap().expect("an answer");
        whole += u32::from(done.index == 7);
    }
    let rate = ROWS as f64 / began.elapsed().as_secs_f64();
    let mut client = etcd.client(0).await.unwrap();
    let options = GetOptions::new().with_prefix().with_limit(1_000);
    let found = client.get("/holdfast/session/", Some(options)).await.unwrap();
    assert_eq!(found.count(), i64::try_from(ROWS).unwrap());
    let bytes = |entry: &etcd_client::KeyValue| entry.key().len() + entry.value().len();
    let row_bytes = found.kvs().iter().map(bytes).sum::<usize>() / found.kvs().len();
    let file_bytes = client.status().await.unwrap().db_size() / i64::try_from(ROWS).unwrap();
    println!("{rate:.0} rows/s; {row_bytes} bytes a row, {file_bytes} in etcd's file");
    assert!(row_bytes < 1_024, "etcd keeps less than 1 KB for a session");
}
