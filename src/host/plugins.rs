//! What plugins are loaded with, and the bundled ones: a host without them does
//! not start. Those of the operator's directory come and go in [`super::swap`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::runtime::Handle;

use super::routes::{LoadedPlugin, LoadedPlugins};
use super::swap::Swapper;
use crate::config::{Config, PluginConfig};
use crate::ids::{Digest, PluginName};
use crate::plugin::bundled;
use crate::plugin::catalog::Catalog;
use crate::plugin::compile::{self, Cache, CacheError, CompileCommand, CompileLimits, Compiler};
use crate::plugin::engine::{EngineError, Engines};
use crate::plugin::limits::Limits;
use crate::plugin::load::{LoadError, Loader, Plugin, Settings, Source};
use crate::plugin::signature::{InvalidTrust, Trust};
use crate::routing::Hold;

/// The bundled plugin that calls the worker.
const WORKER_PLUGIN: &str = "cogo-worker";
const WORKER_URL: &str = "COGO_WORKER_URL";
const WORKER_TIMEOUT: &str = "COGO_WORKER_TIMEOUT_MS";
/// What the worker's adapter gets on top of the worker's own time limit, so
/// that its answer to a timeout still arrives.
const WORKER_MARGIN: Duration = Duration::from_secs(10);

/// Why the plugins cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("compiled plugins cannot be kept")]
    Cache(#[from] CacheError),
    #[error("cannot find this program, which compiles plugins")]
    Program(#[source] io::Error),
    #[error("a bundled plugin does not load")]
    Bundled(#[source] LoadError),
    #[error(transparent)]
    Trust(#[from] InvalidTrust),
    #[error("`{}` is no path", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl PluginsError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Engine(_) => {
                "this machine refuses the address space that plugins need; check `ulimit -v`"
                    .to_owned()
            }
            Self::Cache(_) => "choose another directory with COGO_CACHE_DIR".to_owned(),
            Self::Program(_) => "start the host by a path that exists".to_owned(),
            Self::Bundled(error) => error.hint(),
            Self::Trust(InvalidTrust::Key(_)) => {
                "`trusted_keys` holds what minisign prints as public key, `RW…`".to_owned()
            }
            Self::Trust(InvalidTrust::NoKey) => {
                "name the public keys in `trusted_keys`, or take this stage out of `signed_stages`"
                    .to_owned()
            }
            Self::Directory { .. } => "COGO_PLUGINS_DIR names a directory".to_owned(),
        }
    }
}

/// What compiles, links and probes plugins with this configuration.
///
/// # Errors
/// When the engine or the cache cannot be set up.
pub fn loader(config: &Config, guests: &Handle) -> Result<Loader, PluginsError> {
    let command = CompileCommand {
        program: std::env::current_exe().map_err(PluginsError::Program)?,
        args: vec![compile::SUBCOMMAND.to_owned()],
    };
    let cache = Cache::open(config.cache_dir.clone())?;
    let compiler = Compiler::in_child(command, CompileLimits::default(), cache);
    let engines = Arc::new(Engines::new()?);
    Ok(Loader::new(engines, compiler, guests.clone()))
}

/// Whose signatures count here.
///
/// # Errors
/// When a key is none.
pub fn trust(config: &Config) -> Result<Trust, PluginsError> {
    Ok(Trust::parse(
        &config.trusted_keys,
        config.signatures_required,
    )?)
}

/// Loads the plugins that are part of the program.
///
/// # Errors
/// When one does not load.
pub async fn load_bundled(
    config: &Config,
    loader: &Loader,
    catalog: &Catalog,
) -> Result<(), PluginsError> {
    let bundled = bundled::candidates().map(|candidate| {
        let settings = settings(config, candidate.name.as_ref(), candidate.source);
        async move { loader.load(candidate, &settings).await }
    });
    for plugin in try_join_all(bundled).await.map_err(PluginsError::Bundled)? {
        catalog.install(Arc::new(plugin));
    }
    Ok(())
}

/// What the operator set for a plugin, with what the bundled ones get anyway.
pub fn settings(config: &Config, name: Option<&PluginName>, source: Source) -> Settings {
    let own = name.and_then(|name| config.plugins.get(name));
    let own = own.cloned().unwrap_or_default();
    let is_worker = name.is_some_and(|name| name.as_str() == WORKER_PLUGIN);
    let mut limits = Limits {
        deadline: if is_worker {
            config.worker_timeout + WORKER_MARGIN
        } else {
            Limits::DEFAULT.deadline
        },
        ..Limits::DEFAULT
    };
    apply(&mut limits, &own);
    let mut values = BTreeMap::new();
    let mut allow = own.allow;
    if is_worker {
        let timeout = crate::millis::millis(config.worker_timeout);
        values.insert(WORKER_TIMEOUT.to_owned(), timeout.to_string());
        if let Some(url) = &config.worker_url {
            values.insert(WORKER_URL.to_owned(), url.clone());
        }
        if allow.is_empty() {
            allow.push(format!("config:{WORKER_URL}"));
        }
    }
    values.extend(own.config);
    Settings {
        config: values,
        allow,
        kind: own.kind,
        // A pin is of what comes from outside; the bundled version is known anyway.
        pin: own.digest.filter(|_| source != Source::Bundled),
        limits,
        ..Settings::default()
    }
}

fn apply(limits: &mut Limits, own: &PluginConfig) {
    if let Some(mb) = own.limits.memory_mb {
        limits.memory_bytes = usize::try_from(mb)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 20);
    }
    if let Some(deadline) = own.limits.deadline {
        limits.deadline = deadline;
    }
    if let Some(concurrency) = own.limits.concurrency {
        limits.concurrency = usize::try_from(concurrency).unwrap_or(usize::MAX);
    }
}

impl LoadedPlugins for Catalog {
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin> {
        let plugin = match digest {
            Some(digest) => self.by_digest(digest),
            None => Self::get(self, name),
        };
        plugin.map(loaded)
    }

    fn own(&self, name: &PluginName) -> Option<LoadedPlugin> {
        // Nobody decides anything here.
        Self::get(self, name).map(loaded)
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        let names = self.list().into_iter().map(|listed| listed.name);
        names
            .filter_map(|name| Some(loaded(Self::get(self, &name)?)))
            .collect()
    }

    fn others(&self, name: &PluginName) -> Vec<Digest> {
        let mut listed = self.list().into_iter();
        let Some(listed) = listed.find(|listed| listed.name == *name) else {
            return Vec::new();
        };
        let candidates = listed.candidates.iter().map(|version| version.digest);
        let previous = listed.previous.iter().map(|version| version.digest);
        candidates.chain(previous).collect()
    }
}

impl LoadedPlugins for Swapper {
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin> {
        LoadedPlugins::get(&**self.catalog(), name, digest)
    }

    fn own(&self, name: &PluginName) -> Option<LoadedPlugin> {
        self.without_bus(name).map(loaded)
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        self.catalog().all()
    }

    fn others(&self, name: &PluginName) -> Vec<Digest> {
        self.catalog().others(name)
    }
}

fn loaded(plugin: Arc<Plugin>) -> LoadedPlugin {
    LoadedPlugin {
        version: plugin.version(),
        handles: plugin.descriptor().handles.clone(),
        deadline: plugin.limits().deadline,
        concurrency: u32::try_from(plugin.limits().concurrency).unwrap_or(u32::MAX),
        missing_config: plugin.missing_config(),
        source: plugin.source(),
        hold: Hold::of(plugin),
    }
}
