//! What the operator decided: flags, files and environment, layered once and
//! checked once. The rest of the host sees only [`Config`].
//!
//! Precedence: flag > `--config FILE` > environment > `cogo.toml` > default.
//! Every setting has one name, lower-case in files and upper-case in the
//! environment; every value remembers where it came from. Secrets are never
//! printed.

mod layers;
mod parse;
mod schema;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use layers::nearest;
pub use layers::{Layers, Origin};
pub use schema::schema;
pub use settings::{SETTINGS, Setting, ShownSetting, show};

use crate::attempt::Kind;
use crate::breaker::Timing;
use crate::gate::Thresholds;
use crate::ids::{Digest, PluginName};
use crate::retry::RetryPolicy;
use crate::route::{Policy, RouteKey, RoutePlugins};
use crate::stage::Stage;
use crate::store::BusUrl;

/// A mistake in the configuration: where it is, what is wrong, what would be
/// right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    pub place: String,
    pub problem: String,
    pub hint: Option<String>,
}

impl ConfigError {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub stage: Stage,
    pub bus: BusUrl,
    /// Where the host keeps what is its own: the embedded bus, artifacts, the
    /// cache of compiled plugins.
    pub state_dir: PathBuf,
    /// Compiled plugins; shared by installations that trust each other.
    pub cache_dir: PathBuf,
    /// Whether this runs under continuous integration.
    pub ci: bool,
    pub holder_id: String,
    /// Whether the plugin of a route that a task did not get runs it, too.
    pub compare: bool,
    /// `ENABLE_COGO_WORKER`, for required routes.
    pub flag: Flag,
    pub served: Served,
    /// What `[route."…"]` tables say.
    pub routes: BTreeMap<RouteKey, RouteConfig>,
    pub plugins: BTreeMap<PluginName, PluginConfig>,
    pub plugins_dir: Option<PathBuf>,
    /// How long a file there must be left alone before it is read.
    pub plugins_quiet: Duration,
    /// How often all of it is looked at, whatever the system reports.
    pub plugins_rescan: Duration,
    /// Public keys whose signatures of plugins count.
    pub trusted_keys: Vec<String>,
    /// Whether every plugin from outside must be signed, by this stage.
    pub signatures_required: bool,
    pub worker_url: Option<String>,
    pub worker_timeout: Duration,
    pub poll: Duration,
    pub lease: Duration,
    pub drain: Duration,
    pub concurrency: u32,
    pub guest_threads: usize,
    pub retry: RetryPolicy,
    /// When a real path that is taken for down is tried again.
    pub breaker: Timing,
    pub retention_days: Option<u32>,
    pub audit_retention_days: Option<u32>,
    /// Unset: contents on this host's disk, URLs to this host.
    pub artifacts_base: Option<ArtifactsBase>,
    pub listen: Listen,
    pub gate: GateConfig,
}

/// Where artifacts lie, and what their URLs begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactsBase {
    /// On this host's disk; something at this URL serves them.
    Url(String),
    /// In a bucket, by its `s3://` URL.
    Bucket {
        url: String,
        /// Workers get signed links into it instead of this host's.
        signed_links: bool,
    },
}

impl Config {
    /// Makes the host's own directory where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_state_dir(&self) -> Result<(), ConfigError> {
        std::fs::create_dir_all(&self.state_dir).map_err(|cause| {
            let place = format!("state directory `{}`", self.state_dir.display());
            ConfigError::new(place, format!("cannot be made: {cause}"))
                .hint("choose another with --state-dir or COGO_STATE_DIR")
        })
    }
}

/// A flag and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub value: Option<bool>,
    pub origin: Origin,
}

/// Which routes this host serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// Everything that a plugin handles: the default in development.
    Handled,
    /// The routes with a table in the configuration: the default elsewhere.
    Listed,
    /// What `AGENT_SERVICE`, `AGENT_ROLE` and `AGENT_SHARD` name.
    Agent {
        service: Option<String>,
        role: Option<String>,
        shard: Option<i32>,
    },
}

/// One `[route."service/role"]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteConfig {
    pub real: Option<PluginName>,
    pub mock: Option<PluginName>,
    /// One plugin, whatever the flag says.
    pub plugin: Option<PluginName>,
    pub policy: Option<Policy>,
    /// The route's own flag.
    pub flag: Option<bool>,
    pub shard: Option<i32>,
    pub tenant: Option<String>,
    pub concurrency: Option<u32>,
    pub deadline: Option<Duration>,
    pub reclaim_foreign_after: Option<Duration>,
}

impl RouteConfig {
    /// The plugins that the table names, if it names enough of them.
    pub fn plugins(&self) -> Option<RoutePlugins> {
        match (&self.plugin, &self.real, &self.mock) {
            (Some(only), _, _) => Some(RoutePlugins::Only(only.clone())),
            (None, Some(real), Some(mock)) => Some(RoutePlugins::Pair {
                real: real.clone(),
                mock: mock.clone(),
            }),
            (None, Some(only), None) | (None, None, Some(only)) => {
                Some(RoutePlugins::Only(only.clone()))
            }
            (None, None, None) => None,
        }
    }
}

/// One `[plugin.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PluginConfig {
    /// Values that the plugin may read; those that `config_env` names are
    /// taken from the host's environment.
    pub config: BTreeMap<String, String>,
    /// Origins that the plugin may call.
    pub allow: Vec<String>,
    pub kind: Option<Kind>,
    pub digest: Option<Digest>,
    pub limits: LimitsConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsConfig {
    pub memory_mb: Option<u32>,
    pub deadline: Option<Duration>,
    pub concurrency: Option<u32>,
}

/// Where the API listens, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub bind: IpAddr,
    pub port: u16,
    /// One `name:token` a line.
    pub token_file: Option<PathBuf>,
    pub token: Option<Secret>,
    /// Further names that requests may give as `Host`.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    pub window_min: u32,
    pub thresholds: Thresholds,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«set, {} bytes»", self.0.len())
    }
}

#[cfg(test)]
mod tests;
