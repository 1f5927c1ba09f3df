//! What the shell does for the core, in the order of the answers.

use std::sync::Arc;

use holdfast_proto::ids::ShardId;
use holdfast_proto::shard::Command;
use holdfast_proto::storage::ReadItem;

use crate::delivery::Delivery;

/// Acknowledgement packets; all look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// PUBACK
    Puback,
    /// PUBREC
    Pubrec,
    /// PUBREL
    Pubrel,
    /// PUBCOMP
    Pubcomp,
}

/// Why the server ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// Reason code for DISCONNECT (MQTT 5).
    pub reason: u8,
    /// For logs and counters.
    pub cause: &'static str,
}

/// How the client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// How long the will waits at least for the client to come back, in s: the gateway stops.
    pub will_grace_s: u32,
    /// DISCONNECT 0x00: the will is not published.
    pub discard_will: bool,
    /// New session expiry interval.
    pub expiry_interval_s: Option<u32>,
}

/// What is counted when something is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Outbound message larger than the client takes.
    TooLarge,
    /// Outbound message expired before it was sent.
    Expired,
    /// Unread positions that retention removed.
    Retention,
    /// In-flight message whose record is gone.
    RecordGone,
    /// QoS 0 message of a regular session whose queue was full.
    QueueFull,
}

/// One thing for the shell to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a PUBLISH.
    Deliver(Delivery),
    /// Send an acknowledgement.
    Ack {
        /// Which packet.
        kind: AckKind,
        /// Whose.
        packet_id: u16,
        /// Reason code (MQTT 5).
        reason: u8,
    },
    /// Send a SUBACK.
    Suback {
        /// Of the SUBSCRIBE.
        packet_id: u16,
        /// One code a filter, as MQTT 5 has them.
        codes: Vec<u8>,
    },
    /// Send an UNSUBACK.
    Unsuback {
        /// Of the UNSUBSCRIBE.
        packet_id: u16,
        /// One code a filter.
        codes: Vec<u8>,
    },
    /// Send a PINGRESP.
    Pong,
    /// Propose a command in the home shard; answered by `Session::outcome`.
    Propose {
        /// Comes back with the answer.
        token: u64,
        /// What to propose.
        command: Box<Command>,
    },
    /// Start live delivery for these filters; answered by `Session::attached`.
    Attach {
        /// Comes back with the answer.
        token: u64,
        /// The session's filters.
        filters: Vec<String>,
    },
    /// Add filters to live delivery; answered by `Session::attached`.
    Subscribe {
        /// Comes back with the answer.
        token: u64,
        /// New filters.
        filters: Vec<String>,
    },
    /// Remove filters from live delivery.
    Unsubscribe {
        /// Gone filters.
        filters: Vec<String>,
    },
    /// Resume live delivery of one shard; answered by `Session::shard_attached`.
    AttachShard(ShardId),
    /// Read pages; each item is answered by `Session::page` or `Session::page_failed`.
    Read {
        /// The session's filters.
        filters: Arc<[String]>,
        /// What to read.
        items: Vec<ReadItem>,
    },
    /// Read retained messages; answered by `Session::retained`.
    Retained {
        /// Comes back with the answer.
        token: u64,
        /// Which.
        filters: Vec<String>,
    },
    /// Count something that was dropped.
    Count(Counter, u64),
    /// The client left; end the session as it says.
    Left(Leave),
}
