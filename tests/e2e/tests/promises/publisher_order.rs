//! Messages of one publisher on one topic arrive in publish order, however the session moves.

use std::sync::Arc;

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::ledger::{Entry, Ledger};
use holdfast_e2e::packet::{Connect, Version};
use holdfast_e2e::traffic::{PublisherPlan, Stop, spawn_publisher};

const MESSAGES: u64 = 3000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_between_gateways_keeps_publisher_order() {
    let cluster = Cluster::start().await;
    let connect = Connect { receive_max: Some(50), ..Connect::durable(Version::V5, "mover") };
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let (ledger, stop) = (Arc::new(Ledger::default()), Stop::default());
    let publishers: Vec<_> = (0..3)
        .map(|publisher| {
            let mut addresses = cluster.mqtt_all();
            addresses.rotate_left(publisher % 2);
            let plan = PublisherPlan {
                addresses,
                publisher: u32::try_from(publisher).unwrap(),
                topic: "t/same".to_owned(),
                qos: 1,
                window: 100,
                count: Some(MESSAGES),
                version: Version::V5,
            };
            spawn_publisher(plan, ledger.clone(), stop.clone())
        })
        .collect();
    let mut received = 0;
    let mut moves = 0;
    while received < 3 * usize::try_from(MESSAGES).unwrap() {
        let publish = subscriber.next_publish().await;
        ledger.received("mover", Entry::parse(&publish.payload).unwrap());
        subscriber.acknowledge(&publish).await;
        received = ledger.distinct_count("mover");
        if received >= 400 * (moves + 1) && moves < 20 {
            moves += 1;
            if moves % 2 == 0 {
                subscriber.disconnect().await;
            }
            subscriber = Client::connect(&cluster.mqtt(1 + moves % 2), &connect).await;
            assert!(subscriber.session_present);
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    ledger.check(&["mover".to_owned()], false);
}

#[tokio::test]
async fn messages_of_mixed_qos_keep_publisher_order() {
    let cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut live = Client::connect(&cluster.mqtt(1), &connect).await;
    live.subscribe(&[("t/#", 2)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    publish_mixed(&mut publisher).await;
    assert_eq!(crate::texts(&live.collect(30).await), crate::numbers(0..30), "live");
    live.disconnect().await;
    publish_mixed(&mut publisher).await;
    let mut late = Client::connect(&cluster.mqtt(2), &connect).await;
    assert_eq!(crate::texts(&late.collect(30).await), crate::numbers(0..30), "missed");
}

async fn publish_mixed(publisher: &mut Client) {
    for number in 0..30_u8 {
        assert_eq!(publisher.publish("t/1", number.to_string(), number % 3).await, 0);
    }
}
