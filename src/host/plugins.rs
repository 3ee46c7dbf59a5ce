//! Loads the plugins of a host: the bundled ones, then those of the operator's
//! directory on top of them.
//!
//! A bundled plugin that does not load keeps the host from starting; one of the
//! directory is refused with its reason, and the others go on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::runtime::Handle;

use super::routes::{LoadedPlugin, LoadedPlugins};
use crate::config::{Config, PluginConfig};
use crate::ids::{Digest, PluginName};
use crate::plugin::bundled;
use crate::plugin::catalog::Catalog;
use crate::plugin::compile::{self, Cache, CacheError, CompileCommand, CompileLimits, Compiler};
use crate::plugin::engine::{EngineError, Engines};
use crate::plugin::limits::Limits;
use crate::plugin::load::{Candidate, LoadError, Loader, Plugin, Settings, Source};

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
    #[error("`{}` cannot be listed", path.display())]
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
            Self::Directory { .. } => "COGO_PLUGINS_DIR names a readable directory".to_owned(),
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

/// Loads everything.
///
/// # Errors
/// When a bundled plugin does not load, or the directory cannot be read.
pub async fn load(config: &Config, guests: &Handle) -> Result<Arc<Catalog>, PluginsError> {
    let loader = loader(config, guests)?;
    let catalog = Arc::new(Catalog::new());
    let bundled = bundled::candidates().map(|candidate| {
        let settings = settings(config, candidate.name.as_ref(), candidate.source);
        let loader = &loader;
        async move { loader.load(candidate, &settings).await }
    });
    for plugin in try_join_all(bundled).await.map_err(PluginsError::Bundled)? {
        catalog.install(Arc::new(plugin));
    }
    if let Some(directory) = &config.plugins_dir {
        load_directory(config, &loader, &catalog, directory).await?;
    }
    Ok(catalog)
}

async fn load_directory(
    config: &Config,
    loader: &Loader,
    catalog: &Catalog,
    directory: &Path,
) -> Result<(), PluginsError> {
    for (name, path) in files(directory)? {
        match load_file(config, loader, &name, &path).await {
            Ok(plugin) => {
                catalog.install(Arc::new(plugin));
            }
            Err(error) => {
                tracing::error!(
                    code = error.code(),
                    hint = error.hint(),
                    "plugin {name} is refused: {error}"
                );
                catalog.refused(&name, &error);
            }
        }
    }
    Ok(())
}

/// The `NAME.wasm` files of a directory, in order.
fn files(directory: &Path) -> Result<Vec<(PluginName, PathBuf)>, PluginsError> {
    let at = |source| PluginsError::Directory {
        path: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match stem.unwrap_or_default().parse::<PluginName>() {
            Ok(name) => files.push((name, path)),
            Err(error) => {
                tracing::error!("`{}` is not loaded: {error}", path.display());
            }
        }
    }
    files.sort();
    Ok(files)
}

async fn load_file(
    config: &Config,
    loader: &Loader,
    name: &PluginName,
    path: &Path,
) -> Result<Plugin, LoadError> {
    let candidate = Candidate::read(path, Some(name.clone()))?;
    let settings = settings(config, Some(name), Source::Directory);
    if config.stage != crate::stage::Stage::Development && settings.pin.is_none() {
        return Err(candidate.unpinned(config.stage));
    }
    loader.load(candidate, &settings).await
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
        let timeout = crate::event::millis(config.worker_timeout);
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
        // A pin is of the operator's file; the bundled version is known anyway.
        pin: own.digest.filter(|_| source == Source::Directory),
        limits,
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
        plugin.map(|plugin| loaded(&plugin))
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        let names = self.list().into_iter().map(|listed| listed.name);
        names
            .filter_map(|name| Some(loaded(&*Self::get(self, &name)?)))
            .collect()
    }
}

fn loaded(plugin: &Plugin) -> LoadedPlugin {
    LoadedPlugin {
        version: plugin.version(),
        handles: plugin.descriptor().handles.clone(),
        deadline: plugin.limits().deadline,
        concurrency: u32::try_from(plugin.limits().concurrency).unwrap_or(u32::MAX),
        missing_config: plugin.missing_config(),
    }
}
