//! What Holdfast's metadata service decides, without a clock, a socket or a store: where shards live,
//! how they move, who is alive, which topics are durable, and whether a feed of session rows is whole.
//!
//! `control` puts the parts together: events in, rows to persist and effects out. The shell persists
//! first and acts on the effects after that.

pub mod control;
pub mod liveness;
pub mod membership;
mod pins;
pub mod placement;
pub mod registry;
pub mod reports;
pub mod retention;
pub mod routes;
pub mod steering;
pub mod storage_view;
pub mod transitions;
mod trie;
