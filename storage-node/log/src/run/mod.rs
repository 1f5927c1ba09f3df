//! Runs: immutable files with the records of one shard from one position to another, sorted by
//! (stream, position). The layout is `topic`: every (namespace, topic) is a stream. The same records give
//! the same bytes on every replica.

mod count;
mod filter;
mod format;
mod pick;
mod read;
mod write;

use std::fmt;
use std::io;

use holdfast_proto::ids::{Generation, Position, ShardId};
use thiserror::Error;

pub use self::count::Matches;
pub use self::read::{ReadEnd, Run};
pub use self::write::write_run;
use crate::disk::Disk;

/// Which run: its shard, its generation, and the positions it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// Shard.
    pub shard: ShardId,
    /// Generation.
    pub generation: Generation,
    /// First position covered.
    pub first: Position,
    /// The position after the last one covered.
    pub end: Position,
}

impl RunId {
    /// Name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        let RunId { shard, generation, first, end } = self;
        format!("{:05}-{:010}-{:020}-{:020}.run", shard.0, generation.0, first.0, end.0)
    }

    /// The run that has this file name.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<RunId> {
        let mut parts = name.strip_suffix(".run")?.split('-');
        let id = RunId {
            shard: ShardId(parts.next()?.parse().ok()?),
            generation: Generation(parts.next()?.parse().ok()?),
            first: Position(parts.next()?.parse().ok()?),
            end: Position(parts.next()?.parse().ok()?),
        };
        (parts.next().is_none() && id.file_name() == name).then_some(id)
    }

    /// Path of its file below a directory.
    #[must_use]
    pub fn path(&self, dir: &str) -> String {
        format!("{dir}/{}", self.file_name())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// A run and what its file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunInfo {
    /// Which.
    pub id: RunId,
    /// crc32c of the file up to its footer; the same on every replica.
    pub checksum: u32,
    /// Length of the file.
    pub bytes: u64,
    /// Records in it.
    pub records: u32,
    /// Topics in it.
    pub streams: u32,
}

/// What can go wrong with a run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The disk failed. Stop if it was a write; a read may be tried at another holder.
    #[error("run {path}: cannot {action}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written. Redirect: another holder has it; fetch it again.
    #[error("run {path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: String,
        /// What does not fit.
        what: &'static str,
    },
    /// Reject: the records are not in order, not within the run's positions, or too many for one file.
    #[error("run {path}: {what}")]
    Input {
        /// Which file.
        path: String,
        /// What does not fit.
        what: &'static str,
    },
}

impl RunError {
    pub(crate) fn disk(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> RunError {
        move |source| RunError::Disk { action, path: path.to_owned(), source }
    }

    /// Whether the file itself is bad, so that another holder's copy is needed.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            RunError::Damaged { .. } => true,
            RunError::Disk { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            }
            RunError::Input { .. } => false,
        }
    }
}

/// Removes a run's file for good; nothing if it is not there.
///
/// # Errors
/// As the disk says.
pub fn remove_run(disk: &dyn Disk, dir: &str, id: RunId) -> Result<(), RunError> {
    let path = id.path(dir);
    match disk.remove(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RunError::disk("remove", &path)(error)),
        Ok(()) => disk.sync_dir(dir).map_err(RunError::disk("sync directory of", &path)),
    }
}
