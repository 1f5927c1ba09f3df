//! All metrics of the metadata service: names, units, meaning.
//!
//! What the controller knows is exported by the process that is elected. The others export 0 of it, also one
//! that was elected before ([`ControllerGauges`]), so that a sum over all processes is right.

use std::time::Duration;

use holdfast_control::storage_view::StorageFigures;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const ELECTED: &str = "holdfast_meta_elected";
const STORE_UP: &str = "holdfast_meta_store_up";
const STORE_SYNC: &str = "holdfast_meta_store_sync_seconds";
const SET_BACK: &str = "holdfast_meta_store_set_back";
const CERTIFICATE_EXPIRY: &str = "holdfast_certificate_expiry_timestamp_seconds";
const SITES: &str = "holdfast_meta_sites";
const SITES_UP: &str = "holdfast_meta_sites_up";
const SITES_DOWN: &str = "holdfast_meta_sites_down";
const GATEWAYS_UP: &str = "holdfast_meta_gateways_up";
const SILENT: &str = "holdfast_meta_peers_silent_total";
const REFUSED: &str = "holdfast_meta_peers_refused_total";
const STALLS: &str = "holdfast_meta_controller_stalls_total";
const TOPOLOGY_VERSION: &str = "holdfast_meta_topology_version";
const WITHOUT_LEADER: &str = "holdfast_meta_shards_without_leader";
const UNDER_REPLICATED: &str = "holdfast_meta_shards_under_replicated";
const TRANSITIONS: &str = "holdfast_meta_transitions";
const MISSING_BYTES: &str = "holdfast_meta_missing_bytes";
const FILTERS: &str = "holdfast_meta_durable_filters";
const FILTERS_BEHIND: &str = "holdfast_meta_durable_filter_versions_behind";
const COVER: &str = "holdfast_meta_cover_seconds";
const SESSION_CHANGES: &str = "holdfast_meta_session_changes_total";
const RESYNCS: &str = "holdfast_meta_session_resyncs_total";
const REQUESTS_REFUSED: &str = "holdfast_meta_requests_refused_total";
const ADMIN_REQUESTS: &str = "holdfast_meta_admin_requests_total";
const ADMIN_REQUEST: &str = "holdfast_meta_admin_request_seconds";

/// Of [`SITES`], in the order of [`StorageFigures::states`].
const STATES: [&str; 4] = ["active", "draining", "drained", "lost"];

/// Gives every metric its unit and meaning; called once at start.
pub fn describe() {
    describe_store();
    describe_members();
    describe_shards();
    describe_requests();
}

fn describe_store() {
    describe_gauge!(ELECTED, Unit::Count, "1 where this process is the elected one, else 0");
    describe_gauge!(STORE_UP, Unit::Count, "1 while the metadata store answers, else 0");
    describe_histogram!(STORE_SYNC, Unit::Seconds, "Time of one write of the store with its sync");
    describe_gauge!(
        SET_BACK,
        Unit::Count,
        "1 if the store is older than what sites have seen, and nothing is placed; 0 where not elected"
    );
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When the first certificate of a PEM file ends, since the Unix epoch, by `file`"
    );
}

fn describe_members() {
    describe_gauge!(SITES, Unit::Count, "Storage sites by `state`; 0 where not elected");
    describe_gauge!(SITES_UP, Unit::Count, "Sites that are heard of; 0 where not elected");
    describe_gauge!(
        SITES_DOWN,
        Unit::Count,
        "Sites that are not heard of, apart from drained ones; 0 where not elected"
    );
    describe_gauge!(GATEWAYS_UP, Unit::Count, "Gateways that are heard of; 0 where not elected");
    describe_counter!(
        SILENT,
        Unit::Count,
        "Sites and gateways that left or were not heard of for a lease, by `kind`"
    );
    describe_counter!(REFUSED, Unit::Count, "Reports of sites and gateways that were refused");
    describe_counter!(
        STALLS,
        Unit::Count,
        "Times at which everybody got a fresh lease because the controller had stood still"
    );
}

fn describe_shards() {
    describe_gauge!(TOPOLOGY_VERSION, Unit::Count, "Version of the topology; 0 where not elected");
    describe_gauge!(
        WITHOUT_LEADER,
        Unit::Count,
        "Shards without a leader that serves; 0 where not elected"
    );
    describe_gauge!(
        UNDER_REPLICATED,
        Unit::Count,
        "Shards with a replica that is silent, does not vote or lacks something; 0 where not elected"
    );
    describe_gauge!(
        TRANSITIONS,
        Unit::Count,
        "Shards with a replica on its way to another site; 0 where not elected"
    );
    describe_gauge!(
        MISSING_BYTES,
        Unit::Bytes,
        "History that replicas lack, by their sites' word; 0 where not elected"
    );
    describe_gauge!(
        FILTERS,
        Unit::Count,
        "Filters of durable sessions that gateways route by; 0 where not elected"
    );
    describe_gauge!(
        FILTERS_BEHIND,
        Unit::Count,
        "Versions of those filters that some live gateway has not acknowledged; 0 where not elected"
    );
}

fn describe_requests() {
    describe_histogram!(
        COVER,
        Unit::Seconds,
        "Time from a request to make filters durable to its answer"
    );
    describe_counter!(SESSION_CHANGES, Unit::Count, "Session rows that leaders of shards brought");
    describe_counter!(RESYNCS, Unit::Count, "Times a leader was asked for all rows of its shard");
    describe_counter!(
        REQUESTS_REFUSED,
        Unit::Count,
        "gRPC requests that were refused, by `reason`"
    );
    describe_counter!(
        ADMIN_REQUESTS,
        Unit::Count,
        "Requests of the admin API, by `code` of the status"
    );
    describe_histogram!(ADMIN_REQUEST, Unit::Seconds, "Time of one request of the admin API");
}

/// Whether this process is elected.
pub(crate) fn elected(elected: bool) {
    gauge!(ELECTED).set(flag(elected));
}

/// Whether the store answers.
pub(crate) fn store_up(up: bool) {
    gauge!(STORE_UP).set(flag(up));
}

pub(crate) fn store_synced(took: Duration) {
    histogram!(STORE_SYNC).record(took);
}

/// When the first certificate of a file ends, in seconds since the Unix epoch.
pub(crate) fn certificate_expiry(file: &str, timestamp_s: i64) {
    gauge!(CERTIFICATE_EXPIRY, "file" => file.to_owned()).set(timestamp_s as f64);
}

/// One request of the admin API was answered with this status.
pub(crate) fn admin_request(code: u16, took: Duration) {
    counter!(ADMIN_REQUESTS, "code" => code.to_string()).increment(1);
    histogram!(ADMIN_REQUEST).record(took);
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

/// What the controller exports; all of it is 0 again when it ends, and 0 before the first.
pub(crate) struct ControllerGauges(());

impl ControllerGauges {
    pub(crate) fn new() -> ControllerGauges {
        let gauges = ControllerGauges(());
        gauges.clear();
        gauges
    }

    pub(crate) fn members(&self, sites_up: usize, gateways_up: usize, version: u64) {
        gauge!(SITES_UP).set(sites_up as f64);
        gauge!(GATEWAYS_UP).set(gateways_up as f64);
        gauge!(TOPOLOGY_VERSION).set(version as f64);
    }

    pub(crate) fn filters(&self, count: usize, behind: u64) {
        gauge!(FILTERS).set(count as f64);
        gauge!(FILTERS_BEHIND).set(behind as f64);
    }

    pub(crate) fn storage(&self, figures: StorageFigures) {
        gauge!(TRANSITIONS).set(figures.transitions as f64);
        gauge!(MISSING_BYTES).set(figures.missing_bytes as f64);
        gauge!(WITHOUT_LEADER).set(figures.without_leader as f64);
        gauge!(UNDER_REPLICATED).set(figures.under_replicated as f64);
        gauge!(SITES_DOWN).set(figures.sites_down as f64);
        for (state, count) in STATES.into_iter().zip(figures.states) {
            gauge!(SITES, "state" => state).set(count as f64);
        }
        gauge!(SET_BACK).set(flag(figures.set_back));
    }

    fn clear(&self) {
        self.members(0, 0, 0);
        self.filters(0, 0);
        self.storage(StorageFigures::default());
    }
}

impl Drop for ControllerGauges {
    fn drop(&mut self) {
        self.clear();
    }
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_node_kit::described;
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString,
    };
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;

    /// What was set last, by name.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<BTreeMap<String, f64>>>);

    struct One(String, Seen);

    impl GaugeFn for One {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}
        fn set(&self, value: f64) {
            self.1.0.lock().insert(self.0.clone(), value);
        }
    }

    impl CounterFn for One {
        fn increment(&self, _: u64) {
            self.1.0.lock().insert(self.0.clone(), 1.0);
        }
        fn absolute(&self, _: u64) {}
    }

    impl metrics::HistogramFn for One {
        fn record(&self, value: f64) {
            self.1.0.lock().insert(self.0.clone(), value);
        }
    }

    impl Recorder for Seen {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(One(key.name().to_owned(), self.clone())))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(One(key.name().to_owned(), self.clone())))
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(One(key.name().to_owned(), self.clone())))
        }
    }

    fn full() -> StorageFigures {
        StorageFigures {
            transitions: 1,
            missing_bytes: 2,
            without_leader: 3,
            under_replicated: 4,
            states: [5, 6, 7, 8],
            sites_down: 9,
            set_back: true,
        }
    }

    #[test]
    fn one_that_is_elected_no_longer_exports_nothing_of_the_cluster() {
        let seen = Seen::default();
        metrics::with_local_recorder(&seen, || {
            let gauges = ControllerGauges::new();
            gauges.members(1, 2, 3);
            gauges.filters(4, 5);
            gauges.storage(full());
            assert!(seen.0.lock().values().all(|value| *value > 0.0), "{:?}", seen.0.lock());
            drop(gauges);
        });
        let values = seen.0.lock();
        assert!(values.len() > 10 && values.values().all(|value| *value == 0.0), "{values:?}");
    }

    #[test]
    fn every_metric_is_described() {
        let seen = Seen::default();
        metrics::with_local_recorder(&seen, || {
            elected(true);
            store_up(true);
            store_synced(Duration::ZERO);
            certificate_expiry("ca.pem", 1);
            admin_request(200, Duration::ZERO);
            peer_refused();
            peers_silent(1, 1);
            controller_stalled();
            session_changes(1);
            session_resync();
            covered(Duration::ZERO);
            request_refused("full");
            drop(ControllerGauges::new());
        });
        let described = described::metrics(describe);
        for name in seen.0.lock().keys() {
            let one = described.iter().find(|one| one.name == *name);
            assert!(one.is_some_and(|one| !one.help.is_empty()), "{name}");
        }
        let of_meta = described.iter().filter(|one| one.name.starts_with("holdfast_meta_"));
        assert_eq!(of_meta.count() + 1, seen.0.lock().len(), "described, and exported nowhere");
    }
}
