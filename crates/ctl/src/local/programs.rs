//! Where the programs are. Ours lie beside this one; etcd comes from Debian.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::console;
use crate::local::role::Role;

/// Names another etcd than the one in `PATH`.
const ETCD_VARIABLE: &str = "HOLDFAST_ETCD";
/// Has it.
const ETCD_PACKAGE: &str = "etcd-server";

/// Paths of all programs that a cluster needs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    folder: PathBuf,
    etcd: Option<PathBuf>,
}

/// A program is missing. Stop: the user must install it.
#[derive(Debug, Error)]
pub(crate) enum ProgramError {
    #[error("the path of this program is unknown: {0}")]
    Own(#[from] io::Error),
    #[error("{} is missing: build it first (`make build`)", .0.display())]
    NotBuilt(PathBuf),
    #[error("{ETCD_VARIABLE} names {}, which is no file", .0.display())]
    NoSuchEtcd(PathBuf),
    #[error(
        "etcd is not in PATH{0}: install the Debian package {ETCD_PACKAGE}, or name the program with {ETCD_VARIABLE}"
    )]
    NoEtcd(String),
}

impl Programs {
    /// Finds ours.
    pub(crate) fn find() -> Result<Programs, ProgramError> {
        let own = env::current_exe()?;
        let folder = own.parent().map(PathBuf::from).unwrap_or_default();
        for role in Role::ALL.into_iter().filter(|role| *role != Role::Etcd) {
            let program = folder.join(role.binary());
            if !program.is_file() {
                return Err(ProgramError::NotBuilt(program));
            }
        }
        Ok(Programs { folder, etcd: None })
    }

    /// Finds etcd, too; installs it where that is possible.
    pub(crate) fn with_etcd(self) -> Result<Programs, ProgramError> {
        let named = env::var_os(ETCD_VARIABLE).filter(|named| !named.is_empty());
        if let Some(named) = named.map(PathBuf::from) {
            let exists = named.is_file();
            let etcd = Some(named.clone());
            return exists
                .then_some(Programs { etcd, ..self })
                .ok_or(ProgramError::NoSuchEtcd(named));
        }
        let found = match in_path(Role::Etcd.binary()) {
            Some(found) => found,
            None => {
                install_etcd().map_err(|why| ProgramError::NoEtcd(format!(" ({why})")))?;
                in_path(Role::Etcd.binary()).ok_or_else(|| ProgramError::NoEtcd(String::new()))?
            }
        };
        Ok(Programs { etcd: Some(found), ..self })
    }

    /// The program of a role.
    pub(crate) fn of(&self, role: Role) -> PathBuf {
        match (role, &self.etcd) {
            (Role::Etcd, Some(etcd)) => etcd.clone(),
            _ => self.folder.join(role.binary()),
        }
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Installs the Debian package, and stops the service that the package starts: ours are processes of
/// the cluster.
fn install_etcd() -> Result<(), String> {
    if in_path("apt-get").is_none() {
        return Err("there is no apt-get to install it with".to_owned());
    }
    let root = is_root();
    let as_root = |line: &[&str]| {
        let mut words = line.to_vec();
        if !root {
            words.splice(0..0, ["sudo", "-n"]);
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    if !runs(&mut as_root(&["true"])) {
        return Err("installing it needs root or sudo without a password".to_owned());
    }
    console::line(format!("etcd is missing: installing the Debian package {ETCD_PACKAGE}"));
    // A machine without the network may have the package's list and the package already.
    let _ = runs(&mut as_root(&["apt-get", "-qq", "update"]));
    let install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", ETCD_PACKAGE];
    let installed = runs(&mut as_root(&install));
    if in_path("systemctl").is_some() {
        // Fails where systemd does not run; then the package has started nothing either.
        let _ = runs(&mut as_root(&["systemctl", "disable", "--now", "etcd"]));
    }
    if installed { Ok(()) } else { Err("apt-get could not install it".to_owned()) }
}

#[allow(unsafe_code, reason = "std does not tell who runs this process")]
fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn runs(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether a file is a program with the name of one of ours.
pub(crate) fn is_program_of(path: &Path, role: Role) -> bool {
    // The user may have named any etcd; its config file tells it well enough.
    role == Role::Etcd || path.file_name().is_some_and(|name| name == role.binary())
}
