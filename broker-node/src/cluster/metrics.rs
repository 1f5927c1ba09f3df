//! Names of the metrics of the cluster side, with unit and meaning.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

pub(crate) const PUBLISH_DURABLE: &str = "holdfast_gateway_publish_durable_seconds";
pub(crate) const PUBLISHES_STORED: &str = "holdfast_gateway_publishes_stored_total";
const PUBLISHES_REFUSED: &str = "holdfast_gateway_publishes_refused_total";
pub(crate) const REQUESTS_EXPIRED: &str = "holdfast_gateway_requests_expired_total";
pub(crate) const TAIL_RECORDS: &str = "holdfast_gateway_tail_records_total";
pub(crate) const CATCH_UP_PAGES: &str = "holdfast_gateway_catch_up_pages_total";
pub(crate) const CATCH_UP_RECORDS: &str = "holdfast_gateway_catch_up_records_total";
pub(crate) const CATCH_UP_LAG: &str = "holdfast_gateway_catch_up_lag_seconds";
pub(crate) const LINKS: &str = "holdfast_gateway_links";
pub(crate) const DURABLE_FILTERS: &str = "holdfast_gateway_durable_filters";
pub(crate) const STORES_EVERYTHING: &str = "holdfast_gateway_stores_everything";
pub(crate) const TAKE_OVERS: &str = "holdfast_gateway_take_overs_total";
pub(crate) const FORWARDED: &str = "holdfast_gateway_messages_forwarded_total";
pub(crate) const SENT_ELSEWHERE: &str = "holdfast_gateway_cut_off_total";

/// Why publishes are refused, as they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RefusedWhy {
    NoLeader,
    DiskFull,
    Fenced,
    NotRetained,
    Invalid,
}

impl RefusedWhy {
    const ALL: [RefusedWhy; 5] = [
        RefusedWhy::NoLeader,
        RefusedWhy::DiskFull,
        RefusedWhy::Fenced,
        RefusedWhy::NotRetained,
        RefusedWhy::Invalid,
    ];

    /// Counts publishes.
    pub(crate) fn count(self, publishes: u32) {
        let reason = match self {
            RefusedWhy::NoLeader => "no_leader",
            RefusedWhy::DiskFull => "disk_full",
            RefusedWhy::Fenced => "fenced",
            RefusedWhy::NotRetained => "not_retained",
            RefusedWhy::Invalid => "invalid",
        };
        counter!(PUBLISHES_REFUSED, "reason" => reason).increment(u64::from(publishes));
    }
}

/// Declares all of them.
pub(crate) fn describe() {
    describe_histogram!(
        PUBLISH_DURABLE,
        Unit::Seconds,
        "From the first message of a batch to its shard's answer, one sample a batch"
    );
    describe_counter!(
        PUBLISHES_STORED,
        "Publishes that a shard has stored, or had stored before (repeats at QoS 2)"
    );
    describe_counter!(
        PUBLISHES_REFUSED,
        "Publishes for a shard's log that were not stored, by `reason`: no_leader (no leader took them in \
         time), disk_full, fenced (the session is owned elsewhere), not_retained (stored, but not as \
         retained message), invalid"
    );
    describe_counter!(
        REQUESTS_EXPIRED,
        "Claims, commits, reads and other questions to shards that got no answer before their deadline"
    );
    describe_counter!(TAIL_RECORDS, "Messages that came live from the shards");
    describe_counter!(CATCH_UP_PAGES, "Pages that were read from the log for single sessions");
    describe_counter!(CATCH_UP_RECORDS, "Messages in the pages that were read from the log");
    describe_histogram!(
        CATCH_UP_LAG,
        Unit::Seconds,
        "Age of the newest message in a page that was read from the log, one sample a page that has any"
    );
    describe_gauge!(LINKS, "Sites to which there is a working link");
    describe_gauge!(
        DURABLE_FILTERS,
        "Filters of durable sessions in the whole cluster, as known here"
    );
    describe_gauge!(
        STORES_EVERYTHING,
        "1 while every QoS 1 and 2 publish goes to the log for want of a lease or of the set of filters, \
         else 0"
    );
    describe_counter!(TAKE_OVERS, "Connections that ended because their session was claimed anew");
    describe_counter!(
        FORWARDED,
        "Live messages that came for regular sessions from other gateways, or as wills"
    );
    describe_counter!(
        SENT_ELSEWHERE,
        "Times that all clients were sent to other gateways because this one was cut off from a site"
    );
    // A rate sees the first of them only if it knows that there were none before.
    for why in RefusedWhy::ALL {
        why.count(0);
    }
}
