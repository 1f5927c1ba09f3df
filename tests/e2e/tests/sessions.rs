//! A session belongs to the client, not to the gateway it was opened on.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Packet, Property, Publish, Version, Will};

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

fn numbers(publishes: &[Publish]) -> Vec<String> {
    publishes.iter().map(Publish::text).collect()
}

fn wanted(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_session_resumes_on_gateway_2_while_gateway_1_is_dead() {
    let mut cluster = Cluster::start().await;
    for (version, id) in [(Version::V3, "three"), (Version::V5, "five")] {
        let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(version, id)).await;
        assert!(!client.session_present);
        client.subscribe(&[("t/#", 1)]).await;
    }
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::regular(Version::V5, "publisher")).await;
    cluster.kill("gateway-1").await;
    for number in 0..50 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
    }
    for (version, id) in [(Version::V3, "three"), (Version::V5, "five")] {
        let mut client = Client::connect(&cluster.mqtt(2), &Connect::durable(version, id)).await;
        assert!(client.session_present, "{id}");
        assert_eq!(numbers(&client.collect(50).await), wanted(50), "{id}");
    }
}

#[tokio::test]
async fn a_take_over_ends_the_old_connection_with_0x8e() {
    let cluster = Cluster::start().await;
    for (old_gateway, new_gateway) in [(1, 2), (2, 2)] {
        let connect = Connect::durable(Version::V5, &format!("mover-{old_gateway}"));
        let mut old = Client::connect(&cluster.mqtt(old_gateway), &connect).await;
        old.subscribe(&[("t/#", 1)]).await;
        let mut new = Client::connect(&cluster.mqtt(new_gateway), &connect).await;
        assert!(new.session_present);
        assert_eq!(old.ended().await, Some(0x8e));
        assert_eq!(new.publish("t/1", "still subscribed", 1).await, 0);
        assert_eq!(numbers(&new.collect(1).await), ["still subscribed"]);
        new.disconnect().await;
    }
}

#[tokio::test]
async fn a_clean_start_begins_an_empty_session() {
    let cluster = Cluster::start().await;
    for (version, id) in VERSIONS.into_iter().zip(["three", "five"]) {
        let durable = Connect::durable(version, id);
        let mut first = Client::connect(&cluster.mqtt(1), &durable).await;
        first.subscribe(&[("t/#", 1)]).await;
        first.disconnect().await;
        let clean = Connect { clean: true, ..durable.clone() };
        let mut second = Client::connect(&cluster.mqtt(2), &clean).await;
        assert!(!second.session_present);
        second.publish("t/1", "for nobody", 1).await;
        second.subscribe(&[("u/#", 1)]).await;
        second.publish("u/1", "first", 1).await;
        assert_eq!(numbers(&second.collect(1).await), ["first"]);
    }
}

#[tokio::test]
async fn live_and_missed_messages_come_in_one_sequence() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/+", 1), ("t/1/#", 2)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::regular(Version::V3, "publisher")).await;
    let mut got = Vec::new();
    for round in 0..4 {
        for number in round * 25..round * 25 + 25 {
            assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
        }
        if round % 2 == 0 {
            got.extend(numbers(&subscriber.collect(25).await));
            subscriber.disconnect().await;
        } else {
            got.extend(numbers(&subscriber.collect(25).await));
            assert_eq!(got, wanted(round * 25 + 25));
            subscriber.disconnect().await;
        }
        subscriber = Client::connect(&cluster.mqtt(1 + round % 2), &connect).await;
        assert!(subscriber.session_present);
    }
    assert_eq!(got, wanted(100));
}

#[tokio::test]
async fn regular_subscribers_get_messages_of_other_gateways() {
    let cluster = Cluster::start().await;
    let mut subscriber =
        Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "regular")).await;
    subscriber.subscribe(&[("news/#", 1)]).await;
    let mut here = Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "here")).await;
    let mut there =
        Client::connect(&cluster.mqtt(2), &Connect::regular(Version::V3, "there")).await;
    assert_eq!(here.publish("news/1", "here", 1).await, 0);
    assert_eq!(numbers(&subscriber.collect(1).await), ["here"]);
    // Interest reaches the other gateway a moment after SUBACK; a regular session has no more.
    loop {
        there.publish("news/1", "there", 1).await;
        subscriber.ping().await.unwrap();
        here.publish("news/1", "marker", 1).await;
        if numbers(&subscriber.collect_until("marker").await).contains(&"there".to_owned()) {
            break;
        }
    }
}

#[tokio::test]
async fn retained_messages_reach_later_subscribers_on_any_gateway() {
    let mut cluster = Cluster::start().await;
    let mut publisher =
        Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "publisher")).await;
    for text in ["old", "new"] {
        let retained = Publish { retain: true, ..Publish::new("state/1", text, 1) };
        assert_eq!(publisher.publish_message(retained).await, 0);
    }
    let mut subscriber =
        Client::connect(&cluster.mqtt(2), &Connect::regular(Version::V5, "regular")).await;
    subscriber.subscribe(&[("state/#", 1)]).await;
    let got = subscriber.collect(1).await;
    assert_eq!((got[0].text().as_str(), got[0].retain), ("new", true));
    cluster.kill_all().await;
    cluster.up_again().await;
    let mut later =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V3, "later")).await;
    later.subscribe(&[("state/+", 1)]).await;
    assert_eq!(numbers(&later.collect(1).await), ["new"]);
    let removal = Publish { retain: true, ..Publish::new("state/1", "", 1) };
    assert_eq!(later.publish_message(removal).await, 0);
    later.collect(1).await;
    later.subscribe(&[("state/1", 1)]).await;
    later.publish("state/1", "marker", 1).await;
    assert!(later.collect_until("marker").await.is_empty());
}

#[tokio::test]
async fn a_will_is_published_when_its_client_is_lost_and_not_when_it_leaves() {
    let mut cluster = Cluster::with(holdfast_e2e::cluster::Shape {
        settings: vec!["meta.lease_ms=3000".to_owned()],
        ..Default::default()
    })
    .await;
    let mut watcher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "watcher")).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    let with_will = |id: &str| Connect {
        will: Some(Will {
            topic: format!("wills/{id}"),
            payload: id.as_bytes().to_vec(),
            qos: 1,
            retain: false,
            delay_s: 0,
        }),
        ..Connect::regular(Version::V5, id)
    };
    let leaver = Client::connect(&cluster.mqtt(1), &with_will("leaver")).await;
    leaver.disconnect().await;
    drop(Client::connect(&cluster.mqtt(1), &with_will("lost")).await);
    assert_eq!(numbers(&watcher.collect(1).await), ["lost"]);
    let _orphan = Client::connect(&cluster.mqtt(1), &with_will("orphan")).await;
    cluster.kill("gateway-1").await;
    assert_eq!(numbers(&watcher.collect(1).await), ["orphan"]);
}

#[tokio::test]
async fn an_expired_message_is_not_delivered_and_a_fresh_one_tells_what_is_left() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    subscriber.disconnect().await;
    let mut publisher =
        Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "publisher")).await;
    let expiring = |text: &str, seconds| Publish {
        properties: vec![Property::u32(0x02, seconds)],
        ..Publish::new("t/1", text, 1)
    };
    assert_eq!(publisher.publish_message(expiring("short", 1)).await, 0);
    assert_eq!(publisher.publish_message(expiring("long", 1000)).await, 0);
    // Shard time goes on with entries: the message is over when a later probe finds it so.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    publisher.publish("t/1", "marker", 1).await;
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    let got = subscriber.collect_until("marker").await;
    assert_eq!(numbers(&got), ["long"]);
    let left = got[0].properties.iter().find(|property| property.id == 0x02).unwrap().number();
    assert!((1..=999).contains(&left), "{left}");
}

#[tokio::test]
async fn a_second_subscription_with_the_same_filter_replaces_the_first() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut client = Client::connect(&cluster.mqtt(1), &connect).await;
    client.subscribe(&[("t/#", 2)]).await;
    client.subscribe(&[("t/#", 0)]).await;
    client.publish("t/1", "once", 2).await;
    client.publish("t/1", "marker", 1).await;
    let got = client.collect_until("marker").await;
    assert_eq!(numbers(&got), ["once"]);
    assert_eq!(got[0].qos, 0);
    client.unsubscribe(&["t/#"]).await;
    client.publish("t/1", "gone", 1).await;
    client.send(&holdfast_e2e::packet::PINGREQ).await.unwrap();
    assert_eq!(client.receive().await, Ok(Packet::Pingresp));
}
