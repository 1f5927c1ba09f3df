//! The kinds of processes of a cluster.

use std::str::FromStr;

use serde::Serialize;

/// What a process does. Ordered as they are started; they are stopped the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Control plane.
    Meta,
    /// Data plane.
    Storage,
    /// Speaks MQTT.
    Gateway,
}

impl Role {
    /// In the order of a start.
    pub(crate) const ALL: [Role; 3] = [Role::Meta, Role::Storage, Role::Gateway];

    /// As in process names, JSON and `--set`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Meta => "meta",
            Role::Storage => "storage",
            Role::Gateway => "gateway",
        }
    }

    /// File name of its program.
    pub(crate) fn binary(self) -> &'static str {
        match self {
            Role::Meta => "meta-service",
            Role::Storage => "storage-node",
            Role::Gateway => "broker-node",
        }
    }

    /// Whether its processes keep data on disk.
    pub(crate) fn has_data(self) -> bool {
        self != Role::Gateway
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Role, String> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or_else(|| format!("role {name:?} is not allowed: meta, storage or gateway"))
    }
}
