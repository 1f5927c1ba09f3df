//! The kinds of processes of a cluster.

use serde::Serialize;

/// What a process does. Ordered as they are started; they are stopped the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Store of the control plane, unless that is embedded in it. Not a program of ours.
    Etcd,
    /// Control plane.
    Meta,
    /// Data plane.
    Storage,
    /// Speaks MQTT.
    Gateway,
}

impl Role {
    /// In the order of a start.
    pub(crate) const ALL: [Role; 4] = [Role::Etcd, Role::Meta, Role::Storage, Role::Gateway];

    /// As in process names, JSON and `--set`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Meta => "meta",
            Role::Storage => "storage",
            Role::Gateway => "gateway",
        }
    }

    /// File name of its program.
    pub(crate) fn binary(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Meta => "meta-service",
            Role::Storage => "storage-node",
            Role::Gateway => "broker-node",
        }
    }

    /// Option of its program that names the config file.
    pub(crate) fn config_option(self) -> &'static str {
        match self {
            Role::Etcd => "--config-file",
            Role::Meta | Role::Storage | Role::Gateway => "--config",
        }
    }

    /// Whether its processes keep data on disk.
    pub(crate) fn has_data(self) -> bool {
        self != Role::Gateway
    }

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}
