use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A connected client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientInfo {
    /// Its id.
    pub client_id: String,
    /// Tenant; 0 while there is one only.
    pub namespace: u32,
    /// Name of its gateway.
    pub gateway: String,
    /// host:port of its end.
    pub remote: String,
    /// 4 is MQTT 3.1.1, 5 is MQTT 5.0.
    pub protocol_level: u32,
    /// Seconds; 0: none.
    pub keep_alive_s: u32,
    /// Its session outlives the connection.
    pub durable: bool,
    /// Life of the session after the connection in seconds; absent: for ever.
    pub expiry_interval_s: Option<u32>,
    /// When it connected.
    pub connected_ms: u64,
    /// Number of subscriptions.
    pub subscription_count: u32,
    /// Messages that it has not acknowledged.
    pub in_flight: u32,
    /// Messages that it published since it connected.
    pub received: u64,
    /// Messages that it was sent since it connected.
    pub sent: u64,
}

/// Which clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ClientQuery {
    /// Client ids that begin so.
    pub prefix: Option<String>,
    /// Only those of this gateway.
    pub gateway: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// 1 to 1000; default 100.
    pub limit: Option<u32>,
}

/// A page of clients, by client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientPage {
    /// At most `limit`.
    pub clients: Vec<ClientInfo>,
    /// Gateways that are up and did not answer: their clients are missing.
    pub unanswered: Vec<String>,
    /// `after` of the next page; absent at the end.
    pub next: Option<String>,
}

/// A subscription with its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionInfo {
    /// Whose it is.
    pub client_id: String,
    /// Topic filter.
    pub filter: String,
    /// Highest QoS that is delivered.
    pub qos: u8,
    /// Its session outlives the connection.
    pub durable: bool,
    /// A client is connected.
    pub connected: bool,
}

/// Which subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubscriptionQuery {
    /// Client ids that begin so.
    pub prefix: Option<String>,
    /// Exactly this filter.
    pub filter: Option<String>,
    /// Filters that match this topic.
    pub topic: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// Clients that are looked at for a page: 1 to 1000; default 100.
    pub limit: Option<u32>,
}

/// A page of subscriptions, by client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionPage {
    /// Those of at most `limit` clients.
    pub subscriptions: Vec<SubscriptionInfo>,
    /// Gateways that are up and did not answer: their clients without a durable session are missing.
    pub unanswered: Vec<String>,
    /// `after` of the next page; absent at the end.
    pub next: Option<String>,
}
