//! `holdfast status`: which processes run, and whether a durable publish would be acknowledged now.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::future::join_all;
use serde::Serialize;

use crate::console;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan, PlanError};
use crate::local::probe::{self, Readiness};
use crate::local::process;
use crate::local::role::Role;
use crate::local::sites::Sites;
use crate::steering::Steering;

/// The status of a cluster. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    /// A durable publish would be acknowledged now, at every gateway.
    pub(crate) ready: bool,
    /// In the order of a start.
    pub(crate) processes: Vec<ProcessStatus>,
    /// As the elected meta-service tells; none if it does not answer.
    #[serde(skip)]
    pub(crate) sites: Option<Sites>,
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
    /// Whether a meta-service is the elected one.
    elected: Option<bool>,
    /// Site of a storage node, in hexadecimal.
    site: Option<String>,
    /// active, draining, drained or lost.
    site_state: Option<String>,
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
        let readiness = join_all(members.iter().map(|member| async {
            match pids.contains_key(&member.name) {
                true => probe::readiness(member).await,
                false => Readiness::Silent("not running".to_owned()),
            }
        }))
        .await;
        let well: Vec<Member> = members
            .iter()
            .zip(&readiness)
            .filter(|(_, readiness)| !matches!(readiness, Readiness::Silent(_)))
            .map(|(member, _)| member.clone())
            .collect();
        let told = Steering::glance(&well).await;
        let elected = told.as_ref().map(|(elected, _)| elected.as_str());
        let sites = told.as_ref().map(|(_, description)| Sites::of(description));
        let with = members.into_iter().zip(readiness);
        let processes: Vec<ProcessStatus> = with
            .map(|(member, readiness)| {
                let is_elected = elected.map(|elected| elected == member.grpc);
                let mut status = ProcessStatus::new(member, &pids, readiness, dir);
                status.tell(is_elected, sites.as_ref());
                status
            })
            .collect();
        let ready = is_ready(&processes, plan.replication_factor());
        Status { ready, processes, sites }
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
    fn new(
        member: Member,
        pids: &BTreeMap<String, u32>,
        readiness: Readiness,
        dir: &DataDir,
    ) -> ProcessStatus {
        let data = member.role.has_data().then(|| dir.data(&member.name));
        let pid = pids.get(&member.name).copied();
        ProcessStatus {
            role: member.role,
            pid,
            alive: pid.is_some(),
            ready: readiness == Readiness::Ready,
            mqtt: member.mqtt,
            grpc: member.grpc,
            metrics: member.http,
            data: data.map(|path| path.to_string_lossy().into_owned()),
            elected: None,
            site: None,
            site_state: None,
            reason: match readiness {
                Readiness::Ready => None,
                Readiness::NotReady(reason) | Readiness::Silent(reason) => Some(reason),
            },
            name: member.name,
        }
    }

    /// Adds what the elected meta-service tells.
    fn tell(&mut self, is_elected: Option<bool>, sites: Option<&Sites>) {
        if self.role == Role::Meta {
            self.elected = is_elected;
        }
        if let Some(site) =
            sites.filter(|_| self.role == Role::Storage).and_then(|s| s.get(&self.name))
        {
            self.site = Some(site.site_id.clone());
            self.site_state = Some(site.state.clone());
        }
    }

    /// Ready or why not, and what it is beside that.
    fn state(&self) -> String {
        let state = self.reason.as_deref().unwrap_or("ready");
        match (&self.site_state, self.elected) {
            (_, Some(true)) => format!("{state}, elected"),
            (Some(site), _) => format!("{state}, site {site}"),
            _ => state.to_owned(),
        }
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            self.state(),
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
            peer: None,
            zone: None,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        let readiness = if ready { Readiness::Ready } else { Readiness::NotReady("x".to_owned()) };
        ProcessStatus::new(member, &BTreeMap::new(), readiness, &dir)
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
        let processes = vec![process(Role::Meta, true)];
        let status = Status { ready: true, processes, sites: None };
        let json = serde_json::to_value(&status).expect("serialises");
        let object = json["processes"][0].as_object().expect("an object");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let fixed = [
            "alive",
            "data",
            "elected",
            "grpc",
            "metrics",
            "mqtt",
            "name",
            "pid",
            "ready",
            "role",
            "site",
            "site_state",
        ];
        assert_eq!(keys, fixed);
        assert_eq!(json["processes"][0]["role"], "meta");
    }
}
