//! The route table of a running host, which follows the plugins.
//!
//! At the start a mistake keeps the host from starting. Later it concerns its
//! route alone: that route stays as it was while its plugins still handle it,
//! and the mistake is shown. A route that nobody handles any more is not
//! claimed for; its tasks wait.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::routes::{LoadedPlugins, RouteTable};
use crate::config::{Config, ConfigError};
use crate::routing::{Assigned, Routing, ServedRoute, Unassigned};
use crate::task::Claim;

/// The table as it is now.
pub struct LiveRoutes {
    config: Config,
    plugins: Arc<dyn LoadedPlugins>,
    now: ArcSwap<Revision>,
}

/// One state of the table, and what is wrong with it.
struct Revision {
    table: Arc<RouteTable>,
    problems: Vec<ConfigError>,
}

impl LiveRoutes {
    /// The table to start with.
    ///
    /// # Errors
    /// As [`RouteTable::build`].
    pub fn start(config: &Config, plugins: Arc<dyn LoadedPlugins>) -> Result<Self, ConfigError> {
        let table = RouteTable::build(config, Arc::clone(&plugins))?;
        Ok(Self {
            config: config.clone(),
            plugins,
            now: ArcSwap::from_pointee(Revision {
                table: Arc::new(table),
                problems: Vec::new(),
            }),
        })
    }

    pub fn table(&self) -> Arc<RouteTable> {
        Arc::clone(&self.now.load().table)
    }

    /// Why routes are not as the plugins would have them.
    pub fn problems(&self) -> Vec<ConfigError> {
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
        let (table, problems) = before.table.rebuilt(&self.config, plugins);
        for problem in &problems {
            if !before.problems.contains(problem) {
                tracing::error!(hint = problem.hint, "{problem}; the route stays as it was");
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
}

impl Routing for LiveRoutes {
    fn served(&self) -> Vec<ServedRoute> {
        self.now.load().table.served()
    }

    fn assign(&self, claim: &Claim, last_attempt: bool) -> Result<Assigned, Unassigned> {
        self.now.load().table.assign(claim, last_attempt)
    }
}
