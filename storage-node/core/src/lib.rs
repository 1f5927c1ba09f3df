//! The state machine of one shard: a deterministic function of its log.
//!
//! A leader turns requests into one [`Entry`](holdfast_proto::shard::Entry) with [`Shard::decide`];
//! every replica feeds committed entries to [`Shard::apply`]. State is rows over a [`Base`] of durable
//! pairs; what changed since the last checkpoint is held in memory, and [`Shard::freeze`] hands it out.
//! There is no clock, file, socket or randomness here: see `DESIGN.md` beside this crate.

mod apply;
mod base;
mod check;
mod decide;
mod error;
mod generations;
mod index;
pub mod keys;
mod last_positions;
pub mod need;
pub mod policy;
mod request;
mod retained;
mod session;
mod shard;
mod table;
mod tail;

pub use base::{Base, BaseError};
pub use error::ShardError;
pub use last_positions::{LastPositions, TOPICS_MAX};
pub use request::{Answer, Applied, CutInfo, Decision, Request};
pub use shard::{Frozen, LAYOUT_TOPIC, Shard};
pub use tail::Tail;

/// Feature level of this code: what entries and layouts it can apply. A leader writes nothing above the
/// level that is committed for its shard, which rises when all replicas can.
///
/// 1: the first. 2: sessions are moved on ([`MoveOn`](holdfast_proto::shard::MoveOn)), wills have a grace.
pub const FEATURE_LEVEL: u32 = 2;

/// How long (shard time) the rows of silent producers, ended sessions and cleared retained messages
/// are remembered, in ms.
pub const FORGET_AFTER_MS: u64 = 10 * 60 * 1000;

/// Answers that a producer row remembers for repeats.
pub const REMEMBERED_ANSWERS: usize = 8;

/// Rows that one entry forgets at most.
pub const FORGET_PER_ENTRY_MAX: usize = 256;
