//! Which host process owns a SQLite file: a lock on a file beside it, which
//! also says where that host's API listens.
//!
//! The operating system releases the lock when its holder ends, however it
//! ends; the file stays, since removing it would let two hosts hold locks on
//! two files of the same name. The lock is advisory and does not reach over a
//! network file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The host process that owns a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    pub pid: Option<u32>,
    /// The address of its API, once it listens.
    pub api: Option<String>,
}

/// Why a file could not be owned.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    #[error("`{}` is in use by another host{}", path.display(), described(owner))]
    Owned { path: PathBuf, owner: Owner },
    #[error("cannot lock `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn described(owner: &Owner) -> String {
    match (owner.pid, &owner.api) {
        (Some(pid), Some(api)) => format!(" (process {pid}, API at {api})"),
        (Some(pid), None) => format!(" (process {pid})"),
        (None, _) => String::new(),
    }
}

/// Holds a SQLite file for this process until it is dropped.
#[derive(Debug)]
pub struct OwnerLock {
    file: File,
    path: PathBuf,
}

impl OwnerLock {
    /// Takes the database file at `path` for this process.
    ///
    /// # Errors
    /// [`OwnershipError::Owned`] says who has it.
    pub fn acquire(path: &Path) -> Result<Self, OwnershipError> {
        let path = lock_path(path);
        let io = |source| OwnershipError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = read(file);
                return Err(OwnershipError::Owned { path, owner });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let lock = Self { file, path };
        lock.write(None)?;
        Ok(lock)
    }

    /// Tells other processes where this host's API listens.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn publish(&self, api: &str) -> Result<(), OwnershipError> {
        self.write(Some(api))
    }

    fn write(&self, api: Option<&str>) -> Result<(), OwnershipError> {
        let owner = Owner {
            pid: Some(std::process::id()),
            api: api.map(str::to_owned),
        };
        let write = || {
            let text = serde_json::to_vec(&owner)?;
            let mut file = &self.file;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        };
        write().map_err(|source| OwnershipError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// Who owns the database file at `path`, if anybody does.
///
/// # Errors
/// When the lock file is there but cannot be looked at.
pub fn read_owner(path: &Path) -> io::Result<Option<Owner>> {
    let file = match File::open(lock_path(path)) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    match file.try_lock_shared() {
        // Nobody holds it; what it says is of a host that is gone.
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read(file))),
        Err(TryLockError::Error(cause)) => Err(cause),
    }
}

/// What the file says; nothing while its owner is writing it.
fn read(mut file: File) -> Owner {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => Owner::default(),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".host");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_owns_a_file_and_says_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.db");
        assert_eq!(read_owner(&path).unwrap(), None);
        let lock = OwnerLock::acquire(&path).unwrap();
        lock.publish("http://127.0.0.1:4000").unwrap();

        let owner = read_owner(&path).unwrap().unwrap();
        assert_eq!(owner.api.as_deref(), Some("http://127.0.0.1:4000"));
        assert_eq!(owner.pid, Some(std::process::id()));
        let refused = OwnerLock::acquire(&path).unwrap_err().to_string();
        assert!(refused.contains("http://127.0.0.1:4000"), "{refused}");

        drop(lock);
        assert_eq!(read_owner(&path).unwrap(), None);
        assert!(OwnerLock::acquire(&path).is_ok());
    }

    #[test]
    fn a_lock_file_that_makes_no_sense_is_still_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.db");
        let lock = OwnerLock::acquire(&path).unwrap();
        std::fs::write(lock_path(&path), "{\"pid\":").unwrap();
        assert_eq!(read_owner(&path).unwrap(), Some(Owner::default()));
        drop(lock);
    }
}
