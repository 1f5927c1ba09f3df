//! Who leads what at the moment.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use holdfast_e2e::cluster::http_get;
use holdfast_proto::meta::meta_client::MetaClient;
use holdfast_proto::meta::{DescribeClusterRequest, Topology};
use holdfast_proto::storage::DescribeRequest;
use holdfast_proto::storage::storage_client::StorageClient;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::member::{Member, Role};
use crate::trouble::Trouble;

const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Which storage nodes lead and hold which shards, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placement {
    /// By shard, from 0.
    pub(crate) shards: Vec<ShardSites>,
}

/// Storage nodes of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardSites {
    pub(crate) leader: String,
    pub(crate) replicas: Vec<String>,
}

impl ShardSites {
    /// Whether a node holds a replica that does not lead.
    pub(crate) fn is_follower(&self, name: &str) -> bool {
        self.leader != name && self.replicas.iter().any(|replica| replica == name)
    }
}

impl Placement {
    /// The node that leads the most shards.
    pub(crate) fn leader(&self) -> Option<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.shards.iter().for_each(|shard| *counts.entry(&shard.leader).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    /// The node that follows `leader` in the most shards.
    pub(crate) fn follower_of(&self, leader: &str) -> Option<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let led = self.shards.iter().filter(|shard| shard.leader == leader);
        let followers = led.flat_map(|shard| &shard.replicas).filter(|name| *name != leader);
        followers.for_each(|name| *counts.entry(name).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }
}

/// Repeats a question until it has an answer.
async fn ask<T, F: Future<Output = Option<T>>>(
    what: &str,
    question: impl Fn() -> F,
) -> Result<T, Trouble> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(answer)) = timeout(ANSWER_PATIENCE, question()).await {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(Trouble::Late { what: what.to_owned(), seconds: PATIENCE.as_secs() });
        }
        sleep(POLL_INTERVAL).await;
    }
}

impl Cluster {
    /// Leaders and replicas of all shards, as soon as each has a leader.
    pub(crate) async fn placement(&self) -> Result<Placement, Trouble> {
        let (metas, storage) = (self.of(Role::Meta), self.of(Role::Storage));
        ask("every shard has a leader", || placement(&metas, &storage)).await
    }

    /// The meta-service that is elected.
    pub(crate) async fn elected_meta(&self) -> Result<String, Trouble> {
        let metas = self.of(Role::Meta);
        if let [only] = metas.as_slice() {
            return Ok(only.name.clone());
        }
        ask("a meta-service is elected", || elected(&metas)).await
    }

    /// The etcd that leads.
    pub(crate) async fn etcd_leader(&self) -> Result<String, Trouble> {
        let etcds = self.of(Role::Etcd);
        if etcds.is_empty() {
            return Err(Trouble::Impossible("there is no etcd".to_owned()));
        }
        ask("an etcd leads", || etcd_leader(&etcds)).await
    }
}

async fn placement(metas: &[Member], storage: &[Member]) -> Option<Placement> {
    let topology = describe(metas).await?;
    let mut leaders: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for member in storage {
        let mut client = StorageClient::connect(format!("http://{}", member.grpc)).await.ok()?;
        let told = client.describe(DescribeRequest::default()).await.ok()?.into_inner();
        for replica in told.replicas.iter().filter(|replica| replica.serving) {
            let newest = leaders.entry(replica.shard).or_default();
            *newest = (*newest).max((replica.term, told.site_id));
        }
    }
    let sites = &topology.sites;
    let name = |id: u64| sites.iter().find(|site| site.site_id == id).map(|it| it.name.clone());
    let shards = topology.placement.iter().map(|shard| {
        let leader = name(leaders.get(&shard.shard)?.1)?;
        let replicas = shard.replicas.iter().filter_map(|replica| name(replica.site_id)).collect();
        Some(ShardSites { leader, replicas })
    });
    let shards: Vec<ShardSites> = shards.collect::<Option<_>>()?;
    (!shards.is_empty()).then_some(Placement { shards })
}

async fn describe(metas: &[Member]) -> Option<Topology> {
    for meta in metas {
        let Ok(mut client) = MetaClient::connect(format!("http://{}", meta.grpc)).await else {
            continue;
        };
        if let Ok(told) = client.describe(DescribeClusterRequest::default()).await {
            return Some(told.into_inner());
        }
    }
    None
}

async fn elected(metas: &[Member]) -> Option<String> {
    name_with_metric(metas.iter().map(|meta| (meta, &meta.http)), "holdfast_meta_elected 1").await
}

async fn etcd_leader(etcds: &[Member]) -> Option<String> {
    name_with_metric(etcds.iter().map(|etcd| (etcd, &etcd.grpc)), "etcd_server_is_leader 1").await
}

/// The first process that exports this line.
async fn name_with_metric(
    members: impl Iterator<Item = (&Member, &String)>,
    wanted: &str,
) -> Option<String> {
    for (member, address) in members {
        let metrics = http_get(address, "/metrics").await;
        if metrics.lines().any(|line| line == wanted) {
            return Some(member.name.clone());
        }
    }
    None
}
