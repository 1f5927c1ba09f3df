//! The `mqtt` section: limits and times of client connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits and times of client connections.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MqttConfig {
    /// Clients connected at once; more are closed at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(crate) max_connections: usize,
    /// Time from the connection to its whole CONNECT, in ms.
    #[schemars(range(min = 100, max = 600_000))]
    pub(crate) connect_timeout_ms: u64,
    /// Largest CONNECT, in bytes.
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub(crate) connect_bytes_max: usize,
    /// Largest packet from a client, in bytes; told in CONNACK.
    #[schemars(range(min = 1024, max = 33_554_432))]
    pub(crate) packet_bytes_max: usize,
    /// Unacknowledged QoS 1 and 2 messages from a client; told in CONNACK.
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) receive_maximum: u16,
    /// Topic aliases from a client; told in CONNACK. 0: none.
    #[schemars(range(min = 0, max = 65_535))]
    pub(crate) topic_alias_maximum: u16,
    /// Unacknowledged messages towards a client, if it allows more.
    #[schemars(range(min = 1, max = 16_384))]
    pub(crate) in_flight_max: u16,
    /// Bytes of messages that one session keeps in memory before they are sent.
    #[schemars(range(min = 4096, max = 1_073_741_824))]
    pub(crate) session_buffer_bytes_max: usize,
    /// Messages that one session keeps in memory before they are sent.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(crate) session_buffer_records_max: usize,
    /// Bytes of live messages that wait in one connection's inbox.
    #[schemars(range(min = 4096, max = 1_073_741_824))]
    pub(crate) inbox_bytes_max: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets of one client that wait.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) operations_max: usize,
    /// Bytes that wait for one client's socket before its session stops sending.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub(crate) write_buffer_bytes_max: usize,
    /// Longest keep alive, in s; longer ones, and none, are lowered to it (MQTT 5). 0: no limit.
    #[schemars(range(min = 0, max = 65_535))]
    pub(crate) keep_alive_max_s: u16,
    /// Session expiry of MQTT 3.1.1 clients with clean session 0, in s.
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub(crate) session_expiry_default_s: u32,
    /// Longest session expiry, in s; 4294967295 is never, 0 lets no session outlive its connection.
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub(crate) session_expiry_max_s: u32,
    /// Time between a change of a session's progress and its commit, in ms.
    #[schemars(range(min = 10, max = 1000))]
    pub(crate) commit_interval_ms: u64,
    /// Time before a session asks again for what failed, in ms.
    #[schemars(range(min = 10, max = 60_000))]
    pub(crate) retry_ms: u64,
    /// Time that a closing client has to read what was sent to it, in ms.
    #[schemars(range(min = 0, max = 60_000))]
    pub(crate) linger_ms: u64,
    /// Time that a gateway that stops goes on accepting clients, not ready, in ms: load balancers need
    /// a moment to see it.
    #[schemars(range(min = 0, max = 600_000))]
    pub(crate) drain_delay_ms: u64,
    /// Time over which the connections of a gateway that stops are ended, in ms, so that not all
    /// clients connect elsewhere at once; at most `drain_timeout_ms`.
    #[schemars(range(min = 0, max = 600_000))]
    pub(crate) drain_spread_ms: u64,
    /// Time that one client of a gateway that stops has to acknowledge what it was sent, and its own
    /// messages to be acknowledged, in ms.
    #[schemars(range(min = 0, max = 60_000))]
    pub(crate) drain_settle_ms: u64,
    /// How long the wills of clients of a gateway that stops wait for them to come back, in s.
    #[schemars(range(min = 0, max = 300))]
    pub(crate) drain_will_grace_s: u32,
    /// Time that connections have to end when the gateway stops, in ms.
    #[schemars(range(min = 100, max = 600_000))]
    pub(crate) drain_timeout_ms: u64,
    /// Accept clients without authentication. There is no other way yet: it has to be true.
    pub(crate) allow_anonymous: bool,
}

impl Default for MqttConfig {
    fn default() -> Self {
        MqttConfig {
            max_connections: 1_000_000,
            connect_timeout_ms: 10_000,
            connect_bytes_max: 64 << 10,
            packet_bytes_max: 1 << 20,
            receive_maximum: 1024,
            topic_alias_maximum: 32,
            in_flight_max: 1024,
            session_buffer_bytes_max: 256 << 10,
            session_buffer_records_max: 1000,
            inbox_bytes_max: 256 << 10,
            operations_max: 256,
            write_buffer_bytes_max: 256 << 10,
            keep_alive_max_s: 0,
            session_expiry_default_s: 604_800,
            session_expiry_max_s: u32::MAX,
            commit_interval_ms: 1000,
            retry_ms: 100,
            linger_ms: 1000,
            drain_delay_ms: 0,
            drain_spread_ms: 2000,
            drain_settle_ms: 1000,
            drain_will_grace_s: 30,
            drain_timeout_ms: 10_000,
            allow_anonymous: true,
        }
    }
}
