//! The versions of one plugin that served before, and the way back to them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::ids::{Digest, PluginName};
use crate::plugin::load::{Plugin, Source};

/// How many versions of a plugin are kept besides the one that serves.
pub const KEPT_VERSIONS: usize = 5;

/// A version that served before.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    plugin: Arc<Plugin>,
    /// An operator took it out of service.
    rolled_back: bool,
}

impl Kept {
    pub(super) const fn new(plugin: Arc<Plugin>) -> Self {
        Self {
            plugin,
            rolled_back: false,
        }
    }
}

/// What became of a plugin's versions.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Latest first; each digest once, and never the one that serves.
    kept: Vec<Kept>,
    rolled_back_from: Option<Digest>,
    rollbacks: u64,
}

/// A version that served before, as people and programs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviousVersion {
    pub version: String,
    pub digest: Digest,
    pub source: Source,
    /// An operator took it out of service: a rollback passes it over.
    pub rolled_back: bool,
}

/// What a rollback changed.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// `None` where the plugin had been removed.
    pub from: Option<Arc<Plugin>>,
    pub to: Arc<Plugin>,
}

/// Why there is no way back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("there is no plugin `{0}`")]
    NoPlugin(PluginName),
    #[error("no version of `{0}` served before this one")]
    NothingBefore(PluginName),
    #[error("`{name}` has no version `{wanted}` that served before")]
    NoVersion {
        name: PluginName,
        wanted: DigestPrefix,
        known: Vec<Digest>,
    },
    #[error("several versions of `{name}` begin with `{wanted}`")]
    Ambiguous {
        name: PluginName,
        wanted: DigestPrefix,
        known: Vec<Digest>,
    },
    #[error("`{name}` serves `{digest}` already")]
    Serves { name: PluginName, digest: Digest },
}

/// The first digits of a digest, as people copy them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestPrefix(String);

/// Why a text does not begin a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not begin a digest: expected `sha256:` and at least 6 hexadecimal digits")]
pub struct InvalidDigestPrefix(String);

impl DigestPrefix {
    /// Whether it is this digest's beginning.
    pub fn begins(&self, digest: Digest) -> bool {
        digest.hex().starts_with(&self.0)
    }
}

impl fmt::Display for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for DigestPrefix {
    type Err = InvalidDigestPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidDigestPrefix> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let digits = hex.bytes().all(|b| b.is_ascii_hexdigit());
        if digits && (6..=64).contains(&hex.len()) {
            Ok(Self(hex.to_ascii_lowercase()))
        } else {
            Err(InvalidDigestPrefix(text.chars().take(80).collect()))
        }
    }
}

impl History {
    pub(super) const fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    pub(super) const fn rolled_back_from(&self) -> Option<Digest> {
        self.rolled_back_from
    }

    /// A decision from outside let another version serve, and takes nothing back.
    pub(super) const fn succeeded(&mut self) {
        self.rollbacks += 1;
        self.rolled_back_from = None;
    }

    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.kept.iter().map(|kept| kept.plugin.digest())
    }

    pub(super) fn get(&self, digest: Digest) -> Option<Arc<Plugin>> {
        let mut kept = self.kept.iter().map(|kept| &kept.plugin);
        kept.find(|plugin| plugin.digest() == digest).cloned()
    }

    /// Something new serves: whatever was rolled back is history.
    pub(super) const fn forget_rollback(&mut self) {
        self.rolled_back_from = None;
    }

    pub(super) const fn resume_rollback(&mut self, from: Digest) {
        self.rolled_back_from = Some(from);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        self.forget(kept.plugin.digest());
        self.kept.insert(0, kept);
        self.kept.truncate(KEPT_VERSIONS);
    }

    /// What served earlier than all that is kept.
    pub(super) fn recall(&mut self, plugin: Arc<Plugin>, rolled_back: bool) {
        if self.get(plugin.digest()).is_none() {
            self.kept.push(Kept {
                plugin,
                rolled_back,
            });
            self.kept.truncate(KEPT_VERSIONS);
        }
    }

    pub(super) fn forget(&mut self, digest: Digest) {
        self.kept.retain(|kept| kept.plugin.digest() != digest);
    }

    /// Takes note of a rollback away from this version, which is kept by now.
    pub(super) fn rolled_back(&mut self, from: Option<&Plugin>) {
        self.rollbacks += 1;
        let Some(from) = from else {
            return;
        };
        self.rolled_back_from = Some(from.digest());
        for kept in &mut self.kept {
            kept.rolled_back |= kept.plugin.digest() == from.digest();
        }
    }

    pub(super) fn list(&self) -> Vec<PreviousVersion> {
        let shown = |kept: &Kept| PreviousVersion {
            version: kept.plugin.descriptor().version.to_string(),
            digest: kept.plugin.digest(),
            source: kept.plugin.source(),
            rolled_back: kept.rolled_back,
        };
        self.kept.iter().map(shown).collect()
    }

    /// The version to go back to.
    pub(super) fn find(
        &self,
        name: &PluginName,
        serving: Option<&Plugin>,
        bundled: Option<&Arc<Plugin>>,
        wanted: Option<&DigestPrefix>,
    ) -> Result<Arc<Plugin>, RollbackError> {
        let serves = |digest| serving.is_some_and(|plugin| plugin.digest() == digest);
        // The bundled version is at hand however long ago it served.
        let is_kept = |digest| self.kept.iter().any(|k| k.plugin.digest() == digest);
        let bundled = bundled.filter(|b| !serves(b.digest()) && !is_kept(b.digest()));
        let Some(wanted) = wanted else {
            let kept = self.kept.iter().find(|kept| !kept.rolled_back);
            let found = kept.map(|kept| &kept.plugin).or(bundled);
            return found
                .cloned()
                .ok_or_else(|| RollbackError::NothingBefore(name.clone()));
        };
        let all = self.kept.iter().map(|kept| &kept.plugin).chain(bundled);
        let mut fitting = all.clone().filter(|plugin| wanted.begins(plugin.digest()));
        let (name, wanted) = (name.clone(), wanted.clone());
        match (fitting.next(), fitting.next()) {
            (Some(found), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => Err(RollbackError::Ambiguous {
                name,
                wanted,
                known: all.map(|plugin| plugin.digest()).collect(),
            }),
            (None, _) => match serving.map(Plugin::digest) {
                Some(digest) if wanted.begins(digest) => {
                    Err(RollbackError::Serves { name, digest })
                }
                _ => Err(RollbackError::NoVersion {
                    name,
                    wanted,
                    known: all.map(|plugin| plugin.digest()).collect(),
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_as_people_copy_it() {
        let digest = Digest::of(b"x");
        let shown = digest.to_string();
        for text in [
            &shown,
            &shown[..19],
            &shown[7..20],
            &shown[7..].to_uppercase(),
        ] {
            assert!(
                text.parse::<DigestPrefix>().unwrap().begins(digest),
                "{text}"
            );
        }
        for text in ["", "sha256:", "abc", "sha256:abcdeg", &format!("{shown}0")] {
            assert!(text.parse::<DigestPrefix>().is_err(), "{text}");
        }
    }
}
