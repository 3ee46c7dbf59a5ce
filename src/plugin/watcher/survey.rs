//! Keeps the system's watch on the right directory, and lists what is in it.
//!
//! Where the directory is missing, the way to it is watched instead. A watch
//! follows the directory that it was put on, not its name, so the two are
//! compared at each survey.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::time::Instant;

use super::look::Identity;
use super::{DirectoryState, Signals, is_plugin_file};

/// A watch that the system keeps.
pub(super) struct Armed {
    /// Dropped, it watches no more.
    _watch: RecommendedWatcher,
    directory: (u64, u64),
}

/// The plugins' files, each with its identity where that can be relied on.
pub(super) enum Listing {
    Files(HashMap<PathBuf, Option<Identity>>),
    /// Nobody knows; what was known stays.
    Unknown,
}

pub(super) struct Survey {
    pub(super) armed: Option<Armed>,
    pub(super) state: DirectoryState,
    pub(super) listing: Listing,
}

impl Survey {
    /// Watches first and lists then, so that nothing is missed in between.
    pub(super) fn take(armed: Option<Armed>, directory: &Path, signals: &Arc<Signals>) -> Self {
        let found = match std::fs::metadata(directory) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Self::missing(armed, directory, signals);
            }
            Err(cause) => return Self::unreadable(armed, &cause.to_string()),
        };
        if !found.is_dir() {
            return Self::unreadable(armed, "it is no directory");
        }
        let (armed, state) = match keep(armed, directory, &found, directory, signals) {
            Ok(armed) => (Some(armed), DirectoryState::Watched),
            Err(cause) => (None, DirectoryState::Polled(cause.to_string())),
        };
        match list(directory) {
            Ok(files) => Self {
                armed,
                state,
                listing: Listing::Files(files),
            },
            // It went away just now.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Self::missing(armed, directory, signals)
            }
            Err(cause) => Self::unreadable(armed, &cause.to_string()),
        }
    }

    fn missing(armed: Option<Armed>, directory: &Path, signals: &Arc<Signals>) -> Self {
        // The nearest part of the way that exists tells when it grows.
        let nearest = || directory.ancestors().find(|part| part.exists());
        let part = nearest();
        let armed = part.and_then(|part| {
            let found = std::fs::metadata(part).ok()?;
            let kept = keep(armed, part, &found, directory, signals);
            kept.inspect_err(|cause| tracing::debug!("cannot watch {}: {cause}", part.display()))
                .ok()
        });
        if nearest() != part || part == Some(directory) {
            // It grew before it was watched.
            signals.pending.lock().look_at_everything();
        }
        Self {
            armed,
            state: DirectoryState::Missing,
            listing: Listing::Files(HashMap::new()),
        }
    }

    fn unreadable(armed: Option<Armed>, why: &str) -> Self {
        Self {
            armed,
            state: DirectoryState::Unreadable(why.to_owned()),
            listing: Listing::Unknown,
        }
    }
}

/// Keeps the watch where it is on this directory already, else makes one.
fn keep(
    armed: Option<Armed>,
    watched: &Path,
    found: &Metadata,
    directory: &Path,
    signals: &Arc<Signals>,
) -> notify::Result<Armed> {
    let identity = (found.dev(), found.ino());
    if let Some(armed) = armed
        && armed.directory == identity
    {
        return Ok(armed);
    }
    let (signals, directory) = (Arc::clone(signals), directory.to_owned());
    let mut watch = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        hear(&signals, &directory, event);
    })?;
    watch.watch(watched, RecursiveMode::NonRecursive)?;
    Ok(Armed {
        _watch: watch,
        directory: identity,
    })
}

/// Runs on the thread that reads the system's events.
fn hear(signals: &Signals, directory: &Path, event: notify::Result<notify::Event>) {
    let event = event.unwrap_or_else(|cause| {
        tracing::debug!("events of {} are lost: {cause}", directory.display());
        notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan)
    });
    let heard = signals
        .pending
        .lock()
        .hear(&event, directory, Instant::now());
    if heard {
        signals.arrived.notify_one();
    }
}

fn list(directory: &Path) -> io::Result<HashMap<PathBuf, Option<Identity>>> {
    let now = SystemTime::now();
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if is_plugin_file(&path) {
            // Does not follow links. What went away meanwhile is looked at.
            let found = entry.metadata().ok();
            let identity = found.and_then(|found| Identity::settled(&found, now));
            files.insert(path, identity);
        }
    }
    Ok(files)
}
