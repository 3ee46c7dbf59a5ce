//! `route list|pause|resume`: what each route runs, and stopping it.

use std::collections::BTreeSet;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, ask_host};
use super::output::{Exit, Outcome};
use super::{Context, table};
use crate::api::{DecidedView, ExecutorNow, RouteDecided, RouteView};
use crate::breaker::State;
use crate::config::Config;
use crate::control::{Controls, Reason};
use crate::route::{KnownRole, Policy, RouteKey};
use crate::selection::HoldReason;

#[derive(Subcommand)]
pub enum RouteCommand {
    /// List the routes: what runs their tasks, or why they wait.
    List,
    /// Let the tasks of a route wait, on every host; those that run go on.
    Pause {
        /// Which route, as `service/role`.
        route: RouteKey,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
    /// Let a paused route go on.
    Resume {
        /// Which route, as `service/role`.
        route: RouteKey,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
}

/// The answer of `GET /api/routes`.
#[derive(Deserialize)]
struct Routes {
    routes: Vec<RouteView>,
}

/// A route, as far as it is known.
#[derive(Serialize)]
struct Listed {
    route: RouteKey,
    policy: Policy,
    /// What a running host says that it does; only that host knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<ExecutorNow>,
    decided: RouteDecided,
}

pub async fn route(context: Context, command: RouteCommand) -> Outcome {
    let config = context.config()?;
    match command {
        RouteCommand::List => {
            let answer: Option<Routes> = ask_host(&config, "/api/routes").await?;
            let listed: Vec<Listed> = match answer {
                Some(answer) => answer.routes.into_iter().map(Listed::from).collect(),
                None => {
                    let connection = Connection::read(&config).await?;
                    decided(&config, &connection.store.controls().await?)
                }
            };
            context
                .output
                .answer("route-list", &listed, || listing(&listed))?;
            if listed.iter().all(|listed| listed.now.is_none()) {
                let unknown = "no host of this bus answers here: what runs a route is not known";
                context.output.note(unknown);
            }
        }
        RouteCommand::Pause { route, reason } => {
            let connection = Connection::write(&config).await?;
            let done = connection.pause(&route, true, reason).await?;
            context.output.answer("route-pause", &done, || {
                let undo = format!("`cogo-host route resume {route}` lets it go on");
                told(
                    &done,
                    &format!("{route} is paused on every host; {undo}"),
                    "was paused",
                )
            })?;
        }
        RouteCommand::Resume { route, reason } => {
            let connection = Connection::write(&config).await?;
            let done = connection.pause(&route, false, reason).await?;
            context.output.answer("route-resume", &done, || {
                told(
                    &done,
                    &format!("{route} is paused no more"),
                    "was not paused",
                )
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn told(done: &DecidedView, changed: &str, already: &str) -> String {
    match &done.trace_id {
        Some(trace) => format!("{changed}\n`cogo-host trace {trace}` shows who and why"),
        None => format!("{} {already} before", done.route),
    }
}

impl From<RouteView> for Listed {
    fn from(view: RouteView) -> Self {
        Self {
            route: view.route,
            policy: view.policy,
            now: Some(view.now),
            decided: view.decided,
        }
    }
}

/// What the bus alone says.
fn decided(config: &Config, controls: &Controls) -> Vec<Listed> {
    let known = KnownRole::ALL.into_iter().map(KnownRole::key);
    let configured = config.routes.keys().cloned();
    let mut all: BTreeSet<RouteKey> = known.chain(configured).collect();
    all.extend(controls.flags.keys().cloned());
    all.extend(controls.pauses.keys().cloned());
    let listed = all.into_iter().map(|route| {
        let approvals = controls.approvals.iter();
        let breakers = controls.breakers.iter();
        let breakers = breakers.filter(|b| b.path.route == route);
        let rollouts = controls.rollouts.iter();
        Listed {
            policy: config.policy(&route),
            now: None,
            decided: RouteDecided {
                flag: controls.flags.get(&route).cloned(),
                pause: controls.pauses.get(&route).cloned(),
                approval: approvals.clone().find(|a| a.route == route).cloned(),
                breaker: breakers.clone().next().cloned(),
                rollout: rollouts.clone().find(|r| r.route == route).cloned(),
            },
            route,
        }
    });
    listed.collect()
}

fn listing(routes: &[Listed]) -> String {
    let header = [
        "ROUTE",
        "POLICY",
        "STATE",
        "EXECUTOR",
        "FLAG",
        "REAL PATH",
        "WHY",
    ];
    let rows = routes.iter().map(|listed| {
        let decided = &listed.decided;
        let flag = match decided.flag.as_ref().map(|flag| flag.enabled) {
            Some(true) => "on",
            Some(false) => "off",
            None => "-",
        };
        let real_path = match decided.breaker.as_ref().map(|b| &b.state) {
            None | Some(State::Closed) => "-".to_owned(),
            Some(State::Open { probe_in_ms: 0, .. }) => "down, probe is due".to_owned(),
            Some(State::Open { probe_in_ms, .. }) => {
                format!("down, probed in {} s", probe_in_ms.div_ceil(1_000))
            }
            Some(State::Probing { .. }) => "down, probed now".to_owned(),
        };
        let (state, executor) = state(listed);
        [
            listed.route.to_string(),
            format!("{:?}", listed.policy).to_lowercase(),
            state,
            executor,
            flag.to_owned(),
            real_path,
            why(decided),
        ]
    });
    table::table(header, rows)
}

fn state(listed: &Listed) -> (String, String) {
    match &listed.now {
        Some(ExecutorNow::Runs { executor, why }) => {
            let stands_in = if why.fallback { " (fallback)" } else { "" };
            let executor = format!("{} {}{stands_in}", executor.name, executor.version);
            ("runs".to_owned(), executor)
        }
        Some(ExecutorNow::Held { reason }) => {
            let why = match reason {
                HoldReason::Paused => "paused",
                HoldReason::FlagOff => "flag off",
                HoldReason::BreakerOpen => "real path down",
            };
            (format!("held: {why}"), String::new())
        }
        Some(ExecutorNow::Missing { .. }) => ("cannot run".to_owned(), String::new()),
        None if listed.decided.pause.is_some() => ("held: paused".to_owned(), String::new()),
        None => ("-".to_owned(), String::new()),
    }
}

/// The reason that concerns the route most.
fn why(decided: &RouteDecided) -> String {
    if let Some(pause) = &decided.pause {
        return format!(
            "{}: {}",
            pause.actor,
            pause.reason.as_deref().unwrap_or("-")
        );
    }
    if let Some(approval) = &decided.approval {
        return format!(
            "{} by {}: {}",
            approval.id, approval.approver, approval.reason
        );
    }
    let outage = decided.breaker.as_ref().and_then(|b| b.state.outage());
    match (outage, &decided.flag) {
        (Some(outage), _) => outage.cause.to_string(),
        (None, Some(flag)) => {
            format!("{}: {}", flag.actor, flag.reason.as_deref().unwrap_or("-"))
        }
        (None, None) => String::new(),
    }
}
