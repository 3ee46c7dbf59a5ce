//! The plugins as the API and the command line show them.

use super::swap::Swapper;
use crate::api::{
    DirectoryStateView, DirectoryView, PluginSource, PluginView, PreviousView, Profile,
    RefusedFileView, ServingView,
};
use crate::config::Config;
use crate::plugin::catalog::{Catalog, Listed, PreviousVersion, Version};
use crate::plugin::load::Source;
use crate::plugin::wasi;
use crate::plugin::watcher::DirectoryState;

/// All plugins, by name.
pub fn plugins(config: &Config, catalog: &Catalog) -> Vec<PluginView> {
    let listed = catalog.list().into_iter();
    listed.map(|listed| plugin(config, listed)).collect()
}

/// The watched directory, if there is one.
pub fn directory(swapper: &Swapper) -> Option<DirectoryView> {
    let now = swapper.directory()?;
    let (state, problem) = match now.state {
        DirectoryState::Watched => (DirectoryStateView::Watched, None),
        DirectoryState::Polled(why) => (DirectoryStateView::Polled, Some(why)),
        DirectoryState::Missing => (
            DirectoryStateView::Missing,
            Some("the directory does not exist".to_owned()),
        ),
        DirectoryState::Unreadable(why) => (DirectoryStateView::Unreadable, Some(why)),
    };
    let refused_files = now
        .refused_files
        .into_iter()
        .map(|refused| RefusedFileView {
            file: refused.file,
            error: format!("{}: {}", refused.failure.code, refused.failure.message),
            hint: refused.failure.hint,
        });
    Some(DirectoryView {
        path: now.path,
        state,
        problem,
        refused_files: refused_files.collect(),
    })
}

fn plugin(config: &Config, listed: Listed) -> PluginView {
    let latest = listed.serving.as_ref().or(listed.candidates.first());
    let source = latest.map_or(Source::Directory, |version| version.source);
    let source = match (&config.plugins_dir, source) {
        (Some(directory), Source::Directory) => PluginSource::File {
            path: directory.join(format!("{}.wasm", listed.name)),
        },
        (_, Source::Published) => PluginSource::Published,
        _ => PluginSource::Bundled,
    };
    let (last_error, hint) = match listed.last_failure {
        Some(failure) => (
            Some(format!("{}: {}", failure.code, failure.message)),
            Some(failure.hint),
        ),
        None => (None, None),
    };
    PluginView {
        source,
        serving: listed.serving.map(version),
        last_error,
        hint,
        candidates: listed.candidates.into_iter().map(version).collect(),
        previous: listed.previous.into_iter().map(previous).collect(),
        rolled_back_from: listed.rolled_back_from,
        down_on: Vec::new(),
        name: listed.name,
    }
}

fn previous(version: PreviousVersion) -> PreviousView {
    PreviousView {
        version: version.version,
        digest: version.digest,
        rolled_back: version.rolled_back,
    }
}

fn version(version: Version) -> ServingView {
    ServingView {
        version: version.version,
        digest: version.digest,
        kind: version.kind,
        handles: version.handles,
        profile: match version.profile {
            wasi::Profile::Minimal => Profile::Minimal,
            wasi::Profile::Wasi => Profile::Wasi,
        },
        source: Some(version.source),
        signer: version.signer,
    }
}
