//! A wall clock that jumps, for one process: libfaketime before it, with its offset in a file. The
//! monotonic clock goes on.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::trouble::Trouble;

const LIBRARY: &str = "faketime/libfaketime.so.1";
const TOLERANCE_S: f64 = 10.0;
/// What every process tells of its clock.
const METRIC: &str = "holdfast_process_clock_seconds ";

/// The clock of one process.
#[derive(Debug)]
pub(crate) struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Right at first.
    pub(crate) fn new(file: PathBuf) -> Result<WallClock, Trouble> {
        let library = find().ok_or_else(|| {
            Trouble::Impossible("libfaketime is not installed (Debian: libfaketime)".to_owned())
        })?;
        let clock = WallClock { library, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the process must find in its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            set("LD_PRELOAD", &self.library.to_string_lossy()),
            set("FAKETIME_TIMESTAMP_FILE", &self.file.to_string_lossy()),
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            set("FAKETIME_CACHE_DURATION", "1"),
        ]
    }

    /// Jumps to so many seconds off.
    pub(crate) fn set(&self, seconds: i64) -> Result<(), Trouble> {
        // Renamed, so that nobody reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).map_err(Trouble::system(new.display()))?;
        fs::rename(&new, &self.file).map_err(Trouble::system(self.file.display()))
    }
}

/// Whether a process's metrics tell that its clock is so many seconds off this program's.
pub(crate) fn is_off_by(metrics: &str, seconds: i64) -> bool {
    let told = metrics.lines().find_map(|line| line.strip_prefix(METRIC));
    let theirs: Option<f64> = told.and_then(|told| told.trim().parse().ok());
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    theirs.is_some_and(|theirs| (theirs - ours - seconds as f64).abs() <= TOLERANCE_S)
}

/// Where `HOLDFAST_FAKETIME` says or where a package puts it: in a folder named after the
/// architecture, or in none.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_FAKETIME") {
        return Some(PathBuf::from(path));
    }
    let system = PathBuf::from("/usr/lib");
    let folders = fs::read_dir(&system).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.chain([system]).map(|folder| folder.join(LIBRARY)).find(|path| path.is_file())
}
