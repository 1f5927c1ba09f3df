//! The site log: one log for all replicas of a site. It is the Raft log of each of them.
//!
//! [`SiteLog`] is what others use; [`LogCore`] is the same without its thread, for tests that drive it.

mod committer;
mod core;
mod error;
mod frame;
mod read;
mod recovery;
mod round;
mod segment;
mod spot;
mod table;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::ids::{ReplicaId, ShardId};

pub use self::committer::SiteLog;
pub use self::core::LogCore;
pub use self::error::LogError;
use crate::clock::{Clock, SystemClock};

/// A replica of this site, past or present. Replica ids are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// Its shard.
    pub shard: ShardId,
    /// Its Raft node id.
    pub replica: ReplicaId,
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.replica)
    }
}

/// A log entry; its bytes are the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Raft log index.
    pub index: u64,
    /// Log id and payload, as the caller encodes them.
    pub bytes: Bytes,
}

/// Called once: with `Ok` when everything submitted so far for the replica is synced, else with why it
/// never will be. Called on the committer's thread; it must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Hears what the log does, for metrics.
pub trait LogObserver: Send + Sync {
    /// A round is durable: its frames, its bytes on the disk, and how long the sync took.
    fn round(&self, frames: usize, bytes: u64, sync: Duration);
}

/// Limits and surroundings of a site log.
#[derive(Clone)]
pub struct LogOptions {
    /// Size of a segment file; a multiple of 512, at least 4 KiB. 32 MiB by default.
    pub segment_bytes: u32,
    /// No entries are accepted that would make the log larger; votes and marks still are. At least four
    /// segments. 512 MiB by default.
    pub bytes_max: u64,
    /// Recent entries are kept in memory up to this. 64 MiB by default.
    pub cache_bytes_max: u64,
    /// Most bytes that one sync makes durable. 8 MiB by default.
    pub round_bytes_max: usize,
    /// Identity that a new log gets; random by default.
    pub log_id_if_new: u64,
    /// Time, for how long a sync takes.
    pub clock: Arc<dyn Clock>,
    /// Hears of every round.
    pub observer: Option<Arc<dyn LogObserver>>,
}

impl Default for LogOptions {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        LogOptions {
            segment_bytes: 32 << 20,
            bytes_max: 512 << 20,
            cache_bytes_max: 64 << 20,
            round_bytes_max: 8 << 20,
            log_id_if_new: RandomState::new().hash_one("site log"),
            clock: Arc::new(SystemClock::default()),
            observer: None,
        }
    }
}

impl LogOptions {
    /// Checks that the limits fit each other.
    ///
    /// # Errors
    /// [`LogError::Invalid`] naming the field.
    pub fn validate(&self) -> Result<(), LogError> {
        let segment = self.segment_bytes;
        if segment < 4_096 || !segment.is_multiple_of(512) {
            let text =
                format!("segment_bytes is {segment}: a multiple of 512 from 4096 on is allowed");
            return Err(LogError::Invalid(text));
        }
        if self.bytes_max < 4 * u64::from(segment) {
            let text = format!("bytes_max is {}: at least 4 segments are needed", self.bytes_max);
            return Err(LogError::Invalid(text));
        }
        Ok(())
    }
}

/// What a start found of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredReplica {
    /// Which.
    pub key: ReplicaKey,
    /// Last vote.
    pub vote: Option<Bytes>,
    /// Last committed mark; may be older than the last one saved.
    pub committed: Option<Bytes>,
    /// Last purge: up to which index, and its marker.
    pub purged: Option<(u64, Bytes)>,
    /// First entry, if there are entries.
    pub first_index: Option<u64>,
    /// Last entry, if there are entries.
    pub last_index: Option<u64>,
    /// Why the replica must never vote or acknowledge again; its entries are gone then.
    pub damaged: Option<String>,
}

/// What the log holds of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaLogState {
    /// Last purge: up to which index, and its marker.
    pub purged: Option<(u64, Bytes)>,
    /// First entry, if there are entries.
    pub first_index: Option<u64>,
    /// Last entry, if there are entries.
    pub last_index: Option<u64>,
    /// Last vote.
    pub vote: Option<Bytes>,
    /// Last committed mark.
    pub committed: Option<Bytes>,
}

/// Figures of the whole log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments in use.
    pub segments: usize,
    /// Bytes of all of its files.
    pub bytes_on_disk: u64,
    /// Bytes of what is live: entries that are not purged, votes, marks.
    pub live_bytes: u64,
    /// Bytes of entries that are still accepted, as far as known; refuse before this ends.
    pub room_bytes: u64,
    /// Bytes that wait for the next round.
    pub queued_bytes: u64,
    /// Rounds synced since the start.
    pub syncs: u64,
    /// Frames written since the start.
    pub frames: u64,
    /// Bytes written since the start.
    pub bytes_written: u64,
    /// Bytes of frames that were appended again to free segments, since the start.
    pub copied_bytes: u64,
    /// How long the write or sync under way has been taking; zero if none is.
    pub stalled_for: Duration,
    /// Whether the start cut a torn tail.
    pub tail_was_cut: bool,
    /// Whether the log has failed and refuses everything.
    pub failed: bool,
}
