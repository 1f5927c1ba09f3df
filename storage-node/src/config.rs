//! Configuration of a storage node.

use std::fmt::Display;
use std::path::PathBuf;

use holdfast_node_kit::config::{
    Invalid, Validate, check_address, check_addresses, check_name, check_range,
};
use serde::Deserialize;

/// A storage node's config file (TOML). Sizes in bytes, times in the unit of their name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name for people; it may change, the site id in the data directory does not.
    pub(crate) name: String,
    /// Directory of this site's data.
    pub(crate) data_dir: PathBuf,
    /// host:port on which gRPC is served.
    pub(crate) grpc_listen: String,
    /// host:port that others use to reach `grpc_listen`, if it differs.
    #[serde(default)]
    pub(crate) grpc_advertise: Option<String>,
    /// host:port of /metrics and /health.
    pub(crate) http_listen: String,
    /// host:port of every meta-service.
    pub(crate) meta: Vec<String>,
    /// Failure domain; replicas of a shard are spread over zones.
    #[serde(default)]
    pub(crate) zone: String,
    /// Threads that serve; 0: one per core.
    #[serde(default)]
    pub(crate) worker_threads: usize,
    /// The site log.
    #[serde(default)]
    pub(crate) log: LogConfig,
    /// Shards: runs, generations, retention.
    #[serde(default)]
    pub(crate) shard: ShardConfig,
    /// Raft timing.
    #[serde(default)]
    pub(crate) raft: RaftConfig,
    /// What gateways may ask at once.
    #[serde(default)]
    pub(crate) serving: ServingConfig,
}

/// The site log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// Size of one preallocated segment.
    pub(crate) segment_bytes: u64,
    /// The log keeps entries that a slow replica lacks up to this size.
    pub(crate) bytes_max: u64,
    /// Entries kept in memory for replication.
    pub(crate) cache_bytes_max: u64,
    /// A sync that takes longer makes this site's leaders answer "unavailable".
    pub(crate) stall_ms: u64,
}

/// Shards: runs, generations, retention.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardConfig {
    /// A shard's messages in memory at which its leader cuts a run.
    pub(crate) run_bytes_max: usize,
    /// The same for all shards of the site together: the largest is cut.
    pub(crate) tail_bytes_max: usize,
    /// Raft entries after which a checkpoint is made even if few bytes came.
    pub(crate) checkpoint_entries_max: u64,
    /// Age at which a generation is sealed and the next one starts.
    pub(crate) generation_ms: u64,
    /// Size at which a generation is sealed and the next one starts.
    pub(crate) generation_bytes_max: u64,
    /// Age at which a sealed generation is dropped, read or not.
    pub(crate) message_retention_ms: u64,
    /// Share of the disk, in percent, above which appends are refused and the oldest sealed
    /// generations are dropped.
    pub(crate) disk_high_percent: u8,
    /// Bound of this site's data, instead of the disk's size; 0: the disk's size.
    pub(crate) disk_quota_bytes: u64,
}

/// Raft timing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RaftConfig {
    /// Pause between a leader's heartbeats.
    pub(crate) heartbeat_ms: u64,
    /// A follower that hears nothing for at least this long asks for an election ...
    pub(crate) election_min_ms: u64,
    /// ... and for at most this long (drawn at random).
    pub(crate) election_max_ms: u64,
    /// A leader without a quorum's answer for this long answers "unavailable".
    pub(crate) lease_ms: u64,
    /// Bytes of entries in one AppendEntries.
    pub(crate) append_bytes_max: usize,
    /// Bytes of all AppendEntries that this site works on at once.
    pub(crate) admitted_bytes_max: usize,
    /// Bytes of one proposed entry.
    pub(crate) entry_bytes_max: usize,
    /// Bytes of requests that may wait for a shard's proposer.
    pub(crate) queue_bytes_max: usize,
}

/// What gateways may ask at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServingConfig {
    /// Frames that may wait for one gateway's stream.
    pub(crate) frames_max: usize,
    /// Records of one pushed or read block.
    pub(crate) block_bytes_max: usize,
    /// Reads that one gateway may have under way.
    pub(crate) reads_max: usize,
}

const MIB: u64 = 1024 * 1024;

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 32 * MIB,
            bytes_max: 512 * MIB,
            cache_bytes_max: 32 * MIB,
            stall_ms: 2_000,
        }
    }
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            run_bytes_max: 8 * MIB as usize,
            tail_bytes_max: 96 * MIB as usize,
            checkpoint_entries_max: 20_000,
            generation_ms: 24 * 3_600_000,
            generation_bytes_max: 1024 * MIB,
            message_retention_ms: 7 * 24 * 3_600_000,
            disk_high_percent: 90,
            disk_quota_bytes: 0,
        }
    }
}

impl Default for RaftConfig {
    fn default() -> Self {
        RaftConfig {
            heartbeat_ms: 250,
            election_min_ms: 900,
            election_max_ms: 1_400,
            lease_ms: 800,
            append_bytes_max: 4 * MIB as usize,
            admitted_bytes_max: 64 * MIB as usize,
            entry_bytes_max: 2 * MIB as usize,
            queue_bytes_max: 32 * MIB as usize,
        }
    }
}

impl Default for ServingConfig {
    fn default() -> Self {
        ServingConfig { frames_max: 64, block_bytes_max: 256 * 1024, reads_max: 4_096 }
    }
}

fn require(ok: bool, field: &str, value: impl Display, allowed: &str) -> Result<(), Invalid> {
    if ok { Ok(()) } else { Err(Invalid::new(field, value, allowed)) }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        check_address("grpc_listen", &self.grpc_listen)?;
        check_address("http_listen", &self.http_listen)?;
        if let Some(address) = &self.grpc_advertise {
            check_address("grpc_advertise", address)?;
        }
        check_addresses("meta", &self.meta)?;
        check_range("worker_threads", self.worker_threads, 0..=1024)?;
        self.log.validate()?;
        self.shard.validate(&self.log)?;
        self.raft.validate()
    }
}

impl LogConfig {
    /// Room that is kept for votes, claims and commits, in bytes.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_range("log.segment_bytes", self.segment_bytes, MIB..=1024 * MIB)?;
        require(
            self.bytes_max >= 8 * self.segment_bytes,
            "log.bytes_max",
            self.bytes_max,
            "at least eight times log.segment_bytes",
        )
    }
}

impl ShardConfig {
    fn validate(&self, log: &LogConfig) -> Result<(), Invalid> {
        require(
            self.run_bytes_max >= 64 * 1024 && self.run_bytes_max as u64 <= log.bytes_max / 2,
            "shard.run_bytes_max",
            self.run_bytes_max,
            "64 KiB to half of log.bytes_max",
        )?;
        check_range("shard.disk_high_percent", self.disk_high_percent, 50..=99)
    }
}

impl RaftConfig {
    /// How long a voter is silent before it votes for another leader, in ms: longer than the lease, by
    /// what the leader may be late to notice that it is over. Its figure of the last quorum is as old
    /// as its last heartbeat, and up to 50 ms of empty appends are answered without asking.
    pub(crate) fn voter_lease_ms(&self) -> u64 {
        self.lease_ms + self.heartbeat_ms + 100
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_range("raft.heartbeat_ms", self.heartbeat_ms, 20..=10_000)?;
        require(
            self.election_min_ms > self.lease_ms && self.lease_ms >= 2 * self.heartbeat_ms,
            "raft.lease_ms",
            self.lease_ms,
            "at least two heartbeats and below raft.election_min_ms",
        )?;
        require(
            self.election_max_ms > self.election_min_ms,
            "raft.election_max_ms",
            self.election_max_ms,
            "above raft.election_min_ms",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        name = "s1"
        data_dir = "/tmp/x"
        grpc_listen = "127.0.0.1:7001"
        http_listen = "127.0.0.1:7002"
        meta = ["127.0.0.1:7000"]
    "#;

    #[test]
    fn the_defaults_are_valid() {
        let config: Config = toml::from_str(MINIMAL).unwrap();
        config.validate().unwrap();
    }

    #[test]
    fn a_wrong_value_names_field_value_and_what_is_allowed() {
        let text = format!("{MINIMAL}\n[raft]\nlease_ms = 100");
        let config: Config = toml::from_str(&text).unwrap();
        let invalid = config.validate().unwrap_err();
        assert_eq!(invalid.field, "raft.lease_ms");
        assert_eq!(invalid.value, "100");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<Config>(&format!("{MINIMAL}\nretension = 1")).is_err());
    }
}
