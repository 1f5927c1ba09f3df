//! What a cluster consists of: its processes and their ports, remembered in `ports.json`.

mod assign;
mod change;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::local::data_dir::DataDir;
use crate::local::role::Role;

/// Replicas of each shard, when there are as many storage nodes.
const REPLICATION_FACTOR: u16 = 3;

/// What the user asks for; what is none stays as it was.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) etcd: Option<u16>,
    pub(crate) meta: Option<u16>,
    pub(crate) storage: Option<u16>,
    pub(crate) gateways: Option<u16>,
    pub(crate) mqtt_port: Option<u16>,
    pub(crate) replication_factor: Option<u16>,
    pub(crate) zones: Option<u16>,
}

/// The cluster of a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Number of etcd members; 0: the metadata lies in a store embedded in the meta-service.
    #[serde(default)]
    etcd: u16,
    /// Number of meta-service processes.
    meta: u16,
    /// Number of storage nodes.
    storage: u16,
    /// Storage nodes that were drained and removed. Their numbers are not used again: what comes later
    /// is another site.
    #[serde(default)]
    gone: BTreeSet<u16>,
    /// Number of gateways.
    gateways: u16,
    /// Replicas of each shard; absent in folders of older versions.
    #[serde(default)]
    replication_factor: Option<u16>,
    /// Zones over which storage nodes are spread; 0: they have no zone.
    #[serde(default)]
    zones: u16,
    /// MQTT port of the first gateway; 0 if they were picked free.
    mqtt_port: u16,
    /// By name of the process.
    ports: BTreeMap<String, ProcessPorts>,
}

/// Ports of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessPorts {
    /// For clients, if it is an etcd.
    grpc: u16,
    /// For the other members, if it is an etcd.
    http: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mqtt: Option<u16>,
    /// Of the admin API; meta-services only. Absent in folders of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<u16>,
}

/// One process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) name: String,
    /// `host:port` of its gRPC service.
    pub(crate) grpc: String,
    /// `host:port` of metrics and health.
    pub(crate) http: String,
    /// `host:port` for clients; gateways only.
    pub(crate) mqtt: Option<String>,
    /// `host:port` for the other members; etcd only.
    pub(crate) peer: Option<String>,
    /// `host:port` of the admin API; meta-services only.
    pub(crate) admin: Option<String>,
    /// Failure domain; storage nodes only.
    pub(crate) zone: Option<String>,
}

/// A cluster cannot be laid out. Reject: the user must ask for something else.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("--{option}: value {value} is not allowed: {allowed}")]
    NotAllowed { option: &'static str, value: u16, allowed: String },
    #[error(
        "--storage: {count} of {names} would have to go, and only {drained} of them drained: \
         `holdfast sites drain NAME` on the running cluster empties one"
    )]
    NotDrained { count: u16, names: String, drained: String },
    #[error("MQTT port {0} is taken by another program: choose others with --mqtt-port")]
    MqttPortTaken(u16),
    #[error(
        "port {port} is taken by another program; {name} is known to the other etcd members by it"
    )]
    PeerPortTaken { port: u16, name: String },
    #[error("no free port is left on this machine")]
    NoPort,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is damaged ({source}): remove it; other ports will be picked", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl Plan {
    /// The remembered plan of a folder, if there is one.
    pub(crate) fn load(dir: &DataDir) -> Result<Option<Plan>, PlanError> {
        let path = dir.ports();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| PlanError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PlanError::File { path, source }),
        }
    }

    /// Remembers the plan; a crash leaves the old file or the new one.
    pub(crate) fn save(&self, dir: &DataDir) -> Result<(), PlanError> {
        let path = dir.ports();
        let fresh = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| PlanError::Damaged { path: path.clone(), source })?;
        fs::write(&fresh, text + "\n")
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|source| PlanError::File { path, source })
    }

    /// Every process, in the order of a start.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.numbered().into_iter().filter_map(|(role, n)| self.member(role, n)).collect()
    }

    /// Processes of one role.
    pub(crate) fn of_role(&self, role: Role) -> Vec<Member> {
        self.members().into_iter().filter(|member| member.role == role).collect()
    }

    /// Names of all processes that have or had data in the folder.
    pub(crate) fn names_ever(&self) -> Vec<String> {
        let gone = self.gone.iter().map(|n| name_of(Role::Storage, *n));
        self.members().into_iter().map(|member| member.name).chain(gone).collect()
    }

    /// Replicas of each shard.
    pub(crate) fn replication_factor(&self) -> u16 {
        let usual = if self.storage >= REPLICATION_FACTOR { REPLICATION_FACTOR } else { 1 };
        self.replication_factor.unwrap_or(usual)
    }

    fn member(&self, role: Role, n: u16) -> Option<Member> {
        let name = name_of(role, n);
        let ports = self.ports.get(&name)?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let is_etcd = role == Role::Etcd;
        let zone = (n - 1).checked_rem(self.zones).map(|zone| format!("zone-{}", zone + 1));
        Some(Member {
            role,
            grpc: address(ports.grpc),
            // An etcd tells its health where it serves clients.
            http: address(if is_etcd { ports.grpc } else { ports.http }),
            mqtt: ports.mqtt.filter(|_| role == Role::Gateway).map(address),
            admin: ports.admin.filter(|_| role == Role::Meta).map(address),
            peer: is_etcd.then(|| address(ports.http)),
            zone: zone.filter(|_| role == Role::Storage),
            name,
        })
    }

    /// Role and number of every process, in the order of a start.
    fn numbered(&self) -> Vec<(Role, u16)> {
        let count = |role| match role {
            Role::Etcd => self.etcd,
            Role::Meta => self.meta,
            Role::Storage => self.storage,
            Role::Gateway => self.gateways,
        };
        let is_used = |role: Role, n: &u16| role != Role::Storage || !self.gone.contains(n);
        Role::ALL
            .into_iter()
            .flat_map(|role| {
                let numbers = (1..).filter(move |n| is_used(role, n));
                numbers.take(usize::from(count(role))).map(move |n| (role, n))
            })
            .collect()
    }
}

fn name_of(role: Role, n: u16) -> String {
    format!("{}-{n}", role.name())
}
