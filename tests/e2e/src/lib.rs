//! Real processes, real sockets, real faults: what the end-to-end tests and the load generator
//! share. A [`cluster::Cluster`] runs in a folder of its own and ends with the value; a
//! [`client::Client`] sends exactly the packets it is told to; a [`ledger::Ledger`] compares what
//! publishers were acknowledged with what subscribers got.

// A harness reports by panicking: that is how a test fails.
#![allow(clippy::unwrap_used)]

pub mod client;
pub mod cluster;
pub mod ledger;
pub mod load;
pub mod packet;
pub mod traffic;
