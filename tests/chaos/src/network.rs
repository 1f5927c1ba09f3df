//! The hosts of a run: one network namespace each on one bridge where the machine allows it, else all
//! of them this machine's loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::ground::PREFIX;
use crate::tool;
use crate::trouble::Trouble;

const SUBNET: &str = "10.77.77";
/// This end of the bridge: the clients and the forwarders.
const OWN_NUMBER: usize = 254;

/// Of loopback: as many from here on.
const PORTS_FROM: u16 = 20_000;
const PORTS: u16 = 10_000;
static PORTS_TRIED: AtomicU16 = AtomicU16::new(0);

/// How processes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// A namespace for each host: every fault of the network can be made.
    Namespaces,
    /// One host: the network cannot be cut.
    Loopback,
}

/// A host on which one process runs.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Short name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) ip: String,
    /// Its namespace; none on loopback.
    pub(crate) namespace: Option<String>,
}

impl Network {
    /// Namespaces if the machine allows them, and else why not.
    pub(crate) fn open(loopback: bool) -> (Network, Option<String>) {
        if loopback {
            return (Network::Loopback, Some("asked for".to_owned()));
        }
        match bridge() {
            Ok(()) => (Network::Namespaces, None),
            Err(trouble) => (Network::Loopback, Some(trouble.to_string())),
        }
    }

    /// Makes the n-th host, from 1.
    pub(crate) fn host(self, number: usize, name: &str) -> Result<Host, Trouble> {
        if self == Network::Loopback {
            return Ok(Host { name: name.to_owned(), ip: "127.0.0.1".to_owned(), namespace: None });
        }
        let namespace = format!("{PREFIX}{name}");
        let ip = format!("{SUBNET}.{number}");
        let (outside, inside) = (outside(name), format!("{PREFIX}i{name}"));
        for line in [
            format!("ip netns add {namespace}"),
            format!("ip link add {outside} type veth peer name {inside}"),
            format!("ip link set {inside} netns {namespace} name eth0"),
            format!("ip link set {outside} master {PREFIX}br up"),
            format!("ip -n {namespace} addr add {ip}/24 dev eth0"),
            format!("ip -n {namespace} link set eth0 up"),
            format!("ip -n {namespace} link set lo up"),
        ] {
            tool::run(&line)?;
        }
        Ok(Host { name: name.to_owned(), ip, namespace: Some(namespace) })
    }

    /// Where this program itself is.
    pub(crate) fn own_ip(self) -> String {
        match self {
            Network::Namespaces => format!("{SUBNET}.{OWN_NUMBER}"),
            Network::Loopback => "127.0.0.1".to_owned(),
        }
    }

    /// A port for a host: the wanted one where it has an address of its own.
    pub(crate) fn port(self, wanted: u16) -> Result<u16, Trouble> {
        if self == Network::Namespaces {
            return Ok(wanted);
        }
        // Not those that the system gives to whoever connects: the process that this one is for comes later.
        let first = (std::process::id() % u32::from(PORTS)) as u16;
        for _ in 0..PORTS {
            let at = PORTS_TRIED.fetch_add(1, Ordering::Relaxed);
            let port = PORTS_FROM + first.wrapping_add(at) % PORTS;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Ok(port);
            }
        }
        Err(Trouble::Impossible("no port is free".to_owned()))
    }
}

impl Host {
    /// Drops everything that comes from another host.
    pub(crate) fn refuse_from(&self, other: &Host) -> Result<(), Trouble> {
        let namespace = self.namespace()?;
        let nft = format!("ip netns exec {namespace} nft");
        tool::run(&format!("{nft} add table ip chaos"))?;
        let chain = "type filter hook input priority 0 ;";
        tool::run(&format!("{nft} add chain ip chaos input {{ {chain} }}"))?;
        tool::run(&format!("{nft} add rule ip chaos input ip saddr {} drop", other.ip)).map(drop)
    }

    /// Hears everybody again.
    pub(crate) fn hear_all(&self) -> Result<(), Trouble> {
        let namespace = self.namespace()?;
        tool::run(&format!("ip netns exec {namespace} nft flush ruleset")).map(drop)
    }

    /// Pulls the plug of this host, or puts it in again.
    pub(crate) fn plug(&self, up: bool) -> Result<(), Trouble> {
        self.namespace()?;
        let state = if up { "up" } else { "down" };
        tool::run(&format!("ip link set {} {state}", outside(&self.name))).map(drop)
    }

    fn namespace(&self) -> Result<&str, Trouble> {
        let missing = || Trouble::Impossible("needs network namespaces".to_owned());
        self.namespace.as_deref().ok_or_else(missing)
    }
}

/// An interface's name has at most 15 bytes.
fn outside(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn bridge() -> Result<(), Trouble> {
    for program in ["ip", "nft"] {
        if tool::find(program).is_none() {
            return Err(Trouble::Impossible(format!("{program} is not installed")));
        }
    }
    for line in [
        format!("ip link add {PREFIX}br type bridge"),
        format!("ip addr add {SUBNET}.{OWN_NUMBER}/24 dev {PREFIX}br"),
        format!("ip link set {PREFIX}br up"),
    ] {
        tool::run(&line)?;
    }
    Ok(())
}
