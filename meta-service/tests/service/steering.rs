//! Operators drain, replace and forget sites over gRPC while fake sites do as they are told.

use std::{collections::BTreeSet, path::Path, time::Duration};

use holdfast_node_kit::{grpc, health::Health, net, shutdown::Shutdown};
use holdfast_proto::meta::{
    DescribeStorageRequest, DrainSiteRequest, ForgetSiteRequest, Liveness, ReplaceSiteRequest,
    ReplicaReport, ShardRetention, SiteReport, SiteState, SiteUpdate, StorageDescription, Topology,
    meta_client::MetaClient, steering_client::SteeringClient,
};
use meta_service::server;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::peers::{LEASE_MS, configured, site_report};

struct Operator {
    client: SteeringClient<Channel>,
    channel: Channel,
    shutdown: Shutdown,
    health: Health,
    task: JoinHandle<()>,
}

impl Operator {
    async fn start(directory: &Path) -> Operator {
        let listener = net::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let text = format!(
            "name = \"test\"\ndata_dir = {directory:?}\ngrpc_listen = \"{address}\"\n\
             http_listen = \"127.0.0.1:0\"\nshards = 8\nlease_ms = {LEASE_MS}\n"
        );
        let config = configured(directory, &text);
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let run = server::run(config, listener, shutdown.clone(), health.clone());
        let task = tokio::spawn(async move { run.await.unwrap() });
        let channel = grpc::connect(&address).await.unwrap();
        let client = SteeringClient::new(channel.clone());
        Operator { client, channel, shutdown, health, task }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }

    fn site(&self, report: SiteReport) -> FakeSite {
        let task = tokio::spawn(live(MetaClient::new(self.channel.clone()), report));
        FakeSite { task }
    }

    async fn describe(&mut self) -> StorageDescription {
        self.client.describe_storage(DescribeStorageRequest {}).await.unwrap().into_inner()
    }

    async fn until(&mut self, wanted: impl Fn(&StorageDescription) -> bool) -> StorageDescription {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            beat.tick().await;
            let description = self.describe().await;
            if wanted(&description) {
                return description;
            }
        }
    }

    async fn drain(&mut self, site: &str, cancel: bool) -> Result<u64, tonic::Status> {
        let request = DrainSiteRequest { site: site.to_owned(), cancel };
        self.client.drain_site(request).await.map(|reply| reply.into_inner().site_id)
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

fn site(description: &StorageDescription, id: u64) -> (SiteState, u32, u32) {
    let detail = description
        .sites
        .iter()
        .find(|detail| detail.info.as_ref().is_some_and(|info| info.site_id == id));
    let detail = detail.unwrap();
    (detail.info.as_ref().unwrap().state(), detail.replicas, detail.holding)
}

#[tokio::test]
async fn a_cluster_grows_and_a_site_is_drained_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut operator = Operator::start(directory.path()).await;
    let mut sites: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(|seen| seen.sites.iter().map(|site| site.leading).sum::<u32>() == 8).await;

    let refusal = operator.drain("site-2", false).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(refusal.message().contains("add a storage node first"), "{}", refusal.message());
    let unknown = operator.drain("elsewhere", false).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("site-1, site-2, site-3"), "{}", unknown.message());

    sites.push(operator.site(site_report(4)));
    let grown = operator
        .until(|seen| {
            seen.transitions.is_empty() && seen.sites.iter().all(|site| site.replicas == 6)
        })
        .await;
    assert_eq!((grown.sites.len(), grown.held_back.as_str()), (4, ""));

    assert_eq!(operator.drain("0000000000000002", false).await.unwrap(), 2);
    let drained = operator.until(|seen| site(seen, 2).0 == SiteState::Drained).await;
    assert_eq!(site(&drained, 2), (SiteState::Drained, 0, 0));
    let placement = drained.topology.unwrap().placement;
    let full = |shard: &holdfast_proto::meta::ShardInfo| {
        shard.replicas.iter().map(|replica| replica.site_id).collect::<BTreeSet<_>>()
            == BTreeSet::from([1, 3, 4])
    };
    assert!(placement.iter().all(full));

    let forget = || ForgetSiteRequest { site: "site-2".to_owned() };
    let up = operator.client.forget_site(forget()).await.unwrap_err();
    assert_eq!(up.code(), Code::FailedPrecondition);
    drop(sites.remove(1));
    let is_down = |seen: &StorageDescription| {
        seen.sites
            .iter()
            .filter_map(|site| site.info.as_ref())
            .any(|info| info.site_id == 2 && info.liveness() == Liveness::Down)
    };
    operator.until(is_down).await;
    operator.client.forget_site(forget()).await.unwrap();
    assert_eq!(operator.describe().await.sites.len(), 3);
    operator.stop().await;
}

#[tokio::test]
async fn a_site_that_is_down_is_replaced_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let mut operator = Operator::start(directory.path()).await;
    let mut sites: Vec<FakeSite> = (1..=4).map(|id| operator.site(site_report(id))).collect();
    operator
        .until(|seen| {
            seen.transitions.is_empty() && seen.sites.iter().all(|site| site.replicas == 6)
        })
        .await;
    let replace = || ReplaceSiteRequest { site: "site-4".to_owned() };
    let up = operator.client.replace_site(replace()).await.unwrap_err();
    assert!(up.message().contains("drain it instead"), "{}", up.message());
    drop(sites.pop());
    let is_down = |seen: &StorageDescription| {
        seen.sites
            .iter()
            .filter_map(|site| site.info.as_ref())
            .any(|info| info.site_id == 4 && info.liveness() == Liveness::Down)
    };
    let down = operator.until(is_down).await;
    assert_eq!(site(&down, 4).0, SiteState::Active, "nobody is given up in a moment");
    operator.client.replace_site(replace()).await.unwrap();
    operator
        .until(|seen| site(seen, 4) == (SiteState::Lost, 0, 0) && seen.transitions.is_empty())
        .await;
    operator.stop().await;
}

#[tokio::test]
async fn sites_are_told_what_is_consumed() {
    let directory = tempfile::tempdir().unwrap();
    let mut operator = Operator::start(directory.path()).await;
    let _sites: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(|seen| seen.sites.iter().map(|site| site.leading).sum::<u32>() == 8).await;
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
    let mut operator = Operator::start(directory.path()).await;
    let _sites: Vec<FakeSite> = (1..=3).map(|id| operator.site(site_report(id))).collect();
    operator.until(|seen| seen.sites.len() == 3).await;
    let ahead = SiteReport { topology_version: 10_000, ..site_report(4) };
    let (sender, reports) = mpsc::channel(4);
    sender.send(ahead).await.unwrap();
    let mut client = MetaClient::new(operator.channel.clone());
    let _updates = client.site(ReceiverStream::new(reports)).await.unwrap();
    operator.until(|seen| seen.held_back.contains("set back")).await;
    assert!(operator.health.reason().is_some_and(|reason| reason.contains("older")));
    let refusal = operator.drain("site-1", false).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    operator.stop().await;
}
