//! The digest of everything a component is built from.
//!
//! It covers the package, the packages it depends on by path, the inputs those
//! name (the contract's WIT), what a workspace says for all of its packages, and
//! the way [`build`](super::build) calls the compiler. It covers bytes, not
//! meaning: a changed comment makes a component stale. Tests that lie beside
//! `src`, documentation, hidden files, installed tools and build output are no
//! part of a build.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

/// Directories of a package that no plugin is built from.
const SKIPPED_DIRECTORIES: [&str; 5] = ["benches", "examples", "node_modules", "target", "tests"];
/// Golden tasks try a component; none is built from them.
const SKIPPED_ENDINGS: [&str; 2] = [".task.json", ".expect.json"];
/// What a Python interpreter leaves anywhere.
const LEFT_BEHIND: &str = "__pycache__";
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
    #[error(
        "{path} is a link to a directory, which could lead anywhere; name its target as an input instead"
    )]
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

/// What a component is built from, besides the way it is built.
pub(super) struct Covered<'a> {
    /// The package; files are named relative to it.
    pub base: &'a Path,
    /// Every directory that is a package's own, `base` among them.
    pub packages: BTreeSet<&'a Path>,
    /// Files and directories that those packages name.
    pub inputs: BTreeSet<&'a Path>,
    /// Single files elsewhere; those that are missing do not count.
    pub files: Vec<PathBuf>,
    /// The way it is built; another recipe makes another component.
    pub recipe: Cow<'static, str>,
}

/// Computes the digest of a package as it lies there now.
pub(super) fn digest(covered: &Covered<'_>) -> Result<SourceDigest, SourceError> {
    let mut files = BTreeMap::new();
    for path in list(covered)? {
        let name = relative(covered.base, &path)?;
        let content = std::fs::read(&path).map_err(|source| SourceError::Read { path, source })?;
        files.insert(name, content);
    }

    let mut whole = Sha256::new();
    whole.update(covered.recipe.as_bytes());
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
pub(super) fn list(covered: &Covered<'_>) -> Result<Vec<PathBuf>, SourceError> {
    let mut found = Vec::new();
    for package in &covered.packages {
        walk(package, Within::Package, &mut found)?;
    }
    for input in &covered.inputs {
        if input.is_dir() {
            walk(input, Within::Input, &mut found)?;
        } else {
            found.push(input.to_path_buf());
        }
    }
    found.extend(covered.files.iter().filter(|path| path.is_file()).cloned());
    Ok(found)
}

/// What a directory belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Is a package's own.
    Package,
    /// Lies somewhere in a package.
    PackagePart,
    /// Is named, or lies in a directory that is.
    Input,
}

fn walk(directory: &Path, within: Within, found: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let failed = |source| SourceError::Read {
        path: directory.to_path_buf(),
        source,
    };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(SourceError::Name { path });
        };
        if name.starts_with('.') {
            continue;
        }
        if !path.is_dir() {
            let golden = SKIPPED_ENDINGS.iter().any(|ending| name.ends_with(ending));
            if path.is_file() && !golden && !is_prose(&path) {
                found.push(path);
            }
            continue;
        }
        let skipped =
            within == Within::Package && SKIPPED_DIRECTORIES.contains(&name) || name == LEFT_BEHIND;
        // Another package's sources are its own, listed if depended on.
        let foreign = within != Within::Input && path.join("Cargo.toml").is_file();
        if skipped || foreign {
            continue;
        }
        if entry.file_type().map_err(failed)?.is_symlink() {
            return Err(SourceError::LinkedDirectory { path });
        }
        let below = if within == Within::Input {
            Within::Input
        } else {
            Within::PackagePart
        };
        walk(&path, below, found)?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::manifest::Manifest;
    use super::*;

    /// A plugin with a path dependency in a workspace, and an input outside of it.
    fn sources() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, content) in [
            ("contract/world.wit", "package a:b;"),
            (
                "plugins/Cargo.toml",
                "[workspace]\nmembers = [\"one\"]\n[workspace.package]\nversion = \"0.3.0\"\n\
                 [workspace.dependencies]\nsdk = { path = \"sdk\" }\n",
            ),
            ("plugins/Cargo.lock", "version = 4\n"),
            (
                "plugins/sdk/Cargo.toml",
                "[package]\nname = \"sdk\"\nversion = \"0.1.0\"\n\
                 [package.metadata.cogo]\ninputs = [\"../../contract\"]\n",
            ),
            ("plugins/sdk/src/lib.rs", "// sdk"),
            (
                "plugins/one/Cargo.toml",
                "[package]\nname = \"one\"\nversion.workspace = true\n\
                 [dependencies]\nsdk.workspace = true\nserde = \"1\"\n",
            ),
            ("plugins/one/src/lib.rs", "// one"),
            ("plugins/one/src/deep/table.bin", "data"),
            ("plugins/one/tests/all.rs", "// no part of a build"),
            ("plugins/one/README.md", "no part of a build"),
            ("plugins/one/tasks/a.task.json", "no part of a build"),
            ("plugins/one/one.wasm", "built"),
            ("plugins/one/target/release/one.wasm", "built"),
            ("plugins/one/.hidden/file", "no part of a build"),
            (
                "plugins/another/Cargo.toml",
                "[package]\nname = \"another\"\nversion = \"1.0.0\"\n",
            ),
            ("plugins/another/src/lib.rs", "// nobody depends on it"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("is below the root")).expect("writable");
            fs::write(path, content).expect("writable");
        }
        root
    }

    fn digest_of(root: &tempfile::TempDir) -> SourceDigest {
        let manifest = Manifest::read(&root.path().join("plugins/one")).expect("a package");
        assert_eq!(
            (manifest.name.as_str(), manifest.version.as_str()),
            ("one", "0.3.0")
        );
        digest(&manifest.covered()).expect("readable")
    }

    #[test]
    fn everything_a_build_reads_is_covered_and_nothing_else() {
        let digest = digest_of(&sources());
        let names: Vec<&str> = digest.files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "../../contract/world.wit",
                "../Cargo.lock",
                "../Cargo.toml",
                "../sdk/Cargo.toml",
                "../sdk/src/lib.rs",
                "Cargo.toml",
                "src/deep/table.bin",
                "src/lib.rs",
            ]
        );
    }

    #[test]
    fn the_digest_is_that_of_names_and_bytes_not_of_the_place() {
        let (here, there) = (sources(), sources());
        assert_eq!(digest_of(&here), digest_of(&there));
    }

    #[test]
    fn every_covered_file_counts_and_is_named() {
        let before = digest_of(&sources());
        for name in before.files.keys() {
            let root = sources();
            let path = root.path().join("plugins/one").join(name);
            let mut content = fs::read(&path).expect("readable");
            content.push(b'\n');
            fs::write(&path, content).expect("writable");
            let after = digest_of(&root);
            assert_ne!(before.digest, after.digest, "{name}");
            assert_eq!(before.changes(&after), std::slice::from_ref(name));
        }
    }

    #[test]
    fn added_removed_and_renamed_files_are_named() {
        let before = digest_of(&sources());
        let root = sources();
        let package = root.path().join("plugins/one/src");
        fs::write(package.join("new.rs"), "").expect("writable");
        fs::remove_file(package.join("deep/table.bin")).expect("is there");
        fs::rename(package.join("lib.rs"), package.join("main.rs")).expect("is there");
        assert_eq!(
            before.changes(&digest_of(&root)),
            [
                "src/deep/table.bin",
                "src/lib.rs",
                "src/main.rs",
                "src/new.rs"
            ]
        );
    }

    #[test]
    fn what_is_no_part_of_a_build_does_not_count() {
        let before = digest_of(&sources());
        let root = sources();
        for name in [
            "tests/all.rs",
            "README.md",
            "one.wasm",
            "target/x",
            ".hidden/file",
        ] {
            fs::write(root.path().join("plugins/one").join(name), "changed").expect("writable");
        }
        assert_eq!(before, digest_of(&root));
    }

    #[cfg(unix)]
    #[test]
    fn a_linked_directory_is_refused() {
        let root = sources();
        let link = root.path().join("plugins/one/src/link");
        std::os::unix::fs::symlink(root.path(), &link).expect("writable");
        let manifest = Manifest::read(&root.path().join("plugins/one")).expect("a package");
        assert!(matches!(
            digest(&manifest.covered()),
            Err(SourceError::LinkedDirectory { .. })
        ));
    }

    #[test]
    fn a_dependency_that_is_not_there_is_named() {
        let root = sources();
        fs::remove_dir_all(root.path().join("plugins/sdk")).expect("is there");
        let error = Manifest::read(&root.path().join("plugins/one")).expect_err("dangling");
        assert!(
            error
                .to_string()
                .ends_with("refers to sdk, which is not there"),
            "{error}"
        );
    }
}
