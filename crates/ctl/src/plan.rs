//! What a cluster consists of: its processes and their ports, remembered in `ports.json`.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::data_dir::DataDir;
use crate::ports::Ports;
use crate::role::Role;

/// Replicas of each shard, when there are as many storage nodes.
const REPLICATION_FACTOR: u16 = 3;
/// More processes of one role than this on one machine are a typing error.
const PROCESSES_MAX: u16 = 64;

/// What the user asks for; what is none stays as it was.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) meta: Option<u16>,
    pub(crate) storage: Option<u16>,
    pub(crate) gateways: Option<u16>,
    pub(crate) mqtt_port: Option<u16>,
}

/// The cluster of a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Number of meta-service processes.
    meta: u16,
    /// Number of storage nodes.
    storage: u16,
    /// Number of gateways.
    gateways: u16,
    /// MQTT port of the first gateway; 0 if they were picked free.
    mqtt_port: u16,
    /// By name of the process.
    ports: BTreeMap<String, ProcessPorts>,
}

/// Ports of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessPorts {
    grpc: u16,
    http: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mqtt: Option<u16>,
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
}

/// A cluster cannot be laid out. Reject: the user must ask for something else.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("--{option}: value {value} is not allowed: {allowed}")]
    NotAllowed { option: &'static str, value: u16, allowed: String },
    #[error("MQTT port {0} is taken by another program: choose others with --mqtt-port")]
    MqttPortTaken(u16),
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

    /// Lays out what is wished, with the remembered ports where they are still free. Nothing of
    /// the cluster may run meanwhile: its own ports would look taken.
    pub(crate) fn lay_out(
        old: Option<&Plan>,
        wish: &Wish,
        dir: &DataDir,
    ) -> Result<Plan, PlanError> {
        let counts =
            |wished: Option<u16>, old: Option<u16>, default| wished.or(old).unwrap_or(default);
        let mut plan = Plan {
            meta: counts(wish.meta, old.map(|plan| plan.meta), 1),
            storage: counts(wish.storage, old.map(|plan| plan.storage), REPLICATION_FACTOR),
            gateways: counts(wish.gateways, old.map(|plan| plan.gateways), 2),
            mqtt_port: counts(wish.mqtt_port, old.map(|plan| plan.mqtt_port), 1883),
            ports: old.map(|plan| plan.ports.clone()).unwrap_or_default(),
        };
        plan.check(old)?;
        plan.assign_ports(dir)?;
        Ok(plan)
    }

    /// Every process, in the order of a start.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.names()
            .into_iter()
            .filter_map(|(role, name)| {
                let ports = self.ports.get(&name)?;
                let address = |port: u16| format!("127.0.0.1:{port}");
                Some(Member {
                    role,
                    grpc: address(ports.grpc),
                    http: address(ports.http),
                    mqtt: ports.mqtt.filter(|_| role == Role::Gateway).map(address),
                    name,
                })
            })
            .collect()
    }

    /// Replicas of each shard.
    pub(crate) fn replication_factor(&self) -> u16 {
        if self.storage >= REPLICATION_FACTOR { REPLICATION_FACTOR } else { 1 }
    }

    fn names(&self) -> Vec<(Role, String)> {
        let count = |role| match role {
            Role::Meta => self.meta,
            Role::Storage => self.storage,
            Role::Gateway => self.gateways,
        };
        Role::ALL
            .into_iter()
            .flat_map(|role| (1..=count(role)).map(move |n| (role, format!("{}-{n}", role.name()))))
            .collect()
    }

    fn check(&self, old: Option<&Plan>) -> Result<(), PlanError> {
        if self.meta != 1 {
            let allowed = "1 (its store is embedded in one process)".to_owned();
            return Err(PlanError::NotAllowed { option: "meta", value: self.meta, allowed });
        }
        let storage_min = old.map_or(1, |plan| plan.storage);
        if !(storage_min..=PROCESSES_MAX).contains(&self.storage) {
            let why = if old.is_some() {
                " (data lies on as many nodes; --fresh begins anew)"
            } else {
                ""
            };
            let allowed = format!("{storage_min} to {PROCESSES_MAX}{why}");
            return Err(PlanError::NotAllowed { option: "storage", value: self.storage, allowed });
        }
        if !(1..=PROCESSES_MAX).contains(&self.gateways) {
            let allowed = format!("1 to {PROCESSES_MAX}");
            return Err(PlanError::NotAllowed {
                option: "gateways",
                value: self.gateways,
                allowed,
            });
        }
        if self.mqtt_port.checked_add(self.gateways).is_none() {
            let allowed = "room for all gateways up to 65535".to_owned();
            return Err(PlanError::NotAllowed {
                option: "mqtt-port",
                value: self.mqtt_port,
                allowed,
            });
        }
        Ok(())
    }

    /// What is asked for takes its ports first, then what is remembered; the rest gets free ones.
    fn assign_ports(&mut self, dir: &DataDir) -> Result<(), PlanError> {
        let mut seed = DefaultHasher::new();
        dir.root().hash(&mut seed);
        let mut ports = Ports::new(seed.finish());
        let pick_mqtt = self.mqtt_port == 0;
        let names = self.names();
        let mut next_mqtt = self.mqtt_port;
        for (role, name) in &names {
            let process = self.ports.entry(name.clone()).or_default();
            process.mqtt = match role {
                Role::Gateway if pick_mqtt => Some(process.mqtt.unwrap_or(0)),
                Role::Gateway if ports.take(next_mqtt) => Some(next_mqtt),
                Role::Gateway => return Err(PlanError::MqttPortTaken(next_mqtt)),
                Role::Meta | Role::Storage => None,
            };
            next_mqtt += u16::from(*role == Role::Gateway);
        }
        let in_use =
            self.ports.iter_mut().filter(|(known, _)| names.iter().any(|(_, name)| name == *known));
        let mut open: Vec<&mut u16> = Vec::new();
        for (_, process) in in_use {
            open.extend([&mut process.grpc, &mut process.http]);
            open.extend(process.mqtt.as_mut().filter(|_| pick_mqtt));
        }
        open.retain_mut(|port| **port == 0 || !ports.take(**port));
        for port in open {
            *port = ports.take_any().ok_or(PlanError::NoPort)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn folder() -> (tempfile::TempDir, DataDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        (folder, dir)
    }

    fn free_ports() -> Wish {
        Wish { mqtt_port: Some(0), ..Wish::default() }
    }

    #[test]
    fn a_second_start_finds_the_same_processes_and_ports() {
        let (_folder, dir) = folder();
        let first = Plan::lay_out(None, &free_ports(), &dir).expect("laid out");
        first.save(&dir).expect("saved");
        let loaded = Plan::load(&dir).expect("loaded").expect("there");
        assert_eq!(Plan::lay_out(Some(&loaded), &Wish::default(), &dir).expect("laid out"), first);
        let names: Vec<String> = first.members().into_iter().map(|member| member.name).collect();
        assert_eq!(
            names,
            ["meta-1", "storage-1", "storage-2", "storage-3", "gateway-1", "gateway-2"]
        );
    }

    #[test]
    fn a_remembered_port_that_is_taken_is_replaced() {
        let (_folder, dir) = folder();
        let first = Plan::lay_out(None, &free_ports(), &dir).expect("laid out");
        let _held = TcpListener::bind(&first.members()[0].grpc).expect("free");
        let second = Plan::lay_out(Some(&first), &Wish::default(), &dir).expect("laid out");
        assert_ne!(first.members()[0].grpc, second.members()[0].grpc);
        assert_eq!(first.members()[1..], second.members()[1..]);
    }

    #[test]
    fn a_taken_mqtt_port_is_named() {
        let (_folder, dir) = folder();
        let held = TcpListener::bind("127.0.0.1:0").expect("free");
        let port = held.local_addr().expect("bound").port();
        let wish = Wish { mqtt_port: Some(port), ..Wish::default() };
        let error = Plan::lay_out(None, &wish, &dir).expect_err("taken");
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }

    #[test]
    fn data_is_not_left_behind_on_fewer_storage_nodes() {
        let (_folder, dir) = folder();
        let first = Plan::lay_out(None, &free_ports(), &dir).expect("laid out");
        let wish = Wish { storage: Some(1), ..Wish::default() };
        let error = Plan::lay_out(Some(&first), &wish, &dir).expect_err("refused");
        assert!(error.to_string().contains("--fresh"), "{error}");
    }

    #[test]
    fn one_or_two_storage_nodes_hold_one_replica() {
        let (_folder, dir) = folder();
        let wish = Wish { storage: Some(2), ..free_ports() };
        assert_eq!(Plan::lay_out(None, &wish, &dir).expect("laid out").replication_factor(), 1);
    }
}
