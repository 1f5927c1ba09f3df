//! Starts the processes of a cluster, follows them, starts dead ones again and stops them all.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use holdfast_node_kit::config::EXIT_CONFIG;
use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::console;
use crate::data_dir::DataDir;
use crate::plan::{Member, Plan};
use crate::probe;
use crate::process;
use crate::role::Role;
use crate::status::Status;

/// How often children are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often they are asked for their health once the cluster has been ready.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first readiness may take before we say what is missing.
const PATIENCE: Duration = Duration::from_secs(20);
/// First and last pause before a dead process is started again; it doubles from one to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A process that lived as long begins with the first pause again.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// Lines of the log that are shown when a process dies.
const LOG_LINES_SHOWN: usize = 5;

/// The cluster cannot be run.
#[derive(Debug, Error)]
pub(crate) enum SupervisorError {
    #[error("{name} cannot be started: {source}")]
    Spawn { name: String, source: io::Error },
    #[error("{name} refuses its config: see {}", log.display())]
    Config { name: String, log: PathBuf },
}

/// What became of a process.
#[derive(Debug)]
enum State {
    Running {
        child: Child,
        since: Instant,
    },
    /// Dead; to be started at the given time.
    Waiting {
        until: Instant,
    },
    /// Dead for good.
    Stopped,
}

#[derive(Debug)]
struct Watched {
    member: Member,
    state: State,
    backoff: Duration,
    /// Last health that was shown.
    shown_ready: bool,
}

/// Runs one cluster.
#[derive(Debug)]
pub(crate) struct Supervisor {
    plan: Plan,
    dir: DataDir,
    programs: PathBuf,
    restart: bool,
    watched: Vec<Watched>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub(crate) fn new(plan: Plan, dir: DataDir, programs: PathBuf, restart: bool) -> Supervisor {
        Supervisor { plan, dir, programs, restart, watched: Vec::new() }
    }

    /// Starts everything, follows it until `shutdown` and stops it.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Result<(), SupervisorError> {
        let followed = tokio::select! {
            () = shutdown.wait() => Ok(()),
            ended = self.start_and_follow() => ended,
        };
        console::line("stopping: gateways, storage, meta");
        let members = self.plan.members();
        let watched = &mut self.watched;
        let killed = process::stop_all(&members, &self.dir, || {
            for process in watched.iter_mut() {
                if let State::Running { child, .. } = &mut process.state {
                    // Only collects the exit status; an error means that there is none.
                    let _ = child.try_wait();
                }
            }
        });
        for name in killed.await {
            console::line(format!("{name} did not end in time and was killed"));
        }
        console::line("stopped");
        followed
    }

    async fn start_and_follow(&mut self) -> Result<(), SupervisorError> {
        for role in Role::ALL {
            self.start(role)?;
            if role == Role::Meta {
                self.wait_for(role).await?;
            }
        }
        self.wait_for_all().await?;
        self.follow().await
    }

    fn start(&mut self, role: Role) -> Result<(), SupervisorError> {
        for member in self.plan.members().into_iter().filter(|member| member.role == role) {
            let child = spawn(&member, &self.dir, &self.programs)?;
            console::line(format!("started {} (pid {})", member.name, child.id()));
            let state = State::Running { child, since: Instant::now() };
            self.watched.push(Watched { member, state, backoff: BACKOFF_MIN, shown_ready: false });
        }
        Ok(())
    }

    /// Waits until all processes of a role answer: they may need the next role to be ready.
    async fn wait_for(&mut self, role: Role) -> Result<(), SupervisorError> {
        for member in self.plan.members().into_iter().filter(|member| member.role == role) {
            while !probe::is_live(&member.http).await {
                self.revive()?;
                sleep(WATCH_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Waits until the cluster acknowledges publishes, then tells how to try it.
    async fn wait_for_all(&mut self) -> Result<(), SupervisorError> {
        let started = Instant::now();
        let mut complain_at = started + PATIENCE;
        loop {
            let status = self.look().await?;
            if status.ready && status.processes.iter().all(|process| process.ready) {
                break;
            }
            if Instant::now() >= complain_at {
                complain_at = Instant::now() + PATIENCE;
                console::line(format!("still waiting:\n{}", status.table()));
            }
            sleep(WATCH_INTERVAL).await;
        }
        self.introduce().await;
        Ok(())
    }

    async fn introduce(&self) {
        let status = Status::of(&self.plan, &self.dir).await;
        console::line(format!("\n{}\n", status.table()));
        let mut ports = self
            .plan
            .members()
            .into_iter()
            .filter_map(|member| Some(member.mqtt?.rsplit_once(':')?.1.to_owned()));
        let first = ports.next().unwrap_or_default();
        let last = ports.next_back().unwrap_or_else(|| first.clone());
        console::line("ready. Try it:");
        console::line(format!("  mosquitto_sub -p {first} -i emqx_c -c -q 1 -t 't/#' -v"));
        console::line(format!("  mosquitto_pub -p {last} -q 1 -t t/1 -m hello"));
        console::line(format!("logs in {}, Ctrl-C stops", self.dir.root().join("logs").display()));
    }

    async fn follow(&mut self) -> Result<(), SupervisorError> {
        let mut ask_at = Instant::now() + HEALTH_INTERVAL;
        loop {
            sleep(WATCH_INTERVAL).await;
            self.revive()?;
            if Instant::now() >= ask_at {
                self.look().await?;
                ask_at = Instant::now() + HEALTH_INTERVAL;
            }
        }
    }

    /// Revives dead processes, asks all for their health and shows what changed.
    async fn look(&mut self) -> Result<Status, SupervisorError> {
        self.revive()?;
        let status = Status::of(&self.plan, &self.dir).await;
        for process in &status.processes {
            let Some(watched) = self.watched.iter_mut().find(|w| w.member.name == process.name)
            else {
                continue;
            };
            if watched.shown_ready == process.ready {
                continue;
            }
            watched.shown_ready = process.ready;
            match &process.reason {
                None => console::line(format!("{} is ready", process.name)),
                Some(reason) => console::line(format!("{} is not ready: {reason}", process.name)),
            }
        }
        Ok(status)
    }

    /// Notices dead processes and starts those whose pause is over.
    fn revive(&mut self) -> Result<(), SupervisorError> {
        let now = Instant::now();
        for watched in &mut self.watched {
            match &mut watched.state {
                State::Running { child, since } => {
                    let Ok(Some(status)) = child.try_wait() else { continue };
                    let steady = now.duration_since(*since) >= STEADY_AFTER;
                    watched.bury(status, steady, self.restart, &self.dir)?;
                }
                State::Waiting { until } if now >= *until => {
                    let child = spawn(&watched.member, &self.dir, &self.programs)?;
                    console::line(format!(
                        "started {} again (pid {})",
                        watched.member.name,
                        child.id()
                    ));
                    watched.state = State::Running { child, since: now };
                }
                State::Waiting { .. } | State::Stopped => {}
            }
        }
        Ok(())
    }
}

impl Watched {
    /// Decides what follows a death. Who ends a process politely means it: exit code 0 is a stop
    /// on purpose. A config error does not heal by itself.
    fn bury(
        &mut self,
        status: ExitStatus,
        steady: bool,
        restart: bool,
        dir: &DataDir,
    ) -> Result<(), SupervisorError> {
        let name = &self.member.name;
        self.shown_ready = false;
        if status.success() {
            console::line(format!("{name} was stopped"));
            self.state = State::Stopped;
            return Ok(());
        }
        console::line(format!("{name} died ({status})\n{}", last_lines(dir, name)));
        if status.code() == Some(EXIT_CONFIG) {
            return Err(SupervisorError::Config { name: name.clone(), log: dir.log(name) });
        }
        if !restart {
            self.state = State::Stopped;
            return Ok(());
        }
        if steady {
            self.backoff = BACKOFF_MIN;
        }
        self.state = State::Waiting { until: Instant::now() + self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

fn spawn(
    member: &Member,
    dir: &DataDir,
    programs: &std::path::Path,
) -> Result<Child, SupervisorError> {
    process::spawn(member, dir, programs)
        .map_err(|source| SupervisorError::Spawn { name: member.name.clone(), source })
}

fn last_lines(dir: &DataDir, name: &str) -> String {
    let text = fs::read(dir.log(name)).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(4096)..];
    let tail = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = tail.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
