//! The file with the password of the user `admin`: an operator's, maybe read-only, or made at the first start.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use parking_lot::Mutex;
use thiserror::Error;

use super::{password, problem::Refused};

/// Largest file that is read: a password has 256 bytes at most.
const FILE_BYTES_MAX: u64 = 4096;

/// Why no password comes from the file. An operator has to mend it.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    /// It cannot be read, or not be made.
    #[error(transparent)]
    File(#[from] io::Error),
    /// No password can be made, or the one in it is not allowed.
    #[error(transparent)]
    Password(#[from] Refused),
}

/// The file.
pub(crate) struct PasswordFile {
    path: PathBuf,
    /// Modification time when it was last read.
    seen: Mutex<Option<SystemTime>>,
}

impl PasswordFile {
    pub(crate) fn new(path: PathBuf) -> PasswordFile {
        PasswordFile { path, seen: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The password that the user admin should have; nothing: the one that it has. Made, if there is neither file nor
    /// user.
    pub(crate) fn wanted(&self, is_known: bool) -> Result<Option<String>, Unusable> {
        match self.read()? {
            Some(text) => {
                password::check(&text)?;
                Ok(Some(text))
            }
            None if is_known => Ok(None),
            None => {
                let made = password::make()?;
                self.create(&made)?;
                let path = self.path.display();
                tracing::info!(%path, "a password for the user admin was made, and written there");
                Ok(Some(made))
            }
        }
    }

    /// Its content without blanks around it; nothing if there is no file.
    fn read(&self) -> io::Result<Option<String>> {
        let found = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if found.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("it is too large for a password"));
        }
        let text = fs::read_to_string(&self.path)?;
        *self.seen.lock() = found.modified().ok();
        Ok(Some(text.trim().to_owned()))
    }

    /// Whether it was written since it was last read.
    pub(crate) fn has_changed(&self) -> bool {
        let modified = fs::metadata(&self.path).and_then(|found| found.modified()).ok();
        modified.is_some() && modified != *self.seen.lock()
    }

    /// Writes it where none is, for its owner alone.
    fn create(&self, password: &str) -> io::Result<()> {
        if let Some(directory) = self.path.parent().filter(|path| !path.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        writeln!(file, "{password}")?;
        file.sync_all()?;
        *self.seen.lock() = file.metadata()?.modified().ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = PasswordFile::new(directory.path().join("new/admin-password"));
        assert_eq!(file.read().unwrap(), None);
        file.create("a good password").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some("a good password"));
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(file.create("another").is_err());
        assert!(!file.has_changed());
    }

    #[test]
    fn a_change_is_seen_once_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = PasswordFile::new(directory.path().join("p"));
        assert!(!file.has_changed());
        fs::write(file.path(), " first \n").unwrap();
        assert!(file.has_changed());
        assert_eq!(file.read().unwrap().as_deref(), Some("first"));
        assert!(!file.has_changed());
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let written = fs::File::options().write(true).open(file.path()).unwrap();
        written.set_modified(later).unwrap();
        assert!(file.has_changed());
        fs::write(file.path(), vec![b'x'; 5000]).unwrap();
        assert!(file.read().is_err());
    }
}
