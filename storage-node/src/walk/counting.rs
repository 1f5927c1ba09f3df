//! Asks the leaders of shards what they hold for sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_node_kit::grpc;
use holdfast_proto::ids::ShardId;
use holdfast_proto::shard::Status;
use holdfast_proto::storage::storage_client::StorageClient;
use holdfast_proto::storage::{CountMatchesReply, CountMatchesRequest, MatchCount, MatchQuery};
use tonic::transport::Channel;

use super::batch::Ask;
use crate::serve::match_count;
use crate::site::Site;

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The calls of one walk.
pub(super) struct Counting {
    site: Arc<Site>,
    /// Whether it is asked when the first matches were stored.
    with_time: bool,
    /// Channels to other sites, as far as they were needed.
    clients: HashMap<u64, StorageClient<Channel>>,
    /// The site that answered last for a shard.
    leaders: HashMap<u16, u64>,
}

/// One call.
struct Call {
    shard: u16,
    below: u64,
    /// Where in the batch each query is from.
    slots: Vec<usize>,
    queries: Vec<MatchQuery>,
}

/// What came back.
struct Counts {
    /// The site that leads the shard.
    site: u64,
    /// One a query.
    counts: Vec<MatchCount>,
}

impl Counting {
    pub(super) fn new(site: Arc<Site>) -> Counting {
        Counting { site, with_time: false, clients: HashMap::new(), leaders: HashMap::new() }
    }

    /// From now on it is asked, too, when the first matches were stored.
    pub(super) fn ask_times(&mut self) {
        self.with_time = true;
    }

    /// Answers what is asked, as far as there are answers, in its order.
    pub(super) async fn answer(&mut self, asks: Vec<Ask>) -> Vec<Option<MatchCount>> {
        let mut answers = vec![None; asks.len()];
        let mut groups: BTreeMap<(u16, u64), Vec<(usize, MatchQuery)>> = BTreeMap::new();
        for (slot, ask) in asks.into_iter().enumerate() {
            groups.entry((ask.shard, ask.below)).or_default().push((slot, ask.query));
        }
        let limits = &self.site.config.retention;
        let mut calls = Vec::new();
        for ((shard, below), group) in groups {
            for part in group.chunks(limits.count_queries_max) {
                let (slots, queries) = part.iter().cloned().unzip();
                calls.push(Call { shard, below, slots, queries });
            }
        }
        let calls_max = limits.count_calls_max;
        for shard in calls.iter().map(|call| call.shard).collect::<Vec<_>>() {
            self.connect(shard).await;
        }
        let this = &*self;
        let done: Vec<(Call, Option<Counts>)> = futures_util::stream::iter(calls)
            .map(|mut call| async move {
                let counts = this.call(&mut call).await;
                (call, counts)
            })
            .buffer_unordered(calls_max)
            .collect()
            .await;
        for (call, counts) in done {
            let Some(Counts { site, counts }) = counts else { continue };
            self.leaders.insert(call.shard, site);
            for (slot, count) in call.slots.into_iter().zip(counts) {
                answers[slot] = Some(count);
            }
        }
        answers
    }

    /// Sites that may lead a shard, the likeliest first.
    fn leaders_of(&self, shard: u16) -> Vec<u64> {
        let known = [self.leaders.get(&shard).copied().unwrap_or(0), self.site.leader_of(shard)];
        let placed = self.site.placement(ShardId(shard));
        let placed = placed.iter().flat_map(|placed| &placed.replicas).map(|one| one.site_id);
        let mut sites: Vec<u64> = Vec::new();
        for site in known.into_iter().filter(|site| *site != 0).chain(placed) {
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
        sites
    }

    async fn connect(&mut self, shard: u16) {
        for site in self.leaders_of(shard) {
            if site == self.site.site_id.0 || self.clients.contains_key(&site) {
                continue;
            }
            if let Ok(channel) = self.site.peers.channel(site).await {
                let client = StorageClient::new(channel)
                    .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
                self.clients.insert(site, client);
            }
        }
    }

    /// Asks the sites that may lead the shard, until one does.
    async fn call(&self, call: &mut Call) -> Option<Counts> {
        let request = CountMatchesRequest {
            cluster_id: self.site.cluster_id.clone(),
            shard: u32::from(call.shard),
            below: call.below,
            queries: std::mem::take(&mut call.queries),
            with_time: self.with_time,
        };
        for site in self.leaders_of(call.shard) {
            match tokio::time::timeout(TIMEOUT, self.ask(site, request.clone())).await {
                Ok(Some(reply)) if reply.counts.len() == request.queries.len() => {
                    return Some(Counts { site, counts: reply.counts });
                }
                _ => {}
            }
        }
        None
    }

    async fn ask(&self, site: u64, request: CountMatchesRequest) -> Option<CountMatchesReply> {
        let reply = if site == self.site.site_id.0 {
            match_count::count(&self.site, request).await.ok()?
        } else {
            self.clients.get(&site)?.clone().count_matches(request).await.ok()?.into_inner()
        };
        (reply.status() == Status::Ok).then_some(reply)
    }
}
