//! PUBACK and PUBREC mean: a majority has it on disk.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Version};

use crate::texts;

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_of_everything_no_acked_loss() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 2)]).await;
    subscriber.disconnect().await;
    let publisher = Connect::durable(Version::V5, "publisher");
    let mut number = 0;
    for round in 0..3 {
        let mut client = Client::connect(&cluster.mqtt(1 + round % 2), &publisher).await;
        for _ in 0..100 {
            let qos = 1 + u8::from(number % 3 == 0);
            assert_eq!(client.publish("t/1", number.to_string(), qos).await, 0);
            number += 1;
        }
        // At once after the last acknowledgement.
        cluster.kill_all().await;
        cluster.up_again().await;
    }
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    assert!(subscriber.session_present);
    let mut got: Vec<usize> =
        texts(&subscriber.collect(number).await).iter().map(|text| text.parse().unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, (0..number).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_majority_nothing_is_acknowledged_no_acked_loss() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    assert_eq!(publisher.publish("t/1", "0", 1).await, 0);
    cluster.kill("storage-1").await;
    cluster.kill("storage-2").await;
    let message = holdfast_e2e::packet::Publish {
        id: 500,
        ..holdfast_e2e::packet::Publish::new("t/1", "1", 1)
    };
    publisher.send(&message.encode(Version::V5)).await.unwrap();
    // Everything before the answer to this ping is what the gateway says without a majority.
    publisher.ping().await.unwrap();
    publisher.send(&holdfast_e2e::packet::PINGREQ).await.unwrap();
    assert_eq!(publisher.receive().await, Ok(holdfast_e2e::packet::Packet::Pingresp));
    cluster.start_again("storage-1");
    cluster.start_again("storage-2");
    assert_eq!(publisher.acknowledged(holdfast_e2e::packet::Ack::Puback, 500).await, 0);
    assert_eq!(texts(&subscriber.collect(2).await), ["0", "1"]);
}
