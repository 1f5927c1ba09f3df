//! All metric names of the metadata service.

use std::time::Duration;

use holdfast_control::storage_view::StorageFigures;
use metrics::{counter, gauge, histogram};

/// One write of the store with its sync, seconds.
const STORE_SYNC: &str = "holdfast_meta_store_sync_seconds";
/// Sites that are up.
const SITES_UP: &str = "holdfast_meta_sites_up";
/// Gateways that live.
const GATEWAYS_UP: &str = "holdfast_meta_gateways_up";
/// Durable filters.
const FILTERS: &str = "holdfast_meta_durable_filters";
/// Versions of the filter set that some live gateway has not acknowledged.
const FILTERS_BEHIND: &str = "holdfast_meta_durable_filter_versions_behind";
/// Version of the topology.
const TOPOLOGY_VERSION: &str = "holdfast_meta_topology_version";
/// Peers that were refused.
const REFUSED: &str = "holdfast_meta_peers_refused_total";
/// Gateways and sites that were declared dead or down, by `kind`.
const SILENT: &str = "holdfast_meta_peers_silent_total";
/// Times at which everybody got a fresh lease because the controller had stood still.
const STALLS: &str = "holdfast_meta_controller_stalls_total";
/// Session rows that feeds brought.
const SESSION_CHANGES: &str = "holdfast_meta_session_changes_total";
/// Feeds that were asked for all rows of a shard.
const RESYNCS: &str = "holdfast_meta_session_resyncs_total";
/// From a request to make filters durable to its answer, seconds.
const COVER: &str = "holdfast_meta_cover_seconds";
/// Shards whose replicas move.
const TRANSITIONS: &str = "holdfast_meta_transitions";
/// Bytes of history that replicas lack, by their sites' word.
const MISSING_BYTES: &str = "holdfast_meta_missing_bytes";
/// Shards with a replica that lacks history or of which nothing is heard.
const UNDER_HELD: &str = "holdfast_meta_under_held_shards";
/// Sites, by `state`.
const SITES: &str = "holdfast_meta_sites";
/// 1: the store is older than what sites have seen, and nothing is placed.
const SET_BACK: &str = "holdfast_meta_store_set_back";
/// Requests that were refused, by `reason`.
const REQUESTS_REFUSED: &str = "holdfast_meta_requests_refused_total";

pub(crate) fn store_synced(took: Duration) {
    histogram!(STORE_SYNC).record(took);
}

pub(crate) fn members(sites_up: usize, gateways_up: usize, version: u64) {
    gauge!(SITES_UP).set(sites_up as f64);
    gauge!(GATEWAYS_UP).set(gateways_up as f64);
    gauge!(TOPOLOGY_VERSION).set(version as f64);
}

pub(crate) fn filters(count: usize, behind: u64) {
    gauge!(FILTERS).set(count as f64);
    gauge!(FILTERS_BEHIND).set(behind as f64);
}

pub(crate) fn peer_refused() {
    counter!(REFUSED).increment(1);
}

pub(crate) fn peers_silent(sites: usize, gateways: usize) {
    counter!(SILENT, "kind" => "site").increment(sites as u64);
    counter!(SILENT, "kind" => "gateway").increment(gateways as u64);
}

pub(crate) fn controller_stalled() {
    counter!(STALLS).increment(1);
}

pub(crate) fn session_changes(count: usize) {
    counter!(SESSION_CHANGES).increment(count as u64);
}

pub(crate) fn session_resync() {
    counter!(RESYNCS).increment(1);
}

pub(crate) fn covered(took: Duration) {
    histogram!(COVER).record(took);
}

pub(crate) fn request_refused(reason: &'static str) {
    counter!(REQUESTS_REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn storage(figures: StorageFigures) {
    gauge!(TRANSITIONS).set(figures.transitions as f64);
    gauge!(MISSING_BYTES).set(figures.missing_bytes as f64);
    gauge!(UNDER_HELD).set(figures.under_replicated as f64);
    let states = ["active", "draining", "drained", "lost"];
    for (state, count) in states.into_iter().zip(figures.states) {
        gauge!(SITES, "state" => state).set(count as f64);
    }
    gauge!(SET_BACK).set(if figures.set_back { 1.0 } else { 0.0 });
}
