//! The way back: what an operator asks for, and what of it outlives the host.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::counts::Swap;
use super::kept::Mark;
use super::{SwapEvent, Swapper, Version};
use crate::ids::{Digest, PluginName};
use crate::plugin::catalog::{DigestPrefix, RollbackError, RolledBack};
use crate::plugin::load::{LoadCause, LoadError, Plugin, Source};
use crate::store::Component;

impl Swapper {
    /// Puts an earlier version of a plugin back into service, at once. It stays
    /// until the plugin's file holds something else, also over restarts of the
    /// host; one whose file is gone stays until the host ends.
    ///
    /// # Errors
    /// [`RollbackError`] when there is no such version.
    pub fn roll_back(
        &self,
        name: &PluginName,
        to: Option<&DigestPrefix>,
    ) -> Result<RolledBack, RollbackError> {
        let rolled_back = self.catalog.roll_back(name, to)?;
        self.counts.count(name, Swap::RolledBack);
        let to = rolled_back.to.digest();
        // What was decided before is over; what follows from this comes by the bus.
        if let Some(row) = self.decision(name).filter(|row| row.digest != to) {
            self.pass_over(&row);
        }
        let file = self.files.lock().get(name).copied();
        let from = file.or(rolled_back.from.as_deref().map(Plugin::digest));
        match from.filter(|from| *from != to) {
            Some(from) => {
                let decision = None;
                self.kept.mark(name, &Mark { from, to, decision });
            }
            None => self.kept.unmark(name),
        }
        let version = Version::of(&rolled_back.to);
        tracing::warn!(
            plugin.name = %name, plugin.digest = %version.digest,
            "plugin {name} is rolled back to {version}"
        );
        Ok(rolled_back)
    }

    /// The rollback that was in force when a host ended, as long as this one has
    /// not served anything else of that name.
    pub(super) fn mark_from_before(&self, name: &PluginName) -> Option<Mark> {
        let serving = self.catalog.get(name);
        let untouched = serving.is_none_or(|plugin| plugin.source() == Source::Bundled);
        untouched.then(|| self.kept.marked(name)).flatten()
    }

    /// Serves what an operator went back to before the host was restarted.
    pub(super) async fn resume_rollback(
        &self,
        name: &PluginName,
        mark: Mark,
        ending: &CancellationToken,
    ) -> Option<SwapEvent> {
        let reason = format!("an operator rolled it back from {}", mark.from);
        let serving = self.catalog.get(name);
        if serving.is_some_and(|plugin| plugin.digest() == mark.to) {
            self.catalog.resume_rollback(name, mark.from);
            tracing::warn!("plugin {name} stays as it is: {reason}");
            return None;
        }
        let place = self.kept.path(name, mark.to).display().to_string();
        let Some(component) = self.kept.component(name, mark.to) else {
            self.catalog.resume_rollback(name, mark.from);
            let problem = "the version that was rolled back to is gone or damaged";
            let error = LoadError::new(place, LoadCause::Unreadable(problem.to_owned()));
            return Some(self.refuse(name, Some(mark.to), &error));
        };
        let loaded = match self.vouched(name, component, Source::Directory, &place) {
            Ok(candidate) => self.load(candidate, ending).await?,
            Err(error) => Err(error),
        };
        let event = match loaded {
            Ok(plugin) => {
                let plugin = Arc::new(plugin);
                let installed = self.catalog.install(Arc::clone(&plugin));
                self.installed(&plugin, installed, &reason)
            }
            Err(error) => Some(self.refuse(name, Some(mark.to), &error)),
        };
        self.catalog.resume_rollback(name, mark.from);
        event
    }

    /// An earlier rollback is over.
    pub(super) async fn end_rollback(&self, name: &PluginName) {
        let (kept, name) = (self.kept.clone(), name.clone());
        let ending = tokio::task::spawn_blocking(move || kept.unmark(&name));
        if let Err(cause) = ending.await {
            tracing::error!("a rollback could not be ended: {cause}");
        }
    }

    /// Keeps a version that is about to serve or to wait, for what outlives the
    /// host.
    pub(super) async fn keep(
        &self,
        name: &PluginName,
        digest: Digest,
        bytes: Bytes,
        signature: Option<String>,
    ) {
        let listed = self.catalog.list().into_iter();
        let mut listed = listed.filter(|listed| listed.name == *name);
        let mut others = Vec::new();
        if let Some(listed) = listed.next() {
            others.extend(listed.previous.iter().map(|version| version.digest));
            others.extend(listed.candidates.iter().map(|version| version.digest));
            others.extend(listed.serving.map(|serving| serving.digest));
            others.extend(self.decided_for(name));
        }
        let component = Component { bytes, signature };
        let (kept, name) = (self.kept.clone(), name.clone());
        let keeping = tokio::task::spawn_blocking(move || {
            kept.keep(&name, digest, &component, &others);
        });
        if let Err(cause) = keeping.await {
            tracing::error!("a version could not be kept: {cause}");
        }
    }
}
