//! What the API tells about the host: gathered from configuration, routes and
//! plugins at the moment it is asked.

use std::sync::Arc;

use super::live_routes::LiveRoutes;
use super::plugin_views;
use super::routes::{LoadedPlugins, RouteEntry, RouteTable};
use super::swap::Swapper;
use crate::api::{
    DirectoryView, ExecutorNow, FlagView, HostFacts, PluginView, ReadinessCheck, RouteView,
};
use crate::config::{Config, Flag};
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

    fn now(&self, table: &RouteTable, entry: &RouteEntry) -> ExecutorNow {
        match table.choice(entry, false) {
            Choice::Hold(reason) => ExecutorNow::Held { reason },
            Choice::Run {
                plugin,
                digest,
                why,
            } => match LoadedPlugins::get(&**self.swapper.catalog(), &plugin, digest) {
                Some(loaded) => ExecutorNow::Runs {
                    executor: loaded.version,
                    why,
                },
                None => ExecutorNow::Missing {
                    problem: format!("plugin `{plugin}` is not loaded"),
                },
            },
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
        let mut all: Vec<RouteKey> = served.chain(self.swapper.catalog().routes()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn policy(&self, route: &RouteKey) -> Policy {
        self.config.policy(route)
    }

    fn routes(&self) -> Vec<RouteView> {
        let table = self.routes.table();
        let view = |entry: &RouteEntry| RouteView {
            route: entry.key.clone(),
            policy: entry.policy,
            plugins: Some(entry.plugins.clone()),
            served: true,
            now: self.now(&table, entry),
        };
        table.entries().map(view).collect()
    }

    fn plugins(&self) -> Vec<PluginView> {
        plugin_views::plugins(&self.config, self.swapper.catalog())
    }

    fn plugins_directory(&self) -> Option<DirectoryView> {
        plugin_views::directory(&self.swapper)
    }

    fn readiness(&self) -> Vec<ReadinessCheck> {
        vec![self.routes_have_executors(), self.plugin_files()]
    }
}

impl Facts {
    fn routes_have_executors(&self) -> ReadinessCheck {
        let table = self.routes.table();
        let missing: Vec<String> = table
            .entries()
            .filter(|entry| matches!(self.now(&table, entry), ExecutorNow::Missing { .. }))
            .map(|entry| entry.key.to_string())
            .collect();
        let mut detail = if missing.is_empty() {
            format!("{} routes have an executor", table.entries().count())
        } else {
            format!("no executor for {}", missing.join(", "))
        };
        for problem in self.routes.problems() {
            detail += &format!("; {problem}, so that it stays as it was");
        }
        ReadinessCheck {
            name: "routes".to_owned(),
            ok: missing.is_empty(),
            detail,
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
