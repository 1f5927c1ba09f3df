//! The one TOML file of a metadata service.

use std::path::{Path, PathBuf};

use holdfast_node_kit::config::{
    Invalid, Validate, check_address, check_name, check_range, check_ranges,
};
use holdfast_proto::version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which store is behind the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Embedded; one process.
    #[default]
    Sled,
    /// An etcd cluster; any number of processes, one of them elected.
    Etcd,
}

/// Configuration of a metadata service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name in logs.
    pub name: String,
    /// Directory of this process alone; made if it is not there. Only `store = "sled"` needs it.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// host:port for sites and gateways.
    pub grpc_listen: String,
    /// host:port at which sites and gateways reach this process (default `grpc_listen`).
    #[serde(default)]
    pub grpc_advertise: Option<String>,
    /// host:port for `/metrics` and `/health`.
    pub http_listen: String,
    /// Which store: `"sled"` (default) or `"etcd"`.
    #[serde(default)]
    pub store: StoreKind,
    /// Where etcd is; with `store = "etcd"`, and only then.
    #[serde(default)]
    pub etcd: Option<EtcdConfig>,
    /// After how long without a word from the elected process another is elected, in s.
    /// One that stops on purpose is followed at once.
    #[serde(default = "election_ttl_s")]
    #[schemars(range(min = 1, max = 60))]
    pub election_ttl_s: u64,
    /// Shards of the cluster; fixed when it forms.
    #[serde(default = "shards")]
    #[schemars(range(min = 1, max = 1024))]
    pub shards: u16,
    /// Replicas of a shard: 1, 3 or 5; the cluster forms when as many sites are up.
    #[serde(default = "replication_factor")]
    pub replication_factor: u32,
    /// How long a site or gateway may be silent, in ms.
    #[serde(default = "lease_ms")]
    #[schemars(range(min = 1_000, max = 300_000))]
    pub lease_ms: u32,
    /// How long a site may be down before others take its place, in s.
    #[serde(default = "site_replace_after_s")]
    #[schemars(range(min = 1, max = 604_800))]
    pub site_replace_after_s: u64,
    /// Shards whose replica set changes at the same time.
    #[serde(default = "transitions_max")]
    #[schemars(range(min = 1, max = 1024))]
    pub transitions_max: u32,
    /// Newest protocol version to speak (default: the newest known). For rolling upgrades.
    #[serde(default = "protocol_version_max")]
    #[schemars(range(min = PROTOCOL_VERSION_MIN, max = PROTOCOL_VERSION))]
    pub protocol_version_max: u32,
    /// The admin API; without this section there is none.
    #[serde(default)]
    pub admin: Option<AdminConfig>,
    /// Bounds that hardly anybody changes.
    #[serde(default)]
    pub limits: Limits,
}

/// Where the admin API is, and who may use it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// host:port for operators, HTTP/1.1.
    pub listen: String,
    /// host:port at which other metadata services reach it, to hand requests on to the one that is
    /// elected (default `listen`).
    #[serde(default)]
    pub advertise: Option<String>,
    /// File with the password of the user `admin`, 12 to 256 bytes; blanks around it do not count. If it is not
    /// there and no user `admin` is in the store, a password is made and written to it. Default
    /// `admin-password` in `data_dir`; needed with `store = "etcd"`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Bounds that hardly anybody changes.
    #[serde(default)]
    pub limits: AdminLimits,
}

/// Bounds of the admin API.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminLimits {
    /// Connections that are open at once; more wait to be accepted.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections_max: usize,
    /// Requests that are under way at once; more are refused with 503.
    #[schemars(range(min = 1, max = 10_000))]
    pub requests_max: usize,
    /// Bytes of a request's body.
    #[schemars(range(min = 1_024, max = 1_048_576))]
    pub body_bytes_max: usize,
    /// How long a request may take, in ms. Verifying a shard may take an hour.
    #[schemars(range(min = 100, max = 600_000))]
    pub request_timeout_ms: u64,
    /// Shards that are verified at once; more are refused with 503.
    #[schemars(range(min = 1, max = 64))]
    pub verifications_max: usize,
}

impl Default for AdminLimits {
    fn default() -> AdminLimits {
        AdminLimits {
            connections_max: 1_024,
            requests_max: 256,
            body_bytes_max: 64 << 10,
            request_timeout_ms: 30_000,
            verifications_max: 2,
        }
    }
}

/// How etcd is reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// URLs of its members: `http://host:port`, or `https://` with a certificate authority.
    pub endpoints: Vec<String>,
    /// All keys begin with this (default `/holdfast/`). Two clusters on one etcd need two.
    #[serde(default = "etcd_prefix")]
    pub prefix: String,
    /// How long one try of a request may take, in ms.
    #[serde(default = "request_timeout_ms")]
    #[schemars(range(min = 50, max = 60_000))]
    pub request_timeout_ms: u64,
    /// How long a request is tried again, in ms.
    #[serde(default = "retry_ms")]
    #[schemars(range(min = 0, max = 600_000))]
    pub retry_ms: u64,
    /// Newest revisions that etcd keeps, at least 50; older ones are compacted, of all of etcd. 0: whoever else
    /// uses this etcd sees to it.
    #[serde(default = "keep_revisions")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub keep_revisions: u64,
    /// User, if etcd asks for one.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificates that `https://` members are signed by, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// This process's certificate, PEM, if etcd asks for one.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Key of `cert_file`, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// Bounds of what the service keeps and queues.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sites that can register.
    #[schemars(range(min = 1, max = 10_000))]
    pub sites_max: usize,
    /// Gateways that can live at once.
    #[schemars(range(min = 1, max = 10_000))]
    pub gateways_max: usize,
    /// Dead gateways that are remembered, so that shards end their sessions.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub dead_gateways_max: usize,
    /// How long dead gateways are remembered, in s.
    #[schemars(range(min = 1, max = 31_536_000))]
    pub dead_gateway_s: u64,
    /// Values of one topic level in the durable filters before it becomes `+`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub filter_values_max: usize,
    /// Durable filters; above it levels of fewer values become `+`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub filters_max: usize,
    /// Bytes of all durable filters; above it levels of fewer values become `+`.
    #[schemars(range(min = 1, max = 33_554_432))]
    pub filter_bytes_max: usize,
    /// Filters of one request to make filters durable.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cover_filters_max: usize,
    /// Requests to make filters durable that wait at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub covers_max: usize,
    /// How often unused durable filters are looked for, in s.
    #[schemars(range(min = 1, max = 86_400))]
    pub sweep_s: u64,
    /// How long an unused durable filter is kept after all gateways know of it, in s.
    #[schemars(range(min = 1, max = 86_400))]
    pub retire_s: u64,
    /// Events that wait for the controller.
    #[schemars(range(min = 1, max = 1_000_000))]
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

fn election_ttl_s() -> u64 {
    5
}

fn site_replace_after_s() -> u64 {
    600
}

fn transitions_max() -> u32 {
    4
}

fn protocol_version_max() -> u32 {
    PROTOCOL_VERSION
}

fn etcd_prefix() -> String {
    "/holdfast/".to_owned()
}

fn request_timeout_ms() -> u64 {
    1_000
}

fn keep_revisions() -> u64 {
    10_000
}

fn retry_ms() -> u64 {
    10_000
}

impl Config {
    /// host:port at which others reach this process.
    #[must_use]
    pub fn advertised(&self) -> &str {
        self.grpc_advertise.as_deref().unwrap_or(&self.grpc_listen)
    }

    /// host:port of the admin API for other metadata services; empty if there is none.
    #[must_use]
    pub fn admin_advertised(&self) -> String {
        let address = |admin: &AdminConfig| admin.advertise.clone().unwrap_or(admin.listen.clone());
        self.admin.as_ref().map(address).unwrap_or_default()
    }

    fn validate_admin(&self, admin: &AdminConfig) -> Result<(), Invalid> {
        check_address("admin.listen", &admin.listen)?;
        if let Some(address) = &admin.advertise {
            check_address("admin.advertise", address)?;
        }
        let no_file = admin.password_file.as_ref().is_none_or(|path| path.as_os_str().is_empty());
        if self.store == StoreKind::Etcd && no_file {
            return Err(Invalid::new("admin.password_file", "", "a file, with store = \"etcd\""));
        }
        Ok(())
    }
}

impl AdminConfig {
    /// Where the password of the user `admin` is.
    #[must_use]
    pub fn password_file(&self, data_dir: Option<&Path>) -> PathBuf {
        let given = self.password_file.clone().filter(|path| !path.as_os_str().is_empty());
        given.unwrap_or_else(|| data_dir.unwrap_or(Path::new("")).join("admin-password"))
    }
}

impl EtcdConfig {
    fn validate(&self) -> Result<(), Invalid> {
        if self.endpoints.is_empty() {
            return Err(Invalid::new("etcd.endpoints", "[]", "one URL or more"));
        }
        for endpoint in &self.endpoints {
            self.check_endpoint(endpoint)?;
        }
        if self.prefix.is_empty() || self.prefix.len() > 255 {
            return Err(Invalid::new("etcd.prefix", &self.prefix, "1 to 255 bytes"));
        }
        if self.keep_revisions > 0 {
            check_range("etcd.keep_revisions", self.keep_revisions, 50..=10_000_000)?;
        }
        let both = |one: (&str, bool), other: (&str, bool)| match (one.1, other.1) {
            (true, false) => Err(Invalid::new(other.0, "", format!("to be set with {}", one.0))),
            (false, true) => Err(Invalid::new(one.0, "", format!("to be set with {}", other.0))),
            _ => Ok(()),
        };
        let user = ("etcd.user", self.user.is_some());
        both(user, ("etcd.password_file", self.password_file.is_some()))?;
        let certificate = ("etcd.cert_file", self.cert_file.is_some());
        both(certificate, ("etcd.key_file", self.key_file.is_some()))
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<(), Invalid> {
        let tls = self.ca_file.is_some() || self.cert_file.is_some();
        let refuse = |allowed: &str| Err(Invalid::new("etcd.endpoints", endpoint, allowed));
        let address = match (endpoint.strip_prefix("http://"), endpoint.strip_prefix("https://")) {
            (Some(_), _) if tls => return refuse("https://host:port with ca_file or cert_file"),
            (None, Some(_)) if self.ca_file.is_none() => {
                return refuse("http://host:port, or https://host:port with ca_file");
            }
            (Some(address), _) | (None, Some(address)) => address,
            (None, None) => return refuse("http://host:port or https://host:port"),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        if check_address("etcd.endpoints", address).is_err() || address.contains('/') {
            return refuse("http://host:port or https://host:port");
        }
        Ok(())
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        check_address("grpc_listen", &self.grpc_listen)?;
        check_address("http_listen", &self.http_listen)?;
        if let Some(address) = &self.grpc_advertise {
            check_address("grpc_advertise", address)?;
        }
        match (self.store, &self.etcd) {
            (StoreKind::Etcd, Some(etcd)) => etcd.validate()?,
            (StoreKind::Etcd, None) => {
                return Err(Invalid::new(
                    "store",
                    "etcd",
                    "\"sled\", or \"etcd\" with a section [etcd]",
                ));
            }
            (StoreKind::Sled, Some(_)) => {
                return Err(Invalid::new("store", "sled", "\"etcd\", or no section [etcd]"));
            }
            (StoreKind::Sled, None) => {}
        }
        let no_directory = self.data_dir.as_ref().is_none_or(|path| path.as_os_str().is_empty());
        if self.store == StoreKind::Sled && no_directory {
            return Err(Invalid::new("data_dir", "", "a directory"));
        }
        if let Some(admin) = &self.admin {
            self.validate_admin(admin)?;
        }
        if !matches!(self.replication_factor, 1 | 3 | 5) {
            return Err(Invalid::new("replication_factor", self.replication_factor, "1, 3 or 5"));
        }
        check_ranges(self)
    }
}
