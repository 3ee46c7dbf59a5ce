//! `fallback approve|revoke|list`: letting the mock stand in for a real executor
//! that is down, for a while.

use std::time::Duration;

use clap::Subcommand;

use super::connection::Connection;
use super::output::{Exit, Failure, Outcome};
use super::{Context, table};
use crate::api::RevokedView;
use crate::control::{ApprovalRow, Reason};
use crate::route::RouteKey;
use crate::selection::ApprovalId;

#[derive(Subcommand)]
pub enum FallbackCommand {
    /// Let the mock stand in on a held route, until the time is over or it is
    /// revoked. Its results are stamped and never count as real.
    Approve {
        /// Which route, as `service/role`.
        #[arg(long)]
        route: RouteKey,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
        /// For how long, such as `30m`; at most 7 days.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Take an approval back before its time, or all of a route.
    Revoke {
        /// Which approval, as `fallback list` shows it.
        #[arg(required_unless_present = "route", conflicts_with = "route")]
        id: Option<String>,
        /// All that are in force for this `service/role`.
        #[arg(long)]
        route: Option<RouteKey>,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
    /// List the approvals, newest first.
    List {
        /// Those that are over, too.
        #[arg(long)]
        all: bool,
    },
}

/// How far back approvals are listed.
const LIMIT: u32 = 200;

pub async fn fallback(context: Context, command: FallbackCommand) -> Outcome {
    let config = context.config()?;
    match command {
        FallbackCommand::Approve { route, reason, ttl } => {
            let connection = Connection::write(&config).await?;
            let approval = connection.approve(&route, reason, ttl).await?;
            context.output.answer("fallback-approve", &approval, || {
                format!(
                    "{}: the mock may stand in on {route} until {}\n`cogo-host fallback revoke {}` takes it back",
                    approval.id,
                    approval.expires_at.to_rfc3339(),
                    approval.id
                )
            })?;
        }
        FallbackCommand::Revoke { id, route, reason } => {
            let connection = Connection::write(&config).await?;
            let ids = match (id, route) {
                (Some(id), _) => vec![ApprovalId(id)],
                (None, Some(route)) => in_force(&connection, &route).await?,
                (None, None) => Vec::new(),
            };
            let mut revoked: Vec<RevokedView> = Vec::with_capacity(ids.len());
            for id in ids {
                revoked.push(connection.revoke(&id, reason.clone()).await?);
            }
            context.output.answer("fallback-revoke", &revoked, || {
                let lines = revoked.iter().map(|one| {
                    let trace = &one.trace_id;
                    format!(
                        "{} is revoked; `cogo-host trace {trace}` shows who and why",
                        one.id
                    )
                });
                lines.collect::<Vec<_>>().join("\n")
            })?;
        }
        FallbackCommand::List { all } => {
            let connection = Connection::read(&config).await?;
            let mut approvals = connection.store.approvals(LIMIT).await?;
            approvals.retain(|approval| all || approval.left_ms > 0);
            context
                .output
                .answer("fallback-list", &approvals, || listing(&approvals))?;
        }
    }
    Ok(Exit::Ok)
}

async fn in_force(connection: &Connection, route: &RouteKey) -> Outcome<Vec<ApprovalId>> {
    let approvals = connection.store.controls().await?.approvals;
    let of_route = approvals.into_iter().filter(|a| a.route == *route);
    let ids: Vec<ApprovalId> = of_route.map(|approval| approval.id).collect();
    if ids.is_empty() {
        let problem = format!("no approval is in force for {route}");
        return Err(
            Failure::message(Exit::NotFound, "approval_not_found", problem)
                .hint("`cogo-host fallback list` shows those that are"),
        );
    }
    Ok(ids)
}

fn listing(approvals: &[ApprovalRow]) -> String {
    if approvals.is_empty() {
        return "no approval is in force".to_owned();
    }
    let rows = approvals.iter().map(|approval| {
        let left = Duration::from_secs(approval.left_ms / 1000);
        let state = match (&approval.revoked_by, approval.left_ms) {
            (Some(by), _) => format!("revoked by {by}"),
            (None, 0) => "expired".to_owned(),
            (None, _) => format!("in force, {} left", humantime::format_duration(left)),
        };
        [
            approval.id.to_string(),
            approval.route.to_string(),
            approval.approver.clone(),
            state,
            approval.reason.clone(),
        ]
    });
    table::table(["ID", "ROUTE", "BY", "STATE", "REASON"], rows)
}
