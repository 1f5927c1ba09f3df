//! What a run puts into the system outside of its own processes, and how all of it goes away again:
//! namespaces, a bridge, loop mounts and a folder, all named so that a later run finds what an
//! earlier one could not take away.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::tool;
use crate::trouble::Trouble;

/// Begins the name of every namespace and interface.
pub(crate) const PREFIX: &str = "hfchaos-";
const GONE_PATIENCE: Duration = Duration::from_secs(15);

/// The folder of all runs of a user.
pub(crate) fn base() -> PathBuf {
    let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
    let name = if user == 0 { String::new() } else { format!("-{user}") };
    std::env::temp_dir().join(format!("holdfast-chaos{name}"))
}

/// The folder of the present run.
pub(crate) fn run_folder() -> PathBuf {
    base().join("run")
}

/// Held while a run lasts: two at once would take away each other's hosts.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it or says that somebody has it.
    pub(crate) fn take() -> Result<Lock, Trouble> {
        fs::create_dir_all(base()).map_err(Trouble::system("make the folder of the run"))?;
        let path = base().join("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(Trouble::system(path.display()))?;
        if !lock(&file) {
            let told = format!("another run holds {}", path.display());
            return Err(Trouble::Impossible(told));
        }
        Ok(Lock { _file: file })
    }
}

#[allow(unsafe_code, reason = "the rust-version of std has no lock that closes over exec")]
fn lock(file: &File) -> bool {
    // SAFETY: the descriptor is open as long as `file` lives.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Takes away whatever a run left: in this order, since a process that writes to a frozen disk dies
/// only when the disk is thawed, and a disk is let go only when the process is dead.
pub(crate) fn sweep(keep_folder: bool) {
    let mounts = mounts();
    for mount in &mounts {
        // Fails where the disk is not frozen.
        let _ = tool::run_words(&["fsfreeze", "-u", &mount.to_string_lossy()]);
    }
    let namespaces = namespaces();
    for namespace in &namespaces {
        end_processes(namespace);
    }
    for mount in &mounts {
        unmount(mount);
    }
    for namespace in &namespaces {
        let _ = tool::run(&format!("ip netns delete {namespace}"));
    }
    let bridge = format!("{PREFIX}br");
    if Path::new("/sys/class/net").join(&bridge).exists() {
        let _ = tool::run(&format!("ip link delete {bridge}"));
    }
    if !keep_folder {
        // Missing if nothing was started.
        let _ = fs::remove_dir_all(run_folder());
    }
}

fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(run_folder())).collect()
}

fn unmount(mount: &Path) {
    let deadline = Instant::now() + GONE_PATIENCE;
    while tool::run_words(&["umount", &mount.to_string_lossy()]).is_err() {
        if Instant::now() > deadline {
            eprintln!("{} stays mounted", mount.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Only processes of a run are in its namespaces.
fn end_processes(namespace: &str) {
    let deadline = Instant::now() + GONE_PATIENCE;
    loop {
        let pids = tool::run(&format!("ip netns pids {namespace}")).unwrap_or_default();
        let pids: Vec<i32> = pids.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        pids.iter().for_each(|pid| crate::process::signal(*pid, libc::SIGKILL));
        if Instant::now() > deadline {
            eprintln!("{pids:?} in {namespace} do not end");
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
