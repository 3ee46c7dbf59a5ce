//! The versions that lie on the bus, and this host's own rule: which version of a
//! plugin serves as long as nobody decides otherwise.
//!
//! **Invariants.** What lies on the bus is trusted no more than a file: it counts
//! only if it has the digest that the bus says, and goes through the same checks.
//! The operator's directory comes first, then what is published, then what is
//! bundled.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::change::Actor;
use super::counts::Swap;
use super::kept::signature_of;
use super::{Offered, SwapEvent, Swapper, Version, withdrawn};
use crate::bus::outage::bounded;
use crate::control::{PublishedRow, ServingRow};
use crate::ids::{Digest, PluginName};
use crate::plugin::catalog::{KEPT_CANDIDATES, Outgoing};
use crate::plugin::load::{Candidate, LoadCause, LoadError, Plugin, Source};
use crate::plugin::watcher::Content;
use crate::stage::Stage;
use crate::store::{Component, Store, StoreError};

/// How long the bus may take to hand out one component.
const PATIENCE: Duration = Duration::from_secs(60);
/// A signature is a few hundred bytes.
const MAX_SIGNATURE: u64 = 4_096;

/// What this host knows of the versions on the bus.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Latest first, of each plugin no more than are kept.
    rows: BTreeMap<PluginName, Vec<PublishedRow>>,
    /// Each by the instant of its publication, since a signature may be added.
    tried: BTreeSet<(Digest, DateTime<Utc>)>,
}

/// What became of versions that were to be fetched.
#[derive(Debug, Default)]
pub struct Fetched {
    pub events: Vec<SwapEvent>,
    /// The bus did not answer for all of them: to be asked again.
    pub incomplete: bool,
}

impl Fetched {
    pub(super) fn later(&mut self, error: &StoreError) {
        tracing::warn!(%error, "a plugin could not be fetched from the bus; trying again");
        self.incomplete = true;
    }
}

impl Swapper {
    /// Checks a component as if it were to serve here.
    ///
    /// # Errors
    /// [`LoadError`] as for a file.
    pub async fn publishable(
        &self,
        bytes: Bytes,
        signature: Option<&str>,
    ) -> Result<Plugin, LoadError> {
        const PLACE: &str = "the component";
        let checked = self.trust.check(&bytes, signature);
        let signer = checked.map_err(|error| LoadError::new(PLACE.to_owned(), error.into()))?;
        let candidate = Candidate {
            name: None,
            bytes,
            source: Source::Published,
            place: PLACE.to_owned(),
            signer,
        };
        let loaded = self.load(candidate, &CancellationToken::new()).await;
        loaded.unwrap_or_else(|| {
            let cause = LoadCause::Host("the host ends".to_owned());
            Err(LoadError::new(PLACE.to_owned(), cause))
        })
    }

    /// Takes note of what lies on the bus, and lets go of what does no more.
    pub fn follow_published(&self, rows: &[PublishedRow]) -> Vec<SwapEvent> {
        let mut now: BTreeMap<PluginName, Vec<PublishedRow>> = BTreeMap::new();
        for row in rows {
            let of_name = now.entry(row.name.clone()).or_default();
            if of_name.len() < KEPT_CANDIDATES {
                of_name.push(row.clone());
            }
        }
        let before = std::mem::replace(&mut self.published.lock().rows, now);
        let gone = before.into_values().flatten();
        let gone = gone.filter(|old| !rows.iter().any(|row| row.digest == old.digest));
        gone.filter_map(|old| self.retracted(&old)).collect()
    }

    /// Loads what lies on the bus and was not tried yet; with `only_serving`, no
    /// more than what serves by this host's own rule.
    pub async fn fetch_published(
        &self,
        bus: &dyn Store,
        only_serving: bool,
        ending: &CancellationToken,
    ) -> Fetched {
        let all: Vec<Vec<PublishedRow>> = self.published.lock().rows.values().cloned().collect();
        let mut fetched = Fetched::default();
        for rows in all {
            let wanted = rows
                .iter()
                .enumerate()
                .filter(|(place, row)| !only_serving || self.serves_by_itself(row, *place == 0));
            // The latest last: it is the one that serves in the end.
            let wanted: Vec<&PublishedRow> = wanted.map(|(_, row)| row).collect();
            for row in wanted.into_iter().rev() {
                if self.published.lock().tried.contains(&id(row)) {
                    continue;
                }
                match self.obtain(&row.name, row.digest, Some(bus)).await {
                    Ok(component) => {
                        let event = self.take(row, component, ending).await;
                        fetched.events.extend(event);
                    }
                    Err(error) => fetched.later(&error),
                }
            }
        }
        fetched
    }

    /// Loads one version from the bus, and lets it serve where the stage wants.
    async fn take(
        &self,
        row: &PublishedRow,
        found: Option<(Component, Source)>,
        ending: &CancellationToken,
    ) -> Option<SwapEvent> {
        let name = &row.name;
        // Retracted since, and gone: somebody else tells.
        let (component, source) = found?;
        let place = self.place(name, row.digest, source);
        let refused = |cause| {
            self.refuse(
                name,
                Some(row.digest),
                &LoadError::new(place.clone(), cause),
            )
        };
        let is_new = self.published.lock().tried.insert(id(row));
        let found = Digest::of(&component.bytes);
        if found != row.digest {
            return is_new.then(|| refused(LoadCause::OtherBytes { found }));
        }
        let Component { bytes, signature } = component;
        let admitted = self.admit(Offered {
            name,
            digest: row.digest,
            bytes: &bytes,
            signature: signature.as_deref(),
            source: Source::Published,
            place: &place,
        });
        let (admission, candidate) = match admitted {
            Ok(admitted) => admitted,
            Err(cause) => return is_new.then(|| refused(cause)),
        };
        if !self.catalog.ready().contains(&row.digest) {
            let plugin = match self.load(candidate, ending).await? {
                Ok(plugin) => plugin,
                Err(error) => return Some(self.refuse(name, Some(row.digest), &error)),
            };
            self.keep(name, row.digest, bytes, signature).await;
            let actor = Actor::Operator(row.actor.clone());
            let offered = self.offered(Arc::new(plugin), actor);
            if admission != Admission::Serve || self.own_rule(name) != Some(row.digest) {
                return offered;
            }
        }
        let why = format!("{} published it", row.actor);
        self.serve_own(name, &why)
    }

    /// The version that serves as long as nobody decides otherwise; `None` is the
    /// bundled one, or none.
    pub(super) fn own_rule(&self, name: &PluginName) -> Option<Digest> {
        let published = self.published.lock().rows.get(name).cloned();
        let published = published.unwrap_or_default();
        let published = published.into_iter().map(|row| row.digest);
        let file = self.files.lock().get(name).copied();
        self.first_allowed(name, file.into_iter().chain(published))
    }

    /// The version that would serve if the bus had none and said nothing.
    pub fn without_bus(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        let file = self.files.lock().get(name).copied();
        match self.first_allowed(name, file) {
            Some(digest) => self.catalog.by_digest(digest),
            None => self.catalog.bundled(name),
        }
    }

    /// The first that is ready and may serve without anybody's decision.
    fn first_allowed(
        &self,
        name: &PluginName,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Option<Digest> {
        let ready = self.catalog.ready();
        let pin = self.config.plugins.get(name).and_then(|own| own.digest);
        let development = self.config.stage == Stage::Development;
        let may = |digest: &Digest| match pin {
            Some(pin) => pin == *digest,
            None => development,
        };
        let mut digests = digests.into_iter();
        digests.find(|digest| may(digest) && ready.contains(digest))
    }

    /// Lets the version serve that this host's own rule names, unless somebody
    /// decided otherwise.
    pub(super) fn serve_own(&self, name: &PluginName, why: &str) -> Option<SwapEvent> {
        if self.decided_for(name).is_some() {
            return None;
        }
        let Some(own) = self.own_rule(name) else {
            let removed = self.catalog.remove(name);
            return self.back_to_bundled(name, removed, why);
        };
        self.catalog.recovered(name);
        let served = self.catalog.serve_ready(name, own, Outgoing::Succeeded)?;
        self.counts.count(name, Swap::Applied);
        let now = Version::of(&served.now);
        tracing::info!(
            plugin.name = %name, plugin.digest = %own,
            "plugin {name} serves as {now}: {why}"
        );
        Some(match served.before.as_deref() {
            Some(before) => SwapEvent::swapped(name, Version::of(before), Some(now), why),
            None => SwapEvent::loaded(name, now),
        })
    }

    /// A version whose bytes are at hand, unless nobody vouches for it who has
    /// to. What is to serve was decided elsewhere.
    pub(super) fn vouched(
        &self,
        name: &PluginName,
        component: Component,
        source: Source,
        place: &str,
    ) -> Result<Candidate, LoadError> {
        let signature = component.signature.as_deref();
        let checked = self.trust.check(&component.bytes, signature);
        let signer = checked.map_err(|error| LoadError::new(place.to_owned(), error.into()))?;
        Ok(Candidate {
            name: Some(name.clone()),
            bytes: component.bytes,
            source,
            place: place.to_owned(),
            signer,
        })
    }

    /// The bytes of a version: what this host kept, else what lies on the bus.
    pub(super) async fn obtain(
        &self,
        name: &PluginName,
        digest: Digest,
        bus: Option<&dyn Store>,
    ) -> Result<Option<(Component, Source)>, StoreError> {
        let is_published = {
            let published = self.published.lock();
            let mut rows = published.rows.values().flatten();
            rows.any(|row| row.digest == digest)
        };
        let source = match is_published {
            true => Source::Published,
            false => Source::Directory,
        };
        let kept = self.kept.component(name, digest);
        // What is kept may lack a signature that came later.
        let is_enough = |kept: &Component| !is_published || kept.signature.is_some();
        if let Some(kept) = kept.clone().filter(is_enough) {
            return Ok(Some((kept, source)));
        }
        let Some(bus) = bus else {
            return Ok(kept.map(|kept| (kept, source)));
        };
        let component = bounded(PATIENCE, bus.component(digest)).await?;
        let component = component.map(|component| (component, Source::Published));
        Ok(component.or(kept.map(|kept| (kept, source))))
    }

    pub(super) fn place(&self, name: &PluginName, digest: Digest, source: Source) -> String {
        match source {
            Source::Published => format!("published {name}"),
            Source::Bundled | Source::Directory => {
                self.kept.path(name, digest).display().to_string()
            }
        }
    }

    /// In development what is published after a decision beats it, as a file does.
    pub(super) fn is_outdated(&self, row: &ServingRow) -> bool {
        let published = self.published.lock();
        let latest = published
            .rows
            .get(&row.plugin)
            .and_then(|rows| rows.first());
        self.config.stage == Stage::Development
            && latest.is_some_and(|latest| {
                latest.digest != row.digest && latest.published_at > row.changed_at
            })
    }

    /// A signature came, changed or went: its component is looked at again.
    pub(super) async fn signature_changed(
        &self,
        component: PathBuf,
        ending: &CancellationToken,
    ) -> Option<SwapEvent> {
        let name: PluginName = component.file_stem()?.to_str()?.parse().ok()?;
        let told = self.files.lock().get(&name).copied()?;
        let place = component.display().to_string();
        let read = tokio::task::spawn_blocking(move || Candidate::read(&component, None));
        let bytes = read.await.ok()?.ok()?.bytes;
        let digest = Digest::of(&bytes);
        // Other bytes are told of by themselves.
        if digest != told {
            return None;
        }
        let content = Content::Bytes { digest, bytes };
        Box::pin(self.apply_file(name, place, content, ending)).await
    }

    fn serves_by_itself(&self, row: &PublishedRow, latest: bool) -> bool {
        let pin = self
            .config
            .plugins
            .get(&row.name)
            .and_then(|own| own.digest);
        match pin {
            Some(pin) => pin == row.digest,
            None => latest && self.config.stage == Stage::Development,
        }
    }

    fn retracted(&self, row: &PublishedRow) -> Option<SwapEvent> {
        let (name, digest) = (&row.name, row.digest);
        if self.files.lock().get(name) == Some(&digest) {
            return None;
        }
        const WHY: &str = "it was retracted";
        let actor = Actor::Operator(row.actor.clone());
        if self.catalog.withdraw(name, digest) {
            return Some(withdrawn(name, digest, WHY, actor));
        }
        let serving = self.catalog.get(name);
        let served = serving.is_some_and(|plugin| plugin.digest() == digest);
        served.then(|| self.serve_own(name, WHY)).flatten()
    }
}

const fn id(row: &PublishedRow) -> (Digest, DateTime<Utc>) {
    (row.digest, row.published_at)
}

/// The signature beside a component, if there is one that can be read.
pub(super) async fn read_signature(component: &str) -> Option<String> {
    let path = signature_of(Path::new(component));
    let read = tokio::task::spawn_blocking(move || {
        let found = std::fs::symlink_metadata(&path).ok()?;
        let file = found.is_file().then(|| std::fs::File::open(&path).ok())??;
        let mut text = String::new();
        file.take(MAX_SIGNATURE).read_to_string(&mut text).ok()?;
        Some(text)
    });
    read.await.ok()?
}
