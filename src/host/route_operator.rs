//! What operators decide about the routes of this host: checked here, kept on
//! the bus, followed at once.

use std::sync::Arc;

use async_trait::async_trait;

use super::controls::LiveControls;
use super::live_routes::LiveRoutes;
use super::routes::{LoadedPlugin, RouteTable};
use crate::api::{Candidacy, RolloutRefused, RouteOperator, RouteRefused, Versions};
use crate::attempt::Kind;
use crate::bus::BusHandle;
use crate::ids::{Digest, PluginName};
use crate::route::{Policy, RouteKey, RoutePlugins};
use crate::selection::Choice;
use crate::store::Store;

/// The operator's desk.
pub struct Desk {
    pub store: Arc<dyn Store>,
    pub controls: Arc<LiveControls>,
    pub routes: Arc<LiveRoutes>,
    pub bus: BusHandle,
}

impl Desk {
    /// Whether a task of the route would get this plugin now.
    fn runs(&self, route: &RouteKey, plugin: &PluginName) -> bool {
        let (table, known) = (self.routes.table(), self.routes.decided());
        table.get(route).is_some_and(|entry| {
            let choice = table.choice(entry, &known.of(entry), false);
            matches!(choice, Choice::Run { plugin: runs, .. } if runs == *plugin)
        })
    }

    /// The version that could take over tasks of a route, and the one that serves.
    fn candidate(
        &self,
        wish: &Candidacy,
    ) -> Result<(LoadedPlugin, Option<LoadedPlugin>), RolloutRefused> {
        let table = self.routes.table();
        let entry = table.get(&wish.route);
        let entry = entry.ok_or_else(|| Self::unknown(&table, &wish.route))?;
        let known = entry.plugins.names();
        if !known.contains(&&wish.plugin) {
            return Err(RolloutRefused::NotOnRoute {
                route: wish.route.clone(),
                plugin: wish.plugin.clone(),
                known: known.into_iter().cloned().collect(),
            });
        }
        let (candidate, stable) = self.routes.versions(&wish.plugin, &wish.digest)?;
        let candidate = table
            .runnable(&wish.route, &wish.plugin, Some(candidate))
            .map_err(|problem| RolloutRefused::Unrunnable(problem.to_string()))?;
        Ok((candidate, stable))
    }

    fn unknown(table: &RouteTable, asked: &RouteKey) -> RouteRefused {
        RouteRefused::Unknown {
            asked: asked.clone(),
            known: table.entries().map(|entry| entry.key.clone()).collect(),
        }
    }
}

#[async_trait]
impl RouteOperator for Desk {
    fn check_route(&self, route: &RouteKey) -> Result<(), RouteRefused> {
        let table = self.routes.table();
        let dispatched = table.dispatcher().is_some_and(|d| d.key == *route);
        if dispatched || table.get(route).is_some() {
            Ok(())
        } else {
            Err(Self::unknown(&table, route))
        }
    }

    fn check_flag(&self, route: &RouteKey, to: Option<bool>) -> Result<(), RouteRefused> {
        let table = self.routes.table();
        let entry = table.get(route);
        let entry = entry.ok_or_else(|| Self::unknown(&table, route))?;
        if let (RoutePlugins::Only(plugin), Some(_)) = (&entry.plugins, to) {
            return Err(RouteRefused::NoChoice {
                route: route.clone(),
                plugin: plugin.clone(),
            });
        }
        let Choice::Run { plugin, digest, .. } = table.with_flag(entry, to) else {
            return Ok(());
        };
        match table.runnable(route, &plugin, digest) {
            Ok(_) => Ok(()),
            Err(problem) => Err(RouteRefused::Unrunnable {
                route: route.clone(),
                problem: problem.to_string(),
            }),
        }
    }

    fn check_fallback(&self, route: &RouteKey) -> Result<(), RouteRefused> {
        let table = self.routes.table();
        let entry = table.get(route);
        let entry = entry.ok_or_else(|| Self::unknown(&table, route))?;
        match (&entry.plugins, entry.policy) {
            (RoutePlugins::Pair { .. }, Policy::Required) => Ok(()),
            (RoutePlugins::Only(_), _) | (_, Policy::Optional) => Err(RouteRefused::NoFallback {
                route: route.clone(),
            }),
        }
    }

    fn check_rollout(&self, wish: &Candidacy) -> Result<Versions, RolloutRefused> {
        let (candidate, stable) = self.candidate(wish)?;
        let kind = |version: &LoadedPlugin| version.version.kind;
        if kind(&candidate) == Kind::Mock && stable.as_ref().map(kind) == Some(Kind::Real) {
            return Err(RolloutRefused::CountsAsMock {
                plugin: wish.plugin.clone(),
                digest: candidate.version.digest,
            });
        }
        Ok(Versions {
            candidate: candidate.version.digest,
            stable: stable.map(|stable| stable.version.digest),
        })
    }

    fn check_shadow(&self, wish: &Candidacy) -> Result<Digest, RolloutRefused> {
        // Nothing of a shadow is returned, so that it may count as what it likes.
        match self.candidate(wish) {
            // It serves, and the flag has the route's tasks run on the other one.
            Err(RolloutRefused::Serves { plugin, digest }) if !self.runs(&wish.route, &plugin) => {
                let table = self.routes.table();
                match table.runnable(&wish.route, &plugin, Some(digest)) {
                    Ok(_) => Ok(digest),
                    Err(problem) => Err(RolloutRefused::Unrunnable(problem.to_string())),
                }
            }
            checked => checked.map(|(candidate, _)| candidate.version.digest),
        }
    }

    async fn follow(&self) {
        match self.controls.refresh(&*self.store).await {
            Ok(_) => self.bus.wake(),
            // The follower tries again, and tells.
            Err(_) => self.controls.nudge(),
        }
    }
}
