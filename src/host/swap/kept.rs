//! What a rollback needs to outlive the host: the components of the versions
//! that are kept, which of them served, and which file was rolled back from.
//!
//! Lies below the state directory, one directory a plugin. Nothing here is
//! trusted: a component counts only if it has the digest that its name says, and
//! goes through every check of the loader again. Failing to write costs the
//! rollback its memory and nothing else, so it is told and not returned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PluginName, TraceId};
use crate::plugin::catalog::KEPT_VERSIONS;
use crate::plugin::load::Source;
use crate::store::Component;

const MARK: &str = "rollback.json";
const PASSED_OVER: &str = "passed_over.json";
const SERVED: &str = "served.json";

/// The versions kept on disk.
#[derive(Debug, Clone)]
pub(super) struct KeptVersions {
    directory: PathBuf,
}

/// A rollback that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// What the plugin's file held.
    pub(super) from: Digest,
    pub(super) to: Digest,
    /// The decision on the bus that it follows; without one, this host alone was
    /// rolled back.
    #[serde(default)]
    pub(super) decision: Option<TraceId>,
}

/// A version that served before a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) digest: Digest,
    pub(super) source: Source,
    /// An operator took it out of service.
    pub(super) rolled_back: bool,
}

impl KeptVersions {
    pub(super) fn below(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("plugins"),
        }
    }

    /// Where a version lies.
    pub(super) fn path(&self, name: &PluginName, digest: Digest) -> PathBuf {
        self.of(name).join(format!("{}.wasm", digest.hex()))
    }

    /// Keeps a component, and of the others of that name these and the latest.
    pub(super) fn keep(
        &self,
        name: &PluginName,
        digest: Digest,
        component: &Component,
        others: &[Digest],
    ) {
        let kept = || -> io::Result<()> {
            let path = self.path(name, digest);
            if !path.exists() {
                put(&path, &component.bytes)?;
            }
            if let Some(signature) = &component.signature {
                put(&signature_of(&path), signature.as_bytes())?;
            }
            self.prune(name, |found| {
                found == path || self.is_any(name, others, found)
            })
        };
        told(
            name,
            "a rollback to its present version would not outlive the host",
            kept(),
        );
    }

    /// A component that was kept and is unharmed.
    pub(super) fn component(&self, name: &PluginName, digest: Digest) -> Option<Component> {
        let path = self.path(name, digest);
        let bytes = fs::read(&path).ok()?;
        (Digest::of(&bytes) == digest).then(|| Component {
            bytes: bytes.into(),
            signature: fs::read_to_string(signature_of(&path)).ok(),
        })
    }

    pub(super) fn mark(&self, name: &PluginName, mark: &Mark) {
        let text = serde_json::to_vec(mark).map_err(io::Error::other);
        let marked = text.and_then(|text| put(&self.of(name).join(MARK), &text));
        told(name, "its rollback will not outlive the host", marked);
    }

    pub(super) fn unmark(&self, name: &PluginName) {
        let removed = match fs::remove_file(self.of(name).join(MARK)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        told(
            name,
            "its rollback will be remembered by the next host",
            removed,
        );
    }

    /// The rollback that was in force when a host ended.
    pub(super) fn marked(&self, name: &PluginName) -> Option<Mark> {
        let text = fs::read(self.of(name).join(MARK)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers that a decision on the bus is not followed here, since somebody
    /// changed the plugin's file after it.
    pub(super) fn pass_over(&self, name: &PluginName, decision: &TraceId) {
        let text = serde_json::to_vec(decision).map_err(io::Error::other);
        let written = text.and_then(|text| put(&self.of(name).join(PASSED_OVER), &text));
        told(
            name,
            "the next host will not know what its file overrides",
            written,
        );
    }

    pub(super) fn passed_over(&self, name: &PluginName) -> Option<TraceId> {
        let text = fs::read(self.of(name).join(PASSED_OVER)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers what will have served before the next start, latest first.
    pub(super) fn served(&self, name: &PluginName, served: &[Before]) {
        let text = serde_json::to_vec(served).map_err(io::Error::other);
        let written = text.and_then(|text| put(&self.of(name).join(SERVED), &text));
        told(name, "the next host will not know what served", written);
    }

    /// What served before this start, latest first.
    pub(super) fn before(&self, name: &PluginName) -> Vec<Before> {
        let text = fs::read(self.of(name).join(SERVED)).unwrap_or_default();
        let mut all: Vec<Before> = serde_json::from_slice(&text).unwrap_or_default();
        // What served last, and what was kept besides it.
        all.truncate(KEPT_VERSIONS + 1);
        all
    }

    /// The plugins that something is kept of.
    pub(super) fn names(&self) -> Vec<PluginName> {
        let found = fs::read_dir(&self.directory).into_iter().flatten();
        let names = found.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.collect()
    }

    fn of(&self, name: &PluginName) -> PathBuf {
        self.directory.join(name.as_str())
    }

    fn is_any(&self, name: &PluginName, digests: &[Digest], path: &Path) -> bool {
        digests
            .iter()
            .any(|digest| self.path(name, *digest) == path)
    }

    fn prune(&self, name: &PluginName, stays: impl Fn(&Path) -> bool) -> io::Result<()> {
        let mut others: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.of(name))? {
            let entry = entry?;
            let path = entry.path();
            let is_component = path.extension().is_some_and(|e| e == "wasm");
            if is_component && !stays(&path) {
                others.push((entry.metadata()?.modified()?, path));
            }
        }
        others.sort();
        let (latest, too_many) = (KEPT_VERSIONS, others.len());
        for (_, path) in others.into_iter().take(too_many.saturating_sub(latest)) {
            // Not every version has one.
            let _ = fs::remove_file(signature_of(&path));
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Where minisign puts a file's signature.
pub(super) fn signature_of(component: &Path) -> PathBuf {
    component.with_extension("wasm.minisig")
}

/// Whole or not at all.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::rename(draft, path)
}

fn told(name: &PluginName, consequence: &str, result: io::Result<()>) {
    if let Err(cause) = result {
        tracing::warn!(plugin.name = %name, "plugin {name}: {consequence}: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_unless_it_was_touched() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptVersions::below(directory.path());
        let name: PluginName = "mock".parse().unwrap();
        let unsigned = |bytes: &[u8]| Component {
            bytes: bytes.to_vec().into(),
            signature: None,
        };
        let versions = [&b"one"[..], b"two", b"three"];
        let digests = versions.map(Digest::of);
        for (n, bytes) in versions.iter().enumerate() {
            kept.keep(&name, digests[n], &unsigned(bytes), &digests[..n]);
        }
        assert_eq!(
            kept.component(&name, digests[0]),
            Some(unsigned(versions[0]))
        );
        fs::write(kept.path(&name, digests[1]), "twO").unwrap();
        assert_eq!(kept.component(&name, digests[1]), None);

        // Long ago, as all that follow are later.
        for n in [0, 1] {
            let file = fs::File::open(kept.path(&name, digests[n])).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        for n in 0..KEPT_VERSIONS {
            let bytes = [b'v', u8::try_from(n).unwrap()];
            kept.keep(&name, Digest::of(&bytes), &unsigned(&bytes), &digests[..1]);
        }
        assert!(!kept.path(&name, digests[1]).exists());
        assert!(kept.component(&name, digests[0]).is_some());
        assert!(kept.component(&name, digests[2]).is_some());

        let mark = Mark {
            from: digests[2],
            to: digests[0],
            decision: None,
        };
        kept.mark(&name, &mark);
        assert_eq!(kept.marked(&name), Some(mark));
        kept.unmark(&name);
        kept.unmark(&name);
        assert_eq!(kept.marked(&name), None);
        assert!(kept.component(&name, digests[0]).is_some());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_reason_to_fail() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("plugins"), "a file").unwrap();
        let kept = KeptVersions::below(directory.path());
        let name: PluginName = "mock".parse().unwrap();
        let component = Component {
            bytes: "x".into(),
            signature: Some("s".to_owned()),
        };
        kept.keep(&name, Digest::of(b"x"), &component, &[]);
        assert_eq!(kept.component(&name, Digest::of(b"x")), None);
        assert_eq!(kept.marked(&name), None);
    }
}
