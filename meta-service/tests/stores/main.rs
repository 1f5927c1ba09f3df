//! Every store does what the metadata service asks of it.

#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

#[path = "../etcd/mod.rs"]
mod cluster;
mod etcd;
mod sled;
