//! Starts the processes of a cluster, follows them, starts dead ones again, adds and removes some on
//! request, and stops them all.

mod watched;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use self::watched::Watched;
use crate::console;
use crate::local::config_file::{self, Setting};
use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan, Wish};
use crate::local::probe::{self, Readiness};
use crate::local::process::{self, Signal};
use crate::local::programs::Programs;
use crate::local::request::{Change, Request, RequestError};
use crate::local::role::Role;
use crate::local::sites::{Sites, SitesError};
use crate::local::status::Status;

/// How often children are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often they are asked for their health once the cluster has been ready.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first readiness may take before we say what is missing.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster cannot be run.
#[derive(Debug, Error)]
pub(crate) enum SupervisorError {
    #[error("{name} cannot be started: {source}")]
    Spawn { name: String, source: io::Error },
    #[error("{name} refuses its config: see {}", log.display())]
    Config { name: String, log: PathBuf },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Sites(#[from] SitesError),
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Runs one cluster.
#[derive(Debug)]
pub(crate) struct Supervisor {
    plan: Plan,
    dir: DataDir,
    programs: Programs,
    settings: Vec<Setting>,
    restart: bool,
    watched: Vec<Watched>,
    /// As of the last look.
    sites: Sites,
}

impl Supervisor {
    /// Nothing runs yet.
    pub(crate) fn new(
        plan: Plan,
        dir: DataDir,
        programs: Programs,
        settings: Vec<Setting>,
        restart: bool,
    ) -> Supervisor {
        let (watched, sites) = (Vec::new(), Sites::default());
        Supervisor { plan, dir, programs, settings, restart, watched, sites }
    }

    /// Starts everything, follows it until `shutdown` and stops it.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Result<(), SupervisorError> {
        let followed = tokio::select! {
            () = shutdown.wait() => Ok(()),
            ended = self.start_and_follow() => ended,
        };
        // The next start asks which storage nodes may be left away.
        let remembered = self.look().await.map(|_| ());
        console::line("stopping: gateways, storage, meta, etcd");
        let members: Vec<Member> = self.watched.iter().map(|w| w.member.clone()).collect();
        let watched = &mut self.watched;
        let killed =
            process::stop_all(&members, &self.dir, || watched.iter_mut().for_each(Watched::reap));
        for name in killed.await {
            console::line(format!("{name} did not end in time and was killed"));
        }
        console::line("stopped");
        followed.and(remembered)
    }

    async fn start_and_follow(&mut self) -> Result<(), SupervisorError> {
        for role in Role::ALL {
            for member in self.plan.of_role(role) {
                self.write_config(&self.plan, &member)?;
                self.watched.push(Watched::start(member, &self.dir, &self.programs)?);
            }
            self.wait_for(role).await?;
        }
        self.wait_for_all().await?;
        self.follow().await
    }

    fn write_config(&self, plan: &Plan, member: &Member) -> Result<(), SupervisorError> {
        config_file::write(plan, member, &self.dir, &self.settings)
            .map_err(|(path, source)| SupervisorError::File { path, source })
    }

    /// Waits until the next role can start: etcd has to have a leader, meta-services have to answer
    /// and may need the next role to be ready.
    async fn wait_for(&mut self, role: Role) -> Result<(), SupervisorError> {
        for member in self.plan.of_role(role) {
            loop {
                let done = match role {
                    Role::Etcd => probe::readiness(&member).await == Readiness::Ready,
                    Role::Meta => probe::is_live(&member).await,
                    Role::Storage | Role::Gateway => true,
                };
                if done {
                    break;
                }
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
        console::line(
            "  holdfast status; holdfast sessions list --lag; holdfast --help".to_owned(),
        );
        if let Some(admin) = self.plan.of_role(Role::Meta).into_iter().find_map(|meta| meta.admin) {
            let password = self.dir.admin_password();
            console::line(format!(
                "admin API at http://{admin}/api/v1, user admin, password in {}",
                password.display()
            ));
        }
        console::line(format!("logs in {}, Ctrl-C stops", self.dir.root().join("logs").display()));
    }

    async fn follow(&mut self) -> Result<(), SupervisorError> {
        let mut ask_at = Instant::now() + HEALTH_INTERVAL;
        loop {
            sleep(WATCH_INTERVAL).await;
            self.revive()?;
            if let Some(request) = Request::take(&self.dir)? {
                let refused = self.change(&request.change).await?;
                request.answer(&self.dir, refused)?;
            }
            if Instant::now() >= ask_at {
                self.look().await?;
                ask_at = Instant::now() + HEALTH_INTERVAL;
            }
        }
    }

    /// Does what is asked; or says why not.
    async fn change(&mut self, change: &Change) -> Result<Option<String>, SupervisorError> {
        match change {
            Change::Scale { storage, gateways } => {
                // What was drained a moment ago may go.
                self.look().await?;
                self.scale(&Wish { storage: *storage, gateways: *gateways, ..Wish::default() })
            }
            Change::Stop { names, kill } => {
                let signal = if *kill { Signal::Kill } else { Signal::Term };
                self.each(names, |watched, dir, _| {
                    watched.hold(dir, signal);
                    Ok(())
                })
            }
            Change::Start { names } => self.each(names, Watched::start_again),
        }
    }

    /// Does something with each of these processes; or says which of them there is not, and does nothing.
    fn each(
        &mut self,
        names: &[String],
        mut act: impl FnMut(&mut Watched, &DataDir, &Programs) -> Result<(), SupervisorError>,
    ) -> Result<Option<String>, SupervisorError> {
        let known: Vec<&str> =
            self.watched.iter().map(|watched| watched.member.name.as_str()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            return Ok(Some(format!(
                "no process is called {unknown}: there are {}",
                known.join(", ")
            )));
        }
        for watched in &mut self.watched {
            if names.contains(&watched.member.name) {
                act(watched, &self.dir, &self.programs)?;
            }
        }
        Ok(None)
    }

    /// Adds and removes processes as asked; or says why not.
    fn scale(&mut self, wish: &Wish) -> Result<Option<String>, SupervisorError> {
        let next = match self.plan.scaled(wish, &self.sites, &self.dir) {
            Ok(next) => next,
            Err(error) => return Ok(Some(error.to_string())),
        };
        if let Err(error) = next.save(&self.dir) {
            return Ok(Some(error.to_string()));
        }
        let members = next.members();
        let is_known = |name: &str| self.watched.iter().any(|watched| watched.member.name == name);
        let (stay, new): (Vec<Member>, Vec<Member>) =
            members.into_iter().partition(|member| is_known(&member.name));
        for watched in &mut self.watched {
            if !stay.contains(&watched.member) {
                watched.leave(&self.dir);
                if let Some(site) = self.sites.get(&watched.member.name) {
                    let site = &site.site_id;
                    console::line(format!(
                        "nothing is left on it: `holdfast sites forget {site}` removes its site"
                    ));
                }
            }
        }
        for member in new {
            self.write_config(&next, &member)?;
            self.watched.push(Watched::start(member, &self.dir, &self.programs)?);
        }
        self.plan = next;
        Ok(None)
    }

    /// Revives dead processes, asks all for their health, shows what changed and remembers their
    /// sites.
    async fn look(&mut self) -> Result<Status, SupervisorError> {
        self.revive()?;
        let status = Status::of(&self.plan, &self.dir).await;
        if let Some(sites) = status.sites().filter(|sites| *sites != self.sites) {
            sites.save(&self.dir)?;
            self.sites = sites;
        }
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
        for watched in &mut self.watched {
            watched.revive(self.restart, &self.dir, &self.programs)?;
        }
        self.watched.retain_mut(|watched| !watched.is_gone(&self.dir));
        Ok(())
    }
}
