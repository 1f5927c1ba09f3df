use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sites::Site;

/// Whether a process is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It is.
    Up,
    /// Not for a while.
    Down,
    /// It left, or its lease is over.
    Dead,
}

/// How the cluster is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Every shard has a leader and all its replicas, and a gateway is up.
    pub healthy: bool,
    /// What is not as it should be, in words, the worst first.
    pub problems: Vec<String>,
    /// Made at the first start.
    pub cluster_id: String,
    /// Version of meta-service's program.
    pub version: String,
    /// Where the metadata is: `sled` or `etcd`.
    pub store: String,
    /// Name of the elected meta-service.
    pub elected: String,
    /// Shards of the log.
    pub shards: u32,
    /// Replicas of a shard.
    pub replication_factor: u32,
    /// Shards without a leader that serves.
    pub shards_without_leader: Vec<u32>,
    /// Shards with a replica that does not vote or lacks history.
    pub shards_under_replicated: Vec<u32>,
    /// Storage nodes.
    pub sites: Vec<Site>,
    /// Gateways.
    pub gateways: Vec<GatewayInfo>,
    /// Filters of durable sessions that gateways route by.
    pub durable_filters: u64,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayInfo {
    /// From its config.
    pub name: String,
    /// One life of its process, in hexadecimal.
    pub incarnation: String,
    /// Whether it is heard of.
    pub liveness: Liveness,
    /// host:port for clients.
    pub mqtt_address: String,
    /// host:port for the cluster.
    pub address: String,
}

/// All gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayList {
    /// By name.
    pub gateways: Vec<GatewayInfo>,
}
