//! A small disk of its own for one storage node: it can be filled and stalled.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ground::run_folder;
use crate::tool;
use crate::trouble::Trouble;

const DISK_BYTES: u64 = 768 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// Until it is full, or has its room back.
const PATIENCE: Duration = Duration::from_secs(60);

/// An ext4 file system in a file.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// Makes and mounts it.
    pub(crate) fn make() -> Result<Disk, Trouble> {
        let (image, mount) = (run_folder().join("disk.img"), run_folder().join("disk"));
        let file = File::create(&image).map_err(Trouble::system(image.display()))?;
        file.set_len(DISK_BYTES).map_err(Trouble::system(image.display()))?;
        fs::create_dir_all(&mount).map_err(Trouble::system(mount.display()))?;
        let (image, at) = (image.to_string_lossy(), mount.to_string_lossy());
        tool::run_words(&["mkfs.ext4", "-q", "-F", "-m", "0", &image])?;
        tool::run_words(&["mount", "-o", "loop", &image, &at])?;
        Ok(Disk { mount })
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Writes until nothing fits any more.
    pub(crate) fn fill(&self) -> Result<(), Trouble> {
        let path = self.filler();
        let filled = tool::within(PATIENCE, "filling the disk", move || fill(&path))?;
        filled.map_err(Trouble::system(self.filler().display()))
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<(), Trouble> {
        let path = self.filler();
        let freed = tool::within(PATIENCE, "freeing the disk", move || fs::remove_file(path))?;
        freed.map_err(Trouble::system(self.filler().display()))
    }

    /// Holds every write and sync until it is thawed.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Trouble> {
        let how = if frozen { "-f" } else { "-u" };
        tool::run_words(&["fsfreeze", how, &self.mount.to_string_lossy()]).map(drop)
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    while !chunk.is_empty() {
        if file.write_all(&chunk).is_err() {
            chunk.truncate(chunk.len() / 2);
        }
    }
    // What of it is not on the disk yet takes its room all the same.
    let _ = file.sync_all();
    Ok(())
}
