//! Names of the metrics of the cluster side, with unit and meaning.

/// Histogram, seconds: from the first message of a batch to the shard's answer, for every message.
pub(crate) const PUBLISH_DURABLE: &str = "holdfast_publish_durable_seconds";
/// Counter: publishes that a shard has stored or had stored already.
pub(crate) const PUBLISHES_STORED: &str = "holdfast_publishes_stored_total";
/// Counter: durable publishes that were refused or failed.
pub(crate) const PUBLISHES_REFUSED: &str = "holdfast_publishes_refused_total";
/// Counter by `reason`: live messages of regular sessions that were dropped.
pub(crate) const MESSAGES_DROPPED: &str = "holdfast_messages_dropped_total";
/// Counter: questions to shards that got no answer before their deadline.
pub(crate) const REQUESTS_EXPIRED: &str = "holdfast_requests_expired_total";
/// Counter: records that came with the tails.
pub(crate) const TAIL_RECORDS: &str = "holdfast_tail_records_total";
/// Gauge: sites with a working link.
pub(crate) const LINKS: &str = "holdfast_links";
/// Gauge: filters in the durable set.
pub(crate) const DURABLE_FILTERS: &str = "holdfast_durable_filters";
/// Gauge: 1 while every QoS 1 and 2 publish goes to the log for want of a lease or a filter set.
pub(crate) const STORES_EVERYTHING: &str = "holdfast_stores_everything";
/// Counter: sessions that were taken over from another connection.
pub(crate) const TAKE_OVERS: &str = "holdfast_take_overs_total";
/// Counter: live messages that came for regular sessions from other gateways, or as wills.
pub(crate) const FORWARDED: &str = "holdfast_messages_forwarded_total";
