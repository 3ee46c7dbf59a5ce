//! The route table of a running host, which follows the plugins and what was
//! decided on the bus.
//!
//! At the start a mistake keeps the host from starting, unless it lies with the
//! plugins of the bus alone. That one, and any later, concerns its route alone:
//! the route stays as it was while its plugins still handle it, and the mistake
//! is shown. A route that nobody handles any more is not claimed for; its tasks
//! wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::controls::{Known, LiveControls, RouteNow};
use super::probes::Probes;
use super::routes::{
    LoadedPlugin, LoadedPlugins, RouteEntry, RouteProblem, RouteTable, plugin_missing,
};
use crate::api::RolloutRefused;
use crate::attempt::{InShadow, SideEffects};
use crate::breaker::{Probe, RealPath, Said};
use crate::config::{Config, ConfigError};
use crate::ids::{Digest, PluginName, ShadowId};
use crate::plugin::catalog::DigestPrefix;
use crate::route::{RouteKey, RoutePlugins};
use crate::routing::{
    Assigned, EndedAttempt, Hold, KnownRoute, Routing, ServedRoute, Shadowing, Unassigned,
};
use crate::selection::{Breaker, Choice, Path};
use crate::task::Claim;

/// The table as it is now.
pub struct LiveRoutes {
    config: Config,
    plugins: Arc<dyn LoadedPlugins>,
    controls: Arc<LiveControls>,
    probes: Probes,
    /// An attempt failed here by its worker's fault, and nobody looked into it.
    suspicion: AtomicBool,
    now: ArcSwap<Revision>,
}

/// One state of the table, and what is wrong with it.
struct Revision {
    table: Arc<RouteTable>,
    problems: Vec<RouteProblem>,
}

impl LiveRoutes {
    /// The table to start with.
    ///
    /// # Errors
    /// As [`RouteTable::start`].
    pub fn start(
        config: &Config,
        plugins: Arc<dyn LoadedPlugins>,
        controls: Arc<LiveControls>,
    ) -> Result<Self, ConfigError> {
        let known = controls.now();
        let (table, problems) = RouteTable::start(
            config,
            Arc::clone(&plugins),
            &known.plugins(),
            &known.flags(),
        )?;
        for problem in &problems {
            warn_of(problem);
        }
        if config.compare {
            warn_of_incomparable(&table);
        }
        Ok(Self {
            config: config.clone(),
            plugins,
            controls,
            probes: Probes::default(),
            suspicion: AtomicBool::new(false),
            now: ArcSwap::from_pointee(Revision {
                table: Arc::new(table),
                problems,
            }),
        })
    }

    pub fn table(&self) -> Arc<RouteTable> {
        Arc::clone(&self.now.load().table)
    }

    /// What was decided on the bus.
    pub fn decided(&self) -> Arc<Known> {
        self.controls.now()
    }

    /// The probes of real paths that this host has taken.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Whether an attempt failed here by its worker's fault since this was asked
    /// last.
    pub fn take_suspicion(&self) -> bool {
        self.suspicion.swap(false, Ordering::AcqRel)
    }

    /// The candidate of a plugin that a digest names, and what serves now.
    ///
    /// # Errors
    /// When there is no such version, it serves already, or there are several.
    pub fn versions(
        &self,
        plugin: &PluginName,
        named: &DigestPrefix,
    ) -> Result<(Digest, Option<LoadedPlugin>), RolloutRefused> {
        let stable = self.plugins.get(plugin, None);
        let known = self.plugins.others(plugin);
        let meant = |digest: &Digest| named.begins(*digest);
        let serving = stable.as_ref().map(|loaded| loaded.version.digest);
        if let Some(digest) = serving.filter(meant) {
            let plugin = plugin.clone();
            return Err(RolloutRefused::Serves { plugin, digest });
        }
        let found: Vec<Digest> = known.iter().copied().filter(meant).collect();
        match found.as_slice() {
            [one] => Ok((*one, stable)),
            [] => Err(RolloutRefused::UnknownCandidate {
                plugin: plugin.clone(),
                digest: named.to_string(),
                known,
            }),
            _ => Err(RolloutRefused::Ambiguous {
                plugin: plugin.clone(),
                digest: named.to_string(),
                known: found,
            }),
        }
    }

    /// Why routes are not as the plugins would have them.
    pub fn problems(&self) -> Vec<RouteProblem> {
        self.now.load().problems.clone()
    }

    /// Keeps up with the plugins; `changed` is called after each revision.
    pub async fn follow(
        &self,
        mut changes: watch::Receiver<u64>,
        changed: impl Fn(),
        ending: CancellationToken,
    ) {
        // What happened between the start and now counts, too.
        changes.mark_changed();
        loop {
            let more = tokio::select! {
                more = changes.changed() => more,
                () = ending.cancelled() => return,
            };
            if more.is_err() {
                return;
            }
            self.refresh();
            changed();
        }
    }

    fn refresh(&self) {
        let before = self.now.load();
        let plugins = Arc::clone(&self.plugins);
        let flags = self.controls.now().flags();
        let (table, problems) = before.table.rebuilt(&self.config, plugins, &flags);
        for problem in &problems {
            if !before.problems.contains(problem) {
                warn_of(problem);
            }
        }
        if *before.table != table {
            let served: Vec<String> = table.entries().map(|e| e.key.to_string()).collect();
            tracing::info!("routes: {}", served.join(", "));
        }
        self.now.store(Arc::new(Revision {
            table: Arc::new(table),
            problems,
        }));
    }

    /// What was decided about a route, with what this host itself has for it.
    fn route_now<'k>(&self, known: &'k Known, entry: &RouteEntry) -> RouteNow<'k> {
        let now = known.of(entry);
        let is_ready = || {
            let path = entry.real_path();
            path.is_some_and(|path| self.probes.is_ready(&path))
        };
        RouteNow {
            probe_ready: now.breaker == Breaker::Open && is_ready(),
            ..now
        }
    }

    /// The probe of the route's real path, if this host has one to give, and
    /// what comes of it if it fails.
    fn probe(&self, known: &Known, table: &RouteTable, entry: &RouteEntry) -> Option<Probing> {
        let path = entry.real_path()?;
        let now = RouteNow {
            breaker: Breaker::Probe,
            ..known.of(entry)
        };
        let choice = table.choice(entry, &now, false);
        let is_probe = matches!(&choice, Choice::Run { why, .. } if why.probe);
        if !is_probe || !self.probes.is_ready(&path) {
            return None;
        }
        let held = table.held_by_breaker(entry, now.flag) && now.approval.is_none();
        let failed = known
            .breaker(&path)
            .state
            .outage()
            .map_or(0, |o| o.failed_probes);
        let wait = self.config.breaker.wait(failed.saturating_add(1), 0.0);
        Some(Probing {
            path,
            choice,
            // Where the route is held, the task must not be the next probe as
            // long as there is another. Elsewhere something stands in for it.
            terms: Probe {
                stay_back: held.then_some(wait * 2),
            },
        })
    }
}

fn warn_of(problem: &RouteProblem) {
    tracing::error!(hint = problem.error.hint, "{problem}");
}

/// Tells of routes whose other plugin could not run, so that nothing is compared.
fn warn_of_incomparable(table: &RouteTable) {
    for entry in table.entries() {
        let RoutePlugins::Pair { real, mock } = &entry.plugins else {
            continue;
        };
        for plugin in [real, mock] {
            if let Err(problem) = table.runnable(&entry.key, plugin, None) {
                tracing::warn!(route = %entry.key, "`{}` is not compared: {problem}", entry.key);
            }
        }
    }
}

/// A probe that a task may get.
struct Probing {
    path: RealPath,
    choice: Choice,
    terms: Probe,
}

impl Routing for LiveRoutes {
    fn served(&self) -> Vec<ServedRoute> {
        let (table, known) = (self.table(), self.controls.now());
        let served = table.entries().filter_map(|entry| {
            let now = self.route_now(&known, entry);
            table.serve(entry, &now)
        });
        let paused = |route: &&ServedRoute| known.controls.pauses.contains_key(&route.key);
        let dispatcher = table.dispatcher().filter(|route| !paused(route));
        served.chain(dispatcher.cloned()).collect()
    }

    fn known(&self) -> Vec<KnownRoute> {
        let table = self.table();
        let dispatcher = table.dispatcher().map(ServedRoute::known);
        table
            .entries()
            .map(RouteEntry::known)
            .chain(dispatcher)
            .collect()
    }

    fn handled(&self) -> Vec<RouteKey> {
        self.table().handled()
    }

    fn assign(&self, claim: &Claim, last_attempt: bool) -> Result<Assigned, Unassigned> {
        let (table, known) = (self.table(), self.controls.now());
        let key = &claim.route.key;
        let entry = table.get(key).ok_or_else(|| {
            let message = format!("the route `{key}` is not served here any more");
            Unassigned::Fault(plugin_missing(message))
        })?;
        let probing = match known.of(entry).breaker {
            Breaker::Open => self.probe(&known, &table, entry),
            _ => None,
        };
        let choice = match &probing {
            Some(probing) => probing.choice.clone(),
            None => {
                let now = known.of(entry).drawn(claim.side.as_ref());
                table.choose_runnable(entry, now, last_attempt)
            }
        };
        let Choice::Run {
            plugin,
            digest,
            why,
        } = choice
        else {
            return Err(Unassigned::Held(format!("{choice:?}")));
        };
        // What was swapped or decided since the claim may do other routes now,
        // or want what this host cannot run.
        let loaded = table.runnable(key, &plugin, digest).map_err(|problem| {
            Unassigned::Fault(plugin_missing(format!("route `{key}`: {problem}")))
        })?;
        let mut assigned = Assigned {
            deadline: entry.deadline.unwrap_or(loaded.deadline),
            plugin: loaded.version,
            why,
            probe: None,
            hold: loaded.hold,
        };
        if let Some(probing) = probing {
            // Another task was faster: this one is as any other.
            let Some(token) = self.probes.take(&probing.path) else {
                return self.assign(claim, last_attempt);
            };
            assigned.probe = Some(probing.terms);
            assigned.hold = Hold::of(Arc::new((assigned.hold, token)));
        }
        Ok(assigned)
    }

    fn shadows(&self, claim: &Claim, assigned: &Assigned) -> Vec<Shadowing> {
        let known = self.controls.now();
        let ordered = &known.controls.shadows;
        let nobody_watches = ordered.is_empty() && !self.config.compare;
        // What a mock came to in place of the real executor is nothing to compare
        // with, and what goes wrong on purpose is no evidence.
        if nobody_watches || assigned.why.fallback || claim.trace_id.is_smoke() {
            return Vec::new();
        }
        let (table, key) = (self.table(), &claim.route.key);
        let Some(entry) = table.get(key) else {
            return Vec::new();
        };
        let ran = assigned.plugin.digest;
        let wants = ordered.iter().filter(|row| row.route == *key);
        let wants = wants.filter(|row| row.wants(claim.id, ran)).map(|row| {
            let terms = InShadow {
                id: row.id.clone(),
                side_effects: row.side_effects,
            };
            (&row.plugin, Some(row.candidate), terms)
        });
        let other = match (&entry.plugins, assigned.why.path) {
            (RoutePlugins::Pair { mock, .. }, Path::Real) => Some(mock),
            (RoutePlugins::Pair { real, .. }, Path::Mock) => Some(real),
            (RoutePlugins::Only(_), _) | (_, Path::Only) => None,
        };
        let compared = other.filter(|_| self.config.compare).map(|plugin| {
            let terms = InShadow {
                id: ShadowId::compare(),
                side_effects: SideEffects::Allow,
            };
            (plugin, None, terms)
        });
        let shadowing = |(plugin, digest, terms)| {
            let loaded = table.runnable(key, plugin, digest).ok()?;
            Some(Shadowing {
                terms,
                deadline: entry.deadline.unwrap_or(loaded.deadline),
                plugin: loaded.version,
                hold: loaded.hold,
            })
        };
        wants.chain(compared).filter_map(shadowing).collect()
    }

    fn ended(&self, attempt: EndedAttempt) {
        if attempt.probe {
            self.probes.say(&attempt.path, attempt.said);
        }
        let failed = attempt.said == Said::Failed;
        if failed {
            self.suspicion.store(true, Ordering::Release);
        }
        if attempt.probe || failed {
            self.controls.nudge();
        }
    }
}
