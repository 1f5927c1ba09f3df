//! Configuration of a gateway: one TOML file.
//!
//! What a number may be stands at its field, for the schema; `validate` reads it from there.

mod limits;
mod mqtt;

use std::net::SocketAddr;

use holdfast_node_kit::config::{
    Invalid, Validate, check_address, check_addresses, check_name, check_range, check_ranges,
};
use holdfast_proto::version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Versions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::limits::ClusterLimits;
pub(crate) use self::mqtt::MqttConfig;
use crate::cluster::ClusterConfig;

/// Configuration of a gateway (TOML).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of this gateway, for people; unique in the cluster. 1 to 63 letters, digits, '-', '_' or '.'.
    pub(crate) name: String,
    /// host:port for MQTT clients.
    pub(crate) mqtt_listen: String,
    /// host:port for other gateways.
    pub(crate) grpc_listen: String,
    /// host:port under which others reach `grpc_listen`; that itself if absent, which then has to be an
    /// address of this machine, not all of them.
    #[serde(default)]
    pub(crate) grpc_advertise: Option<String>,
    /// host:port under which clients reach `mqtt_listen`; that itself if absent, as for `grpc_advertise`.
    /// Clients of a gateway that stops are told that of another one.
    #[serde(default)]
    pub(crate) mqtt_advertise: Option<String>,
    /// host:port for /metrics and /health.
    pub(crate) http_listen: String,
    /// host:port of every metadata service.
    pub(crate) meta: Vec<String>,
    /// Threads that serve; 0: one per core.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1024))]
    pub(crate) worker_threads: usize,
    /// Newest protocol version to speak to other processes: lower during a rolling upgrade.
    #[serde(default = "newest_protocol_version")]
    #[schemars(range(min = PROTOCOL_VERSION_MIN, max = PROTOCOL_VERSION))]
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
        check_advertised("grpc_advertise", self.grpc_advertise.as_deref(), &self.grpc_listen)?;
        check_advertised("mqtt_advertise", self.mqtt_advertise.as_deref(), &self.mqtt_listen)?;
        check_addresses("meta", &self.meta)?;
        check_ranges(self)?;
        let (mqtt, cluster) = (&self.mqtt, &self.cluster);
        check_range("mqtt.drain_spread_ms", mqtt.drain_spread_ms, 0..=mqtt.drain_timeout_ms)?;
        check_range(
            "cluster.batch_bytes_max",
            cluster.batch_bytes_max,
            0..=cluster.shard_queue_bytes_max,
        )?;
        if !mqtt.allow_anonymous {
            return Err(Invalid::new("mqtt.allow_anonymous", mqtt.allow_anonymous, "true"));
        }
        Ok(())
    }
}

/// What others are told: `listen` if nothing else is said, unless that is no place to go to.
fn check_advertised(field: &str, advertise: Option<&str>, listen: &str) -> Result<(), Invalid> {
    let told = advertise.unwrap_or(listen);
    check_address(field, told)?;
    let is_nowhere = told.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified());
    if is_nowhere {
        let allowed = "the host:port at which others reach it, not all addresses of this machine";
        return Err(Invalid::new(field, told, allowed));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
