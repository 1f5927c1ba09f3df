//! The compose file as data.

use std::fs;
use std::path::PathBuf;

use holdfast_deploy::manifests::{list, text};
use holdfast_deploy::tools::root;
use serde_json::Value;

/// The services that are programs of Holdfast, and for ever.
const PROGRAMS: [&str; 3] = ["meta-service", "storage-node", "broker-node"];

/// The whole file, with merged maps, and with the defaults of variables that nobody sets.
pub(crate) fn file() -> Value {
    let text = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let mut yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&interpolated(&text)).unwrap();
    // A map that is merged may itself have one to merge.
    while serde_yaml_ng::to_string(&yaml).unwrap().contains("<<:") {
        yaml.apply_merge().unwrap();
    }
    serde_json::to_value(yaml).unwrap()
}

/// `${NAME:-default}` by its default.
fn interpolated(text: &str) -> String {
    let mut pieces = text.split("${");
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (variable, rest) = piece.split_once('}').expect("a whole variable");
        let (_, default) =
            variable.split_once(":-").expect("a default, so that nothing must be set");
        whole.push_str(default);
        whole.push_str(rest);
    }
    whole
}

/// A service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) value: Value,
}

/// All services.
pub(crate) fn services() -> Vec<Service> {
    let file = file();
    let services = file["services"].as_object().unwrap();
    services
        .iter()
        .map(|(name, value)| Service { name: name.clone(), value: value.clone() })
        .collect()
}

impl Service {
    /// The program that it starts, if it is one of ours that stays.
    pub(crate) fn program(&self) -> Option<&'static str> {
        let entry = self.value["entrypoint"][0].as_str()?;
        PROGRAMS.into_iter().find(|program| entry == format!("/usr/local/bin/{program}"))
    }

    /// Its arguments.
    pub(crate) fn command(&self) -> Vec<String> {
        list(&self.value["command"]).iter().map(|word| text(word).to_owned()).collect()
    }

    /// Seconds that it has to stop.
    pub(crate) fn grace_s(&self) -> u64 {
        let grace = text(&self.value["stop_grace_period"]);
        grace.strip_suffix('s').expect("seconds").parse().unwrap()
    }

    /// What is mounted from where.
    pub(crate) fn mounts(&self) -> Vec<(String, String)> {
        let mounts = list(&self.value["volumes"]).iter().map(|mount| {
            let mut parts = text(mount).split(':');
            let mut part = || parts.next().unwrap().to_owned();
            (part(), part())
        });
        mounts.collect()
    }

    /// The file that is mounted somewhere.
    pub(crate) fn mounted(&self, inside: &str) -> PathBuf {
        let mounts = self.mounts();
        let (from, _) = mounts.iter().find(|(_, to)| to == inside).expect("mounted");
        root().join("deploy").join(from)
    }
}
