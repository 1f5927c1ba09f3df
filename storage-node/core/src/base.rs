//! The durable pairs below the shard's overlay.

use bytes::Bytes;
use thiserror::Error;

/// Ordered pairs as of the last checkpoint. The shard only reads them; the shell writes what
/// [`crate::Shard::freeze`] hands out, as one atomic batch.
pub trait Base: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError>;

    /// Visits the pairs whose key starts with `prefix` and, if `after` is given, is above it, in order
    /// of their keys, until `visit` returns false.
    ///
    /// # Errors
    /// The store cannot be read.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError>;
}

/// The durable pairs cannot be read. Stop: the replica is damaged.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("durable pairs: {0}")]
pub struct BaseError(pub String);
