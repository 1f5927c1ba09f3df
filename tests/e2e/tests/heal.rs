//! A tier that heals by itself, five replicas, and zones.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::cluster::{Cluster, Shape, Site};
use holdfast_e2e::load::{Load, LoadPlan};

const SHARDS: u32 = 8;
const PROGRESS: usize = 40;

fn settings(more: &[&str]) -> Vec<String> {
    let fixed = ["meta.lease_ms=2000", "storage.shard.run_bytes_max=65536"];
    let fixed = fixed.iter().chain(more).map(|&setting| setting.to_owned());
    fixed.chain([format!("meta.shards={SHARDS}")]).collect()
}

fn held(sites: &[Site], state: &str) -> u32 {
    sites.iter().filter(|site| site.state == state).map(|site| site.replicas).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_stays_away_is_replaced_and_reused_when_it_returns() {
    let settings = settings(&["meta.site_replace_after_s=3"]);
    let shape = Shape { storage: 4, restart: false, settings, ..Shape::default() };
    let mut cluster = Cluster::with(shape).await;
    let even = |sites: &[Site]| {
        sites.len() == 4 && sites.iter().all(|site| site.replicas == 6 && site.holding == 0)
    };
    cluster.await_sites("four even sites", even).await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;

    cluster.kill("storage-2").await;
    let replaced = |sites: &[Site]| {
        let whole = sites.iter().all(|site| site.holding == 0 && site.missing_bytes == 0);
        let lost = sites.iter().filter(|site| site.state == "lost").count();
        lost == 1 && held(sites, "lost") == 0 && held(sites, "active") == 3 * SHARDS && whole
    };
    cluster.await_sites("the dead one replaced", replaced).await;
    // Another may go now: two of three replicas are left of every shard.
    cluster.kill("storage-3").await;
    load.await_more(PROGRESS).await;
    cluster.start_again("storage-3");
    cluster.start_again("storage-2");
    cluster.await_sites("four even sites again", even).await;
    load.await_more(PROGRESS).await;
    load.finish(false, false).await;
}

/// Kills what `victims` picks; whatever it was, all shards go on.
async fn lose(shape: Shape, replicas: u32, victims: impl Fn(&Site, &Site) -> bool) {
    let count = usize::from(shape.storage);
    let mut cluster = Cluster::with(shape).await;
    let placed = |sites: &[Site]| {
        sites.len() == count
            && held(sites, "active") == replicas * SHARDS
            && sites.iter().all(|site| site.holding == 0 && site.replicas > 0)
    };
    let sites = cluster.await_sites("all placed", placed).await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;
    let lost: Vec<&Site> = sites.iter().filter(|site| victims(&sites[0], site)).collect();
    assert_eq!(lost.len(), 2, "{sites:?}");
    for site in lost {
        cluster.kill(&site.name).await;
    }
    load.await_more(PROGRESS).await;
    load.finish(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_zone_may_be_lost() {
    let settings = settings(&[]);
    let shape = Shape { storage: 6, zones: 3, settings, restart: false, ..Shape::default() };
    lose(shape, 3, |first, site| site.zone == first.zone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_replicas_live_through_the_loss_of_two() {
    let replication_factor = Some(5);
    let settings = settings(&[]);
    let shape =
        Shape { storage: 5, replication_factor, settings, restart: false, ..Shape::default() };
    lose(shape, 5, |_, site| ["storage-2", "storage-5"].contains(&site.name.as_str())).await;
}
