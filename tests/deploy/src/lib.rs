//! The chart, images and rules, checked with the tools that operators use.

#![allow(clippy::unwrap_used, reason = "only tests use this crate, and they say it by panicking")]

pub mod certificates;
pub mod chart;
pub mod kubelet;
pub mod live;
pub mod manifests;
pub mod readme;
pub mod schema;
pub mod tools;
