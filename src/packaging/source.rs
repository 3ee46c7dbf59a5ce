//! The digest of everything a component is built from.
//!
//! It covers the package, the packages it depends on by path, the inputs those
//! name (the contract's WIT), the workspace's `Cargo.toml` and `Cargo.lock`, and
//! the way [`build`](super::build) calls the compiler. It covers bytes, not
//! meaning: a changed comment makes a component stale. Tests that lie beside
//! `src`, documentation, hidden files and build output are no part of a build.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use super::toolchain::RECIPE;

/// Directories of a package that no plugin is built from.
const SKIPPED_DIRECTORIES: [&str; 4] = ["benches", "examples", "target", "tests"];
/// Files of a package that no plugin is built from: prose, and components built
/// into the package's own directory.
const SKIPPED_EXTENSIONS: [&str; 2] = ["md", "wasm"];
/// How much of a file's hash is kept: enough to name what changed. That nothing
/// changed is what the digest says, which is whole.
const FILE_HASH_BYTES: usize = 8;

/// Which sources a component was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDigest {
    /// `sha256:` and hexadecimal digits, over the names and contents of all files.
    pub digest: String,
    /// Every file, relative to the package, with the beginning of its hash.
    pub files: BTreeMap<String, String>,
}

/// Why the sources cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SourceError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is a link to a directory; what it holds could not be told apart from the rest")]
    LinkedDirectory { path: PathBuf },
    #[error("{path} has a name that is not Unicode")]
    Name { path: PathBuf },
}

impl SourceDigest {
    /// The files that are not the same in `other`, by name.
    pub(super) fn changes(&self, other: &Self) -> Vec<String> {
        let removed_or_changed = self
            .files
            .iter()
            .filter(|(name, hash)| other.files.get(*name) != Some(hash));
        let added = other
            .files
            .iter()
            .filter(|(name, _)| !self.files.contains_key(*name));
        let mut names: Vec<String> = removed_or_changed
            .chain(added)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }
}

/// Computes the digest of a package as it lies there now.
pub(super) fn digest(manifest: &Manifest) -> Result<SourceDigest, SourceError> {
    let mut files = BTreeMap::new();
    for path in list(manifest)? {
        let name = relative(&manifest.directory, &path)?;
        let content = std::fs::read(&path).map_err(|source| SourceError::Read { path, source })?;
        files.insert(name, content);
    }

    let mut whole = Sha256::new();
    whole.update(RECIPE);
    let mut hashes = BTreeMap::new();
    for (name, content) in files {
        // Lengths first, so that no two lists of files read the same.
        whole.update((name.len() as u64).to_le_bytes());
        whole.update(name.as_bytes());
        whole.update((content.len() as u64).to_le_bytes());
        whole.update(&content);
        let hash = Sha256::digest(&content);
        hashes.insert(name, hexadecimal(hash.iter().take(FILE_HASH_BYTES)));
    }
    Ok(SourceDigest {
        digest: format!("sha256:{}", hexadecimal(whole.finalize().iter())),
        files: hashes,
    })
}

/// Every file that the component is built from, in no order.
fn list(manifest: &Manifest) -> Result<Vec<PathBuf>, SourceError> {
    let mut found = Vec::new();
    for package in &manifest.packages {
        walk(package, true, &mut found)?;
    }
    for input in &manifest.inputs {
        if input.is_dir() {
            walk(input, false, &mut found)?;
        } else {
            found.push(input.clone());
        }
    }
    for shared in [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "rust-toolchain",
    ] {
        let path = manifest.workspace.join(shared);
        if path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// `whole` is false within a directory that is nobody's package root.
fn walk(directory: &Path, is_package: bool, found: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let failed = |source| SourceError::Read {
        path: directory.to_path_buf(),
        source,
    };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(SourceError::Name { path });
        };
        let skipped_directory = is_package && SKIPPED_DIRECTORIES.contains(&name);
        if name.starts_with('.') || (path.is_dir() && skipped_directory) {
            continue;
        }
        if kind.is_symlink() && path.is_dir() {
            return Err(SourceError::LinkedDirectory { path });
        }
        if kind.is_dir() {
            // Another package's sources are its own, listed if depended on.
            if !(is_package && path.join("Cargo.toml").is_file()) {
                walk(&path, false, found)?;
            }
        } else if !is_prose(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_prose(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| SKIPPED_EXTENSIONS.contains(&extension))
}

/// `path` as seen from `base`, with slashes. Both are absolute and canonical.
fn relative(base: &Path, path: &Path) -> Result<String, SourceError> {
    let shared = base
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = base.components().skip(shared).map(|_| Some(".."));
    let down = path
        .components()
        .skip(shared)
        .map(|component| match component {
            Component::Normal(name) => name.to_str(),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        });
    let parts: Option<Vec<&str>> = up.chain(down).collect();
    match parts {
        Some(parts) => Ok(parts.join("/")),
        None => Err(SourceError::Name {
            path: path.to_path_buf(),
        }),
    }
}

fn hexadecimal<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
