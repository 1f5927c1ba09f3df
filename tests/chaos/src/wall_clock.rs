//! A wall clock that jumps, for one process: libfaketime before it, with its offset in a file. The
//! monotonic clock goes on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

const LIBRARY: &str = "libfaketime.so.1";

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

fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_FAKETIME") {
        return Some(PathBuf::from(path));
    }
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu", "."];
    let paths = folders.map(|folder| Path::new("/usr/lib").join(folder).join("faketime"));
    paths.into_iter().map(|folder| folder.join(LIBRARY)).find(|path| path.is_file())
}
