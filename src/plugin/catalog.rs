//! Which plugins the host has loaded, and which version of each serves.
//!
//! Readers take a snapshot without a lock; a change replaces the snapshot as a
//! whole. A version that was replaced stays reachable by its digest as long as
//! an attempt holds it, and every attempt holds its version to the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::attempt::Kind;
use crate::ids::{Digest, PluginName};
use crate::plugin::limits::Limits;
use crate::plugin::load::{LoadError, Plugin, Source};
use crate::plugin::wasi::Profile;
use crate::route::RouteKey;

/// The plugins of a host.
#[derive(Debug, Default)]
pub struct Catalog {
    now: ArcSwap<Snapshot>,
    // Held while a snapshot is made from the one before; never across an await.
    changing: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Snapshot {
    stable: BTreeMap<PluginName, Arc<Plugin>>,
    /// The bundled versions, also those that the operator's replaced.
    bundled: BTreeMap<PluginName, Arc<Plugin>>,
    by_digest: HashMap<Digest, Weak<Plugin>>,
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
    /// Absent where nothing of that name could be loaded yet.
    pub serving: Option<Serving>,
    pub last_failure: Option<Failure>,
}

/// The version that serves.
#[derive(Debug, Clone, Serialize)]
pub struct Serving {
    pub version: String,
    pub digest: Digest,
    pub kind: Kind,
    pub handles: Vec<RouteKey>,
    pub profile: Profile,
    pub bytes: u64,
    pub source: Source,
    pub limits: Limits,
}

/// What an installation changed.
#[derive(Debug, Clone)]
pub enum Installed {
    /// There was no plugin of that name.
    New,
    /// This version served before.
    Replaced(Arc<Plugin>),
    /// The same digest serves already, under the same settings or new ones.
    Same,
}

impl Catalog {
    pub fn new() -> Self {
        Self::default()
    }

    /// The version of a plugin that serves.
    pub fn get(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.now.load().stable.get(name).cloned()
    }

    /// A version by its digest: one that serves, or one that still runs.
    pub fn by_digest(&self, digest: Digest) -> Option<Arc<Plugin>> {
        self.now.load().by_digest.get(&digest)?.upgrade()
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

    /// Lets a plugin serve from now on. Attempts that run finish on theirs.
    pub fn install(&self, plugin: Arc<Plugin>) -> Installed {
        self.change(|next| {
            let name = plugin.name().clone();
            if plugin.source() == Source::Bundled {
                next.bundled.insert(name.clone(), Arc::clone(&plugin));
            }
            next.serve(name, plugin)
        })
    }

    /// Takes a plugin out of service; a bundled one of that name comes back.
    /// Returns what serves now.
    pub fn remove(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.change(|next| {
            next.failures.remove(name);
            match next.bundled.get(name).cloned() {
                Some(bundled) => {
                    next.serve(name.clone(), Arc::clone(&bundled));
                    Some(bundled)
                }
                None => {
                    next.stable.remove(name);
                    None
                }
            }
        })
    }

    /// Puts the bundled version back into service, if there is one.
    pub fn restore_bundled(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.change(|next| {
            let bundled = next.bundled.get(name).cloned()?;
            next.serve(name.clone(), Arc::clone(&bundled));
            Some(bundled)
        })
    }

    /// Remembers that a version was refused; what serves goes on serving.
    pub fn refused(&self, name: &PluginName, error: &LoadError) {
        self.change(|next| next.failures.insert(name.clone(), error.into()));
    }

    /// All plugins by name, those that could never be loaded included.
    pub fn list(&self) -> Vec<Listed> {
        let now = self.now.load();
        let mut names: Vec<&PluginName> = now.stable.keys().chain(now.failures.keys()).collect();
        names.sort();
        names.dedup();
        let listed = |name: &PluginName| Listed {
            name: name.clone(),
            serving: now.stable.get(name).map(|plugin| serving(plugin)),
            last_failure: now.failures.get(name).cloned(),
        };
        names.into_iter().map(listed).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        let _changing = self.changing.lock();
        let mut next = Snapshot::clone(&self.now.load());
        let answer = change(&mut next);
        next.by_digest.retain(|_, plugin| plugin.strong_count() > 0);
        self.now.store(Arc::new(next));
        answer
    }
}

impl Snapshot {
    fn serve(&mut self, name: PluginName, plugin: Arc<Plugin>) -> Installed {
        self.failures.remove(&name);
        let digest = plugin.digest();
        self.by_digest.insert(digest, Arc::downgrade(&plugin));
        match self.stable.insert(name, plugin) {
            None => Installed::New,
            Some(before) if before.digest() == digest => Installed::Same,
            Some(before) => Installed::Replaced(before),
        }
    }
}

fn serving(plugin: &Plugin) -> Serving {
    let descriptor = plugin.descriptor();
    Serving {
        version: descriptor.version.to_string(),
        digest: plugin.digest(),
        kind: plugin.kind(),
        handles: descriptor.handles.clone(),
        profile: plugin.profile(),
        bytes: plugin.bytes(),
        source: plugin.source(),
        limits: Limits::clone(plugin.limits()),
    }
}
