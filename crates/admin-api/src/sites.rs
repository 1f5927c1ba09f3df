use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::status::Liveness;

/// What a site is meant to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteState {
    /// Hold what it is given.
    Active,
    /// Everything is being moved away from it.
    Draining,
    /// Nothing is left on it; its process may be stopped for good.
    Drained,
    /// Others take its place; it is used again when it comes back.
    Lost,
}

/// A storage node's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// In hexadecimal; it stays with the data directory.
    pub site_id: String,
    /// From its config.
    pub name: String,
    /// host:port for the cluster.
    pub address: String,
    /// Failure domain; empty: none.
    pub zone: String,
    /// Other labels.
    pub labels: BTreeMap<String, String>,
    /// What it is meant to do.
    pub state: SiteState,
    /// Whether it is heard of.
    pub liveness: Liveness,
    /// Shards that it votes for.
    pub replicas: u32,
    /// Shards that it leads.
    pub leading: u32,
    /// Shards that it keeps only history of.
    pub holding: u32,
    /// Bytes of its data.
    pub used_bytes: u64,
    /// Bytes that its data may take.
    pub capacity_bytes: u64,
    /// History that it lacks.
    pub missing_bytes: u64,
}

/// All sites, and what moves between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteList {
    /// By name.
    pub sites: Vec<Site>,
    /// Replicas on their way.
    pub transitions: Vec<Transition>,
    /// Why nothing is moved although something should be; absent if nothing is in the way.
    pub held_back: Option<String>,
}

/// A replica on its way from one site to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// The shard.
    pub shard: u32,
    /// Name of the site that leaves; absent: nobody leaves.
    pub from: Option<String>,
    /// Name of the site that joins; absent: nobody joins.
    pub to: Option<String>,
    /// The new replica votes, the old one does not.
    pub votes_moved: bool,
    /// History that the new one still lacks.
    pub missing_bytes: u64,
}

/// All replicas on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransitionList {
    /// By shard.
    pub transitions: Vec<Transition>,
    /// Why nothing is moved although something should be; absent if nothing is in the way.
    pub held_back: Option<String>,
}

/// A site was steered; repeating it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Steered {
    /// In hexadecimal.
    pub site_id: String,
    /// Its name.
    pub name: String,
}
