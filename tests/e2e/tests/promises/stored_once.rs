//! A message is stored once per replica, however many sessions want it.

use std::fs;

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Version};

const PAYLOAD_BYTES: usize = 50_000;
const MESSAGES: usize = 60;

/// Bytes that all storage nodes have written so far, to files and sockets.
async fn written(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for name in cluster.names("storage") {
        let pid = cluster.pid(&name).await.unwrap();
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let wchar = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        sum += wchar.parse::<u64>().unwrap();
    }
    sum
}

async fn publish_all(publisher: &mut Client) {
    for _ in 0..MESSAGES {
        assert_eq!(publisher.publish("t/1", vec![b'x'; PAYLOAD_BYTES], 1).await, 0);
    }
}

#[tokio::test]
async fn what_a_publish_writes_does_not_grow_with_its_subscribers_stored_once() {
    let cluster = Cluster::start().await;
    let mut publisher =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "publisher")).await;
    let mut bytes = Vec::new();
    for sessions in [0..1, 1..50] {
        for number in sessions {
            let connect = Connect::durable(Version::V5, &format!("subscriber-{number}"));
            let mut client = Client::connect(&cluster.mqtt(1 + number % 2), &connect).await;
            client.subscribe(&[("t/#", 1)]).await;
            client.disconnect().await;
        }
        let before = written(&cluster).await;
        publish_all(&mut publisher).await;
        bytes.push(written(&cluster).await - before);
    }
    println!("1 session: {} bytes written, 50 sessions: {}", bytes[0], bytes[1]);
    // Twice leaves room for runs and checkpoints that fall into one of the two.
    assert!(bytes[1] < 2 * bytes[0], "{bytes:?}");
    for number in [0, 25, 49] {
        let connect = Connect::durable(Version::V5, &format!("subscriber-{number}"));
        let mut client = Client::connect(&cluster.mqtt(1), &connect).await;
        let wanted = if number == 0 { 2 * MESSAGES } else { MESSAGES };
        let got = client.collect(wanted).await;
        assert!(got.iter().all(|publish| publish.payload.len() == PAYLOAD_BYTES));
    }
}
