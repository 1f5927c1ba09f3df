//! The processes of the cluster: where each runs and what its config says.

use std::fmt::Write;
use std::path::PathBuf;

use crate::ground::run_folder;
use crate::network::{Host, Network};
use crate::trouble::Trouble;

const GRPC_PORT: u16 = 7000;
const HTTP_PORT: u16 = 7001;
const MQTT_PORT: u16 = 1883;
/// What a storage node may use of this machine's disk.
const SHARED_DISK_BYTES: u64 = 2 << 30;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Etcd,
    Meta,
    Storage,
    Gateway,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Meta => "meta",
            Role::Storage => "storage",
            Role::Gateway => "gateway",
        }
    }

    /// Its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Meta => "meta-service",
            Role::Storage => "storage-node",
            Role::Gateway => "broker-node",
        }
    }
}

/// How many of each, and how they are set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Without etcd, sled: then there is one meta-service.
    pub(crate) etcd: usize,
    pub(crate) metas: usize,
    pub(crate) storage: usize,
    pub(crate) gateways: usize,
    /// Silence after which meta-service takes a process for down.
    pub(crate) lease_ms: u32,
}

/// One process with a host of its own.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) host: Host,
    /// Of etcd: for clients.
    pub(crate) grpc: String,
    /// Of etcd: for its peers.
    pub(crate) http: String,
    /// Of a gateway.
    pub(crate) mqtt: String,
    pub(crate) data: PathBuf,
    /// Of a storage node whose data is on a disk that only it uses.
    pub(crate) has_own_disk: bool,
}

impl Member {
    fn new(network: Network, role: Role, number: usize, at: usize) -> Result<Member, Trouble> {
        let name = format!("{}-{number}", role.name());
        let host = network.host(at, &format!("{}{number}", &role.name()[..1]))?;
        let address = |port| network.port(port).map(|port| format!("{}:{port}", host.ip));
        let (grpc, http, mqtt) = (address(GRPC_PORT)?, address(HTTP_PORT)?, address(MQTT_PORT)?);
        let data = run_folder().join("data").join(&name);
        Ok(Member { name, role, host, grpc, http, mqtt, data, has_own_disk: false })
    }
}

/// Makes the hosts of all.
pub(crate) fn lay_out(network: Network, shape: Shape) -> Result<Vec<Member>, Trouble> {
    let groups = [
        (Role::Etcd, shape.etcd),
        (Role::Meta, shape.metas),
        (Role::Storage, shape.storage),
        (Role::Gateway, shape.gateways),
    ];
    let mut members = Vec::new();
    for (role, count) in groups {
        for number in 1..=count {
            members.push(Member::new(network, role, number, members.len() + 1)?);
        }
    }
    Ok(members)
}

fn list(items: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = items.map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The config file of a process of ours. `advertise`: where others find it, if not where it listens.
pub(crate) fn config(
    member: &Member,
    all: &[Member],
    shape: Shape,
    advertise: Option<&str>,
) -> String {
    let of = |role: Role| all.iter().filter(move |other| other.role == role);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    };
    line("name", format!("{:?}", member.name));
    line("grpc_listen", format!("{:?}", member.grpc));
    line("http_listen", format!("{:?}", member.http));
    if let Some(address) = advertise {
        line("grpc_advertise", format!("{address:?}"));
    }
    if member.role != Role::Gateway {
        line("data_dir", format!("{:?}", member.data));
    }
    if member.role == Role::Gateway {
        line("mqtt_listen", format!("{:?}", member.mqtt));
    }
    if member.role == Role::Meta {
        line("replication_factor", shape.storage.min(3).to_string());
        line("lease_ms", shape.lease_ms.to_string());
        if shape.etcd > 0 {
            line("store", "\"etcd\"".to_owned());
            let endpoints = of(Role::Etcd).map(|etcd| format!("http://{}", etcd.grpc));
            line("etcd.endpoints", list(endpoints));
        }
    } else {
        line("meta", list(of(Role::Meta).map(|meta| meta.grpc.clone())));
        line("worker_threads", "1".to_owned());
    }
    if member.role == Role::Storage {
        // Small enough for the disk that one of them has to itself.
        line("log.segment_bytes", (8_u64 << 20).to_string());
        line("log.bytes_max", (128_u64 << 20).to_string());
        line("shard.run_bytes_max", (1_u64 << 20).to_string());
        if !member.has_own_disk {
            // How full this machine's disk is must not decide what the node does.
            line("shard.disk_quota_bytes", SHARED_DISK_BYTES.to_string());
        }
    }
    text
}

/// The arguments of an etcd.
pub(crate) fn etcd_arguments(member: &Member, all: &[Member]) -> Vec<String> {
    let etcds = all.iter().filter(|other| other.role == Role::Etcd);
    let peers: Vec<String> =
        etcds.map(|etcd| format!("{}=http://{}", etcd.name, etcd.http)).collect();
    let (client, peer) = (format!("http://{}", member.grpc), format!("http://{}", member.http));
    let data = member.data.to_string_lossy().into_owned();
    let peers = peers.join(",");
    [
        ("--name", member.name.as_str()),
        ("--data-dir", &data),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &peers),
        ("--initial-cluster-state", "new"),
        ("--initial-cluster-token", "holdfast-chaos"),
        ("--log-level", "warn"),
        ("--logger", "zap"),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
    .collect()
}
