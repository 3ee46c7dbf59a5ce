//! The routes of this host: what the configuration and the plugins say, checked
//! once, and asked by the bus for every claim.
//!
//! Decides nothing itself: [`select`] does. It gathers what a choice depends on
//! and turns the answer into a loaded plugin version.

mod keys;
mod so_far;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::controls::RouteNow;
use crate::attempt::{PluginVersion, Problem};
use crate::breaker::RealPath;
use crate::config::{Config, ConfigError};
use crate::ids::{Digest, PluginName};
use crate::plugin::load::Source;
use crate::rollout::RolloutRow;
use crate::route::{KnownRole, Policy, RouteKey, RoutePlugins};
use crate::routing::{Hold, KnownRoute, ServedRoute};
use crate::selection::{Breaker, Choice, HoldReason, Situation, select};
use crate::stage::Stage;
use keys::{dispatcher_shard, route_plugins, served_keys};
use so_far::SoFar;

/// What routing needs to know of a loaded plugin.
#[derive(Debug, Clone)]
pub struct LoadedPlugin {
    pub version: PluginVersion,
    pub handles: Vec<RouteKey>,
    pub deadline: Duration,
    pub concurrency: u32,
    /// Keys that the plugin reads and nobody set.
    pub missing_config: Vec<String>,
    pub source: Source,
    /// Keeps this version loaded.
    pub hold: Hold,
}

/// The plugins that are loaded now.
pub trait LoadedPlugins: Send + Sync + 'static {
    /// The version that serves under a name, or the one with this digest.
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin>;

    /// The version that would serve under a name if the bus had none and said
    /// nothing.
    fn own(&self, name: &PluginName) -> Option<LoadedPlugin>;

    fn all(&self) -> Vec<LoadedPlugin>;

    /// The versions of a plugin that could run at once and do not serve.
    fn others(&self, name: &PluginName) -> Vec<Digest>;
}

/// One route, fully decided but for what changes while the host runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteEntry {
    pub key: RouteKey,
    pub plugins: RoutePlugins,
    pub policy: Policy,
    /// The flag as configured; one that is set on the bus beats it.
    pub flag: Option<bool>,
    pub shard: Option<i32>,
    pub tenant: Option<String>,
    pub concurrency: u32,
    pub deadline: Option<Duration>,
    pub reclaim_foreign_after: Option<Duration>,
}

impl RouteEntry {
    /// The path that a breaker watches; none where there is nothing to choose.
    pub fn real_path(&self) -> Option<RealPath> {
        match &self.plugins {
            RoutePlugins::Only(_) => None,
            RoutePlugins::Pair { real, .. } => Some(RealPath {
                plugin: real.clone(),
                route: self.key.clone(),
            }),
        }
    }

    fn names(&self) -> Vec<PluginName> {
        self.plugins.names().into_iter().cloned().collect()
    }

    pub fn known(&self) -> KnownRoute {
        KnownRoute {
            key: self.key.clone(),
            shard: self.shard,
            tenant: self.tenant.clone(),
        }
    }
}

/// The table of routes, and the plugins that are loaded.
pub struct RouteTable {
    stage: Stage,
    entries: BTreeMap<RouteKey, RouteEntry>,
    /// The dispatcher's route, where this host forwards its tasks.
    dispatcher: Option<ServedRoute>,
    plugins: Arc<dyn LoadedPlugins>,
}

/// The flags that are set on the bus.
pub type BusFlags = BTreeMap<RouteKey, bool>;

/// Why the plugin that is to run cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrunnable {
    #[error("there is no plugin `{0}`")]
    NotLoaded(PluginName),
    #[error("plugin `{plugin}` does not handle `{route}`")]
    NotHandled { plugin: PluginName, route: RouteKey },
    #[error("plugin `{plugin}` is to run, but {} is not set", missing.join(", "))]
    MissingConfig {
        plugin: PluginName,
        missing: Vec<String>,
    },
}

/// Why a route is not as the configuration and the plugins would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteProblem {
    pub error: ConfigError,
    /// The plugins that it goes on with; none where its tasks wait.
    pub stays_with: Vec<PluginName>,
}

impl RouteProblem {
    fn is_same_as(&self, other: &Self) -> bool {
        let (one, other) = (&self.error, &other.error);
        (&one.place, &one.problem) == (&other.place, &other.problem)
    }
}

impl fmt::Display for RouteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.stays_with.iter().map(PluginName::as_str).collect();
        match names.as_slice() {
            [] => write!(f, "{}; its tasks wait", self.error),
            names => write!(f, "{}; it stays with {}", self.error, names.join(" and ")),
        }
    }
}

impl Config {
    /// The policy of a route, as configured or by its role.
    pub fn policy(&self, key: &RouteKey) -> Policy {
        let configured = self.routes.get(key).and_then(|route| route.policy);
        configured.unwrap_or(match key.known_role() {
            Some(KnownRole::BuildTest) => Policy::Required,
            Some(KnownRole::Codegen | KnownRole::Sandbox) | None => Policy::Optional,
        })
    }
}

impl RouteTable {
    /// Decides which routes are served and how: first as if the bus had no
    /// plugins and said nothing of any, then with one after the other of those
    /// `on_bus`, in the order in which hosts met them that ran all the time. What
    /// only the bus does wrong keeps no host from starting.
    ///
    /// # Errors
    /// [`ConfigError`] when, whatever the bus has, a route has no plugin,
    /// production would run a mock by configuration, or a real executor lacks a
    /// value that it needs.
    pub fn start(
        config: &Config,
        plugins: Arc<dyn LoadedPlugins>,
        on_bus: &[PluginName],
        flags: &BusFlags,
    ) -> Result<(Self, Vec<RouteProblem>), ConfigError> {
        let so_far = |count| Arc::new(SoFar::new(&plugins, on_bus, count));
        let empty = Self::empty(config, so_far(0));
        let (mut table, own) = empty.rebuilt(config, so_far(0), flags);
        for count in 1..=on_bus.len() {
            (table, _) = table.rebuilt(config, so_far(count), flags);
        }
        let (table, problems) = table.rebuilt(config, Arc::clone(&plugins), flags);
        let is_own = |problem: &&RouteProblem| own.iter().any(|own| own.is_same_as(problem));
        match problems.iter().find(is_own) {
            Some(mistake) => Err(mistake.error.clone()),
            None => Ok((table, problems)),
        }
    }

    /// The table after the plugins have changed. A route that cannot be as it
    /// should stays as it was, if it still can, and comes with its mistake.
    pub fn rebuilt(
        &self,
        config: &Config,
        plugins: Arc<dyn LoadedPlugins>,
        flags: &BusFlags,
    ) -> (Self, Vec<RouteProblem>) {
        let all = plugins.all();
        let mut table = Self::empty(config, plugins);
        let mut problems = Vec::new();
        let served = served_keys(config, &all).unwrap_or_else(|error| {
            problems.push(RouteProblem {
                error,
                stays_with: Vec::new(),
            });
            let before = self.entries.values();
            before
                .map(|entry| (entry.key.clone(), entry.shard))
                .collect()
        });
        for (key, shard) in served {
            let before = self.entries.get(&key);
            let before = before.filter(|entry| table.works(entry, flags));
            let entry = match table.entry(config, key, shard, &all, flags) {
                Ok(entry) => Some(entry),
                Err(error) => {
                    let running = before.filter(|entry| table.runs(entry, flags));
                    problems.push(RouteProblem {
                        error,
                        stays_with: running.map(RouteEntry::names).unwrap_or_default(),
                    });
                    before.cloned()
                }
            };
            if let Some(entry) = entry {
                table.entries.insert(entry.key.clone(), entry);
            }
        }
        (table, problems)
    }

    fn empty(config: &Config, plugins: Arc<dyn LoadedPlugins>) -> Self {
        Self {
            stage: config.stage,
            entries: BTreeMap::new(),
            dispatcher: dispatcher(config),
            plugins,
        }
    }

    fn entry(
        &self,
        config: &Config,
        key: RouteKey,
        shard: Option<i32>,
        all: &[LoadedPlugin],
        flags: &BusFlags,
    ) -> Result<RouteEntry, ConfigError> {
        let route = config.routes.get(&key);
        let policy = config.policy(&key);
        let own_flag = route.and_then(|route| route.flag);
        let entry = RouteEntry {
            plugins: route_plugins(&key, route, all)?,
            policy,
            flag: own_flag.or(match policy {
                Policy::Required => config.flag.value,
                Policy::Optional => None,
            }),
            shard: shard.or(route.and_then(|route| route.shard)),
            tenant: route.and_then(|route| route.tenant.clone()),
            concurrency: route
                .and_then(|route| route.concurrency)
                .unwrap_or(config.concurrency),
            deadline: route.and_then(|route| route.deadline),
            reclaim_foreign_after: route.and_then(|route| route.reclaim_foreign_after),
            key,
        };
        self.check(&entry, config, flags)?;
        Ok(entry)
    }

    /// Whether what is meant to run is there and handles the route.
    fn works(&self, entry: &RouteEntry, flags: &BusFlags) -> bool {
        let Choice::Run { plugin, digest, .. } = self.meant(entry, flags) else {
            return true;
        };
        let loaded = self.plugins.get(&plugin, digest);
        loaded.is_some_and(|loaded| loaded.handles.contains(&entry.key))
    }

    /// Whether it can run on top of that.
    fn runs(&self, entry: &RouteEntry, flags: &BusFlags) -> bool {
        let Choice::Run { plugin, digest, .. } = self.meant(entry, flags) else {
            return false;
        };
        self.runnable(&entry.key, &plugin, digest).is_ok()
    }

    /// All routes that this host is there for.
    pub fn entries(&self) -> impl Iterator<Item = &RouteEntry> {
        self.entries.values()
    }

    pub fn get(&self, key: &RouteKey) -> Option<&RouteEntry> {
        self.entries.get(key)
    }

    /// The dispatcher's route, where this host forwards its tasks.
    pub const fn dispatcher(&self) -> Option<&ServedRoute> {
        self.dispatcher.as_ref()
    }

    /// The routes that some plugin handles.
    pub fn handled(&self) -> Vec<RouteKey> {
        let plugins = self.plugins.all();
        let handled = plugins.into_iter().flat_map(|plugin| plugin.handles);
        let mut all: Vec<RouteKey> = self.entries.keys().cloned().chain(handled).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What a task of this route would get now.
    pub fn choice(&self, entry: &RouteEntry, now: &RouteNow<'_>, last_attempt: bool) -> Choice {
        select(&Situation {
            stage: self.stage,
            policy: entry.policy,
            plugins: &entry.plugins,
            paused: now.paused,
            flag: now.flag.or(entry.flag),
            breaker: now.breaker,
            approval: now.approval,
            rollout: now.share(),
            last_attempt,
        })
    }

    /// The same, but for a candidate that cannot run here: stable does, then.
    pub fn choose_runnable(
        &self,
        entry: &RouteEntry,
        now: RouteNow<'_>,
        last_attempt: bool,
    ) -> Choice {
        let choice = self.choice(entry, &now, last_attempt);
        match &choice {
            Choice::Run {
                plugin,
                digest: Some(digest),
                ..
            } if self.runnable(&entry.key, plugin, Some(*digest)).is_err() => {
                let now = RouteNow {
                    withdrawn: true,
                    ..now
                };
                self.choice(entry, &now, last_attempt)
            }
            _ => choice,
        }
    }

    /// What the flags make of a route as long as nothing goes wrong.
    fn meant(&self, entry: &RouteEntry, flags: &BusFlags) -> Choice {
        self.with_flag(entry, flags.get(&entry.key).copied())
    }

    /// The same, if its flag were set so on the bus.
    pub fn with_flag(&self, entry: &RouteEntry, flag: Option<bool>) -> Choice {
        let now = RouteNow {
            flag,
            ..RouteNow::default()
        };
        self.choice(entry, &now, false)
    }

    /// Whether a breaker that opens would hold the route.
    pub fn held_by_breaker(&self, entry: &RouteEntry, flag: Option<bool>) -> bool {
        let now = RouteNow {
            flag,
            breaker: Breaker::Open,
            ..RouteNow::default()
        };
        self.choice(entry, &now, false) == Choice::Hold(HoldReason::BreakerOpen)
    }

    /// The version that is to run a route, if it can.
    ///
    /// # Errors
    /// [`Unrunnable`] says why it cannot.
    pub fn runnable(
        &self,
        key: &RouteKey,
        plugin: &PluginName,
        digest: Option<Digest>,
    ) -> Result<LoadedPlugin, Unrunnable> {
        let loaded = self.plugins.get(plugin, digest);
        let loaded = loaded.ok_or_else(|| Unrunnable::NotLoaded(plugin.clone()))?;
        if !loaded.handles.contains(key) {
            return Err(Unrunnable::NotHandled {
                plugin: plugin.clone(),
                route: key.clone(),
            });
        }
        if !loaded.missing_config.is_empty() {
            return Err(Unrunnable::MissingConfig {
                plugin: plugin.clone(),
                missing: loaded.missing_config,
            });
        }
        Ok(loaded)
    }

    fn check(
        &self,
        entry: &RouteEntry,
        config: &Config,
        flags: &BusFlags,
    ) -> Result<(), ConfigError> {
        let key = &entry.key;
        let place = || format!("route `{key}`");
        let meant = self.meant(entry, flags);
        // A flag on the bus may hold a route in production; a configuration that
        // does so is a mistake.
        if matches!(meant, Choice::Hold(_)) && !flags.contains_key(key) {
            let place = match config.flag.value {
                Some(_) => config.flag.origin.to_string(),
                None => place(),
            };
            let problem =
                format!("production runs `{key}` only on its real executor, and the flag is off");
            return Err(ConfigError::new(place, problem).hint(
                "set ENABLE_COGO_WORKER=true or unset it, or use COGO_STAGE=staging to run the mock",
            ));
        }
        for name in entry.plugins.names() {
            let Err(problem) = self.runnable(key, name, None) else {
                continue;
            };
            let runs = matches!(&meant, Choice::Run { plugin, .. } if plugin == name);
            if matches!(problem, Unrunnable::MissingConfig { .. }) && !runs {
                continue;
            }
            let hint = self.hint(entry, &problem, flags);
            return Err(ConfigError::new(place(), problem.to_string()).hint(hint));
        }
        Ok(())
    }

    /// What the operator can do about a plugin that cannot run a route.
    fn hint(&self, entry: &RouteEntry, problem: &Unrunnable, flags: &BusFlags) -> String {
        let names =
            |keys: &[RouteKey]| -> Vec<String> { keys.iter().map(ToString::to_string).collect() };
        match problem {
            Unrunnable::NotLoaded(_) => {
                let all = self.plugins.all();
                let known: Vec<&str> = all.iter().map(|p| p.version.name.as_str()).collect();
                format!(
                    "put its file into COGO_PLUGINS_DIR, or publish it with `cogo-host plugin publish FILE`, \
                     before the host starts; `cogo-host plugin list` says why a file is refused; loaded plugins: {}",
                    known.join(", ")
                )
            }
            Unrunnable::NotHandled { plugin, .. } => {
                let loaded = self.plugins.get(plugin, None);
                let handles = loaded
                    .map(|loaded| names(&loaded.handles))
                    .unwrap_or_default();
                format!("it handles: {}", handles.join(", "))
            }
            Unrunnable::MissingConfig { plugin, missing } => {
                let set = missing_config(plugin, missing);
                // There is no other plugin to fall back on.
                if matches!(entry.plugins, RoutePlugins::Only(_)) {
                    return set;
                }
                let off = match flags.get(&entry.key) {
                    Some(_) => format!("`cogo-host flag set {} off`", entry.key),
                    None => "ENABLE_COGO_WORKER=false".to_owned(),
                };
                format!("{set}; or turn the flag off ({off})")
            }
        }
    }

    /// What the bus is to claim for a route now; nothing where it is held, or
    /// where what should run cannot run here.
    pub fn serve(&self, entry: &RouteEntry, now: &RouteNow<'_>) -> Option<ServedRoute> {
        let choice = self.choice(entry, now, false);
        let probing = RouteNow {
            breaker: Breaker::Probe,
            ..*now
        };
        let (choice, only_probe) = match choice {
            Choice::Hold(HoldReason::BreakerOpen) if now.probe_ready => {
                (self.choice(entry, &probing, false), true)
            }
            choice => (choice, false),
        };
        let Choice::Run { plugin, digest, .. } = choice else {
            return None;
        };
        let loaded = self.runnable(&entry.key, &plugin, digest).ok()?;
        Some(ServedRoute {
            key: entry.key.clone(),
            shard: entry.shard,
            tenant: entry.tenant.clone(),
            concurrency: if only_probe { 1 } else { entry.concurrency },
            plugin,
            plugin_concurrency: loaded.concurrency,
            reclaim_foreign_after: entry.reclaim_foreign_after,
            draw: now.rollout.and_then(RolloutRow::draw),
            only_probe,
        })
    }
}

/// Where an operator gives a plugin the values that it lacks.
fn missing_config(plugin: &PluginName, missing: &[String]) -> String {
    let values: Vec<String> = missing.iter().map(|key| format!("{key} = \"…\"")).collect();
    format!(
        "set {} in the environment, or put `config = {{ {} }}` under `[plugin.{plugin}]` in cogo.toml",
        missing.join(", "),
        values.join(", ")
    )
}

/// The dispatcher's route in the form of all others. No plugin has that name's
/// places; it stands for the host's own.
fn dispatcher(config: &Config) -> Option<ServedRoute> {
    let shard = dispatcher_shard(config)?;
    Some(ServedRoute {
        key: RouteKey::dispatcher(),
        shard,
        tenant: None,
        concurrency: config.concurrency,
        plugin: "dispatcher".parse().ok()?,
        plugin_concurrency: config.concurrency,
        reclaim_foreign_after: None,
        draw: None,
        only_probe: false,
    })
}

/// The problem of a claim that the host itself cannot get an executor for.
pub(super) fn plugin_missing(message: String) -> Problem {
    Problem::new("plugin_missing", message, crate::attempt::Blame::Host)
}

/// Tables are alike if they say the same of every route, whatever is loaded.
impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.stage == other.stage && self.entries == other.entries
    }
}

#[cfg(test)]
mod tests;
