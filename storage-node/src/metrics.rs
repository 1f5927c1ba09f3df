//! All metrics of a storage node: names, units, meaning.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::replica::retention::Reason;

const SYNC: &str = "holdfast_storage_sync_seconds";
const ROUND_FRAMES: &str = "holdfast_storage_log_round_frames";
const ROUND_BYTES: &str = "holdfast_storage_log_written_bytes_total";
const COMMIT: &str = "holdfast_storage_commit_seconds";
const ENTRY_REQUESTS: &str = "holdfast_storage_entry_requests";
const ENTRY_BYTES: &str = "holdfast_storage_entry_bytes";
const CHECKPOINT: &str = "holdfast_storage_checkpoint_seconds";
const RUN_BYTES: &str = "holdfast_storage_run_written_bytes_total";
const TAIL_BYTES: &str = "holdfast_storage_tail_pushed_bytes_total";
const READ_BYTES: &str = "holdfast_storage_read_bytes_total";
const REFUSED: &str = "holdfast_storage_refused_total";
const DROPPED: &str = "holdfast_storage_generations_dropped_total";
const LOST_UNREAD: &str = "holdfast_messages_lost_unread_total";
const WALKED: &str = "holdfast_storage_sessions_walked_total";
const LEADERS: &str = "holdfast_storage_shard_leaders";
const REPLICAS: &str = "holdfast_storage_replicas";
const QUARANTINED: &str = "holdfast_storage_replicas_quarantined";
const GATEWAYS: &str = "holdfast_storage_gateways";
const SESSIONS: &str = "holdfast_storage_sessions";
const CONNECTED: &str = "holdfast_storage_sessions_connected";
const LEADER: &str = "holdfast_storage_shard_leader";
const APPLIED: &str = "holdfast_storage_applied_index";
const COMMITTED: &str = "holdfast_storage_log_index";
const POSITIONS: &str = "holdfast_storage_next_position";
const UNREAD_MESSAGES: &str = "holdfast_storage_shard_unread_messages";
const UNREAD_AGE: &str = "holdfast_storage_shard_unread_age_seconds";
const DATA: &str = "holdfast_storage_disk_bytes";
const DISK_USED: &str = "holdfast_storage_disk_used_bytes";
const DISK_CAPACITY: &str = "holdfast_storage_disk_capacity_bytes";
const DISK_HIGH: &str = "holdfast_storage_disk_high_bytes";
const DISK_FULL: &str = "holdfast_storage_disk_full";
const MISSING: &str = "holdfast_storage_runs_missing";
const MISSING_BYTES: &str = "holdfast_storage_run_missing_bytes";
const FETCHED_BYTES: &str = "holdfast_storage_run_fetched_bytes_total";
const VERIFIED_BYTES: &str = "holdfast_storage_verified_bytes_total";
const DAMAGED_RUNS: &str = "holdfast_storage_damaged_runs_total";
const FEATURE_LEVEL: &str = "holdfast_storage_feature_level";
const CLOCK_SKEW: &str = "holdfast_storage_clock_skew_seconds";

/// Gives every metric its unit and meaning; called once at start.
pub(crate) fn describe() {
    describe_log();
    describe_serving();
    describe_shards();
    describe_site();
    // There from the start, so that the first increase is seen as one.
    for reason in Refused::ALL {
        counter!(REFUSED, "reason" => reason.name()).increment(0);
    }
    for reason in Reason::ALL {
        counter!(DROPPED, "reason" => reason.name()).increment(0);
    }
}

fn describe_log() {
    describe_histogram!(SYNC, Unit::Seconds, "Time of one fdatasync of the site log");
    describe_histogram!(ROUND_FRAMES, Unit::Count, "Frames that one sync of the site log covered");
    describe_counter!(ROUND_BYTES, Unit::Bytes, "Bytes written to the site log");
    describe_histogram!(CHECKPOINT, Unit::Seconds, "Time of one checkpoint of a shard");
    describe_counter!(RUN_BYTES, Unit::Bytes, "Bytes written to runs");
    describe_counter!(FETCHED_BYTES, Unit::Bytes, "Bytes of runs fetched from other holders");
    describe_counter!(VERIFIED_BYTES, Unit::Bytes, "Bytes of runs read to check their checksums");
    describe_counter!(
        DAMAGED_RUNS,
        Unit::Count,
        "Runs found damaged when they were read; each is fetched again from another holder"
    );
}

fn describe_serving() {
    describe_histogram!(
        COMMIT,
        Unit::Seconds,
        "Time from a request's arrival at the leader to its entry's answer"
    );
    describe_histogram!(ENTRY_REQUESTS, Unit::Count, "Requests in one proposed entry");
    describe_histogram!(ENTRY_BYTES, Unit::Bytes, "Size of one proposed entry");
    describe_counter!(TAIL_BYTES, Unit::Bytes, "Bytes pushed on tails to gateways");
    describe_counter!(READ_BYTES, Unit::Bytes, "Bytes answered to reads");
    describe_counter!(REFUSED, Unit::Count, "Requests refused, by `reason`");
    describe_gauge!(GATEWAYS, Unit::Count, "Gateways connected to this site");
}

fn describe_shards() {
    describe_counter!(
        DROPPED,
        Unit::Count,
        "Generations dropped by shards that this site leads, by `reason`"
    );
    describe_counter!(
        LOST_UNREAD,
        Unit::Count,
        "Messages that retention removed before the sessions that want them had read them"
    );
    describe_counter!(WALKED, Unit::Count, "Sessions looked at for retention");
    describe_gauge!(LEADERS, Unit::Count, "Shards that this site leads");
    describe_gauge!(LEADER, "1 where the shard is led, 0 at its other replicas, by `shard`");
    describe_gauge!(SESSIONS, Unit::Count, "Sessions of the shards that this site leads");
    describe_gauge!(CONNECTED, Unit::Count, "Of these, sessions that a gateway owns");
    describe_gauge!(APPLIED, "Applied Raft index, by `shard`");
    describe_gauge!(COMMITTED, "Last Raft index in the log, by `shard`");
    describe_gauge!(POSITIONS, "Position of the next message, by `shard`");
    describe_gauge!(
        UNREAD_MESSAGES,
        Unit::Count,
        "Most messages that one durable session of this home shard has not read, in all shards \
         together, by `shard`; measured by the shard's leader every retention.lag_interval_ms, 0 at \
         its other replicas"
    );
    describe_gauge!(
        UNREAD_AGE,
        Unit::Seconds,
        "Age of the oldest message that a durable session of this home shard has not read, in any \
         shard, by `shard`; 0 if there is none, measured as the number"
    );
}

fn describe_site() {
    describe_gauge!(REPLICAS, Unit::Count, "Replicas of this site");
    describe_gauge!(
        QUARANTINED,
        Unit::Count,
        "Replicas of this site that may not vote: their data is damaged"
    );
    describe_gauge!(DATA, Unit::Bytes, "Bytes of this site's data on disk, by `kind`");
    describe_gauge!(
        DISK_USED,
        Unit::Bytes,
        "Bytes used of the disk, by whomever; with a quota, by this site's data"
    );
    describe_gauge!(DISK_CAPACITY, Unit::Bytes, "Size of the disk, or this site's quota");
    describe_gauge!(
        DISK_HIGH,
        Unit::Bytes,
        "High mark of the disk: above it appends are refused and the oldest messages go"
    );
    describe_gauge!(DISK_FULL, "1 while the disk is above its high mark and appends are refused");
    describe_gauge!(MISSING, Unit::Count, "Runs that are to be fetched from other holders");
    describe_gauge!(
        MISSING_BYTES,
        Unit::Bytes,
        "Bytes of runs that are to be fetched from other holders"
    );
    describe_gauge!(FEATURE_LEVEL, "Lowest committed feature level of the shards held here");
    describe_gauge!(
        CLOCK_SKEW,
        Unit::Seconds,
        "How far the median of the sites' clocks is ahead of this one"
    );
}

pub(crate) fn log_round(frames: usize, bytes: u64, sync: Duration) {
    histogram!(SYNC).record(sync);
    histogram!(ROUND_FRAMES).record(frames as f64);
    counter!(ROUND_BYTES).increment(bytes);
}

pub(crate) fn committed(took: Duration) {
    histogram!(COMMIT).record(took);
}

pub(crate) fn proposed(requests: usize, bytes: usize) {
    histogram!(ENTRY_REQUESTS).record(requests as f64);
    histogram!(ENTRY_BYTES).record(bytes as f64);
}

pub(crate) fn checkpoint(took: Duration, run_bytes: u64) {
    histogram!(CHECKPOINT).record(took);
    counter!(RUN_BYTES).increment(run_bytes);
}

pub(crate) fn tail_pushed(bytes: usize) {
    counter!(TAIL_BYTES).increment(bytes as u64);
}

pub(crate) fn read(bytes: usize) {
    counter!(READ_BYTES).increment(bytes as u64);
}

pub(crate) fn fetched(bytes: u64) {
    counter!(FETCHED_BYTES).increment(bytes);
}

pub(crate) fn verified(bytes: u64) {
    counter!(VERIFIED_BYTES).increment(bytes);
}

pub(crate) fn run_damaged() {
    counter!(DAMAGED_RUNS).increment(1);
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    /// A gateway's batch is not in the record format.
    MalformedBatch,
    /// The disk is above its high mark.
    DiskFull,
    /// A shard's proposer has as much to do as may wait.
    QueueFull,
    /// The site log has no room.
    LogFull,
    /// The file of a run cannot be read.
    RunUnreadable,
    /// Another site's entries: the disk is full.
    RaftDiskFull,
    /// Another site's entries: as many are worked on as may be.
    RaftBytes,
}

impl Refused {
    const ALL: [Refused; 7] = [
        Refused::MalformedBatch,
        Refused::DiskFull,
        Refused::QueueFull,
        Refused::LogFull,
        Refused::RunUnreadable,
        Refused::RaftDiskFull,
        Refused::RaftBytes,
    ];

    fn name(self) -> &'static str {
        match self {
            Refused::MalformedBatch => "malformed_batch",
            Refused::DiskFull => "disk_full",
            Refused::QueueFull => "queue_full",
            Refused::LogFull => "log_full",
            Refused::RunUnreadable => "run_unreadable",
            Refused::RaftDiskFull => "raft_disk_full",
            Refused::RaftBytes => "raft_bytes",
        }
    }
}

pub(crate) fn refused(reason: Refused) {
    counter!(REFUSED, "reason" => reason.name()).increment(1);
}

pub(crate) fn generation_dropped(reason: Reason) {
    counter!(DROPPED, "reason" => reason.name()).increment(1);
}

pub(crate) fn lost_unread(messages: u64) {
    counter!(LOST_UNREAD).increment(messages);
}

pub(crate) fn walked(sessions: u64) {
    counter!(WALKED).increment(sessions);
}

/// The site as a whole, refreshed now and then.
pub(crate) struct SiteGauges {
    pub(crate) leaders: usize,
    pub(crate) replicas: usize,
    pub(crate) quarantined: usize,
    pub(crate) gateways: usize,
    pub(crate) sessions: u64,
    pub(crate) connected: u64,
    pub(crate) log_bytes: u64,
    pub(crate) state_bytes: u64,
    pub(crate) run_bytes: u64,
    pub(crate) runs_missing: usize,
    pub(crate) missing_bytes: u64,
    pub(crate) disk_used_bytes: u64,
    pub(crate) disk_capacity_bytes: u64,
    pub(crate) disk_high_bytes: u64,
    pub(crate) disk_full: bool,
    pub(crate) feature_level: u32,
    pub(crate) clock_skew_ms: i64,
}

pub(crate) fn site(gauges: &SiteGauges) {
    gauge!(LEADERS).set(gauges.leaders as f64);
    gauge!(REPLICAS).set(gauges.replicas as f64);
    gauge!(QUARANTINED).set(gauges.quarantined as f64);
    gauge!(GATEWAYS).set(gauges.gateways as f64);
    gauge!(SESSIONS).set(gauges.sessions as f64);
    gauge!(CONNECTED).set(gauges.connected as f64);
    gauge!(DATA, "kind" => "log").set(gauges.log_bytes as f64);
    gauge!(DATA, "kind" => "state").set(gauges.state_bytes as f64);
    gauge!(DATA, "kind" => "runs").set(gauges.run_bytes as f64);
    gauge!(MISSING).set(gauges.runs_missing as f64);
    gauge!(MISSING_BYTES).set(gauges.missing_bytes as f64);
    gauge!(FEATURE_LEVEL).set(f64::from(gauges.feature_level));
    gauge!(CLOCK_SKEW).set(gauges.clock_skew_ms as f64 / 1_000.0);
    gauge!(DISK_USED).set(gauges.disk_used_bytes as f64);
    gauge!(DISK_CAPACITY).set(gauges.disk_capacity_bytes as f64);
    gauge!(DISK_HIGH).set(gauges.disk_high_bytes as f64);
    gauge!(DISK_FULL).set(f64::from(u8::from(gauges.disk_full)));
}

/// One replica, refreshed as the site is. All zero once it has left this site.
#[derive(Default)]
pub(crate) struct ShardGauges {
    pub(crate) leads: bool,
    pub(crate) applied: u64,
    pub(crate) last: u64,
    pub(crate) next_position: u64,
    pub(crate) unread_messages: u64,
    pub(crate) unread_age_ms: u64,
}

pub(crate) fn shard(shard: u16, gauges: &ShardGauges) {
    let labels = [("shard", shard.to_string())];
    gauge!(LEADER, &labels).set(f64::from(u8::from(gauges.leads)));
    gauge!(APPLIED, &labels).set(gauges.applied as f64);
    gauge!(COMMITTED, &labels).set(gauges.last as f64);
    gauge!(POSITIONS, &labels).set(gauges.next_position as f64);
    gauge!(UNREAD_MESSAGES, &labels).set(gauges.unread_messages as f64);
    gauge!(UNREAD_AGE, &labels).set(gauges.unread_age_ms as f64 / 1_000.0);
}
