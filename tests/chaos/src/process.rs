//! One process of the cluster, on its host.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::network::Host;
use crate::trouble::Trouble;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const END_PATIENCE: Duration = Duration::from_secs(20);

/// How to start a process.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) log: PathBuf,
}

/// A process that runs, or ran.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it on a host. It dies with this program: the thread that starts it must be the main
    /// one, since it dies with the thread.
    pub(crate) fn start(recipe: &Recipe, host: &Host) -> Result<Process, Trouble> {
        let log = OpenOptions::new().append(true).create(true).open(&recipe.log);
        let log = log.map_err(Trouble::system(recipe.log.display()))?;
        let also = log.try_clone().map_err(Trouble::system(recipe.log.display()))?;
        let mut command = Command::new(&recipe.program);
        command.args(&recipe.arguments).envs(recipe.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(also).stderr(log).process_group(0);
        let namespace = match &host.namespace {
            Some(name) => {
                let path = format!("/run/netns/{name}");
                Some(File::open(&path).map_err(Trouble::system(path))?)
            }
            None => None,
        };
        prepare(&mut command, namespace);
        let child = command.spawn().map_err(Trouble::system(recipe.program.display()))?;
        Ok(Process { child })
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, number: i32) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            signal(pid, number);
        }
    }

    /// kill -9, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), Trouble> {
        self.signal(libc::SIGKILL);
        let deadline = Instant::now() + END_PATIENCE;
        while self.is_alive() {
            if Instant::now() > deadline {
                let what = format!("process {} does not end", self.child.id());
                return Err(Trouble::Late { what, seconds: END_PATIENCE.as_secs() });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

/// Also of a cluster that never came up.
impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.child.kill();
    }
}

#[allow(unsafe_code, reason = "std can neither enter a namespace nor ask to die with the parent")]
pub(crate) fn prepare(command: &mut Command, namespace: Option<File>) {
    // SAFETY: prctl and setns are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match &namespace {
                Some(file) if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) != 0 => {
                    Err(std::io::Error::last_os_error())
                }
                _ => Ok(()),
            }
        });
    }
}

#[allow(unsafe_code, reason = "std sends no signal but SIGKILL")]
pub(crate) fn signal(pid: i32, number: i32) {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, number) };
}
