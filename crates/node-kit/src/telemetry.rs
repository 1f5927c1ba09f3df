//! Logs to stderr and the Prometheus recorder.

use std::io::{self, IsTerminal};

use metrics::{counter, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;

use crate::described::{self, Described};

pub use metrics_exporter_prometheus::PrometheusHandle;

/// Upper bounds of every histogram whose name ends in `_seconds`.
const SECONDS_BUCKETS: &[f64] = &[
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1,
    0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// Upper bounds of every histogram whose name ends in `_bytes`.
const BYTES_BUCKETS: &[f64] = &[
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Upper bounds of every other histogram: counts.
const COUNT_BUCKETS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// Our own steps, and other crates' only where something is wrong. openraft reports each step of an
/// election and each failed replication; what matters of it the storage node says itself.
const DEFAULT_FILTER: &str = "info,openraft=off,sled=warn,h2=warn,hyper=warn,tower=warn";

/// Starts logging (`RUST_LOG` is added to what is logged by default, as `debug`, or `storage_node=debug`;
/// without colours unless stderr is a terminal) and metrics, which `describe` describes, and logs which process this is. Call once,
/// first in `main`.
pub fn init(role: &str, name: &str, describe: fn()) -> PrometheusHandle {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = filter(&wanted);
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
    let recorder = builder().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("metrics were started before; this handle stays empty");
    }
    describe();
    begin_at_zero(&described::collected(describe));
    tracing::info!(
        role,
        name,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "starting"
    );
    handle
}

/// A counter that is first seen at 1 was never seen to rise: no rate shows its first event, which may
/// be the one that matters. With labels there is no telling which of their values will come.
fn begin_at_zero(metrics: &[Described]) {
    for metric in metrics.iter().filter(|metric| !metric.has_labels()) {
        match metric.kind {
            "counter" => counter!(metric.name.clone()).increment(0),
            "histogram" => drop(histogram!(metric.name.clone())),
            _ => {}
        }
    }
}

/// The default with the wanted directives after it: a level alone replaces `info` and leaves what other crates
/// say as it is. What cannot be read is left out.
fn filter(wanted: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{DEFAULT_FILTER},{wanted}"))
}

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS))
        .and_then(|b| b.set_buckets(COUNT_BUCKETS))
        // Only an empty list is refused, and these are not.
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_without_labels_are_there_before_their_first_event() {
        let listed = described::collected(|| {
            metrics::describe_counter!("holdfast_a_total", "Events");
            metrics::describe_counter!("holdfast_b_total", "Events, by `reason`");
            metrics::describe_histogram!("holdfast_c_seconds", "Time");
        });
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || begin_at_zero(&listed));
        let text = handle.render();
        assert!(text.contains("\nholdfast_a_total 0\n"), "{text}");
        assert!(!text.contains("holdfast_b_total"), "{text}");
        assert!(text.contains("\nholdfast_c_seconds_count 0\n"), "{text}");
    }

    #[test]
    fn a_wanted_level_does_not_let_others_speak() {
        let shown = |wanted: &str| filter(wanted).to_string();
        assert!(shown("").contains("info") && shown("").contains("openraft=off"));
        let debug = shown("debug");
        assert!(debug.contains("debug") && debug.contains("openraft=off"), "{debug}");
        assert!(!debug.contains("info"), "{debug}");
        let one = shown("storage_node=debug");
        assert!(one.contains("info") && one.contains("storage_node=debug"), "{one}");
        assert!(shown("openraft=info").contains("openraft=info"));
    }

    #[test]
    fn histograms_get_buckets_by_unit() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("holdfast_fsync_seconds").record(0.0004);
            metrics::histogram!("holdfast_batch_records").record(3.0);
        });
        let text = handle.render();
        assert!(text.contains("holdfast_fsync_seconds_bucket{le=\"0.0005\"} 1"), "{text}");
        assert!(text.contains("holdfast_batch_records_bucket{le=\"4\"} 1"), "{text}");
    }
}
