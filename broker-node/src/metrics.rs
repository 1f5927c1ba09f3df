//! Metrics of the connection side.

use std::sync::LazyLock;

use holdfast_session::Counter;
use metrics::{Gauge, Histogram, counter, gauge, histogram};

/// Clients connected (handshakes included).
static CONNECTIONS: LazyLock<Gauge> = LazyLock::new(|| gauge!("holdfast_gateway_connections"));
/// Age of a message when it is sent to a subscriber, one sample a turn, in s.
static DELIVERED: LazyLock<Histogram> =
    LazyLock::new(|| histogram!("holdfast_durable_delivered_seconds"));

/// How many clients are connected.
pub(crate) fn connections(count: usize) {
    CONNECTIONS.set(count as f64);
}

/// A session began (1) or ended (-1).
pub(crate) fn sessions(durable: bool, change: i32) {
    let kind = if durable { "durable" } else { "regular" };
    gauge!("holdfast_gateway_sessions", "kind" => kind).increment(f64::from(change));
}

/// A connection was refused before it was open.
pub(crate) fn refused(reason: &'static str) {
    counter!("holdfast_gateway_connections_refused_total", "reason" => reason).increment(1);
}

/// The server closed a connection.
pub(crate) fn closed(reason: &'static str) {
    counter!("holdfast_gateway_connections_closed_total", "reason" => reason).increment(1);
}

/// Messages that were not delivered.
pub(crate) fn dropped(kind: Counter, count: u64) {
    let reason = match kind {
        Counter::TooLarge => "too_large",
        Counter::Expired => "expired",
        Counter::Retention => "retention",
        Counter::RecordGone => "record_gone",
        Counter::QueueFull => "queue_full",
    };
    counter!("holdfast_gateway_dropped_total", "reason" => reason).increment(count);
}

/// Messages that were not sent before their connection ended.
pub(crate) fn ended_unsent(count: u64) {
    counter!("holdfast_gateway_dropped_total", "reason" => "connection_ended").increment(count);
}

/// The first message of a turn is sent.
pub(crate) fn delivered(seconds: f64) {
    DELIVERED.record(seconds);
}
