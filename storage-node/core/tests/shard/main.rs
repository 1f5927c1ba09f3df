//! The promises of a shard, one file per noun; `model` checks them all against a simple model, over
//! three replicas that crash.

#![allow(clippy::unwrap_used, reason = "tests")]

mod appends;
mod generations;
mod golden;
mod model;
mod retained;
mod sessions;
mod support;
mod tails;
mod wills;
