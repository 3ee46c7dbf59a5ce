//! `shadow start|stop|list|report`: having a version run tasks beside what
//! serves, and what that came to.

use std::fmt::Write as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::connection::Connection;
use super::decide::{meant, own};
use super::gate;
use super::output::{Exit, Failure, Outcome};
use super::rollout::desk;
use super::{Config, Context, table};
use crate::api::ShadowRefused;
use crate::attempt::SideEffects;
use crate::control::Reason;
use crate::ids::ShadowId;
use crate::route::RouteKey;
use crate::shadow::difference::told;
use crate::shadow::{ShadowRow, ShadowRunRow};
use crate::steering::ShadowView;
use crate::store::EndedShadow;

#[derive(Subcommand)]
pub enum ShadowCommand {
    /// Have a version run tasks of a route again, once they have ended. Its results
    /// are compared and never returned.
    Start {
        /// On which route, as `service/role`.
        #[arg(long)]
        route: RouteKey,
        /// Which version, as `plugin list` shows it; a digest may be cut short.
        #[arg(long, value_name = "NAME@DIGEST")]
        candidate: String,
        /// How many of a hundred tasks.
        #[arg(long, value_name = "PERCENT", default_value = "100", value_parser = clap::value_parser!(u8).range(1..=100))]
        share: u8,
        /// What it may do: `refuse` lets it only GET and HEAD, so that an adapter of
        /// a worker, which POSTs, says nothing; `allow` all that its plugin may, so
        /// that the work is done twice, under an idempotency key of its own.
        #[arg(long, default_value = "refuse")]
        side_effects: Effects,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
    },
    /// End a shadow. What it found stays.
    Stop {
        #[command(flatten)]
        which: Which,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
    /// List the shadows, newest first.
    List,
    /// Show what a shadow found, or with `compare`, what `run --compare` did. Ends
    /// with 0 if it agrees, 1 if it differs, 3 if too little was compared.
    Report {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Effects {
    Refuse,
    Allow,
}

impl From<Effects> for SideEffects {
    fn from(effects: Effects) -> Self {
        match effects {
            Effects::Refuse => Self::Refuse,
            Effects::Allow => Self::Allow,
        }
    }
}

/// Which shadow; without any, the one that is under way.
#[derive(Args)]
pub struct Which {
    /// Which shadow, as `shadow list` shows it, or `compare`.
    id: Option<ShadowId>,
    /// The latest of this `service/role`; of `compare`, this route alone.
    #[arg(long)]
    route: Option<RouteKey>,
}

/// How far back shadows are listed.
const LIMIT: u32 = 200;

pub async fn shadow(context: Context, command: ShadowCommand) -> Outcome {
    let config = context.config()?;
    match command {
        ShadowCommand::Start {
            route,
            candidate,
            share,
            side_effects,
            reason,
        } => {
            let order = json!({
                "route": route,
                "candidate": candidate,
                "share": share,
                "side_effects": SideEffects::from(side_effects),
                "reason": reason,
            });
            let host = desk(&config).await?;
            let row: ShadowRow = host.post("/api/shadows", &order).await?;
            context.output.answer("shadow-start", &row, || {
                format!(
                    "shadow {0}: {1} runs {2} of {3} again, side effects {4}\n`cogo-host shadow report {0}` shows what it finds, `cogo-host shadow stop {0}` ends it",
                    row.id, row.plugin, row.share, row.route, effects(row.side_effects),
                )
            })?;
            Ok(Exit::Ok)
        }
        ShadowCommand::Stop { which, reason } => {
            let connection = Connection::write(&config).await?;
            let id = which.find(&connection).await?;
            let row = connection.stop_shadow(&id, reason).await?;
            context.output.answer("shadow-stop", &row, || {
                format!(
                    "shadow {0} has ended; `cogo-host shadow report {0}` shows what it found",
                    row.id
                )
            })?;
            Ok(Exit::Ok)
        }
        ShadowCommand::List => {
            let connection = Connection::read(&config).await?;
            let rows = connection.store.shadows(LIMIT).await?;
            context
                .output
                .answer("shadow-list", &rows, || listing(&rows))?;
            Ok(Exit::Ok)
        }
        ShadowCommand::Report { which } => report(&context, &config, which).await,
    }
}

impl Which {
    async fn find(&self, connection: &Connection) -> Outcome<ShadowId> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let mut rows = connection.store.shadows(LIMIT).await?;
        if let Some(route) = &self.route {
            rows.retain(|row| row.route == *route);
        }
        match meant(&rows, |row| row.ended_at.is_none()) {
            Ok(row) => Ok(row.id),
            Err(several) if several.is_empty() => Err(
                Failure::message(Exit::NotFound, "shadow_not_found", "there is no shadow").hint(
                    "`cogo-host shadow start --route ROUTE --candidate NAME@DIGEST --reason TEXT` begins one",
                ),
            ),
            Err(several) => {
                let known = several.iter().map(|row| format!("{} on {}", row.id, row.route));
                let known: Vec<String> = known.collect();
                let problem = "several shadows are under way";
                Err(Failure::message(Exit::Usage, "shadow_ambiguous", problem)
                    .hint(format!("name one: {}", known.join(", "))))
            }
        }
    }
}

impl Connection {
    async fn stop_shadow(&self, id: &ShadowId, reason: Option<Reason>) -> Outcome<ShadowRow> {
        if let Some(host) = &self.host {
            let path = format!("/api/shadows/{id}/stop");
            return host.post(&path, &json!({ "reason": reason })).await;
        }
        match self.store.end_shadow(id, &own(reason)).await? {
            EndedShadow::Now(row) => Ok(row),
            EndedShadow::Over(_) => Err(refused(ShadowRefused::Over(id.clone()))),
            EndedShadow::Unknown => Err(refused(ShadowRefused::Unknown(id.clone()))),
        }
    }
}

fn refused(refused: ShadowRefused) -> Failure {
    let exit = match refused {
        ShadowRefused::Unknown(_) => Exit::NotFound,
        _ => Exit::Usage,
    };
    let (code, hint) = (refused.code(), refused.hint());
    Failure::new(exit, code, refused).maybe_hint(hint)
}

async fn report(context: &Context, config: &Config, which: Which) -> Outcome {
    let connection = Connection::read(config).await?;
    let id = which.find(&connection).await?;
    let thresholds = &config.gate.thresholds;
    let view = ShadowView::read(&*connection.store, &id, which.route, thresholds).await?;
    let view = view.ok_or_else(|| refused(ShadowRefused::Unknown(id)))?;
    context
        .output
        .answer("shadow-report", &view, || shown(&view))?;
    Ok(gate::exit(view.gate.verdict))
}

const fn effects(side_effects: SideEffects) -> &'static str {
    match side_effects {
        SideEffects::Refuse => "refused",
        SideEffects::Allow => "allowed",
    }
}

/// The report: the verdict, what it rests on, and some of what differs.
fn shown(view: &ShadowView) -> String {
    let tally = &view.tally;
    let mut text = match &view.row {
        Some(row) => format!(
            "{}  {}: {} {}  {} of tasks, side effects {}, {}: {}",
            row.id,
            row.route,
            row.plugin,
            row.candidate.short(),
            row.share,
            effects(row.side_effects),
            standing(row),
            view.gate.verdict,
        ),
        None => format!("{}  real and mock: {}", view.id, view.gate.verdict),
    };
    for check in &view.gate.checks {
        line(&mut text, format_args!("├─ {}", gate::line(check)));
    }
    let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    line(
        &mut text,
        format_args!(
            "├─ durations: p50 {} beside {}, p90 {} beside {}",
            ms(tally.p50_ms),
            ms(tally.stable_p50_ms),
            ms(tally.p90_ms),
            ms(tally.stable_p90_ms),
        ),
    );
    let kinds = tally.differences.iter();
    let kinds: Vec<String> = kinds.map(|(kind, n)| format!("{kind} {n}")).collect();
    let kinds = match kinds.is_empty() {
        true => "none".to_owned(),
        false => kinds.join(", "),
    };
    line(&mut text, format_args!("├─ differences: {kinds}"));
    for run in &view.sample {
        line(&mut text, format_args!("│    {}", run_line(run)));
    }
    if view.effects_refused > 0 {
        line(
            &mut text,
            format_args!(
                "├─ {} of the latest runs needed more than GET and HEAD, which is refused: stop it, and start it with `--side-effects allow` where the work may be done twice",
                view.effects_refused
            ),
        );
    }
    for host in view.hosts.iter().filter(|host| !host.ready) {
        let host = &host.host;
        line(
            &mut text,
            format_args!("├─ host {host}: does not have the version, and runs no shadow"),
        );
    }
    let dropped = view.row.as_ref().map(|row| row.dropped);
    let silent = tally.runs.saturating_sub(tally.compared);
    let dropped = dropped.map(|n| format!(", {n} dropped since nothing was spare"));
    line(
        &mut text,
        format_args!(
            "└─ {} runs, {silent} of them say nothing{}",
            tally.runs,
            dropped.unwrap_or_default()
        ),
    );
    text
}

/// What one task came to, and what a shadow of it did.
fn run_line(row: &ShadowRunRow) -> String {
    let run = &row.run;
    format!(
        "task {} (trace {}): {}",
        run.message_id,
        run.trace_id,
        told(&run.stable_seen, &run.candidate_seen, &run.comparison)
    )
}

fn standing(row: &ShadowRow) -> String {
    match &row.ended_by {
        Some(by) => format!("ended by {by}"),
        None => "under way".to_owned(),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{line}");
}

fn listing(rows: &[ShadowRow]) -> String {
    let header = [
        "SHADOW", "ROUTE", "PLUGIN", "SHARE", "EFFECTS", "STATE", "STARTED", "BY", "WHY",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.id.to_string(),
            row.route.to_string(),
            format!("{} {}", row.plugin, row.candidate.short()),
            row.share.to_string(),
            effects(row.side_effects).to_owned(),
            standing(row),
            row.started_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            row.started_by.clone(),
            row.reason.clone().unwrap_or_default(),
        ]
    });
    table::table(header, rows)
}
