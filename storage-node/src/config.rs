//! Configuration of a storage node.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_node_kit::config::{
    Invalid, Validate, check_address, check_addresses, check_name, check_range, check_ranges,
};
use holdfast_proto::topic;
use holdfast_proto::version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Versions};
use holdfast_shard::policy::{Class, Mode, Policy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A storage node's config file (TOML). Sizes in bytes, times in the unit of their name.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name for people, unique in the cluster; it may change, the site id in the data directory does not.
    pub(crate) name: String,
    /// Directory of this site's data. It must outlive the process; one process uses it at a time.
    pub(crate) data_dir: PathBuf,
    /// host:port on which gRPC is served, to gateways and to other sites.
    pub(crate) grpc_listen: String,
    /// host:port at which others reach `grpc_listen`; absent: as `grpc_listen`.
    #[serde(default)]
    pub(crate) grpc_advertise: Option<String>,
    /// host:port of /metrics and /health.
    pub(crate) http_listen: String,
    /// host:port of every meta-service, at least one.
    pub(crate) meta: Vec<String>,
    /// Failure domain, as a data centre's zone; replicas of a shard are spread over zones. Empty: none.
    #[serde(default)]
    pub(crate) zone: String,
    /// Threads that serve; 0: one per core.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1024))]
    pub(crate) worker_threads: usize,
    /// How long a planned stop may take to hand leaderships over, in ms.
    #[serde(default = "drain_timeout_ms")]
    #[schemars(range(min = 0, max = 600_000))]
    pub(crate) drain_timeout_ms: u64,
    /// Newest protocol version that is spoken; holds a new site back while older ones run beside it.
    #[serde(default = "protocol_version_max")]
    #[schemars(range(min = PROTOCOL_VERSION_MIN, max = PROTOCOL_VERSION))]
    pub(crate) protocol_version_max: u32,
    /// The site log.
    #[serde(default)]
    pub(crate) log: LogConfig,
    /// Shards: runs, generations, the disk's marks.
    #[serde(default)]
    pub(crate) shard: ShardConfig,
    /// When messages are removed.
    #[serde(default)]
    pub(crate) retention: RetentionConfig,
    /// Raft: timing and bounds.
    #[serde(default)]
    pub(crate) raft: RaftConfig,
    /// What gateways may ask at once.
    #[serde(default)]
    pub(crate) serving: ServingConfig,
}

fn drain_timeout_ms() -> u64 {
    10_000
}

fn protocol_version_max() -> u32 {
    PROTOCOL_VERSION
}

/// The site log.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// Size of one preallocated segment, in bytes.
    #[schemars(range(min = MIB, max = GIB))]
    pub(crate) segment_bytes: u64,
    /// The log keeps entries that a slow replica lacks up to this size, in bytes; at least eight segments.
    #[schemars(range(min = 8 * MIB, max = TIB))]
    pub(crate) bytes_max: u64,
    /// Entries kept in memory for replication, in bytes.
    #[schemars(range(min = 0, max = 64 * GIB))]
    pub(crate) cache_bytes_max: u64,
    /// A sync that takes longer, in ms, makes this site's leaders answer "unavailable".
    #[schemars(range(min = 100, max = 600_000))]
    pub(crate) stall_ms: u64,
}

/// Shards: runs, generations, the disk's marks.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardConfig {
    /// A shard's messages in memory, in bytes, at which its leader cuts a run; at most half of
    /// `log.bytes_max`.
    #[schemars(range(min = 64 * KIB, max = GIB))]
    pub(crate) run_bytes_max: usize,
    /// Messages of all shards of the site in memory, in bytes, at which the largest is cut.
    #[schemars(range(min = 64 * KIB, max = TIB))]
    pub(crate) tail_bytes_max: usize,
    /// Bytes a second at which this site fetches runs that it lacks from others.
    #[schemars(range(min = 64 * KIB, max = TIB))]
    pub(crate) fetch_bytes_per_s: u64,
    /// Raft entries after which a checkpoint is made even if few bytes came.
    #[schemars(range(min = 100, max = 100_000_000))]
    pub(crate) checkpoint_entries_max: u64,
    /// Age, in ms, at which a generation is sealed and the next one starts.
    #[schemars(range(min = 1000, max = YEAR_MS))]
    pub(crate) generation_ms: u64,
    /// Size, in bytes, at which a generation is sealed and the next one starts.
    #[schemars(range(min = 64 * KIB, max = TIB))]
    pub(crate) generation_bytes_max: u64,
    /// Time after it was sealed, in ms, at which a generation is old, for `retention.mode`.
    #[schemars(range(min = 0, max = 100 * YEAR_MS))]
    pub(crate) message_retention_ms: u64,
    /// Share of the disk, in percent, above which appends are refused, and the oldest sealed
    /// generations are dropped, whatever `retention.mode` says, until it is below
    /// `disk_low_percent`.
    #[schemars(range(min = 50, max = 99))]
    pub(crate) disk_high_percent: u8,
    /// Share of the disk, in percent, below which `disk_high_percent` has no effect any more; less than that; 0:
    /// ten below it.
    #[schemars(range(min = 0, max = 98))]
    pub(crate) disk_low_percent: u8,
    /// Bound of this site's data, in bytes, instead of the disk's size; 0: the disk's size.
    #[schemars(range(min = 0, max = 1024 * TIB))]
    pub(crate) disk_quota_bytes: u64,
}

/// When messages are removed. A generation goes as a whole, and generations go in order.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionConfig {
    /// What holds for topics that no override names.
    pub(crate) mode: RetentionMode,
    /// What holds for some topics, at most 64: the first whose filter matches decides. A generation goes
    /// when every topic in it may go, so a message may stay, and be delivered, longer than its own limit.
    #[serde(rename = "override")]
    pub(crate) overrides: Vec<RetentionOverride>,
    /// A generation that goes unread waits this long, in ms, until what sessions lose by it is counted;
    /// sessions that are not counted by then are named in the log by their shard.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub(crate) doomed_patience_ms: u64,
    /// As `doomed_patience_ms`, in ms, while the disk is above its mark.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub(crate) pressed_patience_ms: u64,
    /// Pause, in ms, between two walks over the sessions of a shard, while some hold up what is to be
    /// removed.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub(crate) walk_interval_ms: u64,
    /// Sessions that the walk of one shard looks at in a second.
    #[schemars(range(min = 10, max = 1_000_000))]
    pub(crate) walk_sessions_per_s: u32,
    /// Pause, in ms, between two measurements of how far sessions are behind, for the metrics
    /// `holdfast_storage_shard_unread_messages` and `..._age_seconds`; 100 to 3600000, 0: it is not
    /// measured. One is spread over half of the pause and is no faster than `walk_sessions_per_s`.
    pub(crate) lag_interval_ms: u64,
    /// Sessions asked about in one call to the leader of another shard.
    #[schemars(range(min = 1, max = COUNT_QUERIES_MAX))]
    pub(crate) count_queries_max: usize,
    /// Calls to leaders of other shards that the walk of one shard has under way.
    #[schemars(range(min = 1, max = 64))]
    pub(crate) count_calls_max: usize,
}

/// When a sealed generation may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RetentionMode {
    /// When it is old, read or not.
    Time,
    /// As soon as every durable session is past it; never by age.
    Consumed,
    /// When it is old and every durable session is past it.
    TimeAndConsumed,
}

/// What holds for some topics.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionOverride {
    /// Which topics: a topic filter, not a shared one.
    pub(crate) filter: String,
    /// As `retention.mode`; that one if absent.
    pub(crate) mode: Option<RetentionMode>,
    /// As `shard.message_retention_ms`, in ms; that one if absent.
    #[schemars(range(min = 0, max = 100 * YEAR_MS))]
    pub(crate) message_retention_ms: Option<u64>,
}

/// Raft: timing and bounds.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RaftConfig {
    /// Pause between a leader's heartbeats, in ms.
    #[schemars(range(min = 20, max = 10_000))]
    pub(crate) heartbeat_ms: u64,
    /// A follower that hears nothing for at least this long, in ms, asks for an election; above
    /// `lease_ms`.
    #[schemars(range(min = 50, max = 60_000))]
    pub(crate) election_min_ms: u64,
    /// A follower that hears nothing for at most this long, in ms, asks for an election: the time is drawn at
    /// random; above `election_min_ms`.
    #[schemars(range(min = 50, max = 120_000))]
    pub(crate) election_max_ms: u64,
    /// A leader without a quorum's answer for this long, in ms, answers "unavailable"; at least two
    /// heartbeats.
    #[schemars(range(min = 40, max = 60_000))]
    pub(crate) lease_ms: u64,
    /// Size of the entries in one AppendEntries, in bytes.
    #[schemars(range(min = 64 * KIB, max = 32 * MIB))]
    pub(crate) append_bytes_max: usize,
    /// Size of all AppendEntries that this site works on at once, in bytes.
    #[schemars(range(min = MIB, max = 64 * GIB))]
    pub(crate) admitted_bytes_max: usize,
    /// Snapshots that this site sends at once.
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) snapshots_max: usize,
    /// Size of one proposed entry, in bytes.
    #[schemars(range(min = 64 * KIB, max = 32 * MIB))]
    pub(crate) entry_bytes_max: usize,
    /// Size of the requests that may wait for a shard's proposer, in bytes.
    #[schemars(range(min = MIB, max = 64 * GIB))]
    pub(crate) queue_bytes_max: usize,
}

/// What gateways may ask at once.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServingConfig {
    /// Frames that may wait for one gateway's stream.
    #[schemars(range(min = 1, max = 65_536))]
    pub(crate) frames_max: usize,
    /// Size of the records of one pushed or read block, in bytes.
    #[schemars(range(min = 4 * KIB, max = 32 * MIB))]
    pub(crate) block_bytes_max: usize,
    /// Reads that one gateway may have under way.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) reads_max: usize,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

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
            fetch_bytes_per_s: 64 * MIB,
            checkpoint_entries_max: 20_000,
            generation_ms: 24 * 3_600_000,
            generation_bytes_max: 1024 * MIB,
            message_retention_ms: 7 * 24 * 3_600_000,
            disk_high_percent: 90,
            disk_low_percent: 0,
            disk_quota_bytes: 0,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        RetentionConfig {
            mode: RetentionMode::Time,
            overrides: Vec::new(),
            doomed_patience_ms: 30_000,
            pressed_patience_ms: 5_000,
            walk_interval_ms: 10_000,
            walk_sessions_per_s: 20_000,
            lag_interval_ms: 60_000,
            count_queries_max: 1_000,
            count_calls_max: 4,
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
            snapshots_max: 2,
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
        check_ranges(self)?;
        self.log.validate()?;
        self.shard.validate(&self.log)?;
        self.retention.validate()?;
        self.raft.validate()
    }
}

impl Config {
    /// The protocol versions that this site speaks.
    pub(crate) fn versions(&self) -> Versions {
        Versions::up_to(self.protocol_version_max)
    }
}

impl LogConfig {
    /// Room that is kept for votes, claims and commits, in bytes.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn validate(&self) -> Result<(), Invalid> {
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
            self.run_bytes_max as u64 <= log.bytes_max / 2,
            "shard.run_bytes_max",
            self.run_bytes_max,
            "at most half of log.bytes_max",
        )?;
        require(
            self.disk_low_percent < self.disk_high_percent,
            "shard.disk_low_percent",
            self.disk_low_percent,
            "below shard.disk_high_percent",
        )
    }

    /// The mark below which the removal of generations ends, in percent.
    pub(crate) fn low_percent(&self) -> u8 {
        match self.disk_low_percent {
            0 => self.disk_high_percent - 10,
            low => low,
        }
    }
}

/// Overrides that may be given.
const OVERRIDES_MAX: usize = 64;

impl RetentionConfig {
    /// The policy, with `age_ms` for what says nothing else.
    pub(crate) fn policy(&self, age_ms: u64) -> Policy {
        let class = |mode: RetentionMode, age_ms| Class { mode: mode.into(), age_ms };
        let overrides = self.overrides.iter().map(|one| {
            let age_ms = one.message_retention_ms.unwrap_or(age_ms);
            (one.filter.clone(), class(one.mode.unwrap_or(self.mode), age_ms))
        });
        Policy::new(class(self.mode, age_ms), overrides.collect())
    }

    fn validate(&self) -> Result<(), Invalid> {
        check_range("retention.override", self.overrides.len(), 0..=OVERRIDES_MAX)?;
        for one in &self.overrides {
            require(
                topic::check_filter(&one.filter).is_ok() && !topic::is_shared(&one.filter),
                "retention.override.filter",
                &one.filter,
                "a topic filter, not a shared one",
            )?;
        }
        require(
            self.lag_interval_ms == 0 || (100..=3_600_000).contains(&self.lag_interval_ms),
            "retention.lag_interval_ms",
            self.lag_interval_ms,
            "0 or 100 to 3600000",
        )
    }
}

/// Queries that any site answers in one call.
pub(crate) const COUNT_QUERIES_MAX: usize = 10_000;

impl From<RetentionMode> for Mode {
    fn from(mode: RetentionMode) -> Mode {
        match mode {
            RetentionMode::Time => Mode::Time,
            RetentionMode::Consumed => Mode::Consumed,
            RetentionMode::TimeAndConsumed => Mode::TimeAndConsumed,
        }
    }
}

impl RaftConfig {
    /// How long a voter is silent before it votes for another leader, in ms: longer than the lease, by
    /// what the leader may be late to notice that it is over. Its figure of the last quorum is as old
    /// as its last heartbeat, and up to 50 ms of empty appends are answered without asking.
    pub(crate) fn voter_lease_ms(&self) -> u64 {
        self.lease_ms + self.heartbeat_ms + 100
    }

    /// The same.
    pub(crate) fn voter_lease(&self) -> Duration {
        Duration::from_millis(self.voter_lease_ms())
    }

    fn validate(&self) -> Result<(), Invalid> {
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
    fn retention_is_read_and_checked() {
        let text = |retention: &str| format!("{MINIMAL}\n[retention]\n{retention}");
        let good = "mode = \"time-and-consumed\"\n[[retention.override]]\nfilter = \"telemetry/#\"\n\
                    mode = \"time\"\nmessage_retention_ms = 5";
        let config: Config = toml::from_str(&text(good)).unwrap();
        config.validate().unwrap();
        let overrides = vec![("telemetry/#".to_owned(), Class { mode: Mode::Time, age_ms: 5 })];
        let default = Class { mode: Mode::TimeAndConsumed, age_ms: 77 };
        assert_eq!(config.retention.policy(77), Policy::new(default, overrides));
        assert_eq!(config.shard.low_percent(), 80);
        assert!(toml::from_str::<Config>(&text("mode = \"never\"")).is_err());
        for (wrong, field) in [
            ("[[retention.override]]\nfilter = \"a#\"", "retention.override.filter"),
            ("[[retention.override]]\nfilter = \"$share/g/a\"", "retention.override.filter"),
            ("[shard]\ndisk_low_percent = 90", "shard.disk_low_percent"),
            ("count_calls_max = 0", "retention.count_calls_max"),
        ] {
            let config: Config = toml::from_str(&text(wrong)).unwrap();
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn every_field_says_what_it_means_and_its_default() {
        let schema = schemars::schema_for!(Config);
        let tables = schema.as_value()["$defs"].as_object().unwrap().values();
        let mut fields = 0;
        for table in tables.chain([schema.as_value()]) {
            let Some(properties) = table["properties"].as_object() else { continue };
            let is_required = |name: &str| {
                let required = table["required"].as_array();
                required.is_some_and(|all| all.iter().any(|one| one == name))
            };
            for (name, field) in properties {
                fields += 1;
                assert!(field["description"].is_string(), "{name} says nothing");
                let of_override = properties.contains_key("filter");
                let known = field.get("default").is_some() || is_required(name) || of_override;
                assert!(known, "{name} has no default");
                let unit = ["_ms", "_bytes", "_percent"].iter().find(|unit| name.ends_with(*unit));
                let said = field["description"].as_str().unwrap();
                let said_as = unit.map(|unit| match *unit {
                    "_ms" => "in ms",
                    "_percent" => "percent",
                    _ => "in bytes",
                });
                assert!(said_as.is_none_or(|unit| said.contains(unit)), "{name}: {said}");
            }
        }
        assert!(fields > 50, "{fields} fields");
        let config: Config =
            toml::from_str(&format!("{MINIMAL}\n[retention]\nlag_interval_ms = 99")).unwrap();
        assert_eq!(config.validate().unwrap_err().field, "retention.lag_interval_ms");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<Config>(&format!("{MINIMAL}\nretension = 1")).is_err());
    }
}
