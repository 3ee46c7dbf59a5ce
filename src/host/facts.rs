//! What the API tells about the host: gathered from configuration, routes and
//! plugins at the moment it is asked.

use std::sync::Arc;

use super::routes::{LoadedPlugins, RouteEntry, RouteTable};
use crate::api::{
    ExecutorNow, FlagView, HostFacts, PluginSource, PluginView, Profile, ReadinessCheck, RouteView,
    ServingView,
};
use crate::config::{Config, Flag};
use crate::plugin::catalog::{Catalog, Listed, Serving};
use crate::plugin::load::Source;
use crate::plugin::wasi;
use crate::route::{Policy, RouteKey};
use crate::selection::Choice;
use crate::stage::Stage;

/// The host, as the API sees it.
pub struct Facts {
    config: Config,
    catalog: Arc<Catalog>,
    routes: Arc<RouteTable>,
}

impl Facts {
    pub fn new(config: &Config, catalog: Arc<Catalog>, routes: Arc<RouteTable>) -> Self {
        Self {
            config: config.clone(),
            catalog,
            routes,
        }
    }

    fn now(&self, entry: &RouteEntry) -> ExecutorNow {
        match self.routes.choice(entry, false) {
            Choice::Hold(reason) => ExecutorNow::Held { reason },
            Choice::Run {
                plugin,
                digest,
                why,
            } => match LoadedPlugins::get(&*self.catalog, &plugin, digest) {
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
        let served = self.routes.entries().map(|entry| entry.key.clone());
        let mut all: Vec<RouteKey> = served.chain(self.catalog.routes()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn policy(&self, route: &RouteKey) -> Policy {
        self.config.policy(route)
    }

    fn routes(&self) -> Vec<RouteView> {
        let view = |entry: &RouteEntry| RouteView {
            route: entry.key.clone(),
            policy: entry.policy,
            plugins: Some(entry.plugins.clone()),
            served: true,
            now: self.now(entry),
        };
        self.routes.entries().map(view).collect()
    }

    fn plugins(&self) -> Vec<PluginView> {
        self.catalog
            .list()
            .into_iter()
            .map(|listed| plugin_view(&self.config, listed))
            .collect()
    }

    fn readiness(&self) -> Vec<ReadinessCheck> {
        let missing: Vec<String> = self
            .routes
            .entries()
            .filter(|entry| matches!(self.now(entry), ExecutorNow::Missing { .. }))
            .map(|entry| entry.key.to_string())
            .collect();
        vec![ReadinessCheck {
            name: "routes".to_owned(),
            ok: missing.is_empty(),
            detail: if missing.is_empty() {
                format!("{} routes have an executor", self.routes.entries().count())
            } else {
                format!("no executor for {}", missing.join(", "))
            },
        }]
    }
}

fn plugin_view(config: &Config, listed: Listed) -> PluginView {
    let source = match (&listed.serving, &config.plugins_dir) {
        (Some(serving), Some(directory)) if serving.source == Source::Directory => {
            PluginSource::File {
                path: directory.join(format!("{}.wasm", listed.name)),
            }
        }
        (None, Some(directory)) => PluginSource::File {
            path: directory.join(format!("{}.wasm", listed.name)),
        },
        _ => PluginSource::Bundled,
    };
    PluginView {
        source,
        serving: listed.serving.map(serving_view),
        last_error: listed
            .last_failure
            .map(|failure| format!("{}: {}", failure.code, failure.message)),
        name: listed.name,
    }
}

fn serving_view(serving: Serving) -> ServingView {
    ServingView {
        version: serving.version,
        digest: serving.digest,
        kind: serving.kind,
        handles: serving.handles,
        profile: match serving.profile {
            wasi::Profile::Minimal => Profile::Minimal,
            wasi::Profile::Wasi => Profile::Wasi,
        },
    }
}
