//! One process under the eyes of the supervisor.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use holdfast_node_kit::config::EXIT_CONFIG;
use tokio::time::Instant;

use super::SupervisorError;
use crate::console;
use crate::local::data_dir::DataDir;
use crate::local::plan::Member;
use crate::local::process::{self, STOP_TIMEOUT, Signal};
use crate::local::programs::Programs;

/// First and last pause before a dead process is started again; it doubles from one to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A process that lived as long begins with the first pause again.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// Lines of the log that are shown when a process dies.
const LOG_LINES_SHOWN: usize = 5;

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
pub(super) struct Watched {
    pub(super) member: Member,
    state: State,
    backoff: Duration,
    /// It stays away when it ends.
    held: bool,
    /// It was asked to go for good, and is killed if it has not gone by then.
    leaving: Option<Instant>,
    /// Last health that was shown.
    pub(super) shown_ready: bool,
}

impl Watched {
    /// Starts a process.
    pub(super) fn start(
        member: Member,
        dir: &DataDir,
        programs: &Programs,
    ) -> Result<Watched, SupervisorError> {
        let child = spawn(&member, dir, programs)?;
        console::line(format!("started {} (pid {})", member.name, child.id()));
        let state = State::Running { child, since: Instant::now() };
        Ok(Watched {
            member,
            state,
            backoff: BACKOFF_MIN,
            held: false,
            leaving: None,
            shown_ready: false,
        })
    }

    /// Collects the exit status of one that ended; that it has none is no error.
    pub(super) fn reap(&mut self) {
        if let State::Running { child, .. } = &mut self.state {
            let _ = child.try_wait();
        }
    }

    /// Ends it; it stays away until it is started again.
    pub(super) fn hold(&mut self, dir: &DataDir, signal: Signal) {
        self.held = true;
        if let State::Waiting { .. } = self.state {
            self.state = State::Stopped;
        }
        self.signal(dir, signal);
    }

    /// Starts it if it does not run.
    pub(super) fn start_again(
        &mut self,
        dir: &DataDir,
        programs: &Programs,
    ) -> Result<(), SupervisorError> {
        self.held = false;
        match self.state {
            State::Running { .. } => {}
            State::Waiting { .. } | State::Stopped => {
                self.state = State::Waiting { until: Instant::now() };
                self.revive(true, dir, programs)?;
            }
        }
        Ok(())
    }

    /// Asks it to go for good.
    pub(super) fn leave(&mut self, dir: &DataDir) {
        console::line(format!("stopping {}", self.member.name));
        self.leaving = Some(Instant::now() + STOP_TIMEOUT);
        self.signal(dir, Signal::Term);
    }

    /// Whether it was asked to go and has gone.
    pub(super) fn is_gone(&mut self, dir: &DataDir) -> bool {
        let Some(deadline) = self.leaving else { return false };
        self.reap();
        if process::running(std::slice::from_ref(&self.member), dir).is_empty() {
            console::line(format!("{} has gone", self.member.name));
            return true;
        }
        if Instant::now() >= deadline {
            console::line(format!("{} did not end in time and is killed", self.member.name));
            self.signal(dir, Signal::Kill);
        }
        false
    }

    /// Whoever started it.
    fn signal(&self, dir: &DataDir, signal: Signal) {
        for pid in process::running(std::slice::from_ref(&self.member), dir).into_values() {
            process::send(pid, signal);
        }
    }

    /// Notices its death, and starts it again when its pause is over.
    pub(super) fn revive(
        &mut self,
        restart: bool,
        dir: &DataDir,
        programs: &Programs,
    ) -> Result<(), SupervisorError> {
        let now = Instant::now();
        match &mut self.state {
            _ if self.leaving.is_some() => {}
            State::Running { child, since } => {
                let Ok(Some(status)) = child.try_wait() else { return Ok(()) };
                let steady = now.duration_since(*since) >= STEADY_AFTER;
                self.bury(status, steady, restart, dir)?;
            }
            State::Waiting { until } if now >= *until => {
                let child = spawn(&self.member, dir, programs)?;
                let pid = child.id();
                console::line(format!("started {} again (pid {pid})", self.member.name));
                self.state = State::Running { child, since: now };
            }
            State::Waiting { .. } | State::Stopped => {}
        }
        Ok(())
    }

    /// Decides what follows a death. Who ends a process politely means it: exit code 0 is a stop
    /// on purpose, and so is SIGTERM, by which an etcd ends after it has handed over. A config error
    /// does not heal by itself.
    fn bury(
        &mut self,
        status: ExitStatus,
        steady: bool,
        restart: bool,
        dir: &DataDir,
    ) -> Result<(), SupervisorError> {
        let name = &self.member.name;
        self.shown_ready = false;
        if self.held || status.success() || status.signal() == Some(libc::SIGTERM) {
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

fn spawn(member: &Member, dir: &DataDir, programs: &Programs) -> Result<Child, SupervisorError> {
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
