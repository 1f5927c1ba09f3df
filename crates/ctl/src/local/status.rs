//! Which processes of a local cluster run, and whether a durable publish would be acknowledged now.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_admin_api::ClusterStatus;
use serde::Serialize;
use tokio::time::timeout;

use crate::api::{Api, Request};
use crate::console::Tone;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan};
use crate::local::probe::{self, Readiness};
use crate::local::process;
use crate::local::role::Role;
use crate::local::sites::Sites;
use crate::table::{self, Cell, Row};

/// A meta-service that takes longer has other troubles; the processes are shown without it.
const GLANCE_TIMEOUT: Duration = Duration::from_secs(2);

/// The status of a cluster. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Status {
    /// A durable publish would be acknowledged now, at every gateway.
    pub(crate) ready: bool,
    /// In the order of a start.
    pub(crate) processes: Vec<ProcessStatus>,
    /// Ready, no process is missed, and the elected meta-service says that the cluster is healthy.
    pub(crate) healthy: bool,
    /// As the elected meta-service tells; none if it does not answer.
    pub(crate) cluster: Option<ClusterStatus>,
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
    /// `host:port` of the admin API of a meta-service.
    admin: Option<String>,
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
        let answering = members
            .iter()
            .zip(&readiness)
            .filter(|(_, readiness)| !matches!(readiness, Readiness::Silent(_)))
            .filter_map(|(member, _)| member.admin.as_deref());
        let cluster = glance(dir, answering.collect()).await;
        let elected = cluster.as_ref().map(|cluster| cluster.elected.as_str());
        let sites = cluster.as_ref().map(|cluster| Sites::of(&cluster.sites));
        let with = members.into_iter().zip(readiness);
        let processes: Vec<ProcessStatus> = with
            .map(|(member, readiness)| {
                let is_elected = elected.map(|elected| elected == member.name);
                let mut status = ProcessStatus::new(member, &pids, readiness, dir);
                status.tell(is_elected, sites.as_ref());
                status
            })
            .collect();
        let ready = is_ready(&processes, plan.replication_factor());
        let healthy = ready
            && processes.iter().all(|process| !process.is_missed())
            && cluster.as_ref().is_some_and(|cluster| cluster.healthy);
        Status { ready, processes, healthy, cluster }
    }

    /// What is known of the sites; none if nobody told.
    pub(crate) fn sites(&self) -> Option<Sites> {
        self.cluster.as_ref().map(|cluster| Sites::of(&cluster.sites))
    }

    /// Why the cluster is not healthy, as far as the processes here show it.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.processes.iter().filter(|process| process.is_missed());
        missed
            .map(|process| {
                let why = process.reason.as_deref().unwrap_or("not ready");
                format!("{}: {why}", process.name)
            })
            .collect()
    }

    /// For scripts.
    pub(crate) fn json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For a human.
    pub(crate) fn table(&self) -> String {
        table::render(&self.processes)
    }
}

/// A look at the cluster through the admin API of those meta-services that answer.
async fn glance(dir: &DataDir, answering: Vec<&str>) -> Option<ClusterStatus> {
    let urls = answering.into_iter().map(|address| format!("http://{address}")).collect();
    let api = Api::local(dir, urls)?.with_patience(Duration::ZERO);
    timeout(GLANCE_TIMEOUT, api.ask(Request::get("/status"))).await.ok()?.ok()
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
            admin: member.admin,
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

    /// It should do its job and does not. The elected meta-service does not know of others that could
    /// follow it, nor of single members of etcd; of sites it knows which are wanted no more.
    fn is_missed(&self) -> bool {
        let is_wanted = match (self.role, self.site_state.as_deref()) {
            (Role::Storage, Some("drained" | "lost")) => false,
            (Role::Storage, None) => self.alive,
            _ => true,
        };
        is_wanted && !self.ready
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
}

impl Row for ProcessStatus {
    const TITLES: &'static [&'static str] =
        &["process", ">pid", "state", "mqtt", "-grpc", "-metrics", "-admin", "-data"];

    fn cells(&self) -> Vec<Cell> {
        let tone = if self.ready { Tone::Good } else { Tone::Bad };
        vec![
            self.name.as_str().into(),
            Cell::or_dash(self.pid),
            Cell::toned(self.state(), tone),
            Cell::or_dash(self.mqtt.as_ref()),
            self.grpc.as_str().into(),
            self.metrics.as_str().into(),
            Cell::or_dash(self.admin.as_ref()),
            Cell::or_dash(self.data.as_ref()),
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
            admin: None,
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
    fn a_process_is_missed_unless_its_site_is_wanted_no_more() {
        let drained = ProcessStatus {
            site_state: Some("drained".to_owned()),
            ..process(Role::Storage, false)
        };
        let forgotten = process(Role::Storage, false);
        let processes =
            vec![process(Role::Meta, false), drained, forgotten, process(Role::Gateway, true)];
        let status = Status { ready: true, processes, healthy: false, cluster: None };
        assert_eq!(status.missed(), ["meta: x"]);
    }

    #[test]
    fn the_json_form_is_fixed() {
        let processes = vec![process(Role::Meta, true)];
        let status = Status { ready: true, processes, healthy: false, cluster: None };
        let json = serde_json::to_value(&status).expect("serialises");
        let object = json["processes"][0].as_object().expect("an object");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let fixed = [
            "admin",
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
