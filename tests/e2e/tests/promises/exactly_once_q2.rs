//! QoS 2 is exactly once, in and out, through crashes.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Ack, Connect, Packet, Publish, Version};

use crate::{numbers, texts};

#[tokio::test]
async fn an_unreleased_publish_that_is_sent_again_is_stored_once_exactly_once_q2() {
    let mut cluster = Cluster::start().await;
    let mut subscriber =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "subscriber")).await;
    subscriber.subscribe(&[("t/#", 2)]).await;
    for version in [Version::V3, Version::V5] {
        let connect = Connect::durable(version, &format!("publisher-{version:?}"));
        let mut publish = Publish { id: 7, ..Publish::new("t/1", "once", 2) };
        let mut publisher = Client::connect(&cluster.mqtt(1), &connect).await;
        publisher.send(&publish.encode(version)).await.unwrap();
        assert_eq!(publisher.acknowledged(Ack::Pubrec, 7).await, 0);
        cluster.kill("gateway-1").await;
        // PUBREC is lost as far as the client knows.
        publish.dup = true;
        let mut publisher = Client::connect(&cluster.mqtt(2), &connect).await;
        assert!(publisher.session_present);
        publisher.send(&publish.encode(version)).await.unwrap();
        assert!(publisher.acknowledged(Ack::Pubrec, 7).await < 0x80);
        cluster.start_again("gateway-1");
        cluster.await_process("gateway-1", true).await;
        publisher.send(&Ack::Pubrel.encode(7)).await.unwrap();
        assert_eq!(publisher.acknowledged(Ack::Pubcomp, 7).await, 0);
        // The id is free: the same id is another message now.
        let next = Publish { id: 7, ..Publish::new("t/1", "next", 2) };
        publisher.send(&next.encode(version)).await.unwrap();
        assert_eq!(publisher.acknowledged(Ack::Pubrec, 7).await, 0);
        publisher.send(&Ack::Pubrel.encode(7)).await.unwrap();
        assert_eq!(publisher.acknowledged(Ack::Pubcomp, 7).await, 0);
        assert_eq!(publisher.publish("t/1", "marker", 1).await, 0);
        let got = texts(&subscriber.collect_until("marker").await);
        assert_eq!(got, ["once", "next"], "{version:?}");
    }
}

#[tokio::test]
async fn each_step_of_a_delivery_survives_its_gateway_exactly_once_q2() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 2)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    assert_eq!(publisher.publish("t/1", "a", 2).await, 0);
    let first = subscriber.next_publish().await;
    assert_eq!((first.text().as_str(), first.qos, first.dup), ("a", 2, false));

    // Received and not acknowledged: it comes again with its id.
    cluster.kill("gateway-1").await;
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    let again = subscriber.next_publish().await;
    assert_eq!((again.text().as_str(), again.id, again.dup), ("a", first.id, true));

    // Acknowledged with PUBREC, and PUBREL came: from here on only PUBREL may come.
    subscriber.send(&Ack::Pubrec.encode(first.id)).await.unwrap();
    subscriber.acknowledged(Ack::Pubrel, first.id).await;
    drop(subscriber);
    cluster.start_again("gateway-1");
    cluster.await_process("gateway-1", true).await;
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    let packet = subscriber.receive().await.unwrap();
    assert!(
        matches!(packet, Packet::Ack { kind: Ack::Pubrel, id, .. } if id == first.id),
        "{packet:?}"
    );
    subscriber.send(&Ack::Pubcomp.encode(first.id)).await.unwrap();
    for number in 0..20 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 2).await, 0);
    }
    assert_eq!(texts(&subscriber.collect(20).await), numbers(0..20));
    subscriber.disconnect().await;
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    assert_eq!(publisher.publish("t/1", "marker", 1).await, 0);
    assert!(subscriber.collect_until("marker").await.is_empty());
}
