//! A disk in memory that fails as disks do: it loses and tears what was not synced, stalls, fails
//! syncs, is full, flips bits. Everything it decides comes from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile, DiskLock, OpenOptions, Space};

/// What is written or lost as a whole, unless it is torn.
pub const SECTOR_BYTES: usize = 512;

const SPACE_UNLIMITED: u64 = 1 << 40;

/// A small generator of random numbers (splitmix64) whose sequence never changes.
#[derive(Debug, Clone)]
pub struct SimRng(u64);

impl SimRng {
    /// Starts the sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> SimRng {
        SimRng(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end` (0 if `end` is 0).
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next_u64() % end }
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Names as the process sees them.
    names: BTreeMap<String, u64>,
    /// Names that survive a crash.
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since they were last made durable, in order.
    pending: Vec<NameChange>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    /// Raised by a crash: files opened before it are dead.
    life: u64,
    budget_bytes: Option<u64>,
    stalled: bool,
    /// Calls that wait for the stall to end.
    waiting: usize,
    fail_syncs: bool,
    fail_writes: bool,
    syncs: u64,
    bytes_written: u64,
}

#[derive(Clone)]
enum NameChange {
    Link { path: String, inode: u64 },
    Rename { from: String, to: String },
    Unlink { path: String },
}

impl NameChange {
    fn dir(&self) -> &str {
        match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => parent(path),
            NameChange::Rename { to, .. } => parent(to),
        }
    }

    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link { path, inode } => {
                names.insert(path, inode);
            }
            NameChange::Rename { from, to } => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            NameChange::Unlink { path } => {
                names.remove(&path);
            }
        }
    }
}

#[derive(Default)]
struct Inode {
    /// As the process sees it.
    content: Vec<u8>,
    /// As it was at the last sync.
    durable: Vec<u8>,
    /// Sectors written since.
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.content.len());
            if start < end {
                self.durable[start..end].copy_from_slice(&self.content[start..end]);
            }
        }
    }

    /// Each sector that was not synced is lost, kept or torn.
    fn crash(&mut self, rng: &mut SimRng) {
        let length = if self.content.len() == self.durable.len() || rng.one_in(2) {
            self.content.len()
        } else {
            self.durable.len()
        };
        self.durable.resize(length, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(length).min(self.content.len());
            if start >= end {
                continue;
            }
            match rng.below(5) {
                0 | 1 => {}
                2 | 3 => self.durable[start..end].copy_from_slice(&self.content[start..end]),
                _ => {
                    let torn = start + rng.below((end - start) as u64) as usize;
                    let (from, to) = if rng.one_in(2) { (start, torn) } else { (torn, end) };
                    self.durable[from..to].copy_from_slice(&self.content[from..to]);
                }
            }
        }
        self.content.clone_from(&self.durable);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn dead() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

/// The error that a failing device gives.
fn device_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.inodes.get(id))
            .map(|i| i.content.len() as u64)
            .sum()
    }

    fn check_room(&self, more_bytes: u64) -> io::Result<()> {
        match self.budget_bytes {
            Some(budget) if more_bytes > 0 && self.used_bytes() + more_bytes > budget => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            _ => Ok(()),
        }
    }

    fn named(&self, path: &str) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn drop_unlinked(&mut self) {
        let State { inodes, names, durable_names, .. } = self;
        let linked: BTreeSet<u64> = names.values().chain(durable_names.values()).copied().collect();
        inodes.retain(|id, _| linked.contains(id));
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimDisk {
        let shared = Shared { state: Mutex::new(State::default()), changed: Condvar::new() };
        SimDisk { shared: Arc::new(shared) }
    }

    /// Cuts the power: of what was not synced, each sector is lost, kept or torn, and of the changes of
    /// names a random first part is kept. Files that were open are dead, locks are free, faults end.
    pub fn crash(&self, rng: &mut SimRng) {
        let mut state = self.shared.state.lock();
        state.life += 1;
        state.locks.clear();
        state.stalled = false;
        state.fail_syncs = false;
        state.fail_writes = false;
        let pending = std::mem::take(&mut state.pending);
        let kept = rng.below(pending.len() as u64 + 1) as usize;
        for change in pending.into_iter().take(kept) {
            change.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        state.drop_unlinked();
        for inode in state.inodes.values_mut() {
            inode.crash(rng);
        }
        self.shared.changed.notify_all();
    }

    /// Kills the process but not the machine: all that was written stays. Files that were open are
    /// dead, locks are free, faults end.
    pub fn kill(&self) {
        let mut state = self.shared.state.lock();
        state.life += 1;
        state.locks.clear();
        state.stalled = false;
        state.fail_syncs = false;
        state.fail_writes = false;
        self.shared.changed.notify_all();
    }

    /// From now on every sync blocks, until [`SimDisk::release`] or a crash.
    pub fn stall(&self) {
        self.shared.state.lock().stalled = true;
    }

    /// Ends a stall.
    pub fn release(&self) {
        self.shared.state.lock().stalled = false;
        self.shared.changed.notify_all();
    }

    /// Waits until a sync is blocked by [`SimDisk::stall`].
    pub fn wait_stalled(&self) {
        let mut state = self.shared.state.lock();
        while state.waiting == 0 {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Lets every sync fail with an I/O error, or work again.
    pub fn fail_syncs(&self, fail: bool) {
        self.shared.state.lock().fail_syncs = fail;
    }

    /// Lets every write fail with an I/O error, or work again.
    pub fn fail_writes(&self, fail: bool) {
        self.shared.state.lock().fail_writes = fail;
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.shared.state.lock().budget_bytes = bytes;
    }

    /// Flips one bit of a file, on the medium and in the cache.
    ///
    /// # Errors
    /// `NotFound` if there is no such file or byte.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let id = state.named(path)?;
        let Some(inode) = state.inodes.get_mut(&id) else { return Err(dead()) };
        let at = offset as usize;
        if at >= inode.content.len() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for copy in [&mut inode.content, &mut inode.durable] {
            if let Some(byte) = copy.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// A file's bytes as the process sees them.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn content(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.shared.state.lock();
        let id = state.named(path)?;
        state.inodes.get(&id).map(|inode| inode.content.clone()).ok_or_else(dead)
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.shared.state.lock().bytes_written
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        let inode = match state.names.get(path) {
            Some(_) if options.create_new => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(id) => *id,
            None if options.create || options.create_new => {
                if !parent(path).is_empty() && !state.dirs.contains(parent(path)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.insert(path.into(), inode);
                state.pending.push(NameChange::Link { path: path.into(), inode });
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let file = SimFile { shared: Arc::clone(&self.shared), inode, life: state.life };
        Ok(Arc::new(file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.shared.state.lock();
        if !dir.is_empty() && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = state.names.keys().chain(state.dirs.iter());
        let mut names: Vec<String> = below
            .filter(|path| parent(path) == dir && !path.is_empty())
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let inode = state.named(from)?;
        state.names.remove(from);
        state.names.insert(to.into(), inode);
        state.pending.push(NameChange::Rename { from: from.into(), to: to.into() });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.named(path)?;
        state.names.remove(path);
        state.pending.push(NameChange::Unlink { path: path.into() });
        Ok(())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let mut dir = dir;
        while !dir.is_empty() {
            state.dirs.insert(dir.into());
            dir = parent(dir);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.fail_syncs {
            return Err(device_error());
        }
        let pending = std::mem::take(&mut state.pending);
        for change in pending {
            if change.dir() == dir {
                change.apply(&mut state.durable_names);
            } else {
                state.pending.push(change);
            }
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.shared.state.lock();
        let total_bytes = state.budget_bytes.unwrap_or(SPACE_UNLIMITED);
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.shared.state.lock();
        if !state.locks.insert(path.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock =
            SimLock { shared: Arc::clone(&self.shared), path: path.into(), life: state.life };
        Ok(Box::new(lock))
    }
}

struct SimLock {
    shared: Arc<Shared>,
    path: String,
    life: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    shared: Arc<Shared>,
    inode: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.shared.state.lock();
        if state.life != self.life {
            return Err(dead());
        }
        state.inodes.get_mut(&self.inode).map(act).ok_or_else(dead)
    }

    fn grow(&self, state: &mut State, length: u64) -> io::Result<()> {
        let now = state.inodes.get(&self.inode).ok_or_else(dead)?.content.len() as u64;
        state.check_room(length.saturating_sub(now))?;
        if let Some(inode) = state.inodes.get_mut(&self.inode)
            && length > now
        {
            inode.content.resize(length as usize, 0);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|inode| {
            let start = (offset as usize).min(inode.content.len());
            let end = (start + buffer.len()).min(inode.content.len());
            buffer[..end - start].copy_from_slice(&inode.content[start..end]);
            end - start
        })
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.life != self.life {
            return Err(dead());
        }
        if state.fail_writes {
            return Err(device_error());
        }
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.grow(&mut state, offset + length as u64)?;
        state.bytes_written += length as u64;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(dead)?;
        let start = offset as usize;
        let mut at = start;
        for buffer in buffers {
            inode.content[at..at + buffer.len()].copy_from_slice(buffer);
            at += buffer.len();
        }
        if length > 0 {
            inode.dirty.extend(start / SECTOR_BYTES..=(start + length - 1) / SECTOR_BYTES);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        while state.stalled && state.life == self.life {
            state.waiting += 1;
            self.shared.changed.notify_all();
            self.shared.changed.wait(&mut state);
            state.waiting -= 1;
        }
        if state.life != self.life {
            return Err(dead());
        }
        if state.fail_syncs {
            return Err(device_error());
        }
        state.syncs += 1;
        state.inodes.get_mut(&self.inode).ok_or_else(dead)?.sync();
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.life != self.life {
            return Err(dead());
        }
        self.grow(&mut state, length)
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|inode| inode.content.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.with(|inode| inode.content.resize(length as usize, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = disk.open(path, OpenOptions::CREATE).unwrap();
        file.write_all_at(&mut [IoSlice::new(bytes)], 0).unwrap();
        file
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_is_lost_kept_or_torn() {
        let (mut lost, mut kept, mut torn, mut unnamed) = (0, 0, 0, 0);
        for seed in 0..200 {
            let disk = SimDisk::new();
            let file = write(&disk, "f", &[1; 1_024]);
            file.sync_data().unwrap();
            disk.sync_dir("").unwrap();
            file.write_all_at(&mut [IoSlice::new(&[2; 512])], 512).unwrap();
            write(&disk, "g", b"x");
            disk.crash(&mut SimRng::new(seed));
            assert!(file.sync_data().is_err(), "a file of before the crash");
            let read = disk.content("f").unwrap();
            assert_eq!(read[..512], [1; 512]);
            match read[512..].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                512 => kept += 1,
                _ => torn += 1,
            }
            unnamed += u32::from(disk.content("g").is_err());
        }
        assert!(lost > 0 && kept > 0 && torn > 0 && unnamed > 0);
    }

    #[test]
    fn a_full_disk_refuses_growth_only() {
        let disk = SimDisk::new();
        let file = write(&disk, "f", &[1; 1_000]);
        disk.set_budget(Some(1_500));
        assert_eq!(file.allocate(1_501).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.allocate(1_500).unwrap();
        file.write_all_at(&mut [IoSlice::new(&[3; 1_500])], 0).unwrap();
        assert_eq!(disk.space().unwrap().free_bytes, 0);
        disk.remove("f").unwrap();
        assert_eq!(disk.space().unwrap().free_bytes, 1_500);
    }

    #[test]
    fn a_stalled_sync_waits_for_its_release() {
        let disk = SimDisk::new();
        let file = write(&disk, "f", &[1]);
        disk.stall();
        let thread = std::thread::spawn(move || file.sync_data());
        disk.wait_stalled();
        assert_eq!(disk.syncs(), 0);
        disk.release();
        thread.join().unwrap().unwrap();
        assert_eq!(disk.syncs(), 1);
    }
}
