use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sites::Transition;

/// What the storage tier holds, all sites together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageTotals {
    /// Sites that could be asked, and all of them.
    pub sites_asked: u32,
    /// All sites.
    pub sites: u32,
    /// Shards.
    pub shards: u32,
    /// Replicas, of all shards.
    pub replicas: u32,
    /// Replicas that lack history, do not vote though they should, or are not heard of.
    pub replicas_behind: u32,
    /// Generations, each shard counted once.
    pub generations: u64,
    /// Topics in sealed files and in memory: streams that a generation keeps in order; each shard
    /// counted once. A topic that is in several generations counts once for each.
    pub streams: u64,
    /// Sorted files, each shard counted once.
    pub runs: u64,
    /// Their bytes.
    pub run_bytes: u64,
    /// Messages that are kept (expired ones, too), each shard counted once.
    pub messages: u64,
    /// Bytes of all data of all sites, with logs.
    pub used_bytes: u64,
    /// Bytes that all sites' data may take.
    pub capacity_bytes: u64,
    /// Replicas on their way.
    pub transitions: Vec<Transition>,
    /// Why nothing is moved although something should be; absent if nothing is in the way.
    pub held_back: Option<String>,
}
