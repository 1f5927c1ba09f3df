//! The files of the site log: `NNNNNNNN.seg` (sequence number in hex), preallocated and recycled by
//! renaming, and `log.id`. A sequence number is used for one life of one file only: a start never goes on
//! in a segment or under a number that it found.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::LogError;
use super::frame::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile, OpenOptions};

const SUFFIX: &str = ".seg";
const NEW: &str = "new.tmp";
const ID: &str = "log.id";
const ID_NEW: &str = "log.id.tmp";
const ID_MAGIC: u64 = u64::from_le_bytes(*b"HFLOG\x01\0\0");
/// Free segments that are kept; more are removed.
const FREE_KEPT: usize = 2;

pub(crate) fn path(dir: &str, sequence: u32) -> String {
    format!("{dir}/{sequence:08x}{SUFFIX}")
}

/// Sequence numbers of all segment files.
pub(crate) fn list(disk: &dyn Disk, dir: &str) -> Result<Vec<u32>, LogError> {
    let names = disk.list(dir).map_err(LogError::disk("list", dir))?;
    let number = |name: &String| u32::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok();
    Ok(names.iter().filter_map(number).collect())
}

/// The id of the log in `dir`, which is made if there is none. It stands twice in its file:
/// `u64 magic, u64 id, u32 crc32c of both`, at 0 and 512.
pub(crate) fn log_id(disk: &dyn Disk, dir: &str, id_if_new: u64) -> Result<u64, LogError> {
    disk.create_dir(dir).map_err(LogError::disk("create", dir))?;
    let path = format!("{dir}/{ID}");
    match disk.open(&path, OpenOptions::READ) {
        Ok(file) => read_id(&*file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !list(disk, dir)?.is_empty() {
                return Err(LogError::Invalid(format!("{path} is missing, but segments exist")));
            }
            write_id(disk, dir, id_if_new)?;
            Ok(id_if_new)
        }
        Err(error) => Err(LogError::disk("open", &path)(error)),
    }
}

fn read_id(file: &dyn DiskFile, path: &str) -> Result<u64, LogError> {
    for at in [0, 512] {
        let mut bytes = [0; 20];
        let read = file.read_at(&mut bytes, at).map_err(LogError::disk("read", path))?;
        if read == bytes.len()
            && u64_at(&bytes, 0) == ID_MAGIC
            && u32_at(&bytes, 16) == crc32c::crc32c(&bytes[..16])
        {
            return Ok(u64_at(&bytes, 8));
        }
    }
    Err(LogError::Corrupt { path: path.into(), offset: 0, what: "no copy of the log id is good" })
}

fn write_id(disk: &dyn Disk, dir: &str, id: u64) -> Result<(), LogError> {
    let mut bytes = vec![0; 1_024];
    bytes[..8].copy_from_slice(&ID_MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes.copy_within(..20, 512);
    let path = format!("{dir}/{ID_NEW}");
    let write = || {
        let file = disk.open(&path, OpenOptions::CREATE)?;
        file.write_all_at(&mut [IoSlice::new(&bytes)], 0)?;
        file.sync_data()?;
        disk.rename(&path, &format!("{dir}/{ID}"))?;
        disk.sync_dir(dir)?;
        disk.sync_dir(dir.rsplit_once('/').map_or("", |(parent, _)| parent))
    };
    write().map_err(LogError::disk("write", &path))
}

/// A segment that can be written.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u32,
}

/// The files, as the committer sees them.
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    dir: String,
    segment_bytes: u32,
    /// In use, oldest first; the last one is written.
    pub(crate) used: VecDeque<Segment>,
    /// Not needed any more, but the log does not say so yet on the disk.
    pub(crate) dead: Vec<u32>,
    free: Vec<u32>,
    next: Option<Segment>,
    sequence_max: u32,
}

impl Segments {
    /// Takes over what recovery found.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &str,
        segment_bytes: u32,
        used: Vec<Segment>,
        free: Vec<u32>,
        sequence_max: u32,
    ) -> Result<Segments, LogError> {
        let mut segments = Segments {
            disk,
            dir: dir.into(),
            segment_bytes,
            used: used.into(),
            dead: Vec::new(),
            free: Vec::new(),
            next: None,
            sequence_max,
        };
        for sequence in free {
            let path = path(dir, sequence);
            let file = segments.disk.open(&path, OpenOptions::READ);
            let file = file.map_err(LogError::disk("open", &path))?;
            if file.length().map_err(LogError::disk("measure", &path))? == u64::from(segment_bytes)
            {
                segments.free.push(sequence);
            } else {
                segments.remove(sequence)?;
            }
        }
        segments.trim()?;
        Ok(segments)
    }

    fn remove(&self, sequence: u32) -> Result<(), LogError> {
        let path = path(&self.dir, sequence);
        self.disk.remove(&path).map_err(LogError::disk("remove", &path))
    }

    /// Removes free segments that are too many.
    fn trim(&mut self) -> Result<(), LogError> {
        while self.free.len() > FREE_KEPT {
            if let Some(sequence) = self.free.pop() {
                self.remove(sequence)?;
            }
        }
        Ok(())
    }

    /// Dead segments older than `oldest` are free: the log says on the disk that it starts there.
    pub(crate) fn free_below(&mut self, oldest: u32) -> Result<bool, LogError> {
        let before = self.dead.len();
        let Segments { dead, free, .. } = self;
        dead.retain(|sequence| {
            if *sequence < oldest {
                free.push(*sequence);
            }
            *sequence >= oldest
        });
        let freed = self.dead.len() < before;
        self.trim()?;
        Ok(freed)
    }

    /// Makes sure that there is a segment to go on in.
    ///
    /// # Errors
    /// [`LogError::Full`] if the disk has no room for it: nothing was changed then.
    pub(crate) fn prepare(&mut self) -> Result<(), LogError> {
        if self.next.is_some() {
            return Ok(());
        }
        let sequence = self.sequence_max + 1;
        let to = path(&self.dir, sequence);
        let from = match self.free.last() {
            Some(free) => path(&self.dir, *free),
            None => self.make_new()?,
        };
        self.disk.rename(&from, &to).map_err(LogError::disk("rename", &from))?;
        self.free.pop();
        self.sequence_max = sequence;
        self.disk.sync_dir(&self.dir).map_err(LogError::disk("sync", &self.dir))?;
        let file = self.disk.open(&to, OpenOptions::WRITE).map_err(LogError::disk("open", &to))?;
        self.next = Some(Segment { sequence, file, bytes: self.segment_bytes });
        Ok(())
    }

    fn make_new(&self) -> Result<String, LogError> {
        let path = format!("{}/{NEW}", self.dir);
        let file =
            self.disk.open(&path, OpenOptions::CREATE).map_err(LogError::disk("create", &path))?;
        match file.allocate(u64::from(self.segment_bytes)) {
            Ok(()) => file.sync_data().map_err(LogError::disk("sync", &path))?,
            Err(error) if is_full(&error) => {
                self.disk.remove(&path).map_err(LogError::disk("remove", &path))?;
                return Err(LogError::Full);
            }
            Err(error) => return Err(LogError::disk("allocate", &path)(error)),
        }
        Ok(path)
    }

    /// Goes on in the prepared segment.
    pub(crate) fn switch(&mut self) -> Result<Segment, LogError> {
        self.prepare()?;
        let next = self.next.take().ok_or(LogError::Full)?;
        self.used.push_back(next.clone());
        Ok(next)
    }

    /// Bytes that can be written without asking the disk for room, the segment in use aside.
    pub(crate) fn ready_bytes(&self) -> u64 {
        let ready = self.free.len() + usize::from(self.next.is_some());
        ready as u64 * u64::from(self.segment_bytes)
    }

    /// Bytes of all files.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let used: u64 = self.used.iter().map(|segment| u64::from(segment.bytes)).sum();
        used + self.dead.len() as u64 * u64::from(self.segment_bytes) + self.ready_bytes()
    }

    /// What the volume still has room for; 0 if it does not say.
    pub(crate) fn disk_free_bytes(&self) -> u64 {
        self.disk.space().map_or(0, |space| space.free_bytes)
    }

    pub(crate) fn path(&self, sequence: u32) -> String {
        path(&self.dir, sequence)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
