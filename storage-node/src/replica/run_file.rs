//! A run's file as a whole, on its way from one holder to another.

use std::io::{self, IoSlice};

use bytes::Bytes;
use holdfast_log::run::{Run, RunError, RunId};
use holdfast_log::{Disk, OpenOptions};
use thiserror::Error;

use super::cell::RUNS_DIR;

/// Why a run's file was not taken. Redirect: another holder may have it.
#[derive(Debug, Error)]
pub(crate) enum StoreRunError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the file is another run than the state names")]
    Other,
}

/// Reads the file; blocks.
pub(crate) fn read(disk: &dyn Disk, id: RunId) -> io::Result<Bytes> {
    let file = disk.open(&id.path(RUNS_DIR), OpenOptions::READ)?;
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.into())
}

/// Writes the file, checks all of it and gives it its name; durable when it returns. Blocks. What is
/// there under that name stays if the bytes are not the run of that checksum.
pub(crate) fn store(
    disk: &dyn Disk,
    id: RunId,
    checksum: u32,
    bytes: &[u8],
) -> Result<(), StoreRunError> {
    let path = id.path(RUNS_DIR);
    let temporary = format!("{path}.fetched");
    let file = disk.open(&temporary, OpenOptions::CREATE)?;
    file.truncate(0)?;
    file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    let run = Run::open_at(disk, temporary.clone(), id)?;
    if run.info().checksum != checksum {
        return Err(StoreRunError::Other);
    }
    run.verify()?;
    disk.rename(&temporary, &path)?;
    Ok(disk.sync_dir(RUNS_DIR)?)
}
