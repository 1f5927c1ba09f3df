//! A gateway that is asked to stop hands its clients over: they go on elsewhere, lose nothing and get
//! nothing twice, and nobody takes them for dead.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::ledger::Ledger;
use holdfast_e2e::packet::{Connect, Publish, Version, Will};
use holdfast_e2e::traffic::{
    PublisherPlan, Stop, SubscriberPlan, spawn_publisher, spawn_subscriber,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PUBLISHERS: usize = 4;
const USE_ANOTHER_SERVER: u8 = 0x9c;
const SHUTTING_DOWN: u8 = 0x8b;
const SERVER_REFERENCE: u8 = 0x1c;

async fn cluster(gateways: u16, storage: u16, settings: &[&str]) -> Cluster {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    Cluster::with(Shape { gateways, storage, settings, ..Shape::default() }).await
}

fn rotated(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let length = addresses.len();
    addresses.rotate_left(by % length);
    addresses
}

/// Publishers and subscribers on all gateways, while one gateway after the other is stopped and
/// started again.
async fn restart_all_gateways(qos: u8, progress: usize) {
    let mut cluster = cluster(3, 3, &["gateway.mqtt.drain_spread_ms=200"]).await;
    let (ledger, stop) = (Arc::new(Ledger::default()), Stop::default());
    let addresses = cluster.mqtt_all();
    let versions = [Version::V3, Version::V5];
    let (mut tasks, mut names) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let plan = SubscriberPlan {
            addresses: rotated(&addresses, number),
            name: format!("subscriber-{number}"),
            filter: "load/#".to_owned(),
            qos,
            version: versions[number % 2],
        };
        names.push(plan.name.clone());
        let client = plan.subscribe().await;
        tasks.push(spawn_subscriber(plan, Some(client), ledger.clone(), stop.clone()));
    }
    for number in 0..PUBLISHERS {
        let plan = PublisherPlan {
            addresses: rotated(&addresses, number),
            publisher: u32::try_from(number).unwrap(),
            topic: format!("load/{number}"),
            qos,
            window: 20,
            count: None,
            version: versions[number % 2],
        };
        tasks.push(spawn_publisher(plan, ledger.clone(), stop.clone()));
    }
    await_more(&ledger, progress).await;
    for name in cluster.names("gateway") {
        ledger.restart_clock();
        cluster.stop(&name).await;
        await_more(&ledger, progress).await;
        println!("{name} stopped at QoS {qos}: longest pause {:?}", ledger.longest_pause());
        cluster.start_again(&name);
        cluster.await_process(&name, true).await;
        await_more(&ledger, progress).await;
    }
    stop.set();
    for task in tasks {
        match tokio::time::timeout(Duration::from_secs(90), task).await {
            Ok(ended) => ended.unwrap(),
            // The verdict below tells what is missing.
            Err(_) => ledger.error("a client never finished".to_owned()),
        }
    }
    ledger.check(&names, true);
}

/// Waits until every publisher has been acknowledged as many more messages.
async fn await_more(ledger: &Ledger, count: usize) {
    let before = ledger.acknowledged_by_publisher();
    let progressed = async {
        loop {
            let now = ledger.acknowledged_by_publisher();
            let has_progressed = |(publisher, acknowledged): (&u32, &usize)| {
                *acknowledged >= before.get(publisher).copied().unwrap_or(0) + count
            };
            if now.len() == PUBLISHERS && now.iter().all(has_progressed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(90), progressed).await;
    assert!(waited.is_ok(), "a publisher is stuck: {:?}", ledger.acknowledged_by_publisher());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_gateways_under_qos_1_loses_and_repeats_nothing() {
    restart_all_gateways(1, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_gateways_under_qos_2_loses_and_repeats_nothing() {
    restart_all_gateways(2, 60).await;
}

/// The next packet as it is: its first byte and its body.
async fn raw_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let length = usize::from(stream.read_u8().await.unwrap());
    assert!(length < 0x80, "none of these packets is as long");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (first, body)
}

/// The server reference in the properties of a packet that has no other.
fn server_reference(properties: &[u8]) -> String {
    assert_eq!(properties[1], SERVER_REFERENCE, "{properties:?}");
    String::from_utf8(properties[4..].to_vec()).unwrap()
}

#[tokio::test]
async fn mqtt_5_clients_are_told_which_gateway_to_use() {
    let cluster = cluster(2, 1, &["gateway.mqtt.drain_spread_ms=0"]).await;
    let address = cluster.mqtt(1);
    let connect = Connect::durable(Version::V5, "client");
    let mut connected = TcpStream::connect(&address).await.unwrap();
    connected.write_all(&connect.encode()).await.unwrap();
    let (first, body) = raw_packet(&mut connected).await;
    assert_eq!((first, body[1]), (0x20, 0));
    // In the middle of CONNECT when the gateway stops.
    let late = Connect::durable(Version::V5, "late").encode();
    let mut connecting = TcpStream::connect(&address).await.unwrap();
    connecting.write_all(&late[..5]).await.unwrap();
    let count = |wanted: f64| move |count: f64| count == wanted;
    cluster.await_metric("gateway-1", "holdfast_gateway_connections", count(2.0)).await;

    cluster.signal("gateway-1", libc::SIGTERM).await;
    let (first, body) = raw_packet(&mut connected).await;
    assert_eq!((first, body[0]), (0xe0, USE_ANOTHER_SERVER));
    assert_eq!(server_reference(&body[1..]), cluster.mqtt(2));
    connecting.write_all(&late[5..]).await.unwrap();
    let (first, body) = raw_packet(&mut connecting).await;
    assert_eq!((first, body[1]), (0x20, USE_ANOTHER_SERVER));
    assert_eq!(server_reference(&body[2..]), cluster.mqtt(2));

    let resumed = Client::connect(&cluster.mqtt(2), &connect).await;
    assert!(resumed.session_present);
}

#[tokio::test]
async fn without_another_gateway_clients_are_told_that_the_server_stops() {
    let cluster = cluster(1, 1, &[]).await;
    let connect = Connect::durable(Version::V5, "client");
    let mut client = Client::connect(&cluster.mqtt(1), &connect).await;
    cluster.signal("gateway-1", libc::SIGTERM).await;
    assert_eq!(client.ended().await, Some(SHUTTING_DOWN));
    drop(client);
}

#[tokio::test]
async fn what_was_acknowledged_before_the_stop_is_not_delivered_again() {
    let cluster = cluster(2, 1, &["gateway.mqtt.drain_spread_ms=0"]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::regular(Version::V5, "publisher")).await;
    let mut ids = Vec::new();
    for (version, id) in [(Version::V3, "three"), (Version::V5, "five")] {
        let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(version, id)).await;
        client.subscribe(&[("t/#", 1)]).await;
        ids.push((version, id, client));
    }
    for number in 0..30 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
    }
    for (_, _, client) in &mut ids {
        // The last ten are not acknowledged.
        client.collect(20).await;
        for _ in 0..10 {
            client.next_publish().await;
        }
    }
    cluster.signal("gateway-1", libc::SIGTERM).await;
    for (version, id, mut client) in ids {
        client.ended().await;
        drop(client);
        let connect = Connect::durable(version, id);
        let mut client = Client::connect(&cluster.mqtt(2), &connect).await;
        assert!(client.session_present, "{id}");
        let again: Vec<String> = client.collect(10).await.iter().map(Publish::text).collect();
        let wanted: Vec<String> = (20..30).map(|number| number.to_string()).collect();
        assert_eq!(again, wanted, "{id}");
        client.disconnect().await;
    }
}

fn with_will(version: Version, id: &str, is_durable: bool) -> Connect {
    let will = Will {
        topic: format!("wills/{id}"),
        payload: id.as_bytes().to_vec(),
        qos: 1,
        retain: false,
        delay_s: 0,
    };
    let connect = match is_durable {
        true => Connect::durable(version, id),
        false => Connect::regular(version, id),
    };
    Connect { will: Some(will), ..connect }
}

#[tokio::test]
async fn a_will_is_published_once_unless_its_client_goes_on_elsewhere() {
    let settings = ["gateway.mqtt.drain_spread_ms=0", "gateway.mqtt.drain_will_grace_s=3"];
    let cluster = cluster(2, 1, &settings).await;
    // Replicas know of the grace from this level on.
    cluster.await_metric("storage-1", "holdfast_storage_feature_level", |level| level >= 2.0).await;
    let mut watcher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "watcher")).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    let returning = [
        with_will(Version::V3, "durable-three", true),
        with_will(Version::V5, "durable-five", true),
        with_will(Version::V3, "regular-three", false),
        with_will(Version::V5, "regular-five", false),
    ];
    let staying_away =
        [with_will(Version::V3, "lost-regular", false), with_will(Version::V5, "lost", true)];
    let mut clients = Vec::new();
    for connect in returning.iter().chain(&staying_away) {
        clients.push(Client::connect(&cluster.mqtt(1), connect).await);
    }
    cluster.signal("gateway-1", libc::SIGTERM).await;
    for client in &mut clients {
        client.ended().await;
    }
    drop(clients);
    let mut returned = Vec::new();
    for connect in &returning {
        returned.push(Client::connect(&cluster.mqtt(2), connect).await);
    }
    let mut seen: Vec<String> = watcher.collect(2).await.iter().map(Publish::text).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["lost", "lost-regular"]);
    for client in returned {
        client.disconnect().await;
    }
    watcher.publish("wills/marker", "marker", 1).await;
    assert!(watcher.collect_until("marker").await.is_empty());
}
