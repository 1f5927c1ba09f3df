//! What was measured (README, "How fast"), what a config says by default, and what is assumed. The only
//! place with such numbers.

/// Bytes of a stored message beside its payload: header, topic, client id (256 B payload: 330 B record).
pub(super) const RECORD_OVERHEAD_BYTES: f64 = 74.0;
/// Bytes written per byte of a record on each replica: once to the log, once to a run, and what belongs to
/// them (760 B for a record of 330 B).
pub(super) const WRITTEN_PER_RECORD_BYTE: f64 = 2.3;
/// Bytes of a session on the disk of each replica.
pub(super) const SESSION_DISK_BYTES: f64 = 1_000.0;
/// Bytes of a session in the memory of each replica's storage node.
pub(super) const SESSION_MEMORY_BYTES: f64 = 2_800.0;
/// Bytes of a session in each etcd member.
pub(super) const SESSION_ETCD_BYTES: f64 = 1_100.0;
/// Bytes of a session in each meta-service.
pub(super) const SESSION_META_BYTES: f64 = 30.0;
/// Bytes of an idle connection in a gateway.
pub(super) const CONNECTION_BYTES: f64 = 5_600.0;
/// Bytes of a gateway at rest.
pub(super) const GATEWAY_BASE_BYTES: f64 = 8e6;
/// Bytes of a storage node at rest.
pub(super) const STORAGE_BASE_BYTES: f64 = 13e6;
/// CPU seconds of all processes for a million messages, three replicas, when they come in batches.
pub(super) const CPU_S_PER_MILLION_BATCHED: f64 = 17.0;
/// The same at 1,000 messages a second, each a round of its own.
pub(super) const CPU_S_PER_MILLION_SINGLE: f64 = 1_085.0;
/// Rate at which the latter was measured; what comes above it was seen to share rounds.
pub(super) const SINGLE_RATE: f64 = 1_000.0;
/// CPU seconds for a million more deliveries of the same messages (fan-out 1 to 8: 31 instead of 17).
pub(super) const CPU_S_PER_MILLION_DELIVERIES: f64 = 2.0;

/// `log.bytes_max` of a storage node, by default.
pub(super) const LOG_BYTES_MAX: f64 = 512.0 * 1_048_576.0;
/// `shard.tail_bytes_max` and `log.cache_bytes_max` of a storage node, by default.
pub(super) const STORAGE_BUFFER_BYTES: f64 = (96.0 + 32.0) * 1_048_576.0;
/// `shard.disk_high_percent`, by default: above it appends are refused.
pub(super) const DISK_HIGH: f64 = 0.9;
/// `shard.generation_ms`, by default, in seconds: a generation is dropped as a whole, after it was sealed.
pub(super) const GENERATION_S: f64 = 86_400.0;
/// `shard.generation_bytes_max`, by default.
pub(super) const GENERATION_BYTES_MAX: f64 = 1_024.0 * 1_048_576.0;
/// `shards` of meta-service, by default.
pub(super) const SHARDS: f64 = 16.0;

/// Assumed: share of a node's memory that a process may fill; the rest is for peaks and the page cache.
pub(super) const MEMORY_USABLE: f64 = 0.7;
/// Assumed: share of a node's cores that are busy on average.
pub(super) const CORES_USABLE: f64 = 0.6;
/// Assumed: share of the CPU time that gateways use; storage nodes use the rest.
pub(super) const GATEWAY_CPU_SHARE: f64 = 0.5;
/// A gateway and its stand-in.
pub(super) const GATEWAYS_MIN: f64 = 2.0;
