//! The disk, as a trait: a directory tree below one data directory. Paths are relative and use `/`.

use std::io::{self, IoSlice};
use std::sync::Arc;

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Made if it is missing.
    pub create: bool,
    /// Made, and an error if it exists.
    pub create_new: bool,
}

impl OpenOptions {
    /// An existing file, for reading.
    pub const READ: OpenOptions =
        OpenOptions { read: true, write: false, create: false, create_new: false };

    /// An existing file, for reading and writing.
    pub const WRITE: OpenOptions =
        OpenOptions { read: true, write: true, create: false, create_new: false };

    /// A file for reading and writing, made if it is missing.
    pub const CREATE: OpenOptions =
        OpenOptions { read: true, write: true, create: true, create_new: false };

    /// A new file, for reading and writing.
    pub const CREATE_NEW: OpenOptions =
        OpenOptions { read: true, write: true, create: false, create_new: true };
}

/// Room on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the volume.
    pub total_bytes: u64,
    /// What may still be written.
    pub free_bytes: u64,
}

/// A lock on a file of the data directory; dropping it releases the lock.
pub trait DiskLock: Send + Sync {}

/// A directory tree.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of what is in a directory, sorted; `""` is the data directory itself.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Gives a file another name; replaces what has it. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a directory and its parents; fine if it exists.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes names in a directory durable: files made, renamed, removed.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Room on the volume.
    ///
    /// # Errors
    /// As the operating system says.
    fn space(&self) -> io::Result<Space>;

    /// Takes the exclusive lock of a file, making it if it is missing; does not wait.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at an offset; fewer bytes than asked only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all buffers, one after the other, at an offset. The buffers are used up.
    ///
    /// # Errors
    /// As the operating system says; a part may have been written.
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// After an error nothing is known about what was written since the last success.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves room for `length` bytes from the start and makes the file at least that long.
    ///
    /// # Errors
    /// `StorageFull` if there is not enough room.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn length(&self) -> io::Result<u64>;

    /// Sets the length.
    ///
    /// # Errors
    /// As the operating system says.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

impl dyn DiskFile + '_ {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is too short, else as [`DiskFile::read_at`].
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
