//! Shards and sites as an operator sees and moves them.

use std::fs;
use std::path::PathBuf;

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Version};
use serde_json::{Value, json};

use crate::rest::Rest;

async fn fill(cluster: &Cluster) {
    let mut reader =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "reader")).await;
    reader.subscribe(&[("t/#", 1)]).await;
    reader.disconnect().await;
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(1), &connect).await;
    for number in 0..100 {
        assert_eq!(publisher.publish(&format!("t/{}", number % 5), "x".repeat(500), 1).await, 0);
    }
    publisher.disconnect().await;
}

async fn rolls_and_counts(rest: &Rest, shard: u64) {
    let before = rest.get(&format!("/shards/{shard}")).await.ok();
    let generations = before["generations"].as_array().unwrap().len() as u64;
    let rolled = rest.post(&format!("/shards/{shard}/roll")).await.ok();
    assert_eq!(rolled["shard"], shard);
    let is_rolled = |shown: &Value| {
        let all = shown["generations"].as_array().unwrap();
        all.len() as u64 == generations + 1 && all.iter().any(|one| one["runs"] != 0)
    };
    let after = rest.until(&format!("/shards/{shard}"), is_rolled).await;
    let all = after["generations"].as_array().unwrap();
    assert_eq!(all.last().unwrap()["generation"], rolled["generation"]);
    assert!(all[0]["sealed_ms"].is_u64() && all.last().unwrap()["sealed_ms"].is_null(), "{after}");
    let totals = rest.get("/storage").await.ok();
    assert_eq!(
        (&totals["sites"], &totals["sites_asked"], &totals["shards"]),
        (&json!(3), &json!(3), &json!(16))
    );
    assert_eq!((&totals["replicas"], &totals["replicas_behind"]), (&json!(48), &json!(0)));
    assert_eq!(totals["messages"], 100);
    assert!(totals["streams"].as_u64().unwrap() >= 5, "{totals}");
}

/// The first run's file of a shard at a site.
fn run_file(cluster: &Cluster, site: &str, shard: u64) -> PathBuf {
    let folder = cluster.data().join(site).join("runs");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    let of_shard = |name: &&String| name.starts_with(&format!("{shard:05}-"));
    folder.join(names.iter().find(of_shard).unwrap())
}

async fn verifies(cluster: &Cluster, rest: &Rest, shard: u64) {
    // All sites have written the run.
    let runs = |told: &Value, at: usize| told["sites"][at]["runs"].as_u64().unwrap_or(0);
    let path = format!("/shards/{shard}/verify");
    let whole = loop {
        let told = rest.post(&path).await.ok();
        if (0..3).all(|at| runs(&told, at) > 0) {
            break told;
        }
    };
    assert_eq!((&whole["ok"], &whole["differences"]), (&json!(true), &json!([])), "{whole}");
    let file = run_file(cluster, "storage-2", shard);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let one = rest.post(&format!("{path}?site=storage-1")).await.ok();
    assert_eq!((&one["ok"], one["sites"].as_array().unwrap().len()), (&json!(true), 1));
    let broken = rest.post(&path).await.ok();
    assert_eq!(broken["ok"], false, "{broken}");
    let sites = broken["sites"].as_array().unwrap();
    let bad: Vec<_> = sites.iter().filter(|site| site["bad"] != json!([])).collect();
    assert_eq!(bad.len(), 1, "{broken}");
    assert_eq!(
        (&bad[0]["site"], bad[0]["bad"].as_array().unwrap().len()),
        (&json!("storage-2"), 1)
    );
    assert!(bad[0]["bad"][0]["problem"].as_str().unwrap().len() > 5, "{broken}");
}

#[tokio::test]
async fn a_flipped_byte_is_found() {
    let cluster = Cluster::start().await;
    let rest = Rest::of(&cluster, "meta-1");
    fill(&cluster).await;
    let filled = |shard: &&Value| shard["next_position"].as_u64().unwrap() > 1;
    let find = |list: &Value| list["shards"].as_array().unwrap().iter().find(filled).cloned();
    // Sites tell positions a moment later.
    let shards = rest.until("/shards", |list| find(list).is_some()).await;
    let shard = find(&shards).unwrap()["shard"].as_u64().unwrap();
    rolls_and_counts(&rest, shard).await;
    verifies(&cluster, &rest, shard).await;
}

fn sites_of(shard: &Value) -> Vec<String> {
    let members = shard["replicas"].as_array().unwrap().iter().filter(|one| one["member"] == true);
    members.map(|one| one["site"].as_str().unwrap().to_owned()).collect()
}

async fn moves(rest: &Rest) {
    let shard = rest.until("/shards/3", |shard| shard["leader"].is_string()).await;
    let (leader, sites) = (shard["leader"].as_str().unwrap().to_owned(), sites_of(&shard));
    let to = sites.iter().find(|site| **site != leader).unwrap();
    let moved = rest.call("PUT", "/shards/3/leader", Some(json!({"site": to}))).await.ok();
    assert_eq!(moved["pinned"], true);
    rest.until("/shards/3", |shard| shard["leader"] == *to.as_str()).await;

    let all = ["storage-1", "storage-2", "storage-3", "storage-4"];
    let fresh = all.into_iter().find(|name| !sites.iter().any(|site| site == name)).unwrap();
    let body = json!({"from": leader, "to": fresh});
    rest.call("POST", "/shards/3/replicas", Some(body.clone())).await.ok();
    let arrived = |shard: &Value| {
        let sites = sites_of(shard);
        shard["replicas"].as_array().unwrap().len() == 3
            && sites.iter().any(|site| site == fresh)
            && sites.iter().all(|site| *site != leader)
    };
    rest.until("/shards/3", arrived).await;
    let again = rest.call("POST", "/shards/3/replicas", Some(body)).await;
    assert!(again.status == 409 || again.status == 200, "{again:?}");
    assert_eq!(rest.delete("/shards/3/pin").await.ok()["pinned"], false);
}

async fn drains(rest: &Rest) {
    assert_eq!(rest.post("/sites/nowhere/drain").await.problem(), "unknown-site");
    let drained = rest.post("/sites/storage-1/drain").await.ok();
    assert_eq!(drained["name"], "storage-1");
    rest.until("/sites/storage-1", |site| site["state"] == "drained").await;
    let few = rest.post("/sites/storage-2/drain").await;
    assert_eq!((few.status, few.problem()), (409, "too-few-sites"));
    let up = rest.delete("/sites/storage-1").await;
    assert_eq!((up.status, up.problem()), (409, "site-up"));
    rest.delete("/sites/storage-1/drain").await.ok();
    rest.until("/sites/storage-1", |site| site["state"] == "active").await;
}

#[tokio::test]
async fn shards_and_sites_are_moved_whichever_meta_service_is_asked() {
    let settings = ["meta.shards=8", "meta.lease_ms=2000", "meta.election_ttl_s=1"];
    let settings = settings.map(str::to_owned).to_vec();
    let shape = Shape { storage: 4, gateways: 1, meta: 2, etcd: 1, settings, ..Shape::default() };
    let mut cluster = Cluster::with(shape).await;
    let elected = cluster.await_elected(None).await;
    let standby = cluster.names("meta").into_iter().find(|name| *name != elected).unwrap();
    let rest = Rest::of(&cluster, &standby);
    let status = rest.until("/status", |status| status["healthy"] == true).await;
    assert_eq!((&status["elected"], &status["store"]), (&json!(elected), &json!("etcd")));
    assert_eq!(status["problems"], json!([]), "{status}");
    // The fourth site may have come when the shards were placed already.
    let is_even = |listed: &Value| {
        let sites = listed["sites"].as_array().unwrap();
        sites.iter().all(|site| site["replicas"] == 6) && listed["transitions"] == json!([])
    };
    rest.until("/sites", is_even).await;
    moves(&rest).await;
    drains(&rest).await;
    let body = json!({"name": "dashboard", "role": "viewer"});
    let made = rest.call("POST", "/tokens", Some(body)).await;
    let viewer = rest.with_token(made.body["token"].as_str().unwrap());
    viewer.get("/shards").await.ok();
    assert_eq!(viewer.post("/shards/3/roll").await.problem(), "role");
    assert_eq!(viewer.get("/sessions/a/backlog").await.problem(), "role");

    cluster.kill("storage-4").await;
    let told = |status: &Value| status["problems"].to_string().contains("site storage-4 is down");
    let status = rest.until("/status", told).await;
    assert_eq!(status["healthy"], false);
    // Another is elected: users and tokens are the same.
    cluster.kill(&elected).await;
    cluster.await_elected(Some(&elected)).await;
    assert_eq!(
        viewer.until("/status", |status| status["elected"] == standby).await["store"],
        "etcd"
    );
}
