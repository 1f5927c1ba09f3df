//! The service over loopback, with fake sites and gateways that speak the real protocol.

#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

mod admin_access;
mod admin_forward;
mod admin_requests;
mod admin_sessions;
mod cluster;
mod configs;
#[path = "../etcd/mod.rs"]
mod etcd;
mod failover;
mod filters;
mod peers;
mod rate;
mod rest;
mod sessions;
mod steering;
