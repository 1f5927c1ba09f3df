//! Without meta-service clients go on, and its return hurts nobody.

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Version, Will};

use crate::{numbers, texts};

fn with_will(id: &str) -> Connect {
    let will = Will {
        topic: format!("wills/{id}"),
        payload: id.as_bytes().to_vec(),
        qos: 1,
        retain: false,
        delay_s: 0,
    };
    Connect { will: Some(will), ..Connect::durable(Version::V5, id) }
}

#[tokio::test]
async fn clients_publish_resume_and_are_taken_over_without_meta_static_stability() {
    let lease = vec!["meta.lease_ms=2000".to_owned()];
    let mut cluster = Cluster::with(Shape { settings: lease, ..Shape::default() }).await;
    let mut watcher =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "watcher")).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    let mut subscriber = Client::connect(&cluster.mqtt(1), &with_will("subscriber")).await;
    subscriber.subscribe(&[("t/#", 1)]).await;
    let mut publisher = Client::connect(&cluster.mqtt(1), &with_will("publisher")).await;

    cluster.kill("meta-1").await;
    // Both sides of the end of the gateways' leases are walked through.
    let leases_over = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut number = 0;
    while std::time::Instant::now() < leases_over {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
        assert_eq!(texts(&subscriber.collect(1).await), [number.to_string()]);
        number += 1;
    }

    // Reconnect and resume on the other gateway.
    subscriber.disconnect().await;
    for number in 0..20 {
        assert_eq!(publisher.publish("t/1", number.to_string(), 1).await, 0);
    }
    let mut subscriber = Client::connect(&cluster.mqtt(2), &with_will("subscriber")).await;
    assert!(subscriber.session_present);
    assert_eq!(texts(&subscriber.collect(20).await), numbers(0..20));

    // Taken over, back to the first.
    let mut moved = Client::connect(&cluster.mqtt(1), &with_will("subscriber")).await;
    assert!(moved.session_present);
    assert_eq!(subscriber.ended().await, Some(0x8e));
    assert_eq!(publisher.publish("t/1", "moved", 1).await, 0);
    assert_eq!(texts(&moved.collect(1).await), ["moved"]);

    // A filter that the cluster knows, for a client that it does not.
    let mut stranger =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "stranger")).await;
    assert_eq!(stranger.subscribe(&[("t/#", 1)]).await, [1]);
    assert_eq!(publisher.publish("t/1", "both", 1).await, 0);
    assert_eq!(texts(&stranger.collect(1).await), ["both"]);
    assert_eq!(texts(&moved.collect(1).await), ["both"]);

    // It comes back: nobody is declared dead, so nobody's will is published but that of the
    // connection which was taken over (MQTT 5, 3.1.2.5: it was closed without a DISCONNECT).
    cluster.start_again("meta-1");
    cluster.await_ready().await;
    let fresh = std::time::Instant::now() + std::time::Duration::from_secs(6);
    while std::time::Instant::now() < fresh {
        assert_eq!(publisher.publish("t/1", "on", 1).await, 0);
        moved.collect(1).await;
    }
    assert_eq!(publisher.publish("wills/marker", "marker", 1).await, 0);
    let wills = texts(&watcher.collect_until("marker").await);
    assert!(wills.iter().all(|will| will == "subscriber") && wills.len() <= 1, "{wills:?}");
}
