//! What can go wrong in the site log.

use std::io;

use thiserror::Error;

use super::ReplicaKey;

/// Why the site log refused or failed.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk failed. Stop: nothing is known about what it did, and it is never asked again.
    #[error("site log: cannot {action} {path}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// What should be on the disk is not. Stop; the next start tells which replicas are damaged.
    #[error("site log: {path} is damaged at {offset}: {what}")]
    Corrupt {
        /// In which file.
        path: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
    /// The log cannot be used as it is configured. Stop.
    #[error("site log: {0}")]
    Invalid(String),
    /// Reject: this site's log holds no such replica.
    #[error("site log: no replica {0}")]
    UnknownReplica(ReplicaKey),
    /// Reject: recovery found the replica's log damaged; it never votes or acknowledges again.
    #[error("site log: replica {0} is damaged")]
    Damaged(ReplicaKey),
    /// Reject: entries must follow one another.
    #[error("site log: replica {key} expects entry {expected}, not {got}")]
    NotContiguous {
        /// Of which replica.
        key: ReplicaKey,
        /// The next index of its log.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// Reject: the entry is larger than a segment can hold.
    #[error("site log: an entry of {bytes} bytes does not fit a segment")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Retry later: no room for more entries until runs are written and the log is purged.
    #[error("site log: full")]
    Full,
    /// Stop: the log was closed or has failed before.
    #[error("site log: stopped")]
    Stopped,
}

impl LogError {
    pub(crate) fn disk(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Disk { action, path: path.to_owned(), source }
    }

    /// Whether the log is of no use any more.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, LogError::Disk { .. } | LogError::Corrupt { .. } | LogError::Stopped)
    }

    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            LogError::Disk { source, .. } => source.kind(),
            LogError::Corrupt { .. } | LogError::Damaged(_) => io::ErrorKind::InvalidData,
            LogError::Full => io::ErrorKind::StorageFull,
            LogError::Stopped => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
