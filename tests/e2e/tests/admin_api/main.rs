//! The admin API on clusters of real processes.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod rest;
mod sessions;
mod shards;
