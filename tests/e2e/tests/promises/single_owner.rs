//! At most one gateway moves a session; the other is fenced, however late it wakes up.

use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Ack, Connect, Packet, Publish, Version};

use crate::texts;

#[tokio::test]
async fn a_gateway_that_slept_through_a_take_over_is_fenced_single_owner() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "contested");
    let mut old = Client::connect(&cluster.mqtt(1), &connect).await;
    old.subscribe(&[("t/#", 1)]).await;
    assert_eq!(old.publish("t/1", "before", 1).await, 0);
    let held = old.next_publish().await;
    assert_eq!(held.text(), "before");

    cluster.pause("gateway-1").await;
    // Both reach the sleeping gateway: an acknowledgement that moves the cursor and a publish.
    old.acknowledge(&held).await;
    let late = Publish { id: 900, ..Publish::new("t/1", "late", 1) };
    old.send(&late.encode(Version::V5)).await.unwrap();

    let mut new = Client::connect(&cluster.mqtt(2), &connect).await;
    assert!(new.session_present);
    let again = new.collect(1).await;
    // Whether the sleeping gateway had sent it, nobody else can know: DUP may be set or not.
    assert_eq!(texts(&again), ["before"]);
    assert_eq!(new.publish("t/1", "after", 1).await, 0);
    assert_eq!(texts(&new.collect(1).await), ["after"]);

    cluster.resume("gateway-1").await;
    let mut acknowledged = false;
    let mut reason = None;
    while let Ok(packet) = old.receive().await {
        match packet {
            Packet::Ack { kind: Ack::Puback, id: 900, code } => acknowledged = code < 0x80,
            Packet::Disconnect { code } => reason = Some(code),
            _ => {}
        }
    }
    assert!(!acknowledged, "a fenced gateway acknowledged a publish");
    assert!(reason.is_none_or(|code| code == 0x8e), "{reason:?}");

    assert_eq!(new.publish("t/1", "marker", 1).await, 0);
    assert!(new.collect_until("marker").await.is_empty());
    new.disconnect().await;
    let mut back = Client::connect(&cluster.mqtt(1), &connect).await;
    assert_eq!(back.publish("t/1", "marker", 1).await, 0);
    assert!(back.collect_until("marker").await.is_empty());
}

#[tokio::test]
async fn of_many_connections_at_once_one_remains_single_owner() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "popular");
    let mut racers = Vec::new();
    for number in 0..20 {
        let (address, connect) = (cluster.mqtt(1 + number % 2), connect.clone());
        racers.push(tokio::spawn(async move { Client::try_connect(&address, &connect).await }));
    }
    let mut clients = Vec::new();
    for racer in racers {
        clients.extend(racer.await.unwrap());
    }
    // Every claim is decided. A loser may answer before it has been told, but not for ever.
    let deadline = Instant::now() + Duration::from_secs(60);
    while clients.len() > 1 {
        assert!(Instant::now() < deadline, "{} connections own the session", clients.len());
        let mut left = Vec::new();
        for mut client in clients {
            if client.ping().await.is_ok() {
                left.push(client);
            }
        }
        clients = left;
    }
    assert_eq!(clients.len(), 1, "the last claim won and was closed nevertheless");
    assert_eq!(clients[0].publish("t/1", "mine", 1).await, 0);
}
