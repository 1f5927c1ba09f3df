//! Raft by the openraft crate: its types for a shard, and what it needs of us (log, state machine,
//! network, elections).

#![allow(clippy::result_large_err, reason = "the size of openraft's storage error is not ours")]

pub(crate) mod codec;
pub(crate) mod elections;
pub(crate) mod log_store;
#[cfg(test)]
mod log_store_tests;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod peers;
mod runtime;

use std::fmt;

use bytes::Bytes;
use holdfast_proto::shard::Outcome;

openraft::declare_raft_types!(
    /// The types of one shard's Raft group.
    pub(crate) ShardRaft:
        D = ShardEntry,
        R = Outcomes,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<ShardRaft>,
        SnapshotData = Bytes,
        AsyncRuntime = runtime::ShardRuntime,
);

/// The Raft node of one shard at this site.
pub(crate) type Raft = openraft::Raft<ShardRaft>;
/// An entry of a shard's Raft log.
pub(crate) type RaftEntry = openraft::Entry<ShardRaft>;
/// A place in a shard's Raft log.
pub(crate) type LogId = openraft::LogId<u64>;
/// A vote of a shard's Raft group.
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) use runtime::VOTE_TIMEOUT_MARK_MS;

/// A storage failure, as openraft sees it: it ends the group.
pub(crate) type StorageError = openraft::StorageError<u64>;

/// An encoded `holdfast_proto::shard::Entry`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ShardEntry(pub(crate) Bytes);

impl fmt::Debug for ShardEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardEntry({} bytes)", self.0.len())
    }
}

/// What applying an entry answered, one outcome per op.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

/// A member of a Raft group: the site that holds the replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// The site's id.
    pub(crate) site: u64,
}
