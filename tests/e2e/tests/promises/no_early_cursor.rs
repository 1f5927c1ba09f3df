//! A cursor passes nothing that the client has not acknowledged.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Version};

use crate::texts;

#[tokio::test]
async fn what_was_received_but_not_acknowledged_comes_again_no_early_cursor() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    for number in 0..20 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
    }
    let mut received = Vec::new();
    for _ in 0..20 {
        received.push(subscriber.next_publish().await);
    }
    // In another order than received, and with gaps.
    for index in [19, 3, 2, 7, 0] {
        subscriber.acknowledge(&received[index]).await;
    }
    subscriber.disconnect().await;
    cluster.kill("gateway-1").await;

    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    assert!(subscriber.session_present);
    assert_eq!(publisher.publish("t/1", "marker", 1).await, 0);
    let mut again = Vec::new();
    while again.len() < 15 {
        again.push(subscriber.next_publish().await);
    }
    let open: Vec<_> = (0..20).filter(|index| ![19, 3, 2, 7, 0].contains(index)).collect();
    assert_eq!(texts(&again), open.iter().map(ToString::to_string).collect::<Vec<_>>());
    for (publish, index) in again.iter().zip(open) {
        assert_eq!((publish.id, publish.dup), (received[index].id, true), "{}", publish.text());
        subscriber.acknowledge(publish).await;
    }
    assert!(subscriber.collect_until("marker").await.is_empty());
}

#[tokio::test]
async fn a_client_that_vanishes_without_acknowledging_gets_all_again_no_early_cursor() {
    let mut cluster = Cluster::start().await;
    let connect = Connect { receive_max: Some(5), ..Connect::durable(Version::V5, "subscriber") };
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    for number in 0..30 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
    }
    for _ in 0..5 {
        subscriber.next_publish().await;
    }
    drop(subscriber);
    cluster.kill_all().await;
    cluster.up_again().await;
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    assert_eq!(texts(&subscriber.collect(30).await), crate::numbers(0..30));
}
