//! Which routes the configuration and the plugins make, and with which plugins.

use std::collections::BTreeSet;

use super::LoadedPlugin;
use crate::attempt::{Kind, PluginVersion};
use crate::config::{Config, ConfigError, RouteConfig, Served};
use crate::plugin::load::Source;
use crate::route::{RouteKey, RoutePlugins};

/// Which routes are served, each with the shard it is bound to.
pub(super) fn served_keys(
    config: &Config,
    plugins: &[LoadedPlugin],
) -> Result<Vec<(RouteKey, Option<i32>)>, ConfigError> {
    let listed = config.routes.keys().cloned();
    let handled = plugins.iter().flat_map(|plugin| plugin.handles.clone());
    // The host's own, whatever a plugin says.
    let listed = listed.filter(|key| !key.is_dispatcher());
    let handled = handled.filter(|key| !key.is_dispatcher());
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
            if kept.is_empty() && dispatcher_shard(config).is_none() {
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

/// The shard of which this host forwards tasks, in an option of its own; none
/// where it is there for other routes only.
pub(super) fn dispatcher_shard(config: &Config) -> Option<Option<i32>> {
    let key = RouteKey::dispatcher();
    match &config.served {
        Served::Handled | Served::Listed => Some(None),
        Served::Agent {
            service,
            role,
            shard,
        } => {
            let fits = service.as_deref().is_none_or(|s| s == key.service())
                && role.as_deref().is_none_or(|r| r == key.role());
            fits.then_some(*shard)
        }
    }
}

pub(super) fn route_plugins(
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
            let mut hint = format!(
                "choose in cogo.toml: `[route.\"{key}\"]` with `real` and `mock`, or `plugin`"
            );
            let mut handling = plugins.iter().filter(|p| p.handles.contains(key));
            if let Some(published) = handling.find(|p| p.source == Source::Published) {
                let PluginVersion { name, digest, .. } = &published.version;
                hint +=
                    &format!("; or take `{name}` off the bus: `cogo-host plugin retract {digest}`");
            }
            Err(ConfigError::new(format!("route `{key}`"), problem).hint(hint))
        }
    }
}
