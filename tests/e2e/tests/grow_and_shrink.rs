//! Either tier grows and shrinks under load: no publisher sees an error and nothing is lost.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape, Site};
use holdfast_e2e::load::{Load, LoadPlan};
use holdfast_e2e::packet::{Connect, Version};

const SHARDS: u32 = 8;
const PROGRESS: usize = 40;

async fn start(gateways: u16) -> Cluster {
    Cluster::with(Shape { gateways, settings: settings(), ..Shape::default() }).await
}

/// Runs are small, so that there is history to be moved.
fn settings() -> Vec<String> {
    let fixed = ["meta.lease_ms=3000", "storage.shard.run_bytes_max=65536"].map(str::to_owned);
    fixed.into_iter().chain([format!("meta.shards={SHARDS}")]).collect()
}

fn show(when: &str, sites: &[Site]) {
    println!("{when}:");
    for site in sites {
        println!(
            "  {} {} {} {}: {} replicas, {} leading, {} holding, {} bytes",
            site.name,
            site.site_id,
            site.state,
            site.liveness,
            site.replicas,
            site.leading,
            site.holding,
            site.used_bytes
        );
    }
}

/// Every shard has three replicas and a leader, all on active sites, and nobody lacks anything.
fn is_whole(sites: &[Site]) -> bool {
    let active = || sites.iter().filter(|site| site.state == "active");
    let sum = |count: fn(&Site) -> u32| active().map(count).sum::<u32>();
    sum(|site| site.replicas) == 3 * SHARDS
        && sum(|site| site.leading) == SHARDS
        && sites.iter().all(|site| site.holding == 0 && site.missing_bytes == 0)
}

/// Nobody has more than one replica more than another, or leads far more.
fn is_even(sites: &[Site]) -> bool {
    let active: Vec<&Site> = sites.iter().filter(|site| site.state == "active").collect();
    let spread = |count: fn(&Site) -> u32| {
        let counts = active.iter().map(|site| count(site));
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    };
    spread(|site| site.replicas) <= 1 && spread(|site| site.leading) <= 2
}

fn site_of<'a>(sites: &'a [Site], name: &str) -> &'a Site {
    sites.iter().find(|site| site.name == name && site.state != "lost").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_grows_and_shrinks_under_load() {
    let mut cluster = start(2).await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;
    show("three", &cluster.await_sites("whole", is_whole).await);
    let error = cluster.try_holdfast(&["sites", "drain", "storage-1"]).await.unwrap_err();
    println!("refused: {}", error.trim());
    let error = cluster.scale(Some(2), None).await.unwrap_err();
    assert!(error.contains("--storage"), "{error}");

    load.ledger.restart_clock();
    cluster.scale(Some(4), None).await.unwrap();
    let even = |sites: &[Site]| sites.len() == 4 && is_whole(sites) && is_even(sites);
    show("four", &cluster.await_sites("four even sites", even).await);
    load.await_more(PROGRESS).await;
    println!("3 -> 4: longest pause of a publisher {:?}", load.ledger.longest_pause());

    load.ledger.restart_clock();
    cluster.try_holdfast(&["sites", "drain", "storage-2", "--no-wait"]).await.unwrap();
    let error = cluster.scale(Some(3), None).await.unwrap_err();
    assert!(error.contains("drained"), "{error}");
    let elected = cluster.await_elected(None).await;
    cluster.kill(&elected).await;
    cluster.start_again(&elected);
    let told = cluster.try_holdfast(&["sites", "drain", "storage-2"]).await.unwrap();
    assert!(told.contains("may be stopped"), "{told}");
    let sites = cluster.sites().await;
    show("drained", &sites);
    let drained = site_of(&sites, "storage-2");
    assert_eq!((drained.state.as_str(), drained.replicas, drained.holding), ("drained", 0, 0));
    cluster.scale(Some(3), None).await.unwrap();
    assert_eq!(cluster.names("storage"), ["storage-1", "storage-3", "storage-4"]);
    assert_eq!(cluster.pid("storage-2").await, None);
    load.await_more(PROGRESS).await;
    println!("4 -> 3: longest pause of a publisher {:?}", load.ledger.longest_pause());
    load.finish(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_come_and_go_under_load() {
    let mut cluster = start(1).await;
    let first = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    first.await_more(PROGRESS).await;
    cluster.scale(None, Some(3)).await.unwrap();
    assert_eq!(cluster.mqtt_all().len(), 3);
    let more = LoadPlan { name: "more", first_publisher: 100, ..LoadPlan::default() };
    let second = Load::start(&cluster.mqtt_all(), more).await;
    second.await_more(PROGRESS).await;
    second.ledger.restart_clock();
    cluster.scale(None, Some(1)).await.unwrap();
    assert_eq!(cluster.mqtt_all().len(), 1);
    second.await_more(PROGRESS).await;
    println!("3 -> 1: longest pause of a publisher {:?}", second.ledger.longest_pause());
    first.await_more(PROGRESS).await;
    second.finish(false, false).await;
    first.finish(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_is_a_new_site_and_everything_is_whole_again() {
    let mut cluster = start(2).await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan::default()).await;
    load.await_more(PROGRESS).await;
    let before = cluster.await_sites("whole", is_whole).await;
    let old = site_of(&before, "storage-2").site_id.clone();
    cluster.stop("storage-2").await;
    cluster.wipe("storage-2");
    load.await_more(PROGRESS).await;
    cluster.start_again("storage-2");
    let healed = |sites: &[Site]| {
        let is_lost = sites.iter().any(|site| site.site_id == old && site.state == "lost");
        is_lost && is_whole(sites)
    };
    let after = cluster.await_sites("whole on a new site", healed).await;
    show("healed", &after);
    assert_ne!(site_of(&after, "storage-2").site_id, old);
    load.await_more(PROGRESS).await;
    // What the new site has is now needed: another one goes.
    cluster.kill("storage-3").await;
    load.await_more(PROGRESS).await;
    cluster.start_again("storage-3");
    load.finish(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_other_numbers_keeps_everything() {
    const MESSAGES: usize = 200;
    let shape = |storage| Shape { gateways: 1, storage, settings: settings(), ..Shape::default() };
    let mut cluster = Cluster::with(shape(1)).await;
    let connect = Connect::durable(Version::V5, "kept");
    let mut client = Client::connect(&cluster.mqtt(1), &connect).await;
    assert_eq!(client.subscribe(&[("kept/#", 1)]).await, [1]);
    client.disconnect().await;
    let payload = vec![b'x'; 4096];
    let mut publisher =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "publisher")).await;
    for number in 0..MESSAGES {
        let mut payload = payload.clone();
        payload.extend(number.to_string().bytes());
        assert_eq!(publisher.publish("kept/x", payload, 1).await, 0);
    }
    cluster.down().await;
    cluster.up_as(shape(2)).await;
    cluster.try_holdfast(&["sites", "drain", "storage-1"]).await.unwrap();
    cluster.down().await;
    cluster.up_as(shape(1)).await;
    assert_eq!(cluster.names("storage"), ["storage-2"]);
    let mut client = Client::connect(&cluster.mqtt(1), &connect).await;
    assert!(client.session_present);
    for (number, message) in client.collect(MESSAGES).await.into_iter().enumerate() {
        assert!(message.text().ends_with(&format!("x{number}")), "{number}: {}", message.text());
    }
    cluster.down().await;
    let more = cluster.try_holdfast(&["up", "--storage", "1", "--etcd", "3"]).await.unwrap_err();
    assert!(more.contains("sled"), "{more}");
}
