//! Operators drain, replace and forget sites while fake sites do as they are told.

use std::{collections::BTreeSet, path::Path, time::Duration};

use holdfast_node_kit::{grpc, health::Health, net, shutdown::Shutdown};
use holdfast_proto::meta::{
    Liveness, ReplicaReport, ShardRetention, SiteReport, SiteUpdate, Topology,
    meta_client::MetaClient,
};
use hyper::Method;
use meta_service::server;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    etcd::free_ports,
    peers::{LEASE_MS, configured, site_report},
    rest::{Answer, Rest, basic},
};

const PASSWORD: &str = "an operator's password";

struct Operator {
    rest: Rest,
    channel: Channel,
    shutdown: Shutdown,
    health: Health,
    task: JoinHandle<()>,
}

impl Operator {
    async fn start(directory: &Path) -> Operator {
        let listener = net::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let admin = format!("127.0.0.1:{}", free_ports(1)[0]);
        std::fs::write(directory.join("admin-password"), PASSWORD).unwrap();
        let text = format!(
            "name = \"test\"\ndata_dir = {directory:?}\ngrpc_listen = \"{address}\"\n\
             http_listen = \"127.0.0.1:0\"\nshards = 8\nlease_ms = {LEASE_MS}\n\
             [admin]\nlisten = \"{admin}\"\n"
        );
        let config = configured(directory, &text);
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let run = server::run(config, listener, shutdown.clone(), health.clone());
        let task = tokio::spawn(async move { run.await.unwrap() });
        let channel = grpc::connect(&address).await.unwrap();
        let rest = Rest::new(&admin, basic("admin", PASSWORD));
        Operator { rest, channel, shutdown, health, task }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }

    fn site(&self, report: SiteReport) -> FakeSite {
        let task = tokio::spawn(live(MetaClient::new(self.channel.clone()), report));
        FakeSite { task }
    }

    async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            beat.tick().await;
            let seen = self.rest.get("/sites").await.ok();
            if wanted(&seen) {
                return seen;
            }
        }
    }

    async fn post(&self, path: &str) -> Answer {
        self.rest.call(Method::POST, path, None).await
    }
}

/// Runs until it is dropped.
struct FakeSite {
    task: JoinHandle<()>,
}

impl Drop for FakeSite {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reports what the topology gives it; the first of a replica set that is up leads, and has the group as
/// the topology wants it.
async fn live(mut client: MetaClient<Channel>, mut report: SiteReport) {
    let (sender, reports) = mpsc::channel(4);
    sender.send(report.clone()).await.unwrap();
    let mut updates: Streaming<SiteUpdate> =
        client.site(ReceiverStream::new(reports)).await.unwrap().into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(u64::from(LEASE_MS) / 4));
    loop {
        tokio::select! {
            update = updates.message() => {
                let Ok(Some(update)) = update else { return };
                if let Some(topology) = update.topology {
                    assert_eq!(topology.refused, "");
                    obey(&mut report, &topology);
                }
            }
            _ = beat.tick() => {}
        }
        if sender.send(report.clone()).await.is_err() {
            return;
        }
    }
}

fn obey(report: &mut SiteReport, topology: &Topology) {
    report.cluster_id.clone_from(&topology.cluster_id);
    report.topology_version = topology.version;
    report.replicas.clear();
    let up = |id: u64| {
        topology.sites.iter().any(|site| site.site_id == id && site.liveness() == Liveness::Up)
    };
    for shard in &topology.placement {
        let leader = shard.replicas.iter().find(|replica| up(replica.site_id));
        let ids: Vec<u64> = shard.replicas.iter().map(|replica| replica.replica_id).collect();
        for replica in shard.replicas.iter().chain(&shard.holders) {
            if replica.site_id != report.site_id {
                continue;
            }
            let leads = leader.is_some_and(|leader| leader.replica_id == replica.replica_id);
            let said = |ids: &[u64]| if leads { ids.to_vec() } else { Vec::new() };
            let retention = ShardRetention { wanted_below: 7, ..ShardRetention::default() };
            report.replicas.push(ReplicaReport {
                shard: shard.shard,
                replica_id: replica.replica_id,
                // Leaders change with the topology, to newer terms.
                leading_term: if leads { topology.version } else { 0 },
                voters: said(&ids),
                caught_up: said(&ids),
                low_marks: if leads { vec![3; topology.placement.len()] } else { Vec::new() },
                retention: leads.then_some(retention),
                ..ReplicaReport::default()
            });
        }
    }
}

fn sites(seen: &Value) -> &[Value] {
    seen["sites"].as_array().unwrap()
}

/// State, replicas and former replicas of a site.
fn site<'a>(seen: &'a Value, name: &str) -> (&'a str, u64, u64) {
    let site = sites(seen).iter().find(|site| site["name"] == name).unwrap();
    let count = |of: &str| site[of].as_u64().unwrap();
    (site["state"].as_str().unwrap(), count("replicas"), count("holding"))
}

fn is_led(seen: &Value) -> bool {
    sites(seen).iter().map(|site| site["leading"].as_u64().unwrap()).sum::<u64>() == 8
}

fn is_even(seen: &Value) -> bool {
    seen["transitions"] == json!([]) && sites(seen).iter().all(|site| site["replicas"] == 6)
}

fn is_down(seen: &Value, name: &str) -> bool {
    sites(seen).iter().any(|site| site["name"] == name && site["liveness"] == "down")
}

#[tokio::test]
async fn a_cluster_grows_and_a_site_is_drained_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let operator = Operator::start(directory.path()).await;
    let mut fakes: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(is_led).await;

    let refused = operator.post("/sites/site-2/drain").await;
    assert_eq!((refused.status, refused.problem()), (409, "too-few-sites"));
    assert!(refused.detail().contains("add a storage node first"), "{refused:?}");
    let unknown = operator.post("/sites/elsewhere/drain").await;
    assert_eq!((unknown.status, unknown.problem()), (404, "unknown-site"));
    assert!(unknown.detail().contains("site-1, site-2, site-3"), "{unknown:?}");

    fakes.push(operator.site(site_report(4)));
    let grown = operator.until(|seen| is_even(seen) && sites(seen).len() == 4).await;
    assert_eq!(grown["held_back"], Value::Null);

    assert_eq!(operator.post("/sites/0000000000000002/drain").await.ok()["name"], "site-2");
    let drained = operator.until(|seen| site(seen, "site-2").0 == "drained").await;
    assert_eq!(site(&drained, "site-2"), ("drained", 0, 0));
    let shards = operator.rest.get("/shards").await.ok();
    for shard in shards["shards"].as_array().unwrap() {
        let replicas = shard["replicas"].as_array().unwrap().iter();
        let having: BTreeSet<_> = replicas.map(|one| one["site"].as_str().unwrap()).collect();
        assert_eq!(having, BTreeSet::from(["site-1", "site-3", "site-4"]));
    }

    assert_eq!(operator.rest.delete("/sites/site-2").await.problem(), "site-up");
    drop(fakes.remove(1));
    operator.until(|seen| is_down(seen, "site-2")).await;
    assert_eq!(operator.rest.delete("/sites/site-2").await.status, 204);
    assert_eq!(sites(&operator.rest.get("/sites").await.ok()).len(), 3);
    operator.stop().await;
}

#[tokio::test]
async fn a_site_that_is_down_is_replaced_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let operator = Operator::start(directory.path()).await;
    let mut fakes: Vec<FakeSite> = (1..=4).map(|id| operator.site(site_report(id))).collect();
    operator.until(|seen| is_even(seen) && sites(seen).len() == 4).await;
    let up = operator.post("/sites/site-4/replace").await;
    assert!(up.detail().contains("drain it instead"), "{up:?}");
    drop(fakes.pop());
    let down = operator.until(|seen| is_down(seen, "site-4")).await;
    assert_eq!(site(&down, "site-4").0, "active", "nobody is given up in a moment");
    operator.post("/sites/site-4/replace").await.ok();
    let is_lost = |seen: &Value| site(seen, "site-4") == ("lost", 0, 0);
    operator.until(|seen| is_lost(seen) && seen["transitions"] == json!([])).await;
    operator.stop().await;
}

#[tokio::test]
async fn sites_are_told_what_is_consumed() {
    let directory = tempfile::tempdir().unwrap();
    let operator = Operator::start(directory.path()).await;
    let _fakes: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(is_led).await;
    let (sender, reports) = mpsc::channel(4);
    sender.send(site_report(4)).await.unwrap();
    let mut client = MetaClient::new(operator.channel.clone());
    let mut updates = client.site(ReceiverStream::new(reports)).await.unwrap().into_inner();
    let mut told = std::collections::BTreeMap::new();
    while told.values().filter(|of: &&ShardRetention| of.consumed_below == 3).count() < 8 {
        let update = updates.message().await.unwrap().expect("the stream lives");
        told.extend(update.retention.into_iter().map(|of| (of.shard, of)));
    }
    assert!(told.values().all(|of| of.wanted_below == 7));
    operator.stop().await;
}

#[tokio::test]
async fn a_store_that_was_set_back_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let operator = Operator::start(directory.path()).await;
    let _fakes: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(|seen| sites(seen).len() == 3).await;
    let ahead = SiteReport { topology_version: 10_000, ..site_report(4) };
    let (sender, reports) = mpsc::channel(4);
    sender.send(ahead).await.unwrap();
    let mut client = MetaClient::new(operator.channel.clone());
    let _updates = client.site(ReceiverStream::new(reports)).await.unwrap();
    operator.until(|seen| seen["held_back"].to_string().contains("set back")).await;
    assert!(operator.health.reason().is_some_and(|reason| reason.contains("older")));
    let refused = operator.post("/sites/site-1/drain").await;
    assert_eq!((refused.status, refused.problem()), (409, "store-set-back"));
    operator.stop().await;
}
