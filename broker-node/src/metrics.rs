//! Names of all metrics of the connection side, with unit and meaning.
//!
//! What is counted for every packet is counted in a cell of the thread, see `tally`, and told from there.

use std::sync::LazyLock;

use holdfast_session::{Close, Counter, Protocol, reason};
use metrics::{
    Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const CONNECTIONS: &str = "holdfast_gateway_connections";
const SESSIONS: &str = "holdfast_gateway_sessions";
pub(crate) const SUBSCRIPTIONS: &str = "holdfast_gateway_subscriptions";
pub(crate) const IN_FLIGHT: &str = "holdfast_gateway_in_flight";
const ACCEPTED: &str = "holdfast_gateway_connects_accepted_total";
const REFUSED: &str = "holdfast_gateway_connects_refused_total";
const CLOSED: &str = "holdfast_gateway_connections_closed_total";
const SUBSCRIBES: &str = "holdfast_gateway_subscribes_total";
const UNSUBSCRIBES: &str = "holdfast_gateway_unsubscribes_total";
pub(crate) const RECEIVED: &str = "holdfast_gateway_messages_received_total";
pub(crate) const SENT: &str = "holdfast_gateway_messages_sent_total";
pub(crate) const RECEIVED_BYTES: &str = "holdfast_gateway_received_bytes_total";
pub(crate) const SENT_BYTES: &str = "holdfast_gateway_sent_bytes_total";
const DROPPED: &str = "holdfast_gateway_messages_dropped_total";
const PUBLISH: &str = "holdfast_gateway_publish_seconds";
const DELIVERY: &str = "holdfast_gateway_delivery_seconds";

/// Why messages are dropped, as they are counted.
const DROPPED_WHY: [&str; 7] = [
    "too_large",
    "expired",
    "retention",
    "record_gone",
    "queue_full",
    "connection_ended",
    "forward_buffer_full",
];

/// Declares the metrics of both sides.
pub(crate) fn describe() {
    crate::cluster::describe_metrics();
    describe_gauge!(CONNECTIONS, "Client connections, those in the middle of CONNECT included");
    describe_gauge!(SESSIONS, "Connected sessions, by `kind`: durable or regular");
    describe_gauge!(SUBSCRIPTIONS, "Subscriptions of connected sessions");
    describe_gauge!(IN_FLIGHT, "Messages sent to clients and not acknowledged by them");
    describe_counter!(ACCEPTED, "Clients that were accepted, by `protocol`: 3.1.1 or 5.0");
    describe_counter!(
        REFUSED,
        "Clients that were refused before or by CONNACK, by `reason` and by the `code` of CONNACK (none: \
         closed without one)"
    );
    describe_counter!(
        CLOSED,
        "Connections that the gateway ended, by `reason` and by the `code` that an MQTT 5 client is told"
    );
    describe_counter!(
        SUBSCRIBES,
        "Filters that clients asked for, by `result`: granted or refused"
    );
    describe_counter!(UNSUBSCRIBES, "Filters that clients gave up");
    describe_counter!(RECEIVED, "PUBLISH packets from clients, by `qos`");
    describe_counter!(SENT, "PUBLISH packets to clients, by `qos`");
    describe_counter!(RECEIVED_BYTES, Unit::Bytes, "Bytes read from clients");
    describe_counter!(SENT_BYTES, Unit::Bytes, "Bytes written to clients");
    describe_counter!(
        DROPPED,
        "Messages that were not delivered, by `reason`: too_large (for the client), expired, retention \
         (removed unread), record_gone (removed while in flight), queue_full (slow regular session), \
         connection_ended, forward_buffer_full (slow other gateway)"
    );
    describe_histogram!(
        PUBLISH,
        Unit::Seconds,
        "From the reading of a QoS 1 or 2 PUBLISH to the writing of its PUBACK or PUBREC; of each client's \
         one at a time is measured"
    );
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "Age of a message when it is sent to a subscriber, one sample a turn"
    );
    // A rate sees the first of them only if it knows that there were none before.
    for reason in DROPPED_WHY {
        counter!(DROPPED, "reason" => reason).increment(0);
    }
}

/// How many clients are connected.
pub(crate) fn connections(count: usize) {
    static GAUGE: LazyLock<Gauge> = LazyLock::new(|| gauge!(CONNECTIONS));
    GAUGE.set(count as f64);
}

/// A session began (1) or ended (-1).
pub(crate) fn sessions(durable: bool, change: i32) {
    let kind = if durable { "durable" } else { "regular" };
    gauge!(SESSIONS, "kind" => kind).increment(f64::from(change));
}

/// A client was accepted.
pub(crate) fn accepted(protocol: Protocol) {
    let protocol = match protocol {
        Protocol::V3 => "3.1.1",
        Protocol::V5 => "5.0",
    };
    counter!(ACCEPTED, "protocol" => protocol).increment(1);
}

/// A connection was refused before it was open; with the code of CONNACK, if one was sent.
pub(crate) fn refused(reason: &'static str, code: Option<u8>) {
    let code = code.map_or_else(|| "none".to_owned(), hex);
    counter!(REFUSED, "reason" => reason, "code" => code).increment(1);
}

/// The server closed a connection.
pub(crate) fn closed(close: Close) {
    let reason = close.cause.replace(' ', "_");
    counter!(CLOSED, "reason" => reason, "code" => hex(close.reason)).increment(1);
}

fn hex(code: u8) -> String {
    format!("0x{code:02x}")
}

/// SUBACK says this of its filters.
pub(crate) fn subscribed(codes: &[u8]) {
    let refused = codes.iter().filter(|code| **code >= reason::UNSPECIFIED).count();
    counter!(SUBSCRIBES, "result" => "granted").increment((codes.len() - refused) as u64);
    counter!(SUBSCRIBES, "result" => "refused").increment(refused as u64);
}

/// UNSUBACK says this of its filters.
pub(crate) fn unsubscribed(codes: &[u8]) {
    let gone = codes.iter().filter(|code| **code == reason::SUCCESS).count();
    counter!(UNSUBSCRIBES).increment(gone as u64);
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
    counter!(DROPPED, "reason" => reason).increment(count);
}

/// Messages that were not sent before their connection ended.
pub(crate) fn ended_unsent(count: u64) {
    counter!(DROPPED, "reason" => "connection_ended").increment(count);
}

/// Live messages that another gateway was too slow to take.
pub(crate) fn forward_buffer_full(count: u64) {
    counter!(DROPPED, "reason" => "forward_buffer_full").increment(count);
}

/// The acknowledgement of a publish is written.
pub(crate) fn published(seconds: f64) {
    static HISTOGRAM: LazyLock<Histogram> = LazyLock::new(|| histogram!(PUBLISH));
    HISTOGRAM.record(seconds);
}

/// The first message of a turn is sent.
pub(crate) fn delivered(seconds: f64) {
    static HISTOGRAM: LazyLock<Histogram> = LazyLock::new(|| histogram!(DELIVERY));
    HISTOGRAM.record(seconds);
}
