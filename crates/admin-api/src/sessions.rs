use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A durable or connected session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// The client's id.
    pub client_id: String,
    /// Tenant; 0 while there is one only.
    pub namespace: u32,
    /// Shard that keeps the session.
    pub shard: u32,
    /// Raised by every connection.
    pub epoch: u64,
    /// A client is connected.
    pub connected: bool,
    /// Name of the gateway that it is connected to.
    pub gateway: Option<String>,
    /// Life after the connection in seconds; absent: for ever.
    pub expiry_interval_s: Option<u32>,
    /// When the client left.
    pub disconnected_ms: Option<u64>,
    /// When the session ends, if the client does not come back; absent: never, or it is connected.
    pub expires_ms: Option<u64>,
    /// Last claim, commit or disconnect.
    pub last_used_ms: u64,
    /// 4 is MQTT 3.1.1, 5 is MQTT 5.0.
    pub protocol_level: u32,
    /// Number of subscriptions.
    pub subscription_count: u32,
    /// Messages that were removed before the session had read them.
    pub lost: u64,
    /// What it has not read; absent if it was not asked for or could not be counted now.
    pub lag: Option<Lag>,
    /// Its subscriptions; only if one session is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<Vec<SessionSubscription>>,
}

/// What a session has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lag {
    /// Messages that were not taken for it yet. Expired ones count, and its own where it asked for none of them.
    pub unread: u64,
    /// Messages that were sent, or are about to be, and are not acknowledged.
    pub in_flight: u64,
    /// Both together.
    pub messages: u64,
    /// When the oldest of them was stored; absent if there is none. On a page of sessions those in flight are not
    /// looked at.
    pub oldest_ms: Option<u64>,
    /// Age of the oldest in seconds; 0 if there is none.
    pub oldest_age_s: u64,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionSubscription {
    /// Topic filter.
    pub filter: String,
    /// Highest QoS that is delivered.
    pub qos: u8,
    /// Messages of the client itself are left out.
    pub no_local: bool,
    /// RETAIN of published messages is kept.
    pub retain_as_published: bool,
    /// 0: retained messages are sent at every subscribe, 1: at a new one, 2: never.
    pub retain_handling: u8,
    /// Subscription identifier; absent: none.
    pub identifier: Option<u32>,
}

/// Which sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionQuery {
    /// Client ids that begin so.
    pub prefix: Option<String>,
    /// Only those that are connected, or are not.
    pub connected: Option<bool>,
    /// Only those with at least this many unacknowledged messages; counts lag. Sessions whose lag cannot be counted
    /// now stay on the page.
    pub lag_min: Option<u64>,
    /// Count the lag of each.
    pub lag: Option<bool>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// 1 to 1000; default 100.
    pub limit: Option<u32>,
}

/// A page of sessions, by client id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionPage {
    /// At most `limit`; fewer, even none, also before the last page if a filter left some out.
    pub sessions: Vec<Session>,
    /// `after` of the next page; absent at the end.
    pub next: Option<String>,
}

/// How much of a backlog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BacklogQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// 1 to 1000; default 100.
    pub limit: Option<u32>,
}

/// Messages that a session has not acknowledged, those in flight first, then by time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backlog {
    /// At most `limit`.
    pub messages: Vec<BacklogMessage>,
    /// `after` of the next page; absent at the end.
    pub next: Option<String>,
}

/// An unacknowledged message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BacklogMessage {
    /// Topic.
    pub topic: String,
    /// QoS that it was published with.
    pub qos: u8,
    /// Shard that keeps it.
    pub shard: u32,
    /// Position in the shard.
    pub position: u64,
    /// When it was stored.
    pub time_ms: u64,
    /// Packet id, if it is in flight.
    pub packet_id: Option<u16>,
    /// Client that published it.
    pub publisher: String,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Payload as text; absent if it is no UTF-8 or above 64 KiB.
    pub payload: Option<String>,
    /// Payload in Base64, if it is no text; absent above 64 KiB.
    pub payload_base64: Option<String>,
    /// It has expired: it will not be delivered.
    pub expired: bool,
}
