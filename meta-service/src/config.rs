//! The one TOML file of a metadata service.

use std::path::PathBuf;

use holdfast_node_kit::config::{Invalid, Validate, check_address, check_name, check_range};
use serde::Deserialize;

/// Which store is behind the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Embedded; one process.
    #[default]
    Sled,
}

/// Configuration of a metadata service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name in logs.
    pub name: String,
    /// Directory of this process alone; made if it is not there.
    pub data_dir: PathBuf,
    /// host:port for sites and gateways.
    pub grpc_listen: String,
    /// host:port for `/metrics` and `/health`.
    pub http_listen: String,
    /// Which store: `"sled"` (default).
    #[serde(default)]
    pub store: StoreKind,
    /// Shards of the cluster, 1 to 1024; fixed when it forms (default 16).
    #[serde(default = "shards")]
    pub shards: u16,
    /// Replicas of a shard: 1, 3 or 5; the cluster forms when as many sites are up (default 3).
    #[serde(default = "replication_factor")]
    pub replication_factor: u32,
    /// How long a site or gateway may be silent, ms, 1,000 to 300,000 (default 10,000).
    #[serde(default = "lease_ms")]
    pub lease_ms: u32,
    /// Bounds that hardly anybody changes.
    #[serde(default)]
    pub limits: Limits,
}

/// Bounds of what the service keeps and queues.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sites that can register (default 1,000).
    pub sites_max: usize,
    /// Gateways that can live at once (default 1,000).
    pub gateways_max: usize,
    /// Dead gateways that are remembered, so that shards end their sessions (default 1,000).
    pub dead_gateways_max: usize,
    /// How long, s (default 86,400).
    pub dead_gateway_s: u64,
    /// Values of one topic level in the durable filters before it becomes `+` (default 1,000).
    pub filter_values_max: usize,
    /// Durable filters; above it levels of fewer values become `+` (default 20,000).
    pub filters_max: usize,
    /// Bytes of all durable filters, likewise (default 4 MiB).
    pub filter_bytes_max: usize,
    /// Filters of one request to make filters durable (default 10,000).
    pub cover_filters_max: usize,
    /// Such requests that wait at once (default 10,000).
    pub covers_max: usize,
    /// How often unused durable filters are looked for, s (default 300).
    pub sweep_s: u64,
    /// How long an unused durable filter is kept after all gateways know of it, s (default 180).
    pub retire_s: u64,
    /// Sessions of one page of a listing (default 1,000).
    pub list_max: usize,
    /// Events that wait for the controller (default 1,024).
    pub events_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sites_max: 1_000,
            gateways_max: 1_000,
            dead_gateways_max: 1_000,
            dead_gateway_s: 86_400,
            filter_values_max: 1_000,
            filters_max: 20_000,
            filter_bytes_max: 4 << 20,
            cover_filters_max: 10_000,
            covers_max: 10_000,
            sweep_s: 300,
            retire_s: 180,
            list_max: 1_000,
            events_max: 1_024,
        }
    }
}

fn shards() -> u16 {
    16
}

fn replication_factor() -> u32 {
    3
}

fn lease_ms() -> u32 {
    10_000
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        check_address("grpc_listen", &self.grpc_listen)?;
        check_address("http_listen", &self.http_listen)?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(Invalid::new("data_dir", "", "a directory"));
        }
        check_range("shards", self.shards, 1..=1024)?;
        if !matches!(self.replication_factor, 1 | 3 | 5) {
            return Err(Invalid::new("replication_factor", self.replication_factor, "1, 3 or 5"));
        }
        check_range("lease_ms", self.lease_ms, 1_000..=300_000)?;
        let limits = &self.limits;
        check_range("limits.sites_max", limits.sites_max, 1..=10_000)?;
        check_range("limits.gateways_max", limits.gateways_max, 1..=10_000)?;
        check_range("limits.filter_values_max", limits.filter_values_max, 1..=1_000_000)?;
        check_range("limits.filters_max", limits.filters_max, 1..=1_000_000)?;
        check_range("limits.filter_bytes_max", limits.filter_bytes_max, 1..=32 << 20)?;
        check_range("limits.cover_filters_max", limits.cover_filters_max, 1..=1_000_000)?;
        check_range("limits.covers_max", limits.covers_max, 1..=1_000_000)?;
        check_range("limits.sweep_s", limits.sweep_s, 1..=86_400)?;
        check_range("limits.retire_s", limits.retire_s, 1..=86_400)?;
        check_range("limits.list_max", limits.list_max, 1..=100_000)?;
        check_range("limits.events_max", limits.events_max, 1..=1_000_000)
    }
}
