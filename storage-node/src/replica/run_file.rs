//! A run's file as a whole, on its way from one holder to another.

use std::io::{self, IoSlice};

use bytes::Bytes;
use holdfast_log::run::RunId;
use holdfast_log::{Disk, OpenOptions};

use super::cell::RUNS_DIR;

/// Reads the file; blocks.
pub(crate) fn read(disk: &dyn Disk, id: RunId) -> io::Result<Bytes> {
    let file = disk.open(&id.path(RUNS_DIR), OpenOptions::READ)?;
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.into())
}

/// Writes the file; durable when it returns. Blocks. Whether it is the run is for the reader to check.
pub(crate) fn store(disk: &dyn Disk, id: RunId, bytes: &[u8]) -> io::Result<()> {
    let path = id.path(RUNS_DIR);
    let temporary = format!("{path}.fetched");
    let file = disk.open(&temporary, OpenOptions::CREATE)?;
    file.truncate(0)?;
    file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &path)?;
    disk.sync_dir(RUNS_DIR)
}
