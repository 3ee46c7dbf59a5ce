//! Which plugins the host has loaded, and which version of each serves.
//!
//! Readers take a snapshot without a lock; a change replaces the snapshot as a
//! whole. A version that was replaced stays reachable by its digest as long as
//! somebody holds it: an attempt that was assigned it, or the catalog, which
//! keeps the latest ones of each name for a way back. Beside it wait the
//! candidates: loaded and ready, and nobody's until a rollout or an operator
//! names them.

mod previous;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::attempt::Kind;
use crate::ids::{Digest, PluginName};
use crate::plugin::limits::Limits;
use crate::plugin::load::{LoadError, Plugin, Source};
use crate::plugin::signature::Signer;
use crate::plugin::wasi::Profile;
use crate::route::RouteKey;

pub use previous::{
    DigestPrefix, InvalidDigestPrefix, KEPT_VERSIONS, PreviousVersion, RollbackError, RolledBack,
};
use previous::{History, Kept};

/// How many candidates of a plugin wait at once; the oldest goes first.
pub const KEPT_CANDIDATES: usize = 5;

/// The plugins of a host.
#[derive(Debug, Default)]
pub struct Catalog {
    now: ArcSwap<Snapshot>,
    // Held while a snapshot is made from the one before; never across an await.
    changing: Mutex<()>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Clone, Default)]
struct Snapshot {
    stable: BTreeMap<PluginName, Arc<Plugin>>,
    /// The bundled versions, also those that the operator's replaced.
    bundled: BTreeMap<PluginName, Arc<Plugin>>,
    histories: BTreeMap<PluginName, History>,
    /// Latest first; each digest once, and never the one that serves.
    candidates: BTreeMap<PluginName, Vec<Arc<Plugin>>>,
    /// Several where a version was loaded again while attempts held it.
    by_digest: HashMap<Digest, Vec<Weak<Plugin>>>,
    /// What was refused last, until a version of that name is loaded.
    failures: BTreeMap<PluginName, Failure>,
}

/// A version that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

impl From<&LoadError> for Failure {
    fn from(error: &LoadError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// One plugin as people and programs see it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    pub name: PluginName,
    /// Absent where nothing of that name could be loaded yet, or it was removed.
    pub serving: Option<Version>,
    pub last_failure: Option<Failure>,
    /// What could serve and does not yet, latest first.
    pub candidates: Vec<Version>,
    /// What served before, latest first.
    pub previous: Vec<PreviousVersion>,
    /// The version that an operator took out of service, and that its file still
    /// holds.
    pub rolled_back_from: Option<Digest>,
}

/// A version that serves, or could.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    pub version: String,
    pub digest: Digest,
    pub kind: Kind,
    pub handles: Vec<RouteKey>,
    pub profile: Profile,
    pub bytes: u64,
    pub source: Source,
    /// Who vouched for it.
    pub signer: Option<Signer>,
    pub limits: Limits,
}

/// What an installation changed.
#[derive(Debug, Clone)]
pub enum Installed {
    /// No version of that name served.
    New,
    /// This version served before.
    Replaced(Arc<Plugin>),
    /// The same digest serves already, under the same settings or new ones.
    Same,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    New,
    /// It was one before.
    Same,
    /// It serves already.
    Serves,
}

/// What becomes of the version that served before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// It may serve again.
    Succeeded,
    /// It is out of service: a rollback passes it over.
    TakenBack,
}

/// What a promotion or a way back changed.
#[derive(Debug, Clone)]
pub struct Served {
    /// `None` where nothing of that name served.
    pub before: Option<Arc<Plugin>>,
    pub now: Arc<Plugin>,
}

/// What a removal changed.
#[derive(Debug, Clone)]
pub struct Removed {
    /// What served before.
    pub before: Option<Arc<Plugin>>,
    /// What serves now: the bundled version, if there is one.
    pub now: Option<Arc<Plugin>>,
}

/// When a load began, as far as rollbacks are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// An operator rolled the plugin back while a version of it was being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plugin was rolled back while this version was being loaded")]
pub struct Superseded;

impl Catalog {
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the changes, for whoever wants to know of the next one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The version of a plugin that serves.
    pub fn get(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.now.load().stable.get(name).cloned()
    }

    /// The bundled version of a plugin, whatever serves under its name.
    pub fn bundled(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.now.load().bundled.get(name).cloned()
    }

    /// A version by its digest: one that serves, is kept, or still runs.
    pub fn by_digest(&self, digest: Digest) -> Option<Arc<Plugin>> {
        let now = self.now.load();
        // The one loaded last first.
        let mut loaded = now.by_digest.get(&digest)?.iter().rev();
        loaded.find_map(Weak::upgrade)
    }

    /// Every version that could run at once: those that serve, wait as
    /// candidates, or are kept for a way back.
    pub fn ready(&self) -> BTreeSet<Digest> {
        let now = self.now.load();
        let candidates = now.candidates.values().flatten();
        let all = now.stable.values().chain(now.bundled.values());
        let all = all.chain(candidates).map(|plugin| plugin.digest());
        let kept = now.histories.values().flat_map(History::digests);
        all.chain(kept).collect()
    }

    /// The names of all plugins that serve a route, in order.
    pub fn handling(&self, route: &RouteKey) -> Vec<PluginName> {
        let now = self.now.load();
        let handles = |plugin: &Plugin| plugin.descriptor().handles.contains(route);
        let found = now.stable.values().filter(|plugin| handles(plugin));
        found.map(|plugin| plugin.name().clone()).collect()
    }

    /// All routes that some plugin serves, in order.
    pub fn routes(&self) -> Vec<RouteKey> {
        let now = self.now.load();
        let all = now.stable.values();
        let mut routes: Vec<_> = all.flat_map(|p| p.descriptor().handles.clone()).collect();
        routes.sort();
        routes.dedup();
        routes
    }

    /// What [`Catalog::install_unless_rolled_back`] wants to know: taken before
    /// a load begins.
    pub fn ticket(&self, name: &PluginName) -> Ticket {
        let now = self.now.load();
        Ticket(now.histories.get(name).map_or(0, History::rollbacks))
    }

    /// Lets a plugin serve from now on. Attempts that run finish on theirs.
    pub fn install(&self, plugin: Arc<Plugin>) -> Installed {
        self.change(|next| next.install(plugin))
    }

    /// The same, unless an operator rolled the plugin back since the ticket was
    /// taken: what that operator saw then must not be undone a moment later.
    ///
    /// # Errors
    /// [`Superseded`]; nothing has changed.
    pub fn install_unless_rolled_back(
        &self,
        plugin: Arc<Plugin>,
        ticket: Ticket,
    ) -> Result<Installed, Superseded> {
        self.change(|next| {
            let history = next.histories.get(plugin.name());
            if history.map_or(0, History::rollbacks) != ticket.0 {
                return Err(Superseded);
            }
            Ok(next.install(plugin))
        })
    }

    /// Keeps a version ready without letting it serve.
    pub fn offer(&self, plugin: Arc<Plugin>) -> Offered {
        self.change(|next| next.offer(plugin))
    }

    /// Forgets a candidate; whether there was one.
    pub fn withdraw(&self, name: &PluginName, digest: Digest) -> bool {
        self.change(|next| next.withdraw(name, digest))
    }

    /// Lets a version serve that is ready: a candidate, one that served before,
    /// or the bundled one. `None` where there is no such version, or it serves
    /// already.
    pub fn serve_ready(
        &self,
        name: &PluginName,
        digest: Digest,
        before_is: Outgoing,
    ) -> Option<Served> {
        self.change(|next| {
            let now = next.ready(name, digest)?;
            let before = next.stable.get(name).cloned();
            next.serve(Arc::clone(&now));
            let history = next.histories.entry(name.clone()).or_default();
            match before_is {
                Outgoing::TakenBack => history.rolled_back(before.as_deref()),
                Outgoing::Succeeded => history.succeeded(),
            }
            Some(Served { before, now })
        })
    }

    /// Takes the operator's version of a plugin out of service; a bundled one of
    /// that name comes back.
    pub fn remove(&self, name: &PluginName) -> Removed {
        self.change(|next| {
            next.failures.remove(name);
            if let Some(history) = next.histories.get_mut(name) {
                history.forget_rollback();
            }
            let before = next.stable.get(name).cloned();
            let now = next.bundled.get(name).cloned();
            match &now {
                Some(bundled) => {
                    next.serve(Arc::clone(bundled));
                }
                None => next.retire(name),
            }
            Removed { before, now }
        })
    }

    /// Puts a version back into service that served before: the latest that was
    /// not itself rolled back, or the one whose digest begins with `to`.
    ///
    /// # Errors
    /// [`RollbackError`] when there is no such version.
    pub fn roll_back(
        &self,
        name: &PluginName,
        to: Option<&DigestPrefix>,
    ) -> Result<RolledBack, RollbackError> {
        self.change(|next| {
            let from = next.stable.get(name).cloned();
            let to = next.version_to_return_to(name, from.as_deref(), to)?;
            next.serve(Arc::clone(&to));
            let history = next.histories.entry(name.clone()).or_default();
            history.rolled_back(from.as_deref());
            Ok(RolledBack { from, to })
        })
    }

    /// Keeps a version for a way back that served before this start, behind all
    /// that did since.
    pub fn recall(&self, plugin: Arc<Plugin>, rolled_back: bool) {
        self.change(|next| {
            let (name, digest) = (plugin.name().clone(), plugin.digest());
            let serving = next.stable.get(&name);
            if serving.is_some_and(|serving| serving.digest() == digest) {
                return;
            }
            next.register(&plugin);
            let history = next.histories.entry(name).or_default();
            history.recall(plugin, rolled_back);
        });
    }

    /// Remembers a rollback from before this start: what serves is what it led to.
    pub fn resume_rollback(&self, name: &PluginName, from: Digest) {
        self.change(|next| {
            let history = next.histories.entry(name.clone()).or_default();
            history.resume_rollback(from);
        });
    }

    /// Forgets that a rollback is in force.
    pub fn end_rollback(&self, name: &PluginName) {
        self.change(|next| {
            if let Some(history) = next.histories.get_mut(name) {
                history.forget_rollback();
            }
        });
    }

    /// The digest that an operator took out of service and that must not come
    /// back by itself.
    pub fn rolled_back_from(&self, name: &PluginName) -> Option<Digest> {
        self.now.load().histories.get(name)?.rolled_back_from()
    }

    /// Remembers that a version was refused; what serves goes on serving.
    pub fn refused(&self, name: &PluginName, failure: Failure) {
        self.change(|next| next.failures.insert(name.clone(), failure));
    }

    /// Forgets what was refused last: the file holds what serves.
    pub fn recovered(&self, name: &PluginName) {
        self.change(|next| next.failures.remove(name));
    }

    /// All plugins by name, those that could never be loaded included.
    pub fn list(&self) -> Vec<Listed> {
        let now = self.now.load();
        let kept = now.histories.iter().filter(|(_, h)| !h.is_empty());
        let kept = kept.map(|(name, _)| name);
        let mut names: Vec<&PluginName> = now.stable.keys().chain(now.failures.keys()).collect();
        names.extend(now.candidates.keys());
        names.extend(kept);
        names.sort();
        names.dedup();
        let listed = |name: &PluginName| {
            let history = now.histories.get(name);
            Listed {
                name: name.clone(),
                serving: now.stable.get(name).map(|plugin| version(plugin)),
                last_failure: now.failures.get(name).cloned(),
                candidates: now
                    .candidates
                    .get(name)
                    .map(|all| all.iter().map(|plugin| version(plugin)).collect())
                    .unwrap_or_default(),
                previous: history.map(History::list).unwrap_or_default(),
                rolled_back_from: history.and_then(History::rolled_back_from),
            }
        };
        names.into_iter().map(listed).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        let _changing = self.changing.lock();
        let mut next = Snapshot::clone(&self.now.load());
        let answer = change(&mut next);
        next.forget_gone();
        self.now.store(Arc::new(next));
        self.changes.send_modify(|count| *count += 1);
        answer
    }
}

impl Snapshot {
    fn install(&mut self, plugin: Arc<Plugin>) -> Installed {
        let name = plugin.name().clone();
        if plugin.source() == Source::Bundled {
            self.bundled.insert(name.clone(), Arc::clone(&plugin));
        }
        self.failures.remove(&name);
        if let Some(history) = self.histories.get_mut(&name) {
            history.forget_rollback();
        }
        self.serve(plugin)
    }

    fn offer(&mut self, plugin: Arc<Plugin>) -> Offered {
        let (name, digest) = (plugin.name().clone(), plugin.digest());
        self.failures.remove(&name);
        let serving = self.stable.get(&name);
        if serving.is_some_and(|serving| serving.digest() == digest) {
            return Offered::Serves;
        }
        self.register(&plugin);
        let candidates = self.candidates.entry(name).or_default();
        let known = candidates.len();
        candidates.retain(|candidate| candidate.digest() != digest);
        let is_new = candidates.len() == known;
        candidates.insert(0, plugin);
        candidates.truncate(KEPT_CANDIDATES);
        if is_new { Offered::New } else { Offered::Same }
    }

    fn withdraw(&mut self, name: &PluginName, digest: Digest) -> bool {
        let Some(candidates) = self.candidates.get_mut(name) else {
            return false;
        };
        let known = candidates.len();
        candidates.retain(|candidate| candidate.digest() != digest);
        let found = candidates.len() < known;
        if candidates.is_empty() {
            self.candidates.remove(name);
        }
        found
    }

    /// A version that does not serve and could.
    fn ready(&self, name: &PluginName, digest: Digest) -> Option<Arc<Plugin>> {
        let serving = self.stable.get(name);
        if serving.is_some_and(|serving| serving.digest() == digest) {
            return None;
        }
        let candidates = self.candidates.get(name).into_iter().flatten();
        let mut others = candidates.chain(self.bundled.get(name));
        let found = others.find(|plugin| plugin.digest() == digest);
        let kept = || self.histories.get(name)?.get(digest);
        found.cloned().or_else(kept)
    }

    /// Has a version found by its digest for as long as somebody holds it.
    fn register(&mut self, plugin: &Arc<Plugin>) {
        let loaded = self.by_digest.entry(plugin.digest()).or_default();
        let is_known = |weak: &Weak<Plugin>| weak.as_ptr() == Arc::as_ptr(plugin);
        if !loaded.iter().any(is_known) {
            loaded.push(Arc::downgrade(plugin));
        }
    }

    fn serve(&mut self, plugin: Arc<Plugin>) -> Installed {
        let (name, digest) = (plugin.name().clone(), plugin.digest());
        self.register(&plugin);
        self.withdraw(&name, digest);
        let history = self.histories.entry(name.clone()).or_default();
        history.forget(digest);
        match self.stable.insert(name, plugin) {
            None => Installed::New,
            Some(before) if before.digest() == digest => Installed::Same,
            Some(before) => {
                history.keep(Kept::new(Arc::clone(&before)));
                Installed::Replaced(before)
            }
        }
    }

    /// Takes a plugin out of service that nothing replaces.
    fn retire(&mut self, name: &PluginName) {
        if let Some(before) = self.stable.remove(name) {
            let history = self.histories.entry(name.clone()).or_default();
            history.keep(Kept::new(before));
        }
    }

    fn version_to_return_to(
        &self,
        name: &PluginName,
        serving: Option<&Plugin>,
        to: Option<&DigestPrefix>,
    ) -> Result<Arc<Plugin>, RollbackError> {
        let bundled = self.bundled.get(name);
        let known = self.stable.contains_key(name) || self.failures.contains_key(name);
        let Some(history) = self.histories.get(name) else {
            return Err(if known {
                RollbackError::NothingBefore(name.clone())
            } else {
                RollbackError::NoPlugin(name.clone())
            });
        };
        history.find(name, serving, bundled, to)
    }

    fn forget_gone(&mut self) {
        self.by_digest.retain(|_, loaded| {
            loaded.retain(|plugin| plugin.strong_count() > 0);
            !loaded.is_empty()
        });
    }
}

fn version(plugin: &Plugin) -> Version {
    let descriptor = plugin.descriptor();
    Version {
        version: descriptor.version.to_string(),
        digest: plugin.digest(),
        kind: plugin.kind(),
        handles: descriptor.handles.clone(),
        profile: plugin.profile(),
        bytes: plugin.bytes(),
        source: plugin.source(),
        signer: plugin.signer().cloned(),
        limits: Limits::clone(plugin.limits()),
    }
}
