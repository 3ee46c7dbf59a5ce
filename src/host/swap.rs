//! Swaps plugins while the host runs: what the watched directory holds is
//! loaded, checked and put into service, one file at a time, away from the
//! attempts.
//!
//! **Invariants.** A version serves only after every check of
//! [`crate::plugin::load`]; whatever goes wrong before, the version that served
//! goes on serving and the reason shows in the catalog and as an event. No
//! attempt is stopped, moved or waited for. A rollback never waits for a load,
//! and no load that began before it undoes it.

mod admission;
mod change;
mod counts;
mod decided;
mod directory;
mod history;
mod kept;
mod published;
mod rollback;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::api::SwapCounts;
use crate::config::Config;
use crate::ids::{Digest, PluginName};
use crate::plugin::catalog::{self, Catalog, Failure, Installed, Removed};
use crate::plugin::load::{
    Candidate, LoadCause, LoadError, Loader, MAX_BYTES, Plugin, Settings, Source,
};
use crate::plugin::signature::Trust;
use crate::plugin::watcher::{self, Change, Content, WatchSettings, Watcher};
use crate::stage::Stage;

use super::plugins::{self, PluginsError};
use admission::{Admission, Known};
pub use change::SwapEvent;
use change::{Actor, Version};
use counts::{Counts, Swap};
use decided::Decided;
pub use decided::Decisions;
pub use directory::{DirectoryNow, RefusedFile};
use kept::KeptVersions;
pub use published::Fetched;
use published::Published;

/// The plugins of a running host, as they come and go.
pub struct Swapper {
    config: Config,
    loader: Loader,
    catalog: Arc<Catalog>,
    trust: Trust,
    kept: KeptVersions,
    // Never held over an await, as those that follow.
    directory: Mutex<Option<DirectoryNow>>,
    /// What the files of plugins hold, whether it could be loaded or not.
    files: Mutex<BTreeMap<PluginName, Digest>>,
    decided: Mutex<Decided>,
    published: Mutex<Published>,
    counts: Counts,
    /// Set once what served before this start is at hand.
    recalled: CancellationToken,
}

/// A version as it came in.
struct Offered<'a> {
    name: &'a PluginName,
    digest: Digest,
    bytes: &'a Bytes,
    /// In minisign's format.
    signature: Option<&'a str>,
    source: Source,
    place: &'a str,
}

/// Plugins that are loaded, and what is left to do.
pub struct Started {
    pub swapper: Swapper,
    /// For [`Swapper::follow`]; `None` where no directory is configured.
    pub watcher: Option<Watcher>,
    /// What the directory held, to be recorded.
    pub events: Vec<SwapEvent>,
}

impl Swapper {
    /// Loads the bundled plugins, and then what lies in the directory now.
    ///
    /// # Errors
    /// When a bundled plugin does not load, or the directory has no path.
    pub async fn start(config: &Config, loader: Loader) -> Result<Started, PluginsError> {
        let catalog = Arc::new(Catalog::new());
        plugins::load_bundled(config, &loader, &catalog).await?;
        let swapper = Self {
            config: config.clone(),
            loader,
            catalog,
            trust: plugins::trust(config)?,
            kept: KeptVersions::below(&config.state_dir),
            directory: Mutex::default(),
            files: Mutex::default(),
            decided: Mutex::default(),
            published: Mutex::default(),
            counts: Counts::default(),
            recalled: CancellationToken::new(),
        };
        let mut watcher = watcher(config)?;
        let mut events = Vec::new();
        if let Some(watcher) = &mut watcher {
            let never = CancellationToken::new();
            while let Some(change) = watcher.ready().await {
                events.extend(swapper.apply(change, &never).await);
            }
        }
        Ok(Started {
            swapper,
            watcher,
            events,
        })
    }

    pub const fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What became of versions since the host began, by plugin.
    pub fn counts(&self) -> BTreeMap<PluginName, SwapCounts> {
        self.counts.read()
    }

    /// How the directory is seen; `None` where none is configured.
    pub fn directory(&self) -> Option<DirectoryNow> {
        self.directory.lock().clone()
    }

    /// Applies one change after the other, for as long as the host runs.
    pub async fn follow(
        &self,
        mut watcher: Watcher,
        record: impl Fn(SwapEvent),
        ending: CancellationToken,
    ) {
        loop {
            let change = tokio::select! {
                change = watcher.next() => change,
                () = ending.cancelled() => return,
            };
            if let Some(event) = self.apply(change, &ending).await {
                record(event);
            }
        }
    }

    async fn apply(&self, change: Change, ending: &CancellationToken) -> Option<SwapEvent> {
        match change {
            Change::Directory(state) => {
                let mut now = self.directory.lock();
                DirectoryNow::became(&mut now, &self.config, state);
                None
            }
            Change::File { path, content } => {
                if let Some(component) = watcher::signed_by(&path) {
                    return self.signature_changed(component, ending).await;
                }
                let place = path.display().to_string();
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                match stem.parse::<PluginName>() {
                    Ok(name) => self.apply_file(name, place, content, ending).await,
                    Err(error) => self.misnamed(&stem, place, &content, &error.to_string()),
                }
            }
        }
    }

    /// A file that can be no plugin's, whatever it holds.
    fn misnamed(
        &self,
        stem: &str,
        place: String,
        content: &Content,
        problem: &str,
    ) -> Option<SwapEvent> {
        let mut now = self.directory.lock();
        let files = &mut now.as_mut()?.refused_files;
        files.retain(|refused| refused.file != place);
        if *content == Content::Gone {
            return None;
        }
        let failure = Failure {
            code: "P100",
            message: format!("{place}: {problem}"),
            hint: "rename the file to the name that the plugin gives itself".to_owned(),
        };
        tracing::error!(
            code = failure.code,
            hint = failure.hint,
            "a plugin is refused: {}",
            failure.message
        );
        files.push(RefusedFile {
            file: place,
            failure: failure.clone(),
        });
        Some(SwapEvent::rejected(stem, None, digest_of(content), failure))
    }

    async fn apply_file(
        &self,
        name: PluginName,
        place: String,
        content: Content,
        ending: &CancellationToken,
    ) -> Option<SwapEvent> {
        let (digest, bytes) = match content {
            Content::Gone => return self.removed(&name),
            Content::Unusable(why) => {
                let error = LoadError::new(place, LoadCause::Unreadable(why));
                return Some(self.refuse(&name, None, &error));
            }
            Content::TooLarge(bytes) => {
                let error = LoadError::new(place, LoadCause::TooLarge { bytes });
                return Some(self.refuse(&name, None, &error));
            }
            Content::Bytes { digest, bytes } => (digest, bytes),
        };
        self.files.lock().insert(name.clone(), digest);
        if self.catalog.rolled_back_from(&name) == Some(digest) {
            tracing::info!("plugin {name} stays rolled back: its file holds what it held then");
            self.catalog.recovered(&name);
            return None;
        }
        if let Some(mark) = self
            .mark_from_before(&name)
            .filter(|mark| mark.from == digest)
        {
            return self.resume_rollback(&name, mark, ending).await;
        }
        let ticket = self.catalog.ticket(&name);
        let decided_before = self.decision(&name).filter(|row| row.digest != digest);
        let signature = published::read_signature(&place).await;
        let (admission, candidate) = match self.admit(Offered {
            name: &name,
            digest,
            bytes: &bytes,
            signature: signature.as_deref(),
            source: Source::Directory,
            place: &place,
        }) {
            Ok(admitted) => admitted,
            Err(cause) => {
                let error = LoadError::new(place, cause);
                return Some(self.refuse(&name, Some(digest), &error));
            }
        };
        let plugin = match self.load(candidate, ending).await? {
            Ok(plugin) => Arc::new(plugin),
            Err(error) => return Some(self.refuse(&name, Some(digest), &error)),
        };
        // Before it serves: a rollback after that leaves its own mark.
        self.keep(&name, digest, bytes, signature).await;
        if admission == Admission::Offer {
            return self.offered(plugin, Actor::Directory);
        }
        self.end_rollback(&name).await;
        if let Some(row) = decided_before {
            self.pass_over(&row);
        }
        let installed = self
            .catalog
            .install_unless_rolled_back(Arc::clone(&plugin), ticket);
        match installed {
            Ok(installed) => self.installed(&plugin, installed, "its file holds another version"),
            Err(superseded) => Some(self.superseded(&name, digest, superseded.to_string())),
        }
    }

    /// Whether a version may be loaded at all, and what is to become of it.
    fn admit(&self, offered: Offered<'_>) -> Result<(Admission, Candidate), LoadCause> {
        let Offered { name, digest, .. } = offered;
        let signer = self.trust.check(offered.bytes, offered.signature)?;
        let own = self.config.plugins.get(name);
        let stage = self.config.stage;
        let admission = Admission::of(
            digest,
            Known {
                stage,
                pin: own.and_then(|own| own.digest),
                decided: self.decided_for(name),
                signed: signer.is_some(),
            },
        );
        match admission {
            Admission::Unpinned => return Err(LoadCause::Unpinned { stage, digest }),
            Admission::NotPinned(pin) => {
                return Err(LoadCause::NotPinned { pin, found: digest });
            }
            Admission::Serve | Admission::Offer => {}
        }
        let candidate = Candidate {
            name: Some(name.clone()),
            bytes: offered.bytes.clone(),
            source: offered.source,
            place: offered.place.to_owned(),
            signer,
        };
        Ok((admission, candidate))
    }

    /// Loads a version; `None` once the host ends.
    async fn load(
        &self,
        candidate: Candidate,
        ending: &CancellationToken,
    ) -> Option<Result<Plugin, LoadError>> {
        let settings = Settings {
            // What was admitted is pinned to what it is by now.
            pin: None,
            ..plugins::settings(&self.config, candidate.name.as_ref(), candidate.source)
        };
        let place = candidate.place.clone();
        let (loader, ending) = (self.loader.clone(), ending.clone());
        // Parsing a large component takes a while, and these threads keep leases.
        let loading = tokio::task::spawn_blocking(move || {
            Handle::current().block_on(load_until(&loader, candidate, &settings, &ending))
        });
        loading.await.unwrap_or_else(|cause| {
            let cause = LoadCause::Host(cause.to_string());
            Some(Err(LoadError::new(place, cause)))
        })
    }

    /// Keeps a version ready for a rollout.
    fn offered(&self, plugin: Arc<Plugin>, actor: Actor) -> Option<SwapEvent> {
        let (name, version) = (plugin.name().clone(), Version::of(&plugin));
        let serving = self.catalog.get(&name).map(|plugin| Version::of(&plugin));
        if self.catalog.offer(plugin) != catalog::Offered::New {
            return None;
        }
        tracing::info!(
            plugin.name = %name, plugin.digest = %version.digest,
            "plugin {name} has the candidate {version}"
        );
        Some(SwapEvent::offered(&name, serving, version, actor))
    }

    fn installed(&self, plugin: &Plugin, installed: Installed, reason: &str) -> Option<SwapEvent> {
        let (name, version) = (plugin.name(), Version::of(plugin));
        if !matches!(installed, Installed::Same) {
            self.counts.count(name, Swap::Applied);
        }
        match installed {
            Installed::Same => None,
            Installed::New => {
                tracing::info!(
                    plugin.name = %name, plugin.digest = %version.digest,
                    "plugin {name} serves as {version}"
                );
                Some(SwapEvent::loaded(name, version))
            }
            Installed::Replaced(before) => {
                let before = Version::of(&before);
                tracing::info!(
                    plugin.name = %name, plugin.digest = %version.digest,
                    "plugin {name} serves as {version}, no longer as {before}"
                );
                Some(SwapEvent::swapped(name, before, Some(version), reason))
            }
        }
    }

    fn removed(&self, name: &PluginName) -> Option<SwapEvent> {
        let held = self.files.lock().remove(name);
        let withdrawn = held.filter(|digest| self.catalog.withdraw(name, *digest));
        if self.config.stage == Stage::Development {
            if let Some(row) = self.decision(name) {
                self.pass_over(&row);
            }
        } else if self.decided_for(name).is_some() {
            // It serves by decision, not by a file.
            self.catalog.recovered(name);
            return withdrawn.map(|digest| withdraw(name, digest));
        }
        self.kept.unmark(name);
        let swapped = self.serve_own(name, "its file is gone");
        swapped.or_else(|| withdrawn.map(|digest| withdraw(name, digest)))
    }

    fn back_to_bundled(&self, name: &PluginName, removed: Removed, why: &str) -> Option<SwapEvent> {
        let before = Version::of(&*removed.before?);
        let now = removed.now.map(|plugin| Version::of(&plugin));
        if now.as_ref().is_some_and(|now| now.digest == before.digest) {
            return None;
        }
        if now.is_some() {
            self.counts.count(name, Swap::Applied);
        }
        let reason = match &now {
            Some(bundled) => format!("{why}; bundled version {bundled} is back"),
            None => why.to_owned(),
        };
        tracing::warn!(plugin.name = %name, "plugin {name} no longer serves as {before}: {reason}");
        Some(SwapEvent::swapped(name, before, now, &reason))
    }

    fn refuse(&self, name: &PluginName, digest: Option<Digest>, error: &LoadError) -> SwapEvent {
        self.reject(name, digest, failure(name, error))
    }

    fn superseded(&self, name: &PluginName, digest: Digest, message: String) -> SwapEvent {
        let failure = Failure {
            code: "P160",
            message,
            hint: "remove the file and put it back if this version is meant to run".to_owned(),
        };
        self.reject(name, Some(digest), failure)
    }

    fn reject(&self, name: &PluginName, digest: Option<Digest>, failure: Failure) -> SwapEvent {
        let serving = self.catalog.get(name).map(|plugin| Version::of(&plugin));
        let serves = serving.as_ref().map_or_else(
            || "nothing serves in its place".to_owned(),
            |version| format!("{version} goes on serving"),
        );
        tracing::error!(
            plugin.name = %name, code = failure.code, hint = failure.hint,
            "plugin {name} is refused: {}; {serves}", failure.message
        );
        self.catalog.refused(name, failure.clone());
        self.counts.count(name, Swap::Refused);
        SwapEvent::rejected(name.as_str(), serving, digest, failure)
    }
}

fn withdraw(name: &PluginName, digest: Digest) -> SwapEvent {
    withdrawn(name, digest, "its file is gone", Actor::Directory)
}

fn withdrawn(name: &PluginName, digest: Digest, why: &str, actor: Actor) -> SwapEvent {
    tracing::info!(plugin.name = %name, plugin.digest = %digest, "a candidate of {name} is withdrawn: {why}");
    SwapEvent::withdrawn(name, digest, why, actor)
}

async fn load_until(
    loader: &Loader,
    candidate: Candidate,
    settings: &Settings,
    ending: &CancellationToken,
) -> Option<Result<Plugin, LoadError>> {
    tokio::select! {
        loaded = loader.load(candidate, settings) => Some(loaded),
        () = ending.cancelled() => None,
    }
}

fn watcher(config: &Config) -> Result<Option<Watcher>, PluginsError> {
    let Some(directory) = &config.plugins_dir else {
        return Ok(None);
    };
    let settings = WatchSettings {
        directory: directory.clone(),
        quiet: config.plugins_quiet,
        rescan: config.plugins_rescan,
        max_bytes: MAX_BYTES,
    };
    let watcher = Watcher::new(settings).map_err(|source| PluginsError::Directory {
        path: directory.clone(),
        source,
    })?;
    Ok(Some(watcher))
}

/// The refusal with what to do about it here: pins are pasted under a name.
fn failure(name: &PluginName, error: &LoadError) -> Failure {
    let mut failure = Failure::from(error);
    if let LoadCause::Unpinned { digest, .. } | LoadCause::NotPinned { found: digest, .. } =
        &error.cause
    {
        failure.hint = format!(
            "if this version is meant to run, put `digest = \"{digest}\"` under `[plugin.{name}]` in cogo.toml and restart the host; one that a trusted key signed becomes a candidate"
        );
    }
    failure
}

const fn digest_of(content: &Content) -> Option<Digest> {
    match content {
        Content::Bytes { digest, .. } => Some(*digest),
        Content::TooLarge(_) | Content::Unusable(_) | Content::Gone => None,
    }
}
