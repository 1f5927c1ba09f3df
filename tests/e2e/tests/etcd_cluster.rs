//! Two meta-services on three etcd members: any of them may die, and all of etcd, and nothing that was
//! acknowledged is lost.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::load::{Load, LoadPlan};
use holdfast_e2e::packet::{Connect, Version};
use tokio::time::timeout;

const PROGRESS: usize = 40;

async fn start() -> Cluster {
    let settings = [
        "meta.lease_ms=3000",
        "meta.election_ttl_s=2",
        "meta.shards=8",
        "gateway.cluster.subscribe_deadline_ms=60000",
    ];
    Cluster::with(Shape {
        meta: 2,
        etcd: 3,
        settings: settings.map(str::to_owned).to_vec(),
        ..Shape::default()
    })
    .await
}

/// Subscribes a new session to a filter that the cluster does not know yet, which waits until that is durable;
/// the connection and how long it took.
async fn subscribe_anew(address: &str, name: &str) -> (Client, Duration) {
    let began = Instant::now();
    let mut client = Client::connect(address, &Connect::durable(Version::V5, name)).await;
    let filter = format!("{name}/#");
    let filters = [(filter.as_str(), 1)];
    let codes = timeout(Duration::from_secs(60), client.subscribe(&filters)).await;
    assert_eq!(codes.expect("it is answered"), [1], "asked once");
    (client, began.elapsed())
}

/// That a message gets there.
async fn check_delivery(client: &mut Client, address: &str, name: &str) {
    let publisher = format!("{name}-publisher");
    let mut publisher = Client::connect(address, &Connect::durable(Version::V5, &publisher)).await;
    assert!(publisher.publish(&format!("{name}/x"), "hello", 1).await < 0x80);
    assert_eq!(client.collect(1).await[0].text(), "hello");
}

async fn etcd_leader(cluster: &Cluster) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for name in cluster.names("etcd") {
            if cluster.metrics(&name).await.get("etcd_server_is_leader") == Some(&1.0) {
                return name;
            }
        }
        assert!(Instant::now() < deadline, "etcd has no leader");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_meta_service_takes_over_and_both_with_etcds_leader_come_back() {
    let mut cluster = start().await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;

    let first = cluster.await_elected(None).await;
    load.ledger.restart_clock();
    cluster.kill(&first).await;
    let (mut client, took) = subscribe_anew(&cluster.mqtt(1), "one").await;
    println!("{first} killed while elected: a new filter is durable after {took:?}");
    check_delivery(&mut client, &cluster.mqtt(2), "one").await;
    load.await_more(PROGRESS).await;
    println!("  longest pause of a publisher {:?}", load.ledger.longest_pause());
    let second = cluster.await_elected(Some(&first)).await;
    cluster.start_again(&first);
    cluster.await_process(&first, true).await;

    let leader = etcd_leader(&cluster).await;
    load.ledger.restart_clock();
    for name in [&second, &first, &leader] {
        cluster.kill(name).await;
    }
    load.await_more(PROGRESS).await;
    for name in [&first, &second] {
        cluster.start_again(name);
    }
    let (mut client, took) = subscribe_anew(&cluster.mqtt(2), "two").await;
    println!("both and {leader} killed: a new filter is durable {took:?} after their start");
    check_delivery(&mut client, &cluster.mqtt(1), "two").await;
    cluster.start_again(&leader);
    cluster.await_process(&leader, true).await;
    load.await_more(PROGRESS).await;
    println!("  longest pause of a publisher {:?}", load.ledger.longest_pause());
    load.finish(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_publishers_go_on_and_new_filters_wait() {
    let mut cluster = start().await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;
    let etcd = cluster.names("etcd");
    load.ledger.restart_clock();
    for name in &etcd {
        cluster.kill(name).await;
    }
    let address = cluster.mqtt(1);
    let waiting = tokio::spawn(async move { subscribe_anew(&address, "late").await });
    load.await_more(5 * PROGRESS).await;
    assert!(!waiting.is_finished(), "a new filter is granted without a store");
    for name in &etcd {
        cluster.start_again(name);
    }
    let began = Instant::now();
    let (mut client, _) = waiting.await.unwrap();
    println!("etcd back: a new filter is durable after {:?}", began.elapsed());
    check_delivery(&mut client, &cluster.mqtt(2), "late").await;
    load.await_more(PROGRESS).await;
    println!("all of etcd killed: longest pause of a publisher {:?}", load.ledger.longest_pause());
    load.finish(false, false).await;
}
