//! `holdfast status`: which processes run, and whether a durable publish would be acknowledged now.

use std::path::Path;

use serde::Serialize;

use crate::console;
use crate::data_dir::DataDir;
use crate::plan::{Member, Plan, PlanError};
use crate::probe::{self, Readiness};
use crate::process;
use crate::role::Role;

/// The status of a cluster. Its JSON form is for scripts and stays as it is.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    /// A durable publish would be acknowledged now, at every gateway.
    pub(crate) ready: bool,
    /// In the order of a start.
    pub(crate) processes: Vec<ProcessStatus>,
}

/// The status of one process.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessStatus {
    role: Role,
    /// Unique in the cluster.
    pub(crate) name: String,
    pid: Option<u32>,
    alive: bool,
    /// It can do its job.
    pub(crate) ready: bool,
    mqtt: Option<String>,
    grpc: String,
    metrics: String,
    data: Option<String>,
    /// Why it is not ready.
    #[serde(skip)]
    pub(crate) reason: Option<String>,
}

/// Tells the status of the cluster in `data`.
pub(crate) async fn run(data: &Path, json: bool) -> Result<(), PlanError> {
    let status = match DataDir::open(data) {
        None => Status::default(),
        Some(dir) => match Plan::load(&dir)? {
            None => Status::default(),
            Some(plan) => Status::of(&plan, &dir).await,
        },
    };
    if json {
        console::line(status.json());
    } else if status.processes.is_empty() {
        console::line(format!("no cluster in {}", data.display()));
    } else {
        console::line(status.table());
        console::line(if status.ready { "ready" } else { "not ready" });
    }
    Ok(())
}

impl Status {
    /// Looks at every process and asks it.
    pub(crate) async fn of(plan: &Plan, dir: &DataDir) -> Status {
        let members = plan.members();
        let pids = process::running(&members, dir);
        let mut processes = Vec::with_capacity(members.len());
        for member in members {
            let pid = pids.get(&member.name).copied();
            let readiness = match pid {
                Some(_) => probe::readiness(&member.http).await,
                None => Readiness::NotReady("not running".to_owned()),
            };
            processes.push(ProcessStatus::new(member, pid, readiness, dir));
        }
        let ready = is_ready(&processes, plan.replication_factor());
        Status { ready, processes }
    }

    /// For scripts.
    fn json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For a human.
    pub(crate) fn table(&self) -> String {
        let titles = ["process", "pid", "state", "mqtt", "grpc", "metrics", "data"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        rows.extend(self.processes.iter().map(ProcessStatus::row));
        console::table(&rows)
    }
}

/// Gateways are ready when their shards acknowledge; storage nodes are asked, too, because a
/// gateway learns of their loss a moment later. A dead meta-service stops no publish.
fn is_ready(processes: &[ProcessStatus], replication_factor: u16) -> bool {
    let not_ready = |role: Role| {
        processes.iter().filter(|process| process.role == role && !process.ready).count()
    };
    let tolerated = usize::from(replication_factor.saturating_sub(1) / 2);
    not_ready(Role::Gateway) == 0 && not_ready(Role::Storage) <= tolerated
}

impl ProcessStatus {
    fn new(member: Member, pid: Option<u32>, readiness: Readiness, dir: &DataDir) -> ProcessStatus {
        let data = member.role.has_data().then(|| dir.data(&member.name));
        ProcessStatus {
            role: member.role,
            pid,
            alive: pid.is_some(),
            ready: readiness == Readiness::Ready,
            mqtt: member.mqtt,
            grpc: member.grpc,
            metrics: member.http,
            data: data.map(|path| path.to_string_lossy().into_owned()),
            reason: match readiness {
                Readiness::Ready => None,
                Readiness::NotReady(reason) => Some(reason),
            },
            name: member.name,
        }
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            self.reason.clone().unwrap_or_else(|| "ready".to_owned()),
            or_dash(self.mqtt.clone()),
            self.grpc.clone(),
            self.metrics.clone(),
            or_dash(self.data.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(role: Role, ready: bool) -> ProcessStatus {
        let member = Member {
            role,
            name: role.name().to_owned(),
            grpc: "g".to_owned(),
            http: "h".to_owned(),
            mqtt: None,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        let readiness = if ready { Readiness::Ready } else { Readiness::NotReady("x".to_owned()) };
        ProcessStatus::new(member, Some(1), readiness, &dir)
    }

    #[test]
    fn ready_needs_all_gateways_and_a_majority_of_storage() {
        use Role::{Gateway, Meta, Storage};
        let cluster = |states: [bool; 5]| {
            let roles = [Meta, Storage, Storage, Storage, Gateway];
            let processes: Vec<_> =
                roles.into_iter().zip(states).map(|(role, ready)| process(role, ready)).collect();
            is_ready(&processes, 3)
        };
        assert!(cluster([true; 5]));
        assert!(cluster([false, true, false, true, true]));
        assert!(!cluster([true, true, false, false, true]));
        assert!(!cluster([true, true, true, true, false]));
    }

    #[test]
    fn the_json_form_is_fixed() {
        let status = Status { ready: true, processes: vec![process(Role::Meta, true)] };
        let json = serde_json::to_value(&status).expect("serialises");
        let object = json["processes"][0].as_object().expect("an object");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let fixed = ["alive", "data", "grpc", "metrics", "mqtt", "name", "pid", "ready", "role"];
        assert_eq!(keys, fixed);
        assert_eq!(json["processes"][0]["role"], "meta");
    }
}
