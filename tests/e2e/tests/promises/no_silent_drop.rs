//! What is discarded is counted.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Ack, Connect, Packet, Publish, Version};

const MESSAGES: u16 = 20_000;
const WINDOW: u16 = 20;

/// Everything a gateway says that it discarded.
async fn dropped(cluster: &Cluster) -> f64 {
    let metrics = cluster.metrics("gateway-1").await;
    metrics.iter().filter(|(name, _)| name.contains("dropped")).map(|(_, value)| value).sum()
}

#[tokio::test]
async fn messages_for_a_regular_session_that_does_not_read_are_counted_no_silent_drop() {
    let cluster = Cluster::with(Shape { gateways: 1, ..Shape::default() }).await;
    let connect = Connect { receive_max: Some(1), ..Connect::regular(Version::V5, "slow") };
    let mut slow = Client::connect(&cluster.mqtt(1), &connect).await;
    slow.subscribe(&[("t/#", 1)]).await;
    let before = dropped(&cluster).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "publisher")).await;
    for first in (1..=MESSAGES).step_by(usize::from(WINDOW)) {
        for id in first..first + WINDOW {
            let publish = Publish { id, ..Publish::new("t/1", vec![b'x'; 1024], 1) };
            publisher.send(&publish.encode(Version::V5)).await.unwrap();
        }
        for id in first..first + WINDOW {
            assert!(publisher.acknowledged(Ack::Puback, id).await < 0x80);
        }
    }
    let received = take_all(&mut slow).await;
    let counted = dropped(&cluster).await - before;
    println!("{received:?} received, {counted} counted as dropped");
    assert!(counted > 0.0, "nothing is counted");
    if let Ok(received) = received {
        assert!((f64::from(received) + counted - f64::from(MESSAGES)).abs() < 0.5);
    }
}

/// Takes what is there: the queue is empty when a ping is answered before anything else, twice.
/// A server may end the session instead, and then has to say why.
async fn take_all(slow: &mut Client) -> Result<u32, &'static str> {
    let mut received = 0;
    let mut quiet = 0;
    while quiet < 2 {
        slow.send(&holdfast_e2e::packet::PINGREQ).await.unwrap();
        quiet += 1;
        loop {
            match slow.receive().await.unwrap() {
                Packet::Pingresp => break,
                Packet::Publish(publish) => {
                    slow.acknowledge(&publish).await;
                    received += 1;
                    quiet = 0;
                }
                Packet::Disconnect { code: 0x97 } => return Err("quota exceeded"),
                other => panic!("{other:?} after {received}"),
            }
        }
    }
    Ok(received)
}

#[tokio::test]
async fn a_refused_publish_is_counted_and_has_a_reason_no_silent_drop() {
    let cluster = Cluster::with(Shape { gateways: 1, ..Shape::default() }).await;
    let mut client =
        Client::connect(&cluster.mqtt(1), &Connect::regular(Version::V5, "large")).await;
    let refused = |metrics: &std::collections::BTreeMap<String, f64>| -> f64 {
        let counters = metrics.iter().filter(|(name, _)| {
            name.ends_with("_total")
                && ["refused", "dropped", "closed", "rejected"]
                    .iter()
                    .any(|word| name.contains(word))
        });
        counters.map(|(_, value)| value).sum()
    };
    let before = refused(&cluster.metrics("gateway-1").await);
    client.send(&[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a']).await.unwrap();
    assert_eq!(client.ended().await, Some(0x95));
    let after = refused(&cluster.metrics("gateway-1").await);
    assert!(after > before, "{before} {after}");
}
