//! After a crash a client sees again at most what it acknowledged in the last second; after a
//! clean end nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Version};

/// One second as promised, and one for two busy cores.
const LATEST: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_gateway_crash_repeats_only_the_latest_bounded_redelivery() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    let started = Instant::now();
    let mut acknowledged_at = HashMap::new();
    let mut number = 0;
    while started.elapsed() < 2 * LATEST {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
        let publish = subscriber.collect(1).await.remove(0);
        acknowledged_at.insert(publish.text(), Instant::now());
        number += 1;
    }
    subscriber.ping().await.unwrap();
    let crash = Instant::now();
    cluster.kill("gateway-1").await;
    assert_eq!(publisher.publish("t/1", "marker", 1).await, 0);
    let mut subscriber = Client::connect(&cluster.mqtt(2), &connect).await;
    let again = subscriber.collect_until("marker").await;
    println!("{} of {number} came again", again.len());
    for publish in again {
        let age = crash - acknowledged_at[&publish.text()];
        assert!(age <= LATEST, "{} was acknowledged {age:?} before the crash", publish.text());
    }
}

#[tokio::test]
async fn a_disconnect_and_a_drain_repeat_nothing_bounded_redelivery() {
    let mut cluster = Cluster::start().await;
    let connect = Connect::durable(Version::V5, "subscriber");
    let mut publisher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "publisher")).await;
    let mut subscriber = Client::connect(&cluster.mqtt(1), &connect).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    for round in 0..3 {
        for number in 0..50 {
            assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
        }
        assert_eq!(crate::texts(&subscriber.collect(50).await), crate::numbers(0..50));
        match round {
            0 => subscriber.disconnect().await,
            1 => {
                // The gateway has the last acknowledgement before it is asked to stop.
                subscriber.ping().await.unwrap();
                cluster.stop("gateway-1").await;
            }
            _ => drop(subscriber),
        }
        if round == 2 {
            return;
        }
        let gateway = if round == 0 { 1 } else { 2 };
        subscriber = Client::connect(&cluster.mqtt(gateway), &connect).await;
        assert!(subscriber.session_present);
        assert_eq!(publisher.publish("t/1", "marker", 1).await, 0);
        let again = crate::texts(&subscriber.collect_until("marker").await);
        assert!(again.is_empty(), "round {round}: {again:?}");
    }
}
