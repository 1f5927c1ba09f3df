//! The machine's own files.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, DiskLock, OpenOptions, Space};

/// Most buffers that the kernel takes in one call.
const BUFFERS_MAX: usize = 1024;

/// A data directory.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Opens the data directory, making it if it is missing.
    ///
    /// # Errors
    /// As the operating system says.
    #[expect(clippy::disallowed_methods, reason = "this is the disk")]
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(RealDisk { root })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the disk")]
impl Disk for RealDisk {
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create(options.create)
            .create_new(options.create_new)
            .open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    #[allow(unsafe_code)]
    fn space(&self) -> io::Result<Space> {
        let path = CString::new(self.root.as_os_str().as_bytes())?;
        // SAFETY: all-zero bytes are a valid `statvfs`, which has only integer fields.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `path` is a NUL-terminated string and `stat` a valid place to write to; both outlive
        // the call.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let unit = stat.f_frsize;
        // Blocks that are reserved for root are not ours: neither free nor part of the whole.
        let total = stat.f_blocks.saturating_sub(stat.f_bfree) + stat.f_bavail;
        Ok(Space { total_bytes: total * unit, free_bytes: stat.f_bavail * unit })
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn DiskLock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(path))?;
        file.try_lock()?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

/// The lock lives as long as the file is open.
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[allow(unsafe_code)]
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut left = buffers;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = left.len().min(BUFFERS_MAX);
            let at = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: std guarantees that `IoSlice` has the layout of `iovec`; the first `count` of
            // them are valid and borrow readable memory for the whole call; the descriptor is open as
            // long as `self`.
            let wrote = unsafe {
                libc::pwritev(self.0.as_raw_fd(), left.as_ptr().cast(), count as libc::c_int, at)
            };
            match usize::try_from(wrote) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => {
                    offset += wrote as u64;
                    IoSlice::advance_slices(&mut left, wrote);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    #[allow(unsafe_code)]
    fn allocate(&self, length: u64) -> io::Result<()> {
        let length = libc::off_t::try_from(length)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        loop {
            // SAFETY: a call with plain integers on a descriptor that is open as long as `self`.
            match unsafe { libc::posix_fallocate(self.0.as_raw_fd(), 0, length) } {
                0 => return Ok(()),
                libc::EINTR => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_buffers_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("data")).unwrap();
        disk.create_dir("a").unwrap();
        let file = disk.open("a/f", OpenOptions::CREATE_NEW).unwrap();
        file.allocate(10_000).unwrap();
        let parts: Vec<[u8; 3]> = (0..2_500u16).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
        let mut buffers: Vec<IoSlice<'_>> = Vec::new();
        for part in &parts {
            buffers.push(IoSlice::new(&[]));
            buffers.push(IoSlice::new(part));
        }
        file.write_all_at(&mut buffers, 5).unwrap();
        file.sync_data().unwrap();
        let mut read = vec![0; 7_500];
        file.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(read, parts.concat());
        assert_eq!(file.length().unwrap(), 10_000);
        file.truncate(6).unwrap();
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 6);
        disk.rename("a/f", "a/g").unwrap();
        disk.sync_dir("a").unwrap();
        assert_eq!(disk.list("a").unwrap(), ["g"]);
        assert!(disk.space().unwrap().free_bytes > 0);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path()).unwrap();
        let lock = disk.lock("LOCK").unwrap();
        assert_eq!(disk.lock("LOCK").err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        disk.lock("LOCK").unwrap();
    }
}
