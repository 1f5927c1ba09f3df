//! Limits of one session, and the numbers of the protocol.

/// The protocol that the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1: no reason codes, no properties.
    V3,
    /// MQTT 5.0.
    V5,
}

/// Every queue and window of a session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Unacknowledged inbound QoS 1 and 2 messages; told to the client in CONNACK.
    pub receive_maximum: u16,
    /// Highest inbound topic alias; told to the client in CONNACK.
    pub topic_alias_maximum: u16,
    /// Unacknowledged outbound messages: the smaller of ours and the client's receive maximum.
    pub window: u16,
    /// Largest packet that the client takes, in bytes.
    pub client_packet_bytes_max: u32,
    /// Records kept in memory before they are sent, in bytes.
    pub buffer_bytes_max: usize,
    /// Records kept in memory before they are sent.
    pub buffer_records_max: usize,
    /// What one page of a read is expected to hold, in bytes.
    pub page_bytes: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait.
    pub operations_max: usize,
    /// Time between a change and its commit, in ms.
    pub commit_interval_ms: u64,
    /// Time before a failed read, attach or commit is tried again, in ms.
    pub retry_ms: u64,
}

/// Reason codes of MQTT 5 (§2.4) that the session uses.
pub mod reason {
    /// No error.
    pub const SUCCESS: u8 = 0x00;
    /// UNSUBACK: nothing was deleted.
    pub const NO_SUBSCRIPTION: u8 = 0x11;
    /// DISCONNECT of a client that wants its will published.
    pub const WITH_WILL: u8 = 0x04;
    /// Unspecified error.
    pub const UNSPECIFIED: u8 = 0x80;
    /// The packet does not follow its format.
    pub const MALFORMED: u8 = 0x81;
    /// The packet is not allowed here.
    pub const PROTOCOL_ERROR: u8 = 0x82;
    /// The server cannot do this.
    pub const IMPLEMENTATION: u8 = 0x83;
    /// CONNACK: unknown protocol level.
    pub const UNSUPPORTED_VERSION: u8 = 0x84;
    /// CONNACK: client id refused.
    pub const CLIENT_ID: u8 = 0x85;
    /// CONNACK: not now.
    pub const UNAVAILABLE: u8 = 0x88;
    /// Too much to do.
    pub const BUSY: u8 = 0x89;
    /// The server stops.
    pub const SHUTTING_DOWN: u8 = 0x8B;
    /// No such authentication method.
    pub const BAD_AUTHENTICATION: u8 = 0x8C;
    /// Nothing came for one and a half keep-alive intervals.
    pub const KEEP_ALIVE: u8 = 0x8D;
    /// Another connection owns the session.
    pub const TAKEN_OVER: u8 = 0x8E;
    /// Topic filter breaks the rules.
    pub const FILTER_INVALID: u8 = 0x8F;
    /// Topic name breaks the rules.
    pub const TOPIC_INVALID: u8 = 0x90;
    /// The packet id is not in use.
    pub const ID_NOT_FOUND: u8 = 0x92;
    /// More unacknowledged messages than allowed.
    pub const RECEIVE_MAXIMUM: u8 = 0x93;
    /// Topic alias out of range or unknown.
    pub const ALIAS_INVALID: u8 = 0x94;
    /// Larger than the maximum packet size.
    pub const TOO_LARGE: u8 = 0x95;
    /// A limit of the server is reached.
    pub const QUOTA: u8 = 0x97;
    /// The operator ends the connection.
    pub const ADMINISTRATIVE: u8 = 0x98;
    /// The payload is not what its format indicator says.
    pub const PAYLOAD_FORMAT: u8 = 0x99;
    /// Another gateway serves the client from now on.
    pub const USE_ANOTHER_SERVER: u8 = 0x9C;
    /// Shared subscriptions are not offered.
    pub const SHARED_UNSUPPORTED: u8 = 0x9E;
}
