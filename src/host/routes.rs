//! The routes of this host: what the configuration and the plugins say,
//! checked once, and asked by the bus for every claim.
//!
//! Decides nothing itself: [`select`] does. It gathers what a choice depends on
//! and turns the answer into a loaded plugin version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::{Blame, Kind, PluginVersion, Problem};
use crate::config::{Config, ConfigError, RouteConfig, Served};
use crate::ids::{Digest, PluginName};
use crate::route::{KnownRole, Policy, RouteKey, RoutePlugins};
use crate::routing::{Assigned, Hold, Routing, ServedRoute, Unassigned};
use crate::selection::{Breaker, Choice, Situation, select};
use crate::stage::Stage;
use crate::task::Claim;

/// What routing needs to know of a loaded plugin.
#[derive(Debug, Clone)]
pub struct LoadedPlugin {
    pub version: PluginVersion,
    pub handles: Vec<RouteKey>,
    pub deadline: Duration,
    pub concurrency: u32,
    /// Keys that the plugin reads and nobody set.
    pub missing_config: Vec<String>,
    /// Keeps this version loaded.
    pub hold: Hold,
}

/// The plugins that are loaded now.
pub trait LoadedPlugins: Send + Sync + 'static {
    /// The version that serves under a name, or the one with this digest.
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin>;

    fn all(&self) -> Vec<LoadedPlugin>;
}

/// One route, fully decided but for what changes while the host runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteEntry {
    pub key: RouteKey,
    pub plugins: RoutePlugins,
    pub policy: Policy,
    pub flag: Option<bool>,
    pub shard: Option<i32>,
    pub tenant: Option<String>,
    pub concurrency: u32,
    pub deadline: Option<Duration>,
    pub reclaim_foreign_after: Option<Duration>,
}

/// The table of routes, and the plugins that are loaded.
pub struct RouteTable {
    stage: Stage,
    entries: BTreeMap<RouteKey, RouteEntry>,
    plugins: Arc<dyn LoadedPlugins>,
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
    /// Decides which routes are served and how.
    ///
    /// # Errors
    /// [`ConfigError`] when a route has no plugin, production would run a mock,
    /// or a real executor lacks a value that it needs.
    pub fn build(config: &Config, plugins: Arc<dyn LoadedPlugins>) -> Result<Self, ConfigError> {
        let all = plugins.all();
        let mut table = Self::empty(config, plugins);
        for (key, shard) in served_keys(config, &all)? {
            let entry = table.entry(config, key, shard, &all)?;
            table.entries.insert(entry.key.clone(), entry);
        }
        Ok(table)
    }

    /// The table after the plugins have changed. A route that cannot be as it
    /// should stays as it was, if it still can, and comes with its mistake.
    pub fn rebuilt(
        &self,
        config: &Config,
        plugins: Arc<dyn LoadedPlugins>,
    ) -> (Self, Vec<ConfigError>) {
        let all = plugins.all();
        let mut table = Self::empty(config, plugins);
        let mut problems = Vec::new();
        let served = served_keys(config, &all).unwrap_or_else(|problem| {
            problems.push(problem);
            let before = self.entries.values();
            before
                .map(|entry| (entry.key.clone(), entry.shard))
                .collect()
        });
        for (key, shard) in served {
            let before = self.entries.get(&key).filter(|entry| table.works(entry));
            let entry = match table.entry(config, key, shard, &all) {
                Ok(entry) => Some(entry),
                Err(problem) => {
                    problems.push(problem);
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
            plugins,
        }
    }

    fn entry(
        &self,
        config: &Config,
        key: RouteKey,
        shard: Option<i32>,
        all: &[LoadedPlugin],
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
        self.check(&entry, config)?;
        Ok(entry)
    }

    /// Whether what would run now is there and handles the route.
    fn works(&self, entry: &RouteEntry) -> bool {
        let Choice::Run { plugin, digest, .. } = self.choice(entry, false) else {
            return true;
        };
        let loaded = self.plugins.get(&plugin, digest);
        loaded.is_some_and(|loaded| loaded.handles.contains(&entry.key))
    }

    /// All routes that this host serves.
    pub fn entries(&self) -> impl Iterator<Item = &RouteEntry> {
        self.entries.values()
    }

    /// What a task of this route would get now.
    pub fn choice(&self, entry: &RouteEntry, last_attempt: bool) -> Choice {
        select(&Situation {
            stage: self.stage,
            policy: entry.policy,
            plugins: &entry.plugins,
            flag: entry.flag,
            breaker: Breaker::Closed,
            approval: None,
            rollout: None,
            last_attempt,
        })
    }

    fn check(&self, entry: &RouteEntry, config: &Config) -> Result<(), ConfigError> {
        let key = &entry.key;
        let Choice::Run { plugin, .. } = self.choice(entry, false) else {
            let place = match config.flag.value {
                Some(_) => config.flag.origin.to_string(),
                None => format!("route `{key}`"),
            };
            let problem =
                format!("production runs `{key}` only on its real executor, and the flag is off");
            return Err(ConfigError::new(place, problem).hint(
                "set ENABLE_COGO_WORKER=true or unset it, or use COGO_STAGE=staging to run the mock",
            ));
        };
        let named = match &entry.plugins {
            RoutePlugins::Only(only) => vec![only],
            RoutePlugins::Pair { real, mock } => vec![real, mock],
        };
        for name in named {
            let loaded = self.plugins.get(name, None).ok_or_else(|| {
                let known: Vec<String> = self
                    .plugins
                    .all()
                    .iter()
                    .map(|p| p.version.name.to_string())
                    .collect();
                ConfigError::new(
                    format!("route `{key}`"),
                    format!("there is no plugin `{name}`"),
                )
                .hint(format!("loaded plugins: {}", known.join(", ")))
            })?;
            if !loaded.handles.contains(key) {
                let problem = format!("plugin `{name}` does not handle `{key}`");
                let handles: Vec<String> = loaded.handles.iter().map(ToString::to_string).collect();
                return Err(ConfigError::new(format!("route `{key}`"), problem)
                    .hint(format!("it handles: {}", handles.join(", "))));
            }
            if *name == plugin && !loaded.missing_config.is_empty() {
                let missing = loaded.missing_config.join(", ");
                let problem = format!("plugin `{name}` is to run, but {missing} is not set");
                return Err(ConfigError::new(format!("route `{key}`"), problem).hint(format!(
                    "set {missing} in the environment or in cogo.toml, or turn the flag off (ENABLE_COGO_WORKER=false)"
                )));
            }
        }
        Ok(())
    }
}

/// Which routes are served, each with the shard it is bound to.
fn served_keys(
    config: &Config,
    plugins: &[LoadedPlugin],
) -> Result<Vec<(RouteKey, Option<i32>)>, ConfigError> {
    let listed = config.routes.keys().cloned();
    let handled = plugins.iter().flat_map(|plugin| plugin.handles.clone());
    match &config.served {
        Served::Handled => {
            let all: BTreeSet<RouteKey> = listed.chain(handled).collect();
            Ok(all.into_iter().map(|key| (key, None)).collect())
        }
        Served::Listed => {
            let all: Vec<_> = listed.map(|key| (key, None)).collect();
            if all.is_empty() {
                let problem = format!(
                    "no route is listed, and {} serves only routes that are",
                    config.stage
                );
                return Err(ConfigError::new("routes", problem).hint(
                    "add `[route.\"code/build-test\"]` to cogo.toml, or set AGENT_SERVICE and AGENT_ROLE",
                ));
            }
            Ok(all)
        }
        Served::Agent {
            service,
            role,
            shard,
        } => {
            let all: BTreeSet<RouteKey> = listed.chain(handled).collect();
            let fits = |key: &RouteKey| {
                service.as_deref().is_none_or(|s| s == key.service())
                    && role.as_deref().is_none_or(|r| r == key.role())
            };
            let known: Vec<String> = all.iter().map(ToString::to_string).collect();
            let kept: Vec<_> = all
                .into_iter()
                .filter(fits)
                .map(|key| (key, *shard))
                .collect();
            if kept.is_empty() {
                let wanted = format!(
                    "{}/{}",
                    service.as_deref().unwrap_or("*"),
                    role.as_deref().unwrap_or("*")
                );
                let problem = format!("nobody handles `{wanted}`");
                return Err(ConfigError::new("AGENT_SERVICE, AGENT_ROLE", problem)
                    .hint(format!("there are: {}", known.join(", "))));
            }
            Ok(kept)
        }
    }
}

fn route_plugins(
    key: &RouteKey,
    route: Option<&RouteConfig>,
    plugins: &[LoadedPlugin],
) -> Result<RoutePlugins, ConfigError> {
    if let Some(configured) = route.and_then(RouteConfig::plugins) {
        return Ok(configured);
    }
    let handling = |kind| {
        plugins
            .iter()
            .filter(move |p| p.version.kind == kind && p.handles.contains(key))
            .map(|p| p.version.name.clone())
            .collect::<Vec<_>>()
    };
    let (real, mock) = (handling(Kind::Real), handling(Kind::Mock));
    match (real.as_slice(), mock.as_slice()) {
        ([real], [mock]) => Ok(RoutePlugins::Pair {
            real: real.clone(),
            mock: mock.clone(),
        }),
        ([only], []) | ([], [only]) => Ok(RoutePlugins::Only(only.clone())),
        ([], []) => Err(
            ConfigError::new(format!("route `{key}`"), "no plugin handles it")
                .hint("name its plugin in the route's table, or put one into COGO_PLUGINS_DIR"),
        ),
        _ => {
            let names: Vec<String> = real.iter().chain(&mock).map(ToString::to_string).collect();
            let problem = format!("several plugins handle it: {}", names.join(", "));
            Err(
                ConfigError::new(format!("route `{key}`"), problem).hint(format!(
                    "choose in cogo.toml: `[route.\"{key}\"]` with `real` and `mock`, or `plugin`"
                )),
            )
        }
    }
}

/// Tables are alike if they say the same of every route, whatever is loaded.
impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.stage == other.stage && self.entries == other.entries
    }
}

impl Routing for RouteTable {
    fn served(&self) -> Vec<ServedRoute> {
        let served = self.entries.values().filter_map(|entry| {
            let Choice::Run { plugin, digest, .. } = self.choice(entry, false) else {
                return None;
            };
            let loaded = self.plugins.get(&plugin, digest)?;
            if !loaded.handles.contains(&entry.key) {
                return None;
            }
            Some(ServedRoute {
                key: entry.key.clone(),
                shard: entry.shard,
                tenant: entry.tenant.clone(),
                concurrency: entry.concurrency,
                plugin,
                plugin_concurrency: loaded.concurrency,
                reclaim_foreign_after: entry.reclaim_foreign_after,
            })
        });
        served.collect()
    }

    fn assign(&self, claim: &Claim, last_attempt: bool) -> Result<Assigned, Unassigned> {
        let key = &claim.route.key;
        let fault = |message: String| {
            Unassigned::Fault(Problem::new("plugin_missing", message, Blame::Host))
        };
        let entry = self
            .entries
            .get(key)
            .ok_or_else(|| fault(format!("the route `{key}` is not served here any more")))?;
        match self.choice(entry, last_attempt) {
            Choice::Hold(reason) => Err(Unassigned::Held(format!("{reason:?}"))),
            Choice::Run {
                plugin,
                digest,
                why,
            } => {
                // What was swapped since the claim may do other routes now.
                let loaded = self.plugins.get(&plugin, digest);
                let loaded = loaded.filter(|loaded| loaded.handles.contains(key));
                let loaded = loaded.ok_or_else(|| {
                    fault(format!(
                        "no version of plugin `{plugin}` that handles `{key}` is loaded"
                    ))
                })?;
                Ok(Assigned {
                    deadline: entry.deadline.unwrap_or(loaded.deadline),
                    plugin: loaded.version,
                    why,
                    hold: loaded.hold,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    struct Fixed(Vec<LoadedPlugin>);

    impl LoadedPlugins for Fixed {
        fn get(&self, name: &PluginName, _: Option<Digest>) -> Option<LoadedPlugin> {
            self.0.iter().find(|p| p.version.name == *name).cloned()
        }

        fn all(&self) -> Vec<LoadedPlugin> {
            self.0.clone()
        }
    }

    fn plugin(name: &str, kind: Kind, handles: &[&str], missing: &[&str]) -> LoadedPlugin {
        LoadedPlugin {
            version: PluginVersion {
                name: name.parse().unwrap(),
                version: "1.0.0".to_owned(),
                digest: Digest::of(name.as_bytes()),
                kind,
            },
            handles: handles.iter().map(|h| h.parse().unwrap()).collect(),
            deadline: Duration::from_secs(70),
            concurrency: 4,
            missing_config: missing.iter().map(|m| (*m).to_owned()).collect(),
            hold: Hold::default(),
        }
    }

    fn build(environment: &[(&str, &str)], missing: &[&str]) -> Result<RouteTable, ConfigError> {
        let roles = ["code/build-test", "codegen/generate"];
        let plugins = Fixed(vec![
            plugin("mock", Kind::Mock, &roles, &[]),
            plugin("cogo-worker", Kind::Real, &roles, missing),
            plugin("render", Kind::Mock, &["docs/render"], &[]),
        ]);
        let layers = Layers::new(
            environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        RouteTable::build(&Config::from_layers(&layers)?, Arc::new(plugins))
    }

    fn runs(table: &RouteTable) -> String {
        let served = table.served();
        let lines = served.iter().map(|s| format!("{}={}", s.key, s.plugin));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn development_serves_all_that_is_handled_on_the_mock() {
        let table = build(&[], &["COGO_WORKER_URL"]).unwrap();
        assert_eq!(
            runs(&table),
            "code/build-test=mock codegen/generate=mock docs/render=render"
        );
    }

    #[test]
    fn the_flag_moves_required_routes_only() {
        let table = build(&[("ENABLE_COGO_WORKER", "true")], &[]).unwrap();
        assert_eq!(
            runs(&table),
            "code/build-test=cogo-worker codegen/generate=mock docs/render=render"
        );
    }

    #[test]
    fn what_cannot_run_is_refused_at_start() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let cases: [Case<'_>; 4] = [
            (
                &[("ENABLE_COGO_WORKER", "1")],
                &["COGO_WORKER_URL"],
                "COGO_WORKER_URL is not set",
            ),
            (
                &[
                    ("COGO_STAGE", "production"),
                    ("ENABLE_COGO_WORKER", "0"),
                    ("AGENT_SERVICE", "code"),
                ],
                &[],
                "production runs `code/build-test` only on its real executor",
            ),
            (&[("COGO_STAGE", "staging")], &[], "no route is listed"),
            (
                &[("AGENT_SERVICE", "nothing")],
                &[],
                "nobody handles `nothing/*`",
            ),
        ];
        for (environment, missing, part) in cases {
            let error = build(environment, missing).err().unwrap();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.hint.is_some(), "{error}");
        }
    }

    #[test]
    fn an_agent_serves_its_role_and_shard() {
        let environment = [("AGENT_SERVICE", "code"), ("AGENT_SHARD", "3")];
        let table = build(&environment, &[]).unwrap();
        let served = table.served();
        assert_eq!(served.len(), 1);
        assert_eq!(served[0].shard, Some(3));
    }
}
