//! `plugin list`: what serves, what was refused, what there is to go back to, and
//! what lies on the bus.

use serde::{Deserialize, Serialize};

use super::super::connection::{Connection, ask_host};
use super::super::output::{Exit, Outcome};
use super::super::rollout::short;
use super::super::{Context, run, table};
use crate::api::{DirectoryView, PluginSource, PluginView};
use crate::config::Config;
use crate::control::PublishedRow;
use crate::host::{self, Swapper};

/// More versions than anybody reads.
const MAX_LISTED: u32 = 1_000;

/// The answer of `GET /api/plugins`, and where it comes from.
#[derive(Serialize, Deserialize)]
struct Listing {
    /// A running host told; else these are what one would load.
    #[serde(default)]
    running: bool,
    plugins: Vec<PluginView>,
    directory: Option<DirectoryView>,
    /// What was ever put on the bus for every host, latest first.
    #[serde(default)]
    published: Vec<PublishedRow>,
}

pub fn list(context: &Context) -> Outcome {
    let config = context.config()?;
    let listing = run::with_guests(&config, async |guests| {
        if let Some(listing) = of_running_host(&config).await? {
            return Ok(listing);
        }
        let loader = host::plugin_loader(&config, guests)?;
        let started = Swapper::start(&config, loader).await?;
        Ok(Listing {
            running: false,
            plugins: host::plugin_views(&config, started.swapper.catalog()),
            directory: host::directory_view(&started.swapper),
            published: on_the_bus(&config).await?,
        })
    })?;
    context
        .output
        .answer("plugin-list", &listing, || shown(&listing))?;
    Ok(Exit::Ok)
}

/// What is published, where there is a bus by now.
async fn on_the_bus(config: &Config) -> Outcome<Vec<PublishedRow>> {
    let connection = match Connection::read(config).await {
        Ok(connection) => connection,
        // Nobody made one yet.
        Err(failure) if failure.exit == Exit::NotFound => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    Ok(connection.store.published(MAX_LISTED).await?)
}

async fn of_running_host(config: &Config) -> Outcome<Option<Listing>> {
    #[derive(Deserialize)]
    struct OnTheBus {
        published: Vec<PublishedRow>,
    }
    let listing: Option<Listing> = ask_host(config, "/api/plugins").await?;
    let published: Option<OnTheBus> = ask_host(config, "/api/plugins/published").await?;
    Ok(listing.zip(published).map(|(listing, on_the_bus)| Listing {
        running: true,
        published: on_the_bus.published,
        ..listing
    }))
}

fn shown(listing: &Listing) -> String {
    let mut lines = vec![serving(&listing.plugins)];
    let mut problem = |error: &str, hint: &str| {
        lines.push(format!("refused  {error}\n   hint: {hint}"));
    };
    for plugin in &listing.plugins {
        if let Some(error) = &plugin.last_error {
            problem(error, plugin.hint.as_deref().unwrap_or_default());
        }
    }
    if let Some(directory) = &listing.directory {
        for file in &directory.refused_files {
            problem(&file.error, &file.hint);
        }
        if let Some(problem) = &directory.problem {
            lines.push(format!("{}: {problem}", directory.path.display()));
        }
    }
    if !listing.published.is_empty() {
        lines.push(format!("\non the bus\n{}", published(&listing.published)));
    }
    lines.join("\n")
}

fn published(rows: &[PublishedRow]) -> String {
    let header = [
        "NAME", "VERSION", "DIGEST", "SIGNED", "BY", "SINCE", "STATE",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.name.to_string(),
            row.version.clone(),
            short(&row.digest),
            if row.signature.is_some() { "yes" } else { "no" }.to_owned(),
            row.actor.clone(),
            row.published_at.format("%Y-%m-%d %H:%M").to_string(),
            match row.retracted_at {
                Some(_) => "retracted",
                None => "published",
            }
            .to_owned(),
        ]
    });
    table::table(header, rows)
}

fn serving(plugins: &[PluginView]) -> String {
    let header = [
        "NAME", "VERSION", "KIND", "SOURCE", "HANDLES", "DIGEST", "STATE",
    ];
    let mut rows = Vec::new();
    for plugin in plugins {
        let source = match plugin.source {
            PluginSource::Bundled => "bundled",
            PluginSource::File { .. } => "directory",
            PluginSource::Published => "published",
        };
        let [version, kind, source, handles, digest] = match &plugin.serving {
            Some(serving) => {
                let handles: Vec<String> =
                    serving.handles.iter().map(ToString::to_string).collect();
                [
                    serving.version.clone(),
                    format!("{:?}", serving.kind).to_lowercase(),
                    source.to_owned(),
                    handles.join(", "),
                    short(&serving.digest),
                ]
            }
            None => Default::default(),
        };
        let name = plugin.name.to_string();
        rows.push([name, version, kind, source, handles, digest, state(plugin)]);
        for version in &plugin.candidates {
            let row = [
                "",
                &version.version,
                &format!("{:?}", version.kind).to_lowercase(),
                &version
                    .source
                    .map_or(String::new(), |source| format!("{source:?}").to_lowercase()),
                "",
                &short(&version.digest),
                "candidate",
            ];
            rows.push(row.map(str::to_owned));
        }
        for version in &plugin.previous {
            let note = if version.rolled_back {
                "rolled back"
            } else {
                "previous"
            };
            let row = [
                "",
                &version.version,
                "",
                "",
                "",
                &short(&version.digest),
                note,
            ];
            rows.push(row.map(str::to_owned));
        }
    }
    table::table(header, rows)
}

fn state(plugin: &PluginView) -> String {
    let mut states = vec![match plugin.serving {
        Some(_) => "serves",
        None => "does not serve",
    }];
    if plugin.rolled_back_from.is_some() {
        states.push("rolled back");
    }
    if plugin.last_error.is_some() {
        states.push("its file is refused");
    }
    let mut shown = states.join(", ");
    for route in &plugin.down_on {
        shown += &format!(", down on {route}");
    }
    shown
}
