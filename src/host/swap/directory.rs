//! How the host sees the watched directory.

use std::path::PathBuf;

use crate::config::Config;
use crate::plugin::catalog::Failure;
use crate::plugin::watcher::DirectoryState;

/// The watched directory at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryNow {
    pub path: PathBuf,
    pub state: DirectoryState,
    /// Files that can be no plugin's by their names.
    pub refused_files: Vec<RefusedFile>,
}

/// A file that is refused for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    pub file: String,
    pub failure: Failure,
}

impl DirectoryNow {
    /// Takes note of the directory's new state, and tells the operator.
    pub(super) fn became(now: &mut Option<Self>, config: &Config, state: DirectoryState) {
        let path = config.plugins_dir.clone().unwrap_or_default();
        let shown = path.display();
        match &state {
            DirectoryState::Watched => tracing::info!("plugins are taken from {shown}"),
            DirectoryState::Polled(why) => tracing::warn!(
                "plugins are taken from {shown}, which is looked at every two seconds only, since the system does not watch it: {why}"
            ),
            DirectoryState::Missing => {
                tracing::warn!("{shown} does not exist; plugins are taken from it once it does");
            }
            DirectoryState::Unreadable(why) => tracing::error!(
                "{shown} cannot be read, so that its plugins stay as they are: {why}"
            ),
        }
        match now {
            Some(now) => now.state = state,
            None => {
                *now = Some(Self {
                    path,
                    state,
                    refused_files: Vec::new(),
                });
            }
        }
    }
}
