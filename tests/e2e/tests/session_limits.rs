//! How long sessions last: what the operator allows, what clients ask for, what they are told.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::client::{Client, Lost};
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Packet, Property, Version, Will, frame};

const SESSION_EXPIRY: u8 = 0x11;
const SESSIONS: &str = "holdfast_storage_sessions";
const CONNECTED: &str = "holdfast_storage_sessions_connected";

async fn small(settings: &[&str]) -> Cluster {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    Cluster::with(Shape { gateways: 1, storage: 1, settings, ..Shape::default() }).await
}

/// What CONNACK says of the session's expiry.
async fn told_expiry(cluster: &Cluster, connect: &Connect) -> Option<u64> {
    let mut client = Client::open(&cluster.mqtt(1), Version::V5).await.unwrap();
    client.send(&connect.encode()).await.unwrap();
    let Ok(Packet::Connack { code: 0, properties, .. }) = client.receive().await else {
        panic!("not accepted");
    };
    client.disconnect().await;
    properties.iter().find(|property| property.id == SESSION_EXPIRY).map(Property::number)
}

fn asking(id: &str, expiry_s: Option<u32>) -> Connect {
    Connect { expiry_s, ..Connect::durable(Version::V5, id) }
}

/// DISCONNECT of MQTT 5 with a reason and a new session expiry interval.
fn disconnect(reason: u8, expiry_s: u32) -> Vec<u8> {
    let [a, b, c, d] = expiry_s.to_be_bytes();
    frame(0xe0, &[reason, 5, SESSION_EXPIRY, a, b, c, d])
}

/// A client whose will is published at the end of its session, and not before.
fn with_late_will(id: &str, expiry_s: u32) -> Connect {
    let will = Will {
        topic: format!("wills/{id}"),
        payload: id.as_bytes().to_vec(),
        qos: 1,
        retain: false,
        delay_s: u32::MAX,
    };
    Connect { will: Some(will), ..asking(id, Some(expiry_s)) }
}

#[tokio::test]
async fn connack_tells_the_expiry_unless_it_is_what_the_client_asked_for() {
    let cluster = small(&["gateway.mqtt.session_expiry_max_s=100"]).await;
    let asked_and_told = [
        (Some(100), None),
        (Some(99), None),
        (Some(101), Some(100)),
        (Some(u32::MAX), Some(100)),
        (Some(0), None),
        (None, None),
    ];
    for (number, (asked, told)) in asked_and_told.into_iter().enumerate() {
        let connect = asking(&format!("client-{number}"), asked);
        assert_eq!(told_expiry(&cluster, &connect).await, told, "asked for {asked:?}");
    }
}

#[tokio::test]
async fn the_longest_expiry_bounds_what_connect_and_disconnect_ask_for() {
    let cluster = small(&["gateway.mqtt.session_expiry_max_s=2"]).await;
    let watcher = Connect::regular(Version::V5, "watcher");
    let mut watcher = Client::connect(&cluster.mqtt(1), &watcher).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    let address = cluster.mqtt(1);
    // Its will waits for the end of its session: for ever, if the limit were not kept.
    drop(Client::connect(&address, &with_late_will("by-connect", u32::MAX)).await);
    let mut prolonging = Client::connect(&address, &with_late_will("by-disconnect", 1)).await;
    prolonging.send(&disconnect(0x04, u32::MAX)).await.unwrap();
    let mut seen: Vec<String> = watcher.collect(2).await.iter().map(|will| will.text()).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["by-connect", "by-disconnect"]);
}

#[tokio::test]
async fn disconnect_may_shorten_a_session_but_not_give_one_that_was_not_asked_for() {
    let cluster = small(&[]).await;
    let mut shortening = Client::connect(&cluster.mqtt(1), &asking("short", Some(1000))).await;
    shortening.send(&disconnect(0, 0)).await.unwrap();
    shortening.ended().await;
    let again = Client::connect(&cluster.mqtt(1), &asking("short", Some(1000))).await;
    assert!(!again.session_present);
    let mut late = Client::connect(&cluster.mqtt(1), &asking("late", Some(0))).await;
    late.send(&disconnect(0, 5)).await.unwrap();
    assert_eq!(late.ended().await, Some(0x82));
}

#[tokio::test]
async fn sessions_of_mqtt_3_1_1_last_as_long_as_the_default() {
    let cluster = small(&["gateway.mqtt.session_expiry_default_s=1"]).await;
    let address = cluster.mqtt(1);
    // One of MQTT 5 that outlives it.
    Client::connect(&address, &asking("five", Some(1000))).await.disconnect().await;
    Client::connect(&address, &Connect::regular(Version::V3, "clean")).await.disconnect().await;
    let three = Client::connect(&address, &Connect::durable(Version::V3, "three")).await;
    cluster.await_metric("storage-1", SESSIONS, |count| count == 2.0).await;
    three.disconnect().await;
    cluster.await_metric("storage-1", CONNECTED, |count| count == 0.0).await;
    cluster.await_metric("storage-1", SESSIONS, |count| count == 1.0).await;
    let three = Client::connect(&address, &Connect::durable(Version::V3, "three")).await;
    assert!(!three.session_present);
    let five = Client::connect(&address, &asking("five", Some(1000))).await;
    assert!(five.session_present);
}

#[tokio::test]
async fn a_session_that_is_claimed_too_late_is_given_up() {
    let cluster = small(&["gateway.cluster.propose_deadline_ms=500"]).await;
    let address = cluster.mqtt(1);
    let watcher = Connect::durable(Version::V5, "watcher");
    let mut watcher = Client::connect(&address, &watcher).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    cluster.pause("storage-1").await;
    let late = Client::try_connect(&address, &with_late_will("late", 1)).await;
    assert_eq!(late.unwrap_err(), Lost::Refused(0x88));
    cluster.resume("storage-1").await;
    // Its session ends a second after the gateway has given it up.
    assert_eq!(watcher.collect(1).await[0].text(), "late");
}
