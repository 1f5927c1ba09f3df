//! Why a shard cannot go on.

use thiserror::Error;

use crate::base::BaseError;

/// Every one of these means stop: the replica must not vote, apply or acknowledge any more.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ShardError {
    /// The durable pairs cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A durable pair is not what its table says.
    #[error("row {key} cannot be read: {reason}")]
    Row {
        /// The key, in hexadecimal.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Entries must be applied in the order of their indexes, each once.
    #[error("entry {index} is applied after entry {applied}")]
    Order {
        /// Index of the entry that was to be applied.
        index: u64,
        /// Index of the newest applied one.
        applied: u64,
    },
}

impl ShardError {
    pub(crate) fn row(key: &[u8], reason: impl ToString) -> ShardError {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        ShardError::Row { key, reason: reason.to_string() }
    }
}
