//! Processes of a cluster as the system sees them. One is known by the path of its config file in
//! its command line, whoever started it: a killed supervisor leaves nothing that cannot be found.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::local::data_dir::DataDir;
use crate::local::plan::Member;
use crate::local::programs::{Programs, is_program_of};
use crate::local::role::Role;

/// How long a process may take to end after SIGTERM before it is killed.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A signal that stops a process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// Asks.
    Term,
    /// Does not ask.
    Kill,
}

/// Starts the program of `member` in a process group of its own, so that Ctrl-C in a terminal
/// reaches the supervisor alone.
pub(crate) fn spawn(member: &Member, dir: &DataDir, programs: &Programs) -> io::Result<Child> {
    let log = dir.open_log(&member.name)?;
    Command::new(programs.of(member.role))
        .arg(member.role.config_option())
        .arg(dir.config(&member.name))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

/// Pids of the members that live, by name.
pub(crate) fn running(members: &[Member], dir: &DataDir) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for pid in all_pids() {
        let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let is_of = |member: &&Member| runs(&command_line, member, dir);
        if let Some(member) = members.iter().find(is_of) {
            found.insert(member.name.clone(), pid);
        }
    }
    found
}

/// Whether a command line is `.../BINARY --config CONFIG`.
fn runs(command_line: &[u8], member: &Member, dir: &DataDir) -> bool {
    let config = dir.config(&member.name);
    let mut args = command_line.split(|byte| *byte == 0);
    let program = args.next().map(|program| Path::new(OsStr::from_bytes(program)));
    program.is_some_and(|program| is_program_of(program, member.role))
        && args.next() == Some(member.role.config_option().as_bytes())
        && args.next() == Some(config.as_os_str().as_bytes())
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends a signal. That the process is gone already is no error.
#[allow(unsafe_code, reason = "std sends no signal but SIGKILL, and that to children only")]
pub(crate) fn send(pid: u32, signal: Signal) {
    let number = match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill takes two numbers and touches no memory of ours.
        unsafe { libc::kill(pid, number) };
    }
}

/// Stops gateways, then storage, meta and etcd: each role has time to finish what the former left.
/// `reap` is called while waiting, to collect children that ended. Returns the names of those that
/// had to be killed.
pub(crate) async fn stop_all(
    members: &[Member],
    dir: &DataDir,
    mut reap: impl FnMut(),
) -> Vec<String> {
    let mut killed = Vec::new();
    for role in Role::ALL.into_iter().rev() {
        let of_role: Vec<Member> =
            members.iter().filter(|member| member.role == role).cloned().collect();
        for pid in running(&of_role, dir).values() {
            send(*pid, Signal::Term);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            reap();
            let left = running(&of_role, dir);
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                for (name, pid) in left {
                    send(pid, Signal::Kill);
                    if !killed.contains(&name) {
                        killed.push(name);
                    }
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::{Plan, Wish};
    use crate::local::sites::Sites;

    #[test]
    fn a_process_is_known_by_program_and_config() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        let wish = Wish { mqtt_port: Some(0), ..Wish::default() };
        let plan = Plan::lay_out(None, &wish, &Sites::default(), &dir).expect("laid out");
        let member = &plan.members()[0];
        let config = dir.config("meta-1").to_string_lossy().into_owned();
        let line = |program: &str| format!("{program}\0--config\0{config}\0").into_bytes();
        assert!(runs(&line("/x/meta-service"), member, &dir));
        assert!(!runs(&line("/usr/bin/vim"), member, &dir));
        assert!(!runs(b"/x/meta-service\0--config\0/elsewhere/meta-1.toml\0", member, &dir));
    }
}
