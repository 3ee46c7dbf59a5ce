//! `/ui/plugins`: which executors there are, what serves, what was refused.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::json;

use super::action::{Action, Command};
use super::events::EventLine;
use super::frame::{Frame, Section};
use super::shown::{Badge, Tone, When, bytes, part};
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::events::newest;
use crate::api::facts::{
    DirectoryStateView, DirectoryView, PluginSource, PluginView, Profile, ServingView, SwapCounts,
};
use crate::api::metrics::bus::Events;
use crate::api::plugins::Plugins;
use crate::api::published::Listed;
use crate::api::query::Params;
use crate::attempt::Kind;
use crate::event::{
    Event, PLUGIN_LOADED, PLUGIN_PROMOTED, PLUGIN_REJECTED, PLUGIN_ROLLED_BACK, PLUGIN_SWAPPED,
};
use crate::store::{EventFilter, Order};

/// The latest changes of versions, of each kind.
const CHANGES: u32 = 8;

#[derive(Template)]
#[template(path = "plugins.html", config = "src/api/pages/askama.toml")]
struct PluginsPage {
    frame: Frame,
    plugins: Vec<PluginShown>,
    directory: Option<Directory>,
    published: Vec<Published>,
    changes: Vec<EventLine>,
}

struct PluginShown {
    name: String,
    anchor: String,
    source: String,
    state: Badge,
    error: String,
    hint: String,
    versions: Vec<Version>,
    swaps: String,
    /// Where its real path is taken for down.
    down_on: String,
}

/// A version of a plugin that is at hand.
struct Version {
    state: Badge,
    version: String,
    digest: String,
    digest_short: String,
    kind: Option<Badge>,
    handles: String,
    profile: &'static str,
    source: String,
    signer: String,
}

struct Directory {
    path: String,
    state: Badge,
    problem: String,
    refused: Vec<(String, String, String)>,
}

struct Published {
    name: String,
    version: String,
    digest: String,
    digest_short: String,
    bytes: String,
    by: String,
    at: When,
    state: Badge,
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    Params::read(query.as_deref(), &[])?;
    let after = newest(&shared).await?;
    let Plugins { plugins, directory } = Plugins::of(&shared);
    let Listed { published } = Listed::read(&shared).await?;
    let changes = changes(&shared).await?;
    let swaps = shared.api.facts.swaps();
    let page = PluginsPage {
        frame: Frame::new(&shared, Section::Plugins, "Plugins")
            .after(after)
            .path("/api/plugins")
            .path("/api/plugins/published")
            .command(Command::new("plugin list"))
            .actions(plugins.iter().flat_map(actions)),
        plugins: plugins
            .iter()
            .map(|plugin| PluginShown::of(plugin, swaps.get(&plugin.name).copied()))
            .collect(),
        directory: directory.map(Directory::of),
        published: published.into_iter().map(Published::of).collect(),
        changes: changes.iter().map(EventLine::of).collect(),
    };
    Ok(rendered(StatusCode::OK, &page))
}

/// What became of versions lately, newest first.
async fn changes(shared: &Shared) -> Result<Vec<Event>, crate::api::error::ApiError> {
    let kinds = [
        PLUGIN_LOADED,
        PLUGIN_SWAPPED,
        PLUGIN_REJECTED,
        PLUGIN_ROLLED_BACK,
        PLUGIN_PROMOTED,
    ];
    let mut found = Vec::new();
    for kind in kinds {
        let filter = EventFilter {
            event_type: Some(kind.to_owned()),
            limit: CHANGES,
            order: Order::NewestFirst,
            ..EventFilter::default()
        };
        found.extend(Events::read(shared, &filter).await?.events);
    }
    found.sort_by_key(|event| std::cmp::Reverse(event.id));
    found.truncate(CHANGES as usize);
    Ok(found)
}

fn actions(plugin: &PluginView) -> Vec<Action> {
    let name = plugin.name.as_str();
    let mut all = Vec::new();
    let path = format!("POST /api/plugins/{}/rollback", part(name));
    if let Some(earlier) = plugin.previous.iter().find(|version| !version.rolled_back) {
        let digest = earlier.digest.to_string();
        all.push(
            Action::new(
                "Put the version before back into service",
                Command::new("plugin rollback")
                    .option("--to", &digest)
                    .option("--reason", "WHY")
                    .about(name),
                path,
            )
            .with(&json!({ "to": digest, "reason": "WHY" })),
        );
    }
    if let Some(candidate) = plugin.candidates.first() {
        for route in &candidate.handles {
            let route = route.to_string();
            let version = format!("{name}@{}", candidate.digest);
            all.push(
                Action::new(
                    "Roll the candidate out, share by share",
                    Command::new("rollout start")
                        .option("--route", &route)
                        .option("--candidate", &version)
                        .option("--reason", "WHY"),
                    "POST /api/rollouts",
                )
                .with(&json!({
                    "route": route, "candidate": version, "steps": [5, 25, 50, 100],
                    "interval_ms": 600_000, "reason": "WHY",
                })),
            );
        }
    }
    all
}

impl PluginShown {
    fn of(plugin: &PluginView, swaps: Option<SwapCounts>) -> Self {
        let state = match (&plugin.serving, &plugin.last_error) {
            (Some(_), None) => Badge::new(Tone::Good, "serves"),
            (Some(_), Some(_)) => Badge::new(Tone::Warn, "serves; latest refused"),
            (None, Some(_)) => Badge::new(Tone::Bad, "refused"),
            (None, None) => Badge::new(Tone::Quiet, "removed"),
        };
        let serving = plugin.serving.iter();
        let serving = serving.map(|v| Version::of(v, Badge::new(Tone::Good, "serves")));
        let candidates = plugin.candidates.iter();
        let candidates = candidates.map(|v| Version::of(v, Badge::new(Tone::Busy, "candidate")));
        let previous = plugin.previous.iter().map(|version| Version {
            state: match version.rolled_back {
                true => Badge::new(Tone::Warn, "rolled back"),
                false => Badge::new(Tone::Quiet, "before"),
            },
            version: version.version.clone(),
            digest: version.digest.to_string(),
            digest_short: version.digest.short(),
            kind: None,
            handles: String::new(),
            profile: "",
            source: String::new(),
            signer: String::new(),
        });
        let down = plugin.down_on.iter().map(ToString::to_string);
        Self {
            name: plugin.name.to_string(),
            anchor: format!("plugin-{}", plugin.name),
            source: match &plugin.source {
                PluginSource::Bundled => "Bundled with this host".to_owned(),
                PluginSource::File { path } => format!("From {}", path.display()),
                PluginSource::Published => "From the bus".to_owned(),
            },
            state,
            error: plugin.last_error.clone().unwrap_or_default(),
            hint: plugin.hint.clone().unwrap_or_default(),
            versions: serving.chain(candidates).chain(previous).collect(),
            swaps: swaps.map(counted).unwrap_or_default(),
            down_on: down.collect::<Vec<_>>().join(", "),
        }
    }
}

fn counted(swaps: SwapCounts) -> String {
    format!(
        "{} in service, {} refused, {} put back",
        swaps.applied, swaps.refused, swaps.rolled_back
    )
}

impl Version {
    fn of(serving: &ServingView, state: Badge) -> Self {
        let handles = serving.handles.iter().map(ToString::to_string);
        Self {
            state,
            version: serving.version.clone(),
            digest: serving.digest.to_string(),
            digest_short: serving.digest.short(),
            kind: Some(match serving.kind {
                Kind::Real => Badge::new(Tone::Good, "real"),
                Kind::Mock => Badge::new(Tone::Quiet, "mock"),
            }),
            handles: handles.collect::<Vec<_>>().join(", "),
            profile: match serving.profile {
                Profile::Minimal => "minimal",
                Profile::Wasi => "wasi",
            },
            source: serving
                .source
                .as_ref()
                .map(|source| format!("{source:?}").to_lowercase())
                .unwrap_or_default(),
            signer: serving
                .signer
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

impl Directory {
    fn of(view: DirectoryView) -> Self {
        let state = match view.state {
            DirectoryStateView::Watched => Badge::new(Tone::Good, "watched"),
            DirectoryStateView::Polled => Badge::new(Tone::Warn, "polled"),
            DirectoryStateView::Missing => Badge::new(Tone::Bad, "missing"),
            DirectoryStateView::Unreadable => Badge::new(Tone::Bad, "unreadable"),
        };
        let refused = view.refused_files.into_iter();
        Self {
            path: view.path.display().to_string(),
            state,
            problem: view.problem.unwrap_or_default(),
            refused: refused
                .map(|file| (file.file, file.error, file.hint))
                .collect(),
        }
    }
}

impl Published {
    fn of(row: crate::control::PublishedRow) -> Self {
        let state = match &row.retracted_by {
            Some(by) => Badge::new(Tone::Warn, format!("retracted by {by}")),
            None => Badge::new(Tone::Good, "published"),
        };
        Self {
            name: row.name.to_string(),
            version: row.version,
            digest: row.digest.to_string(),
            digest_short: row.digest.short(),
            bytes: bytes(row.bytes),
            by: row.actor,
            at: When::of(row.published_at),
            state,
        }
    }
}
