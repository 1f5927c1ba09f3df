//! Any process may be killed at any moment under load: the ledger of what publishers were
//! acknowledged agrees with what subscribers got.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::ledger::Ledger;
use holdfast_e2e::packet::Version;
use holdfast_e2e::traffic::{
    PublisherPlan, Stop, SubscriberPlan, spawn_publisher, spawn_subscriber,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

/// On as many shards, so that every storage node probably leads one of them.
const PUBLISHERS: usize = 8;

/// Publishers, connected subscribers and offline subscribers around one ledger.
struct Load {
    ledger: Arc<Ledger>,
    stop: Stop,
    publishers: Vec<JoinHandle<()>>,
    connected: Vec<JoinHandle<()>>,
    offline: Vec<SubscriberPlan>,
    names: Vec<String>,
}

/// Addresses beginning with the n-th.
fn rotated(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let length = addresses.len();
    addresses.rotate_left(by % length);
    addresses
}

impl Load {
    async fn start(cluster: &Cluster, qos: u8) -> Load {
        let (ledger, stop) = (Arc::new(Ledger::default()), Stop::default());
        let addresses = cluster.mqtt_all();
        let versions = [Version::V3, Version::V5];
        let (mut connected, mut offline, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..4 {
            let plan = SubscriberPlan {
                addresses: rotated(&addresses, number),
                name: format!("subscriber-{number}"),
                filter: "load/#".to_owned(),
                qos,
                version: versions[number / 2],
            };
            names.push(plan.name.clone());
            let client = plan.subscribe().await;
            if number % 2 == 0 {
                let task = spawn_subscriber(plan, Some(client), ledger.clone(), stop.clone());
                connected.push(task);
            } else {
                client.disconnect().await;
                offline.push(plan);
            }
        }
        let publish = |number: usize| PublisherPlan {
            addresses: rotated(&addresses, number),
            publisher: u32::try_from(number).unwrap(),
            topic: format!("load/{number}"),
            qos,
            window: 20,
            count: None,
            version: versions[number % 2],
        };
        let publishers = (0..PUBLISHERS)
            .map(|number| spawn_publisher(publish(number), ledger.clone(), stop.clone()))
            .collect();
        Load { ledger, stop, publishers, connected, offline, names }
    }

    /// Waits until every publisher has been acknowledged as many more messages.
    async fn await_more(&self, count: usize) {
        let before = self.ledger.acknowledged_by_publisher();
        let progressed = async {
            loop {
                let now = self.ledger.acknowledged_by_publisher();
                let has_progressed = |(publisher, acknowledged): (&u32, &usize)| {
                    *acknowledged >= before.get(publisher).copied().unwrap_or(0) + count
                };
                if now.len() == PUBLISHERS && now.iter().all(has_progressed) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(90), progressed).await;
        let now = self.ledger.acknowledged_by_publisher();
        assert!(waited.is_ok(), "a publisher is stuck: {before:?} then, {now:?} now");
    }

    /// Lets everything drain and compares.
    async fn finish(self, exactly_once: bool) {
        self.stop.set();
        let rest = self
            .offline
            .into_iter()
            .map(|plan| spawn_subscriber(plan, None, self.ledger.clone(), self.stop.clone()));
        let mut tasks: Vec<JoinHandle<()>> = rest.collect();
        tasks.extend(self.publishers);
        tasks.extend(self.connected);
        for task in tasks {
            match tokio::time::timeout(Duration::from_secs(90), task).await {
                Ok(ended) => ended.unwrap(),
                // The verdict below tells what is missing.
                Err(_) => self.ledger.error("a client never finished".to_owned()),
            }
        }
        self.ledger.check(&self.names, exactly_once);
    }
}

async fn kill_each_in_turn(qos: u8, progress: usize) {
    let mut cluster = Cluster::with(Shape {
        settings: vec!["meta.lease_ms=3000".to_owned()],
        ..Shape::default()
    })
    .await;
    let load = Load::start(&cluster, qos).await;
    load.await_more(progress).await;
    let names: Vec<String> = cluster.processes().iter().map(|p| p.name.clone()).collect();
    for name in names {
        load.ledger.restart_clock();
        cluster.kill(&name).await;
        load.await_more(progress).await;
        println!("{name} killed: longest pause {:?}", load.ledger.longest_pause());
        cluster.start_again(&name);
        cluster.await_process(&name, true).await;
        load.await_more(progress).await;
    }
    load.finish(qos == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_killed_in_turn_under_qos_1_loses_nothing() {
    kill_each_in_turn(1, 250).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_killed_in_turn_under_qos_2_loses_and_repeats_nothing() {
    kill_each_in_turn(2, 60).await;
}

/// `HOLDFAST_SEED` replays a run.
fn seed() -> u64 {
    let given = std::env::var("HOLDFAST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| StdRng::from_os_rng().random());
    println!("HOLDFAST_SEED={seed}");
    seed
}

async fn kill_at_random_moments(qos: u8, rounds: usize) {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::with(Shape {
        settings: vec!["meta.lease_ms=3000".to_owned()],
        ..Shape::default()
    })
    .await;
    let load = Load::start(&cluster, qos).await;
    let names: Vec<String> = cluster.processes().iter().map(|p| p.name.clone()).collect();
    for _ in 0..rounds {
        let name = &names[random.random_range(0..names.len())];
        load.await_more(random.random_range(1..100)).await;
        println!("kill {name} at {}", load.ledger.acknowledged_count());
        cluster.kill(name).await;
        load.await_more(random.random_range(1..100)).await;
        cluster.start_again(name);
        // The promises hold while a majority stays: the next one dies when this one is back.
        cluster.await_process(name, true).await;
    }
    load.finish(qos == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_at_random_moments_lose_nothing() {
    kill_at_random_moments(1, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_at_random_moments_repeat_no_qos_2_message() {
    kill_at_random_moments(2, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_storage_node_stops_nobody_for_good() {
    let cluster = Cluster::start().await;
    let load = Load::start(&cluster, 1).await;
    for name in cluster.names("storage") {
        load.ledger.restart_clock();
        cluster.pause(&name).await;
        load.await_more(120).await;
        println!("{name} stalled: longest pause {:?}", load.ledger.longest_pause());
        cluster.resume(&name).await;
        load.await_more(120).await;
        cluster.await_process(&name, true).await;
    }
    load.finish(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_everything_under_load_loses_nothing() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, 1).await;
    for _ in 0..2 {
        load.await_more(120).await;
        cluster.kill_all().await;
        cluster.up_again().await;
    }
    load.await_more(120).await;
    load.finish(false).await;
}
