//! Compiled code on disk.
//!
//! **Invariant:** only files that this program wrote are ever mapped as code.
//! The directory belongs to this user and nobody else may enter it; a file whose
//! checksum does not match was torn or touched, and counts as absent.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::{Fitted, fit};
use crate::ids::Digest;
use crate::plugin::engine::{Allocation, Engines};

/// How many compiled components are kept; the oldest go first.
const MAX_ENTRIES: usize = 64;

/// A directory of compiled components.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// Why compiled code could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("`{}`: {cause}", .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("`{}` {why}, so code in it cannot be trusted", .path.display())]
    Untrusted { path: PathBuf, why: &'static str },
    #[error("what was just compiled is gone or damaged")]
    Vanished,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CacheError + '_ {
    |cause| CacheError::Io {
        path: path.to_owned(),
        cause,
    }
}

impl Cache {
    /// Opens the directory, and makes it where it is missing.
    ///
    /// # Errors
    /// When others may write to it: whoever can put a file there can run code
    /// in this process.
    pub fn open(directory: PathBuf) -> Result<Self, CacheError> {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(at(&directory)(cause)),
        }
        let found = fs::symlink_metadata(&directory).map_err(at(&directory))?;
        let untrusted = |why| CacheError::Untrusted {
            path: directory.clone(),
            why,
        };
        if !found.is_dir() {
            return Err(untrusted("is no directory"));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(untrusted("belongs to another user"));
        }
        if found.mode() & 0o077 != 0 {
            return Err(untrusted("is open to other users (expected mode 0700)"));
        }
        Ok(Self { directory })
    }

    fn path(&self, engines: &Engines, digest: Digest) -> PathBuf {
        let name = format!("{}-{}.cwasm", digest.hex(), engines.compatibility());
        self.directory.join(name)
    }

    /// The component's code, if it lies here unharmed, on the engine that it
    /// fits.
    pub(super) fn load(
        &self,
        engines: &Engines,
        preferred: Allocation,
        digest: Digest,
    ) -> Result<Option<Fitted>, CacheError> {
        let path = self.path(engines, digest);
        if !is_intact(&path)? {
            return Ok(None);
        }
        match fit(engines, preferred, |engine| deserialize(engine, &path)) {
            Ok(fitted) => Ok(Some(fitted)),
            Err(cause) => {
                tracing::warn!(
                    "compiled code in {} is not usable: {cause:#}",
                    path.display()
                );
                Ok(None)
            }
        }
    }

    /// Starts an entry, which counts once it is committed.
    pub(super) fn begin(&self, engines: &Engines, digest: Digest) -> Result<Entry, CacheError> {
        let path = self.path(engines, digest);
        let draft = self.directory.join(format!("{}.draft", Uuid::new_v4()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .map_err(at(&draft))?;
        Ok(Entry {
            cache: self.clone(),
            path,
            draft,
            file,
        })
    }

    /// Forgets the oldest entries beyond the limit. Code that is mapped stays
    /// usable after its file is gone.
    fn prune(&self) -> io::Result<()> {
        let mut entries: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == "cwasm") {
                entries.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        entries.sort();
        let excess = entries.len().saturating_sub(MAX_ENTRIES);
        for (_, path) in entries.into_iter().take(excess) {
            fs::remove_file(checksum_path(&path))?;
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Code that is being written.
#[derive(Debug)]
pub(super) struct Entry {
    cache: Cache,
    path: PathBuf,
    draft: PathBuf,
    file: File,
}

impl Entry {
    /// Where the code goes.
    pub(super) fn output(&self) -> Result<File, CacheError> {
        self.file.try_clone().map_err(at(&self.draft))
    }

    /// Puts the finished code in its place, the checksum first: a crash between
    /// the two leaves a checksum without code, never code without a checksum.
    pub(super) fn commit(self) -> Result<(), CacheError> {
        self.file.sync_all().map_err(at(&self.draft))?;
        let sum = checksum(&self.draft).map_err(at(&self.draft))?;
        let sum_path = checksum_path(&self.path);
        let sum_draft = self.draft.with_extension("sum");
        fs::write(&sum_draft, sum).map_err(at(&sum_draft))?;
        fs::rename(&sum_draft, &sum_path).map_err(at(&sum_path))?;
        fs::rename(&self.draft, &self.path).map_err(at(&self.path))?;
        if let Err(cause) = self.cache.prune() {
            tracing::warn!("old compiled code stays: {cause}");
        }
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Gone already where the entry was committed.
        let _ = fs::remove_file(&self.draft);
    }
}

fn checksum_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn is_intact(path: &Path) -> Result<bool, CacheError> {
    let absent = |cause: &io::Error| cause.kind() == io::ErrorKind::NotFound;
    let expected = match fs::read_to_string(checksum_path(path)) {
        Ok(expected) => expected,
        Err(cause) if absent(&cause) => return Ok(false),
        // Not text any more: somebody wrote over it.
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(cause) => return Err(at(path)(cause)),
    };
    match checksum(path) {
        Ok(found) => Ok(found == expected.trim()),
        Err(cause) if absent(&cause) => Ok(false),
        Err(cause) => Err(at(path)(cause)),
    }
}

#[expect(
    unsafe_code,
    reason = "the engine maps machine code that this program wrote"
)]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is the output of `Engine::precompile_component` of this
    // program: it lies in a directory that only this user may enter, under a
    // name that binds it to the component's digest, the engine's version and
    // configuration, and its checksum was verified just now. Entries are put in
    // place by renaming and removed by unlinking, never written to, so that the
    // mapping does not change under the engine.
    unsafe { Component::deserialize_file(engine, path) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(cache: &Cache, engines: &Engines) -> (Digest, PathBuf) {
        let wasm = wat::parse_str("(component)").unwrap();
        let digest = Digest::of(&wasm);
        let engine = engines.get(Allocation::OnDemand).unwrap();
        let code = engine.precompile_component(&wasm).unwrap();
        let entry = cache.begin(engines, digest).unwrap();
        io::Write::write_all(&mut entry.output().unwrap(), &code).unwrap();
        entry.commit().unwrap();
        (digest, cache.path(engines, digest))
    }

    #[test]
    fn what_was_kept_is_found_and_what_was_touched_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("code")).unwrap();
        let engines = Engines::new().unwrap();
        let (digest, path) = entry(&cache, &engines);
        let load = || cache.load(&engines, Allocation::Pooled, digest);
        assert!(load().unwrap().is_some());
        let whole = fs::read(&path).unwrap();

        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(load().unwrap().is_none(), "flipped");

        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(load().unwrap().is_none(), "torn");

        fs::write(&path, &whole).unwrap();
        assert!(load().unwrap().is_some(), "whole again");

        fs::write(checksum_path(&path), [0xff, 0xfe]).unwrap();
        assert!(load().unwrap().is_none(), "no checksum");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("code");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            Cache::open(path.clone()),
            Err(CacheError::Untrusted { .. })
        ));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(directory.path(), &path).unwrap();
        assert!(matches!(
            Cache::open(path),
            Err(CacheError::Untrusted { .. })
        ));
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("code")).unwrap();
        let engines = Engines::new().unwrap();
        drop(cache.begin(&engines, Digest::of(b"x")).unwrap());
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 0);
    }

    #[test]
    fn only_so_many_entries_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("code")).unwrap();
        for n in 0..MAX_ENTRIES + 3 {
            let path = cache.directory.join(format!("{n:03}.cwasm"));
            fs::write(&path, "").unwrap();
            fs::write(checksum_path(&path), "").unwrap();
        }
        cache.prune().unwrap();
        assert_eq!(
            fs::read_dir(&cache.directory).unwrap().count(),
            2 * MAX_ENTRIES
        );
    }
}
