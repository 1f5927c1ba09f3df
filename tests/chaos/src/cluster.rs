//! The cluster under test: real processes on hosts of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_e2e::cluster::{http_get, program};
use tokio::time::{sleep, timeout};

use crate::delay::Forwarder;
use crate::disk::Disk;
use crate::ground::run_folder;
use crate::member::{Member, Role, Shape, config, etcd_arguments, lay_out};
use crate::network::Network;
use crate::process::{Process, Recipe};
use crate::tool;
use crate::trouble::Trouble;
use crate::wall_clock::WallClock;

const READY_PATIENCE: Duration = Duration::from_secs(90);
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Costlier metrics are brought up to date every five seconds.
const TOLD_PATIENCE: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How processes are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetUp {
    /// As a user would.
    Plain,
    /// Storage nodes are reached through forwarders.
    Forwarded,
    /// The processes of a role have clocks that can jump.
    OwnClocks(Role),
}

/// All processes, and what they run on.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) shape: Shape,
    present: SetUp,
    members: Vec<Member>,
    processes: BTreeMap<String, Process>,
    /// Of the last storage node, or why there is none.
    pub(crate) disk: Result<Disk, String>,
    /// In front of storage nodes.
    pub(crate) forwarders: BTreeMap<String, Forwarder>,
    /// Of processes whose clock can jump.
    pub(crate) clocks: BTreeMap<String, WallClock>,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(network: Network, shape: Shape) -> Result<Cluster, Trouble> {
        let logs = run_folder().join("logs");
        fs::create_dir_all(&logs).map_err(Trouble::system(logs.display()))?;
        let data = run_folder().join("data");
        fs::create_dir_all(&data).map_err(Trouble::system(data.display()))?;
        let mut members = lay_out(network, shape)?;
        let disk = Disk::make().map_err(|trouble| format!("no disk can be made: {trouble}"));
        let last = members.iter_mut().rfind(|member| member.role == Role::Storage);
        if let (Ok(disk), Some(last)) = (&disk, last) {
            last.data = disk.folder();
            last.has_own_disk = true;
        }
        let (processes, forwarders, clocks) = Default::default();
        let mut cluster = Cluster {
            network,
            shape,
            present: SetUp::Plain,
            members,
            processes,
            disk,
            forwarders,
            clocks,
        };
        for name in cluster.all_names() {
            cluster.launch(&name)?;
        }
        cluster.await_ready().await?;
        Ok(cluster)
    }

    /// A process by name.
    pub(crate) fn member(&self, name: &str) -> Result<&Member, Trouble> {
        let missing = || Trouble::Impossible(format!("there is no {name}"));
        self.members.iter().find(|member| member.name == name).ok_or_else(missing)
    }

    /// All processes of a role.
    pub(crate) fn of(&self, role: Role) -> Vec<Member> {
        self.members.iter().filter(|member| member.role == role).cloned().collect()
    }

    /// Names of all processes of a role.
    pub(crate) fn names(&self, role: Role) -> Vec<String> {
        self.of(role).into_iter().map(|member| member.name).collect()
    }

    /// Names of all processes.
    pub(crate) fn all_names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// Starts a process that does not run.
    pub(crate) fn launch(&mut self, name: &str) -> Result<(), Trouble> {
        let member = self.member(name)?.clone();
        let recipe = self.recipe(&member)?;
        let process = Process::start(&recipe, &member.host)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    fn recipe(&self, member: &Member) -> Result<Recipe, Trouble> {
        let log = run_folder().join("logs").join(format!("{}.log", member.name));
        let mut environment = vec![("NO_COLOR".to_owned(), "1".to_owned())];
        if let Some(clock) = self.clocks.get(&member.name) {
            environment.extend(clock.environment());
        }
        if member.role == Role::Etcd {
            let missing = || Trouble::Impossible("etcd is not installed".to_owned());
            let program = etcd().ok_or_else(missing)?;
            let arguments = etcd_arguments(member, &self.members);
            return Ok(Recipe { program, arguments, environment, log });
        }
        let path: PathBuf = run_folder().join(format!("{}.toml", member.name));
        let advertise = self.forwarders.get(&member.name).map(|it| it.address.as_str());
        let text = config(member, &self.members, self.shape, advertise);
        fs::write(&path, text).map_err(Trouble::system(path.display()))?;
        let arguments = vec!["--config".to_owned(), path.to_string_lossy().into_owned()];
        Ok(Recipe { program: program(member.role.program()), arguments, environment, log })
    }

    /// kill -9 of all of these at once; returns when they are gone.
    pub(crate) async fn kill(&mut self, names: &[String]) -> Result<(), Trouble> {
        self.signal(names, libc::SIGKILL);
        for name in names {
            if let Some(process) = self.processes.get_mut(name) {
                process.kill().await?;
            }
        }
        Ok(())
    }

    /// Sends all of these a signal.
    pub(crate) fn signal(&self, names: &[String], number: i32) {
        names
            .iter()
            .filter_map(|name| self.processes.get(name))
            .for_each(|process| process.signal(number));
    }

    /// Ends these and starts them again as the present set-up wants them, one after the other.
    pub(crate) async fn restart(&mut self, names: &[String]) -> Result<(), Trouble> {
        for name in names {
            self.kill(std::slice::from_ref(name)).await?;
            self.launch(name)?;
            self.await_ready().await?;
        }
        Ok(())
    }

    /// Starts processes again that must be started otherwise than they were.
    pub(crate) async fn set_up(&mut self, wanted: SetUp) -> Result<(), Trouble> {
        if wanted == self.present {
            return Ok(());
        }
        let (mut forwarders, mut clocks) = (BTreeMap::new(), BTreeMap::new());
        match wanted {
            SetUp::Plain => {}
            SetUp::Forwarded => {
                for member in self.of(Role::Storage) {
                    let forwarder = Forwarder::start(&self.network.own_ip(), member.grpc).await?;
                    forwarders.insert(member.name, forwarder);
                }
            }
            SetUp::OwnClocks(role) => {
                for name in self.names(role) {
                    let file = run_folder().join(format!("{name}.clock"));
                    clocks.insert(name, WallClock::new(file)?);
                }
            }
        }
        let before = self.forwarders.keys().chain(self.clocks.keys());
        let changed = before.chain(forwarders.keys()).chain(clocks.keys()).cloned();
        let mut changed: Vec<String> = changed.collect();
        (self.forwarders, self.clocks) = (forwarders, clocks);
        self.present = wanted;
        changed.sort_unstable();
        changed.dedup();
        self.restart(&changed).await
    }

    /// Ends everything at once.
    pub(crate) async fn end(&mut self) {
        if let Ok(disk) = &self.disk {
            // Fails unless it is frozen; then nothing that writes to it could end.
            let _ = disk.freeze(false);
        }
        if let Err(trouble) = self.kill(&self.all_names()).await {
            eprintln!("{trouble}");
        }
    }

    /// Waits until each of these processes tells over HTTP what is wanted.
    pub(crate) async fn await_told(
        &self,
        names: &[String],
        path: &str,
        what: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + TOLD_PATIENCE;
        for name in names {
            let address = &self.member(name)?.http;
            loop {
                let told = timeout(ANSWER_PATIENCE, http_get(address, path)).await;
                if is_wanted(&told.unwrap_or_default()) {
                    break;
                }
                if Instant::now() > deadline {
                    let what = format!("{name} tells of {what}");
                    return Err(Trouble::Late { what, seconds: TOLD_PATIENCE.as_secs() });
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Names of processes that have ended by themselves.
    pub(crate) fn dead(&mut self) -> Vec<String> {
        let dead = self.processes.iter_mut().filter_map(|(name, process)| {
            let has_ended = !process.is_alive();
            has_ended.then(|| name.clone())
        });
        dead.collect()
    }

    /// Waits until every process is ready.
    pub(crate) async fn await_ready(&self) -> Result<(), Trouble> {
        let deadline = Instant::now() + READY_PATIENCE;
        for member in &self.members {
            loop {
                let said = readiness(member).await;
                let Err(reason) = said else { break };
                if Instant::now() > deadline {
                    let what = format!("{} says {reason:?}", member.name);
                    return Err(Trouble::Late { what, seconds: READY_PATIENCE.as_secs() });
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }
}

/// Where etcd is: as `HOLDFAST_ETCD` says, or on the path.
pub(crate) fn etcd() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_ETCD").map(PathBuf::from).or_else(|| tool::find("etcd"))
}

/// Whether a process can do its job, or what it says instead.
async fn readiness(member: &Member) -> Result<(), String> {
    let (address, path, good) = match member.role {
        Role::Etcd => (&member.grpc, "/health", "\"health\":\"true\""),
        _ => (&member.http, "/health/ready", "ready"),
    };
    let body = timeout(ANSWER_PATIENCE, http_get(address, path)).await.unwrap_or_default();
    let is_ready =
        if member.role == Role::Etcd { body.contains(good) } else { body.trim() == good };
    if is_ready { Ok(()) } else { Err(body.trim().to_owned()) }
}
