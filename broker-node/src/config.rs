//! Configuration of a gateway: one TOML file.

use holdfast_node_kit::config::{
    Invalid, Validate, check_address, check_addresses, check_name, check_range,
};
use holdfast_proto::version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Versions};
use serde::Deserialize;

use crate::cluster::ClusterConfig;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of this gateway, for people; unique in the cluster.
    pub(crate) name: String,
    /// host:port for MQTT clients.
    pub(crate) mqtt_listen: String,
    /// host:port for other gateways.
    pub(crate) grpc_listen: String,
    /// host:port under which others reach `grpc_listen`; that itself if absent.
    #[serde(default)]
    pub(crate) grpc_advertise: Option<String>,
    /// host:port under which clients reach `mqtt_listen`; that itself if absent.
    #[serde(default)]
    pub(crate) mqtt_advertise: Option<String>,
    /// host:port for /metrics and /health.
    pub(crate) http_listen: String,
    /// host:port of every metadata service.
    pub(crate) meta: Vec<String>,
    /// Threads that serve; 0: one per core.
    #[serde(default)]
    pub(crate) worker_threads: usize,
    /// Newest protocol version to speak to other processes: lower during a rolling upgrade.
    #[serde(default = "newest_protocol_version")]
    pub(crate) protocol_version_max: u32,
    /// Limits and times of client connections.
    #[serde(default)]
    pub(crate) mqtt: MqttConfig,
    /// Limits and times towards the cluster.
    #[serde(default)]
    pub(crate) cluster: ClusterLimits,
}

fn newest_protocol_version() -> u32 {
    PROTOCOL_VERSION
}

/// Limits and times of client connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MqttConfig {
    /// Clients connected at once; more are closed at once.
    pub(crate) max_connections: usize,
    /// Time from the connection to its whole CONNECT, in ms.
    pub(crate) connect_timeout_ms: u64,
    /// Largest CONNECT, in bytes.
    pub(crate) connect_bytes_max: usize,
    /// Largest packet from a client, in bytes; told in CONNACK.
    pub(crate) packet_bytes_max: usize,
    /// Unacknowledged QoS 1 and 2 messages from a client; told in CONNACK.
    pub(crate) receive_maximum: u16,
    /// Topic aliases from a client; told in CONNACK.
    pub(crate) topic_alias_maximum: u16,
    /// Unacknowledged messages towards a client, if it allows more.
    pub(crate) in_flight_max: u16,
    /// Bytes of messages that one session keeps in memory before they are sent.
    pub(crate) session_buffer_bytes_max: usize,
    /// Messages that one session keeps in memory before they are sent.
    pub(crate) session_buffer_records_max: usize,
    /// Bytes of live messages that wait in one connection's inbox.
    pub(crate) inbox_bytes_max: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets of one client that wait.
    pub(crate) operations_max: usize,
    /// Bytes that wait for one client's socket before its session stops sending.
    pub(crate) write_buffer_bytes_max: usize,
    /// Longest keep alive in s; longer ones, and none, are lowered to it (MQTT 5). 0: no limit.
    pub(crate) keep_alive_max_s: u16,
    /// Session expiry of MQTT 3.1.1 clients with clean session 0, in s.
    pub(crate) session_expiry_default_s: u32,
    /// Longest session expiry in s; 4294967295 is never.
    pub(crate) session_expiry_max_s: u32,
    /// Time between a change of a session's progress and its commit, in ms.
    pub(crate) commit_interval_ms: u64,
    /// Time before a session asks again for what failed, in ms.
    pub(crate) retry_ms: u64,
    /// Time that a closing client has to read what was sent to it, in ms.
    pub(crate) linger_ms: u64,
    /// Time that a gateway that stops goes on accepting clients, not ready, in ms: load balancers need
    /// a moment to see it.
    pub(crate) drain_delay_ms: u64,
    /// Time over which the connections of a gateway that stops are ended, in ms, so that not all
    /// clients connect elsewhere at once.
    pub(crate) drain_spread_ms: u64,
    /// Time that one client of a gateway that stops has to acknowledge what it was sent, and its own
    /// messages to be acknowledged, in ms.
    pub(crate) drain_settle_ms: u64,
    /// How long the wills of clients of a gateway that stops wait for them to come back, in s.
    pub(crate) drain_will_grace_s: u32,
    /// Time that connections have to end when the gateway stops, in ms.
    pub(crate) drain_timeout_ms: u64,
    /// Accept clients without authentication. There is no other way yet.
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

/// Limits and times towards the cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterLimits {
    /// Largest batch of publishes for a shard, in bytes.
    pub(crate) batch_bytes_max: usize,
    /// Unanswered batches per shard.
    pub(crate) batches_in_flight_max: usize,
    /// Bytes of publishes that wait for one shard before its publishers are held back.
    pub(crate) shard_queue_bytes_max: usize,
    /// Time that a claim, commit or other proposal is retried, in ms.
    pub(crate) propose_deadline_ms: u64,
    /// Time that a new subscription may take, in ms.
    pub(crate) subscribe_deadline_ms: u64,
    /// Time that an old owner has to hand over a session, in ms.
    pub(crate) take_over_ms: u64,
    /// Time that the gateway may be cut off from a leader that others hear before its clients are sent to
    /// other gateways, in ms. An election must fit in.
    pub(crate) cut_after_ms: u64,
    /// Bytes of one shard's tail that may be under way.
    pub(crate) tail_credit_bytes: u64,
    /// Bytes of one page of a read.
    pub(crate) page_bytes_max: u32,
    /// Bytes that wait for another gateway's regular sessions before messages are dropped.
    pub(crate) forward_buffer_bytes_max: usize,
}

impl Default for ClusterLimits {
    fn default() -> Self {
        let ours = ClusterConfig::default();
        ClusterLimits {
            batch_bytes_max: ours.batch_bytes_max,
            batches_in_flight_max: ours.batches_in_flight_max,
            shard_queue_bytes_max: ours.shard_queue_bytes_max,
            propose_deadline_ms: ours.propose_deadline_ms,
            subscribe_deadline_ms: ours.subscribe_deadline_ms,
            take_over_ms: ours.take_over_ms,
            cut_after_ms: ours.cut_after_ms,
            tail_credit_bytes: ours.tail_credit_bytes,
            page_bytes_max: 64 << 10,
            forward_buffer_bytes_max: ours.forward_buffer_bytes_max,
        }
    }
}

impl Config {
    /// What the cluster side needs.
    pub(crate) fn cluster_config(&self) -> ClusterConfig {
        let limits = &self.cluster;
        ClusterConfig {
            name: self.name.clone(),
            grpc_listen: self.grpc_listen.clone(),
            grpc_advertise: self.grpc_advertise.clone(),
            mqtt_address: self.mqtt_advertise.as_ref().unwrap_or(&self.mqtt_listen).clone(),
            meta: self.meta.clone(),
            versions: Versions::up_to(self.protocol_version_max),
            batch_bytes_max: limits.batch_bytes_max,
            batches_in_flight_max: limits.batches_in_flight_max,
            shard_queue_bytes_max: limits.shard_queue_bytes_max,
            propose_deadline_ms: limits.propose_deadline_ms,
            subscribe_deadline_ms: limits.subscribe_deadline_ms,
            take_over_ms: limits.take_over_ms,
            cut_after_ms: limits.cut_after_ms,
            tail_credit_bytes: limits.tail_credit_bytes,
            page_bytes_max: limits.page_bytes_max,
            forward_buffer_bytes_max: limits.forward_buffer_bytes_max,
            ..ClusterConfig::default()
        }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        check_address("mqtt_listen", &self.mqtt_listen)?;
        check_address("grpc_listen", &self.grpc_listen)?;
        check_address("http_listen", &self.http_listen)?;
        check_addresses("meta", &self.meta)?;
        check_range("worker_threads", self.worker_threads, 0..=1024)?;
        let versions = PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION;
        check_range("protocol_version_max", self.protocol_version_max, versions)?;
        self.mqtt.validate()
    }
}

impl Validate for MqttConfig {
    fn validate(&self) -> Result<(), Invalid> {
        check_range("mqtt.max_connections", self.max_connections, 1..=100_000_000)?;
        check_range("mqtt.connect_timeout_ms", self.connect_timeout_ms, 100..=600_000)?;
        check_range("mqtt.connect_bytes_max", self.connect_bytes_max, 1024..=1 << 20)?;
        check_range("mqtt.packet_bytes_max", self.packet_bytes_max, 1024..=64 << 20)?;
        check_range("mqtt.receive_maximum", self.receive_maximum, 1..=u16::MAX)?;
        check_range("mqtt.in_flight_max", self.in_flight_max, 1..=16_384)?;
        check_range(
            "mqtt.session_buffer_bytes_max",
            self.session_buffer_bytes_max,
            4096..=1 << 30,
        )?;
        check_range(
            "mqtt.session_buffer_records_max",
            self.session_buffer_records_max,
            1..=10_000_000,
        )?;
        check_range("mqtt.operations_max", self.operations_max, 1..=1_000_000)?;
        check_range("mqtt.write_buffer_bytes_max", self.write_buffer_bytes_max, 1024..=1 << 30)?;
        check_range("mqtt.commit_interval_ms", self.commit_interval_ms, 10..=1000)?;
        check_range("mqtt.drain_delay_ms", self.drain_delay_ms, 0..=600_000)?;
        check_range("mqtt.drain_settle_ms", self.drain_settle_ms, 0..=60_000)?;
        check_range("mqtt.drain_will_grace_s", self.drain_will_grace_s, 0..=300)?;
        check_range("mqtt.drain_timeout_ms", self.drain_timeout_ms, 100..=600_000)?;
        check_range("mqtt.drain_spread_ms", self.drain_spread_ms, 0..=self.drain_timeout_ms)?;
        if !self.allow_anonymous {
            return Err(Invalid::new("mqtt.allow_anonymous", self.allow_anonymous, "true"));
        }
        Ok(())
    }
}
