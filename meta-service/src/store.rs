//! What the metadata service asks of a store: transactions with compare, ranges, watches and leases.
//!
//! The trait is cut so that etcd fits behind it as it is: keys are ordered bytes; a transaction that writes
//! has a revision that is higher than all before it; a transaction has at most [`OPS_MAX`] compares
//! and as many operations; a watch cannot begin at a revision that the store no longer remembers.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

/// Most compares, and most operations, of one transaction.
pub const OPS_MAX: usize = 128;

/// Most bytes of one value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Number of a transaction that wrote, counted by the store. Transactions that have nothing to do with
/// each other may share one.
pub type Revision = u64;

/// A lease: keys that are attached to it go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(Bytes),
    /// The key was last written by this revision.
    Unchanged(Bytes, Revision),
    /// The key has this value.
    Value(Bytes, Bytes),
}

impl Compare {
    /// The key that it looks at.
    pub fn key(&self) -> &Bytes {
        match self {
            Compare::Absent(key) | Compare::Unchanged(key, _) | Compare::Value(key, _) => key,
        }
    }
}

/// A write of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a key; it is attached to the lease, or to none.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The lease.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it is there.
    Delete(Bytes),
}

impl Op {
    /// A write that is attached to no lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// The key that it writes.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete(key) => key,
        }
    }
}

/// Writes that happen together, if all conditions hold.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The writes, in order.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Whether it keeps the limits of all stores.
    ///
    /// # Errors
    /// Which one it breaks. Reject.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.ops.len() > OPS_MAX || self.compares.len() > OPS_MAX {
            return Err(StoreError::Invalid(format!("more than {OPS_MAX} operations")));
        }
        let large = |op: &Op| matches!(op, Op::Put { value, .. } if value.len() > VALUE_BYTES_MAX);
        if self.ops.iter().any(large) {
            let most = format!("a value of more than {VALUE_BYTES_MAX} bytes");
            return Err(StoreError::Invalid(most));
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable.
    Yes(Revision),
    /// A condition did not hold; nothing was written.
    Refused,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that last wrote it.
    pub modified: Revision,
}

/// Which keys to read, in order.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// They begin with this.
    pub prefix: Bytes,
    /// And are greater than this, unless it is empty.
    pub after: Bytes,
    /// At most this many.
    pub limit: usize,
}

/// What a range has.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Revision of the store as read.
    pub revision: Revision,
    /// In order.
    pub entries: Vec<Entry>,
    /// There are more keys than the limit.
    pub more: bool,
}

/// One key's change, as a watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It was removed.
    Delete(Bytes),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete(key) => key,
        }
    }
}

/// What one revision changed under a watch's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// In order.
    pub changes: Arc<[Change]>,
}

/// Changes from a revision on. It ends if its reader is too slow; begin anew from a range.
#[derive(Debug)]
pub struct Watch {
    /// Revisions that changed something under the prefix.
    pub changes: mpsc::Receiver<Changes>,
}

/// Why the store did not do it.
#[derive(Debug, Error, Clone)]
pub enum StoreError {
    /// A write or sync failed: what is durable is not known. Stop the process.
    #[error("the store stopped: {0}")]
    Stopped(String),
    /// It cannot be reached, its queue is full, or whether it did a transaction is not known. Read anew
    /// and retry.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The request breaks a limit. Reject.
    #[error("not a valid request: {0}")]
    Invalid(String),
    /// The revision is no longer known. Begin anew from a range.
    #[error("revision {0} is compacted")]
    Compacted(Revision),
    /// The lease is over. Reject.
    #[error("lease {0:?} is over")]
    LeaseOver(LeaseId),
    /// This process is elected no longer; nothing was written. Step down.
    #[error("another process is elected")]
    Superseded,
}

/// A store's answer, to be waited for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store.
pub trait Store: Send + Sync + 'static {
    /// Whether other processes may use it at the same time.
    fn is_shared(&self) -> bool;
    /// Does a transaction; it is durable when this answers.
    fn commit(&self, txn: Txn) -> Answer<'_, Committed>;
    /// Reads what is durable.
    fn range(&self, range: Range) -> Answer<'_, Page>;
    /// Changes under a prefix, from this revision on (inclusive).
    fn watch(&self, prefix: Bytes, from: Revision) -> Answer<'_, Watch>;
    /// A new lease.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId>;
    /// The lease lasts for its whole time again.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()>;
    /// Ends a lease now and removes its keys.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;
}

/// Reads one key.
///
/// # Errors
/// What the store says.
pub async fn get(store: &dyn Store, key: &[u8]) -> Result<Option<Entry>, StoreError> {
    let range = Range { prefix: Bytes::copy_from_slice(key), after: Bytes::new(), limit: 1 };
    let page = store.range(range).await?;
    Ok(page.entries.into_iter().next().filter(|entry| entry.key == key))
}

/// Reads all keys under a prefix that is known to be small.
///
/// # Errors
/// What the store says.
pub async fn all(store: &dyn Store, prefix: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let mut range =
        Range { prefix: Bytes::copy_from_slice(prefix), after: Bytes::new(), limit: 1000 };
    let mut entries = Vec::new();
    loop {
        let page = store.range(range.clone()).await?;
        entries.extend(page.entries);
        match entries.last() {
            Some(last) if page.more => range.after = last.key.clone(),
            _ => return Ok(entries),
        }
    }
}
