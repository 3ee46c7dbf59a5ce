//! What served before, over restarts of the host: written as it changes, and
//! loaded again at the start, so that a rollback has somewhere to go.
//!
//! **Invariants.** Nothing that is recalled serves by that. A version that is gone,
//! damaged or refused by now is left out, and told in the log alone: it is no
//! fault of what serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Swapper;
use super::kept::Before;
use crate::ids::PluginName;
use crate::plugin::catalog::Listed;
use crate::plugin::load::Source;

impl Swapper {
    /// Recalls what served before, and then writes down what changes, until the
    /// host ends.
    pub async fn remember(&self, ending: CancellationToken) {
        let mut changes = self.catalog.changes();
        self.recall(&ending).await;
        self.recalled.cancel();
        let mut written = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            self.write_down(&mut written).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = ending.cancelled() => return,
            }
        }
    }

    /// Waits until what served before this start is at hand again.
    pub async fn recalled(&self) {
        self.recalled.cancelled().await;
    }

    async fn recall(&self, ending: &CancellationToken) {
        for name in self.kept.names() {
            for before in self.kept.before(&name) {
                if ending.is_cancelled() {
                    return;
                }
                self.recall_one(&name, &before, ending).await;
            }
        }
    }

    async fn recall_one(&self, name: &PluginName, before: &Before, ending: &CancellationToken) {
        let serving = self.catalog.get(name);
        if serving.is_some_and(|plugin| plugin.digest() == before.digest) {
            return;
        }
        let loaded = match self.catalog.by_digest(before.digest) {
            Some(plugin) if plugin.name() == name => Some(Ok(plugin)),
            _ => {
                // The bundled version is at hand without this.
                let Some(component) = self.kept.component(name, before.digest) else {
                    return;
                };
                let place = self.place(name, before.digest, before.source);
                match self.vouched(name, component, before.source, &place) {
                    Ok(candidate) => self
                        .load(candidate, ending)
                        .await
                        .map(|loaded| loaded.map(Arc::new)),
                    Err(error) => Some(Err(error)),
                }
            }
        };
        match loaded {
            Some(Ok(plugin)) => self.catalog.recall(plugin, before.rolled_back),
            Some(Err(error)) => tracing::warn!(
                plugin.name = %name, plugin.digest = %before.digest, code = error.code(),
                "plugin {name} cannot go back to {} any more: {error}", before.digest
            ),
            None => {}
        }
    }

    async fn write_down(&self, written: &mut BTreeMap<PluginName, Vec<Before>>) {
        for listed in self.catalog.list() {
            let now = before_next(&listed);
            let known = written.get(&listed.name);
            // A plugin of which there was ever one version has nothing to tell.
            if known == Some(&now) || (known.is_none() && listed.previous.is_empty()) {
                continue;
            }
            let (kept, name, served) = (self.kept.clone(), listed.name.clone(), now.clone());
            let writing = tokio::task::spawn_blocking(move || kept.served(&name, &served));
            if let Err(cause) = writing.await {
                tracing::error!("what served before could not be written down: {cause}");
            }
            written.insert(listed.name, now);
        }
    }
}

/// What will have served before the next start, latest first.
fn before_next(listed: &Listed) -> Vec<Before> {
    let serving = listed.serving.iter().map(|serving| Before {
        digest: serving.digest,
        source: serving.source,
        rolled_back: false,
    });
    let previous = listed.previous.iter().map(|version| Before {
        digest: version.digest,
        source: version.source,
        rolled_back: version.rolled_back,
    });
    let all = serving.chain(previous);
    all.filter(|before| before.source != Source::Bundled)
        .collect()
}
