//! What the cluster side of a gateway needs to know, with its limits.

use holdfast_proto::version::Versions;

/// Configuration of the cluster side. The process's own config file is the connection side's matter;
/// it fills this in.
#[derive(Debug, Clone)]
pub(crate) struct ClusterConfig {
    /// Name of this gateway, for people.
    pub(crate) name: String,
    /// host:port where this gateway serves gRPC to other gateways.
    pub(crate) grpc_listen: String,
    /// host:port under which others reach `grpc_listen`; that itself if absent.
    pub(crate) grpc_advertise: Option<String>,
    /// host:port for clients, told to the metadata service.
    pub(crate) mqtt_address: String,
    /// host:port of every metadata service.
    pub(crate) meta: Vec<String>,
    /// Protocol versions that this gateway speaks to other processes.
    pub(crate) versions: Versions,
    /// Largest batch that is sent to a shard, in bytes.
    pub(crate) batch_bytes_max: usize,
    /// Unanswered batches per shard.
    pub(crate) batches_in_flight_max: usize,
    /// Bytes of publishes that may wait for one shard before its publishers are held back.
    pub(crate) shard_queue_bytes_max: usize,
    /// How long a publish may wait for its shard, in ms; a leader refuses later ones.
    pub(crate) append_deadline_ms: u64,
    /// How long a claim, commit or other proposal is retried, in ms.
    pub(crate) propose_deadline_ms: u64,
    /// How long a read or a question for retained messages is retried, in ms.
    pub(crate) read_deadline_ms: u64,
    /// How long a new subscription may wait to be covered and active everywhere, in ms.
    pub(crate) subscribe_deadline_ms: u64,
    /// How long an old owner may take to hand over a session, in ms.
    pub(crate) take_over_ms: u64,
    /// How long this gateway may be cut off from a leader that its shard's other replicas hear before
    /// clients are sent elsewhere, in ms; an election must fit in.
    pub(crate) cut_after_ms: u64,
    /// Bytes of one shard's tail that may be under way.
    pub(crate) tail_credit_bytes: u64,
    /// Bytes of one page of a read.
    pub(crate) page_bytes_max: u32,
    /// Bytes that may wait for another gateway's regular sessions before messages are dropped.
    pub(crate) forward_buffer_bytes_max: usize,
    /// Pause after a refused or failed request before it is sent again, in ms.
    pub(crate) retry_ms: u64,
    /// Longest pause between attempts to connect to a peer, in ms.
    pub(crate) reconnect_ms_max: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            name: String::new(),
            grpc_listen: String::new(),
            grpc_advertise: None,
            mqtt_address: String::new(),
            meta: Vec::new(),
            versions: Versions::default(),
            batch_bytes_max: 1 << 20,
            batches_in_flight_max: 4,
            shard_queue_bytes_max: 32 << 20,
            append_deadline_ms: 30_000,
            propose_deadline_ms: 30_000,
            read_deadline_ms: 5_000,
            subscribe_deadline_ms: 15_000,
            take_over_ms: 300,
            cut_after_ms: 4_000,
            tail_credit_bytes: 1 << 20,
            page_bytes_max: 256 << 10,
            forward_buffer_bytes_max: 8 << 20,
            retry_ms: 100,
            reconnect_ms_max: 1_000,
        }
    }
}
