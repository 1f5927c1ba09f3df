//! Any process may be killed at any moment under load: the ledger of what publishers were
//! acknowledged agrees with what subscribers got.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::load::{Load, LoadPlan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

async fn start_load(cluster: &Cluster, qos: u8) -> Load {
    let publish_interval = std::time::Duration::ZERO;
    let plan = LoadPlan { subscribers: 4, qos, publish_interval, ..LoadPlan::default() };
    Load::start(&cluster.mqtt_all(), plan).await
}

async fn kill_each_in_turn(qos: u8, progress: usize) {
    let mut cluster = Cluster::with(Shape {
        settings: vec!["meta.lease_ms=3000".to_owned()],
        ..Shape::default()
    })
    .await;
    let load = start_load(&cluster, qos).await;
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
    load.finish(qos == 2, true).await;
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
    let load = start_load(&cluster, qos).await;
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
    load.finish(qos == 2, true).await;
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
    let load = start_load(&cluster, 1).await;
    for name in cluster.names("storage") {
        load.ledger.restart_clock();
        cluster.pause(&name).await;
        load.await_more(120).await;
        println!("{name} stalled: longest pause {:?}", load.ledger.longest_pause());
        cluster.resume(&name).await;
        load.await_more(120).await;
        cluster.await_process(&name, true).await;
    }
    load.finish(false, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_everything_under_load_loses_nothing() {
    let mut cluster = Cluster::start().await;
    let load = start_load(&cluster, 1).await;
    for _ in 0..2 {
        load.await_more(120).await;
        cluster.kill_all().await;
        cluster.up_again().await;
    }
    load.await_more(120).await;
    load.finish(false, true).await;
}
