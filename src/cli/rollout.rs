//! `rollout status|list|start|promote|pause|resume|abort`: rolling a plugin
//! version out, share by share.

mod tree;

pub(super) use tree::short;

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::Client;
use super::connection::Connection;
use super::decide::{meant, own};
use super::output::{Exit, Failure, Outcome, Output};
use super::{Config, Context, table};
use crate::api::RolloutRefused;
use crate::control::Reason;
use crate::millis::millis;
use crate::rollout::{Change, RolloutRow, State, Steps};
use crate::route::RouteKey;
use crate::selection::RolloutId;
use crate::steering::{RolloutView, steer};

#[derive(Subcommand)]
pub enum RolloutCommand {
    /// Show how a rollout is doing. Ends with 0 once it is promoted, 1 if it was
    /// rolled back or aborted, 3 while it is under way.
    Status {
        #[command(flatten)]
        which: Which,
        /// Follow it to its end.
        #[arg(short, long)]
        watch: bool,
    },
    /// List the rollouts, newest first.
    List,
    /// Roll a version out: a growing share of a route's tasks runs on it, as long
    /// as the gate passes at every step.
    Start {
        /// On which route, as `service/role`.
        #[arg(long)]
        route: RouteKey,
        /// Which version, as `plugin list` shows it; a digest may be cut short.
        #[arg(long, value_name = "NAME@DIGEST")]
        candidate: String,
        /// The shares in percent, one after the other.
        #[arg(long, value_name = "PERCENTS", default_value = "5,25,50,100")]
        steps: Steps,
        /// How long each step lasts at least.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
        interval: Duration,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
    },
    /// Take the present step for passed; after the last one, the candidate serves.
    Promote(Wish),
    /// Keep a rollout from going on. A candidate that fails is still rolled back.
    Pause(Wish),
    /// Let a paused rollout go on.
    Resume(Wish),
    /// End a rollout: stable serves all tasks again, at once.
    Abort(Wish),
}

/// Which rollout; without any, the one that is under way.
#[derive(Args)]
pub struct Which {
    /// Which rollout, as `rollout list` shows it.
    #[arg(conflicts_with = "route")]
    id: Option<RolloutId>,
    /// The latest of this `service/role`.
    #[arg(long)]
    route: Option<RouteKey>,
}

#[derive(Args)]
pub struct Wish {
    #[command(flatten)]
    which: Which,
    /// Why; recorded with your name.
    #[arg(long, value_name = "TEXT")]
    reason: Option<Reason>,
}

/// How often a rollout that is followed is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How far back rollouts are listed.
const LIMIT: u32 = 200;

pub async fn rollout(context: Context, command: RolloutCommand) -> Outcome {
    let config = context.config()?;
    let wish = |wish: Wish| (wish.which, wish.reason);
    let ((which, reason), name, change) = match command {
        RolloutCommand::Status { which, watch } => {
            let connection = Connection::read(&config).await?;
            let row = which.find(&connection).await?;
            return match watch {
                true => follow(context.output, &connection, &config, row).await,
                false => show(context.output, &connection, &config, row).await,
            };
        }
        RolloutCommand::List => {
            let connection = Connection::read(&config).await?;
            let rows = connection.store.rollouts(LIMIT).await?;
            context
                .output
                .answer("rollout-list", &rows, || listing(&rows))?;
            return Ok(Exit::Ok);
        }
        RolloutCommand::Start {
            route,
            candidate,
            steps,
            interval,
            reason,
        } => {
            let order = json!({
                "route": route,
                "candidate": candidate,
                "steps": steps,
                "interval_ms": millis(interval),
                "reason": reason,
            });
            let host = desk(&config).await?;
            let row: RolloutRow = host.post("/api/rollouts", &order).await?;
            context.output.answer("rollout-start", &row, || {
                format!(
                    "rollout {0} of {1} on {2}: {3} %, each for {4} at least\n`cogo-host rollout status {0} -w` follows it, `cogo-host rollout abort {0}` ends it",
                    row.id, row.plugin, row.route, row.steps, humantime::format_duration(interval),
                )
            })?;
            return Ok(Exit::Ok);
        }
        RolloutCommand::Promote(it) => (wish(it), "promote", Change::Promote),
        RolloutCommand::Pause(it) => (wish(it), "pause", Change::Pause),
        RolloutCommand::Resume(it) => (wish(it), "resume", Change::Resume),
        RolloutCommand::Abort(it) => (wish(it), "abort", Change::Abort),
    };
    let connection = Connection::write(&config).await?;
    let row = which.find(&connection).await?;
    let row = connection.steer(&row.id, name, &change, reason).await?;
    let schema = format!("rollout-{name}");
    context.output.answer(&schema, &row, || {
        format!(
            "rollout {} is {}; `cogo-host trace {}` tells its story",
            row.id,
            tree::standing(&row),
            row.trace_id
        )
    })?;
    Ok(Exit::Ok)
}

impl Which {
    async fn find(&self, connection: &Connection) -> Outcome<RolloutRow> {
        if let Some(id) = &self.id {
            let row = connection.store.rollout(id).await?;
            return row.ok_or_else(|| refused(RolloutRefused::Unknown(id.clone())));
        }
        let mut rows = connection.store.rollouts(LIMIT).await?;
        if let Some(route) = &self.route {
            rows.retain(|row| row.route == *route);
        }
        match meant(&rows, |row| row.state.is_active()) {
            Ok(row) => Ok(row),
            Err(several) if several.is_empty() => Err(
                Failure::message(Exit::NotFound, "rollout_not_found", "there is no rollout").hint(
                    "`cogo-host rollout start --route ROUTE --candidate NAME@DIGEST --reason TEXT` begins one",
                ),
            ),
            Err(several) => {
                let known: Vec<String> = several
                    .iter()
                    .map(|row| format!("{} on {}", row.id, row.route))
                    .collect();
                let problem = "several rollouts are under way";
                Err(Failure::message(Exit::Usage, "rollout_ambiguous", problem)
                    .hint(format!("name one: {}", known.join(", "))))
            }
        }
    }
}

impl Connection {
    async fn steer(
        &self,
        id: &RolloutId,
        name: &str,
        change: &Change,
        reason: Option<Reason>,
    ) -> Outcome<RolloutRow> {
        if let Some(host) = &self.host {
            let path = format!("/api/rollouts/{id}/{name}");
            return host.post(&path, &json!({ "reason": reason })).await;
        }
        match steer(&*self.store, id, change, &own(reason)).await {
            Ok(row) => Ok(row),
            Err(not_steered) => Err(refused(RolloutRefused::of(not_steered)?)),
        }
    }
}

/// A running host of the bus: only one can tell whether a candidate would run.
pub(super) async fn desk(config: &Config) -> Outcome<Client> {
    let connection = Connection::write(config).await?;
    if let Some(host) = connection.host {
        return Ok(host);
    }
    let hosts = connection.store.hosts().await?;
    let mut live = hosts.into_iter().filter(|host| host.is_live());
    let api = live.find_map(|host| host.api).ok_or_else(|| {
        let problem = "no host of this bus runs, and only one can tell whether a candidate would";
        Failure::message(Exit::Unavailable, "host_unreachable", problem)
            .hint("start one with `cogo-host run`")
    })?;
    Client::new(&api, config.listen.token.clone())
}

fn refused(refused: RolloutRefused) -> Failure {
    let exit = match refused {
        RolloutRefused::Unknown(_) => Exit::NotFound,
        _ => Exit::Usage,
    };
    let (code, hint) = (refused.code(), refused.hint());
    Failure::new(exit, code, refused).maybe_hint(hint)
}

async fn view(connection: &Connection, config: &Config, row: RolloutRow) -> Outcome<RolloutView> {
    let thresholds = &config.gate.thresholds;
    Ok(RolloutView::read(&*connection.store, row, thresholds).await?)
}

async fn show(
    output: Output,
    connection: &Connection,
    config: &Config,
    row: RolloutRow,
) -> Outcome {
    let view = view(connection, config, row).await?;
    output.answer("rollout-status", &view, || tree::tree(&view))?;
    Ok(exit(&view.row.state))
}

/// Shows it whenever it changes, in place where somebody sits before it.
async fn follow(
    output: Output,
    connection: &Connection,
    config: &Config,
    mut row: RolloutRow,
) -> Outcome {
    let in_place = !output.json && stdout().is_terminal();
    let mut shown = String::new();
    loop {
        let id = row.id.clone();
        let view = view(connection, config, row).await?;
        let tree = tree::tree(&view);
        // What only grew older is no news where it would be one more line.
        let news = match in_place {
            true => tree.clone(),
            false => format!("{:?} {:?}", view.row.revision, view.hosts),
        };
        if news != shown {
            let back = match shown.lines().count() {
                lines if in_place && lines > 0 => format!("\u{1b}[{lines}A\u{1b}[J"),
                _ => String::new(),
            };
            output.line("rollout-status", &view, || back + &tree)?;
            shown = news;
        }
        if !view.row.state.is_active() {
            return Ok(exit(&view.row.state));
        }
        tokio::time::sleep(LOOK).await;
        let again = connection.store.rollout(&id).await?;
        row = again.ok_or_else(|| refused(RolloutRefused::Unknown(id)))?;
    }
}

const fn exit(state: &State) -> Exit {
    match state {
        State::Promoted { .. } => Exit::Ok,
        State::RolledBack { .. } | State::Aborted { .. } => Exit::Negative,
        State::Waiting | State::Step { .. } | State::Held { .. } | State::Paused { .. } => {
            Exit::Inconclusive
        }
    }
}

fn listing(rows: &[RolloutRow]) -> String {
    let header = [
        "ROLLOUT", "ROUTE", "PLUGIN", "STATE", "STARTED", "BY", "WHY",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.id.to_string(),
            row.route.to_string(),
            format!("{} {}", row.plugin, row.candidate.short()),
            tree::standing(row),
            row.started_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            row.started_by.clone(),
            row.reason.clone().unwrap_or_default(),
        ]
    });
    table::table(header, rows)
}
