//! A bridge in a network namespace of its own, to which pods are plugged: nothing of this machine's network is
//! touched.

use std::process::{Command, id};

use holdfast_deploy::tools::{run, said};

use super::podman::is_there;

/// The bridge, and the namespaces of the pods that are plugged in.
#[derive(Debug)]
pub(crate) struct Network {
    bridge: String,
    plugged: Vec<String>,
}

impl Network {
    /// None, and why, where it is not possible.
    pub(crate) fn start() -> Option<Network> {
        if !is_there("ip") {
            eprintln!("SKIPPED: no `ip` (Debian package iproute2): pods cannot reach each other");
            return None;
        }
        let network = Network { bridge: format!("hf{}", id()), plugged: Vec::new() };
        let output = ip(&["netns", "add", &network.bridge]);
        if !output.status.success() {
            eprintln!("SKIPPED: pods cannot reach each other: {}", said(&output));
            return None;
        }
        network.within(&["link", "add", "pods", "type", "bridge"]);
        network.within(&["link", "set", "pods", "up"]);
        Some(network)
    }

    /// Address of the n-th pod, from 1.
    pub(crate) fn address(n: usize) -> String {
        format!("10.77.0.{n}")
    }

    /// Plugs in the n-th pod, by a process in it.
    pub(crate) fn plug(&mut self, n: usize, pid: &str) {
        let (outside, inside) = (format!("pod{n}"), format!("{}p{n}", self.bridge));
        let attached = ip(&["netns", "attach", &inside, pid]);
        assert!(attached.status.success(), "{}", said(&attached));
        self.plugged.push(inside.clone());
        let pair =
            ["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &inside];
        self.within(&pair);
        self.within(&["link", "set", &outside, "master", "pods", "up"]);
        let address = format!("{}/24", Network::address(n));
        must(&["-n", &inside, "address", "add", &address, "dev", "eth0"]);
        must(&["-n", &inside, "link", "set", "eth0", "up"]);
    }

    fn within(&self, args: &[&str]) {
        must(&[&["-n", &self.bridge], args].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.plugged.iter().chain([&self.bridge]) {
            ip(&["netns", "delete", name]);
        }
    }
}

fn ip(args: &[&str]) -> std::process::Output {
    run(Command::new("ip").args(args))
}

fn must(args: &[&str]) {
    let output = ip(args);
    assert!(output.status.success(), "ip {args:?}: {}", said(&output));
}
