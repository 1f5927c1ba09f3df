//! The folder of a local cluster: who owns which file in it.
//!
//! ```text
//! ports.json          what runs and on which ports (plan.rs)
//! supervisor.pid      locked by the running `holdfast up`, with its pid
//! admin-password      of user admin of the admin API, made by the first meta-service
//! sites.json          the storage nodes' sites as of the last look (sites.rs)
//! scale.json          what `holdfast scale` asks the supervisor for, and the answer (scale.rs)
//! scale.answer.json
//! config/NAME.toml    written at each start; a process is known by this path in its command line
//! logs/NAME.log       stderr of the process, the former part in NAME.log.1
//! NAME/               data of etcd, meta and storage processes
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

/// A log file is put aside at a start when it is larger.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Name of the file that remembers ports; its presence tells that a folder is ours.
const PORTS_FILE: &str = "ports.json";

/// Where the cluster keeps its data.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// Folder with data, configs, logs and ports of the cluster
    #[arg(long, value_name = "DIR", default_value = ".holdfast")]
    pub(crate) data: PathBuf,
}

/// Paths below the data folder.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Held while this process is the supervisor of the folder; the kernel frees it when we die.
#[derive(Debug)]
pub(crate) struct SupervisorLock {
    _file: File,
}

impl DataDir {
    /// Creates the folder if it is not there.
    pub(crate) fn create(path: &Path) -> io::Result<DataDir> {
        fs::create_dir_all(path)?;
        let dir = DataDir { root: path.canonicalize()? };
        fs::create_dir_all(dir.root.join("config"))?;
        fs::create_dir_all(dir.root.join("logs"))?;
        Ok(dir)
    }

    /// The folder if a cluster was started in it before.
    pub(crate) fn open(path: &Path) -> Option<DataDir> {
        let dir = DataDir { root: path.canonicalize().ok()? };
        dir.ports().exists().then_some(dir)
    }

    /// The absolute path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The remembered plan.
    pub(crate) fn ports(&self) -> PathBuf {
        self.root.join(PORTS_FILE)
    }

    /// What the storage nodes' sites were as of the last look.
    pub(crate) fn sites(&self) -> PathBuf {
        self.root.join("sites.json")
    }

    /// The password of user admin.
    pub(crate) fn admin_password(&self) -> PathBuf {
        self.root.join("admin-password")
    }

    /// What the supervisor is asked for.
    pub(crate) fn request(&self) -> PathBuf {
        self.root.join("request.json")
    }

    /// What it answers.
    pub(crate) fn answer(&self) -> PathBuf {
        self.root.join("answer.json")
    }

    /// Config of one process.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(format!("{name}.toml"))
    }

    /// Data of one process.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Log of one process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Opens the log of one process for appending; a long one is put aside first.
    pub(crate) fn open_log(&self, name: &str) -> io::Result<File> {
        let path = self.log(name);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(&path, path.with_extension("log.1"))?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    }

    /// Becomes the supervisor; none if another one runs.
    pub(crate) fn lock(&self) -> io::Result<Option<SupervisorLock>> {
        let path = self.supervisor();
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                Ok(Some(SupervisorLock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Pid of the running supervisor.
    pub(crate) fn supervisor_pid(&self) -> Option<u32> {
        let file = File::open(self.supervisor()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                fs::read_to_string(self.supervisor()).ok()?.parse().ok()
            }
            _ => None,
        }
    }

    /// Removes everything of an earlier cluster. Refuses a folder that holds other things.
    pub(crate) fn clear(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            remove(&self.data(name))?;
        }
        for folder in ["config", "logs"] {
            remove(&self.root.join(folder))?;
            fs::create_dir_all(self.root.join(folder))?;
        }
        let others = [self.sites(), self.request(), self.answer(), self.ports()];
        for file in others.into_iter().chain([self.admin_password()]) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn supervisor(&self) -> PathBuf {
        self.root.join("supervisor.pid")
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_at_a_time_and_its_pid_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        assert_eq!(dir.supervisor_pid(), None);
        let lock = dir.lock().expect("no i/o error").expect("free");
        assert!(dir.lock().expect("no i/o error").is_none());
        assert_eq!(dir.supervisor_pid(), Some(std::process::id()));
        drop(lock);
        assert_eq!(dir.supervisor_pid(), None);
    }

    #[test]
    fn clear_leaves_what_is_not_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        fs::create_dir_all(dir.data("storage-1")).expect("created");
        fs::write(dir.root().join("mine.txt"), "x").expect("written");
        dir.clear(&["storage-1".to_owned()]).expect("cleared");
        assert!(!dir.data("storage-1").exists());
        assert!(dir.root().join("mine.txt").exists());
    }
}
