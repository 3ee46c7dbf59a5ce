//! What the API tells about the host: gathered from configuration, routes and
//! plugins at the moment it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::controls::Known;
use super::holds::holds;
use super::live_routes::LiveRoutes;
use super::plugin_views;
use super::routes::{RouteEntry, RouteTable};
use super::swap::Swapper;
use crate::api::{
    DirectoryView, ExecutorNow, FlagView, HostFacts, PluginView, ReadinessCheck, RouteDecided,
    RouteView, SwapCounts,
};
use crate::config::{Config, Flag};
use crate::ids::PluginName;
use crate::route::{Policy, RouteKey};
use crate::selection::Choice;
use crate::stage::Stage;

/// The host, as the API sees it.
pub struct Facts {
    config: Config,
    swapper: Arc<Swapper>,
    routes: Arc<LiveRoutes>,
}

impl Facts {
    pub fn new(config: &Config, swapper: Arc<Swapper>, routes: Arc<LiveRoutes>) -> Self {
        Self {
            config: config.clone(),
            swapper,
            routes,
        }
    }

    fn now(&self, table: &RouteTable, known: &Known, entry: &RouteEntry) -> ExecutorNow {
        match table.choice(entry, &known.of(entry), false) {
            Choice::Hold(reason) => ExecutorNow::Held { reason },
            Choice::Run {
                plugin,
                digest,
                why,
            } => match table.runnable(&entry.key, &plugin, digest) {
                Ok(loaded) => ExecutorNow::Runs {
                    executor: loaded.version,
                    why,
                },
                Err(problem) => ExecutorNow::Missing {
                    problem: problem.to_string(),
                },
            },
        }
    }

    fn decided(known: &Known, entry: &RouteEntry) -> RouteDecided {
        let key = &entry.key;
        let breaker = entry.real_path().map(|path| known.breaker(&path));
        RouteDecided {
            flag: known.controls.flags.get(key).cloned(),
            pause: known.controls.pauses.get(key).cloned(),
            approval: known.approval(key).cloned(),
            breaker: breaker.filter(|breaker| breaker.revision > 0),
            rollout: known.rollouts().into_iter().find(|row| row.route == *key),
        }
    }
}

impl HostFacts for Facts {
    fn stage(&self) -> Stage {
        self.config.stage
    }

    fn ci(&self) -> bool {
        self.config.ci
    }

    fn compares(&self) -> bool {
        self.config.compare
    }

    fn flag(&self) -> FlagView {
        let Flag { value, origin } = &self.config.flag;
        FlagView {
            name: "ENABLE_COGO_WORKER".to_owned(),
            value: *value,
            origin: origin.to_string(),
        }
    }

    fn handled(&self) -> Vec<RouteKey> {
        let table = self.routes.table();
        let served = table.entries().map(|entry| entry.key.clone());
        let served = served.chain([RouteKey::dispatcher()]);
        let mut all: Vec<RouteKey> = served.chain(self.swapper.catalog().routes()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn policy(&self, route: &RouteKey) -> Policy {
        self.config.policy(route)
    }

    fn routes(&self) -> Vec<RouteView> {
        let (table, known) = (self.routes.table(), self.routes.decided());
        let view = |entry: &RouteEntry| {
            let now = self.now(&table, &known, entry);
            RouteView {
                route: entry.key.clone(),
                policy: entry.policy,
                plugins: Some(entry.plugins.clone()),
                served: matches!(now, ExecutorNow::Runs { .. }),
                now,
                decided: Self::decided(&known, entry),
            }
        };
        table.entries().map(view).collect()
    }

    fn plugins(&self) -> Vec<PluginView> {
        let mut views = plugin_views::plugins(&self.config, self.swapper.catalog());
        for breaker in &self.routes.decided().controls.breakers {
            let view = views.iter_mut().find(|v| v.name == breaker.path.plugin);
            if let (Some(view), false) = (view, breaker.state.is_closed()) {
                view.down_on.push(breaker.path.route.clone());
            }
        }
        views
    }

    fn swaps(&self) -> BTreeMap<PluginName, SwapCounts> {
        self.swapper.counts()
    }

    fn plugins_directory(&self) -> Option<DirectoryView> {
        plugin_views::directory(&self.swapper)
    }

    fn readiness(&self) -> Vec<ReadinessCheck> {
        vec![
            self.routes_have_executors(),
            self.holds(),
            self.plugin_files(),
        ]
    }
}

impl Facts {
    fn routes_have_executors(&self) -> ReadinessCheck {
        let (table, known) = (self.routes.table(), self.routes.decided());
        let missing = table.entries().filter_map(|entry| {
            let now = self.now(&table, &known, entry);
            match now {
                ExecutorNow::Missing { problem } => Some(format!("{} ({problem})", entry.key)),
                ExecutorNow::Runs { .. } | ExecutorNow::Held { .. } => None,
            }
        });
        let missing: Vec<String> = missing.collect();
        let mut detail = if missing.is_empty() {
            format!("{} routes have an executor", table.entries().count())
        } else {
            format!("no executor for {}", missing.join(", "))
        };
        for problem in self.routes.problems() {
            detail += &format!("; {problem}");
            if let Some(hint) = &problem.error.hint {
                detail += &format!(" ({hint})");
            }
        }
        ReadinessCheck {
            name: "routes".to_owned(),
            ok: missing.is_empty(),
            detail,
        }
    }

    /// Always well: the host does its work, and waits as it was told to.
    fn holds(&self) -> ReadinessCheck {
        let mut notes: Vec<String> = holds(&self.routes).into_values().collect();
        notes.extend(self.routes.decided().controls.unreadable.iter().cloned());
        ReadinessCheck {
            name: "holds".to_owned(),
            ok: true,
            detail: match notes.is_empty() {
                true => "no route is held".to_owned(),
                false => notes.join("; "),
            },
        }
    }

    /// Always well: a file that is refused leaves in service what served.
    fn plugin_files(&self) -> ReadinessCheck {
        let mut notes = Vec::new();
        if let Some(directory) = self.plugins_directory() {
            let path = directory.path.display();
            notes.extend(
                directory
                    .problem
                    .map(|problem| format!("{path}: {problem}")),
            );
            notes.extend(directory.refused_files.into_iter().map(|file| file.error));
        }
        for plugin in self.plugins() {
            if let Some(error) = plugin.last_error {
                notes.push(format!("{} is refused: {error}", plugin.name));
            }
            for candidate in &plugin.candidates {
                notes.push(format!(
                    "{} has the candidate {} ({})",
                    plugin.name, candidate.version, candidate.digest
                ));
            }
            if let Some(digest) = plugin.rolled_back_from {
                notes.push(format!("{} is rolled back from {digest}", plugin.name));
            }
        }
        ReadinessCheck {
            name: "plugin files".to_owned(),
            ok: true,
            detail: if notes.is_empty() {
                "none is refused".to_owned()
            } else {
                notes.join("; ")
            },
        }
    }
}
