//! After SUBACK nothing that anybody is acknowledged for is missed, wherever it is published.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Version};

use crate::texts;

#[tokio::test]
async fn a_publish_at_another_gateway_right_after_suback_is_delivered_suback_contract() {
    let cluster = Cluster::start().await;
    let mut publishers = Vec::new();
    for gateway in 1..=2 {
        let connect = Connect::regular(Version::V5, &format!("publisher-{gateway}"));
        publishers.push(Client::connect(&cluster.mqtt(gateway), &connect).await);
    }
    for round in 0..20 {
        let connect = Connect::durable(Version::V5, &format!("subscriber-{round}"));
        let mut subscriber = Client::connect(&cluster.mqtt(1 + round % 2), &connect).await;
        // A filter that no gateway knows yet.
        assert_eq!(subscriber.subscribe(&[(&format!("new/{round}/+"), 1)]).await, [1]);
        if round % 3 == 0 {
            drop(subscriber);
            subscriber = Client::connect(&cluster.mqtt(2 - round % 2), &connect).await;
        }
        for (number, publisher) in publishers.iter_mut().enumerate() {
            let code = publisher.publish(&format!("new/{round}/x"), number.to_string(), 1).await;
            assert_eq!(code, 0);
        }
        let mut got = texts(&subscriber.collect(2).await);
        got.sort();
        assert_eq!(got, ["0", "1"], "round {round}");
    }
}
