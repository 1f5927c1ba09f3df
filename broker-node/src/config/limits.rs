//! The `cluster` section: limits and times towards the cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterConfig;

/// Limits and times towards the cluster.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterLimits {
    /// Largest batch of publishes for a shard, in bytes.
    #[schemars(range(min = 4096, max = 16_777_216))]
    pub(crate) batch_bytes_max: usize,
    /// Unanswered batches per shard.
    #[schemars(range(min = 1, max = 64))]
    pub(crate) batches_in_flight_max: usize,
    /// Bytes of publishes that wait for one shard before its publishers are held back; at least
    /// `batch_bytes_max`.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub(crate) shard_queue_bytes_max: usize,
    /// Time that a claim, commit or other proposal is retried, in ms.
    #[schemars(range(min = 100, max = 300_000))]
    pub(crate) propose_deadline_ms: u64,
    /// Time that a new subscription may take, in ms.
    #[schemars(range(min = 100, max = 300_000))]
    pub(crate) subscribe_deadline_ms: u64,
    /// Time that an old owner has to hand over a session, in ms.
    #[schemars(range(min = 0, max = 10_000))]
    pub(crate) take_over_ms: u64,
    /// Time that the gateway may be cut off from a leader that others hear before its clients are sent to
    /// other gateways, in ms. An election must fit in.
    #[schemars(range(min = 1000, max = 600_000))]
    pub(crate) cut_after_ms: u64,
    /// Bytes of one shard's tail that may be under way.
    #[schemars(range(min = 65_536, max = 67_108_864))]
    pub(crate) tail_credit_bytes: u64,
    /// Bytes of one page of a read.
    #[schemars(range(min = 4096, max = 16_777_216))]
    pub(crate) page_bytes_max: u32,
    /// Bytes that wait for another gateway's regular sessions before messages are dropped.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub(crate) forward_buffer_bytes_max: usize,
}

impl Default for ClusterLimits {
    fn default() -> Self {
        let ours = ClusterConfig::default();
        ClusterLimits {
            batch_bytes_max: ours.batch_bytes_max,
            batches_in_flight_max: ours.batches_in_flight_max,
            shard_queue_bytes_max: ours.shard_queue_bytes_max,
            propose_deadline_ms: ours.propose_deadline_ms,
            subscribe_deadline_ms: ours.subscribe_deadline_ms,
            take_over_ms: ours.take_over_ms,
            cut_after_ms: ours.cut_after_ms,
            tail_credit_bytes: ours.tail_credit_bytes,
            page_bytes_max: 64 << 10,
            forward_buffer_bytes_max: ours.forward_buffer_bytes_max,
        }
    }
}
