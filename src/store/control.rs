//! What is decided about routes, as it goes to and comes from every database.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cells::{Cells, Columns, Step};
use crate::breaker::{Cause, Evidence, RealPath, State};
use crate::control::{
    ApprovalRow, Controls, Decider, Decision, FlagRow, PauseRow, PublishedRow, Reason, ServingRow,
};
use crate::event::NewEvent;
use crate::ids::{Digest, PluginName};
use crate::route::RouteKey;

/// A permission to use the mock, as it is asked for.
#[derive(Debug, Clone)]
pub struct NewApproval {
    pub route: RouteKey,
    pub reason: Reason,
    pub by: Decider,
    /// How long it is in force.
    pub ttl: Duration,
}

/// A plugin version as it is handed in.
#[derive(Debug, Clone)]
pub struct NewPublished<'a> {
    pub name: &'a PluginName,
    pub version: &'a str,
    pub digest: Digest,
    pub bytes: &'a [u8],
    /// In minisign's format.
    pub signature: Option<&'a str>,
    pub decision: &'a Decision,
}

/// A published component, as it was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub bytes: Bytes,
    pub signature: Option<String>,
}

/// What a real path met lately. There is none of a path that met no failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathEvidence {
    pub path: RealPath,
    pub evidence: Evidence,
}

/// A change of a breaker, made only if nobody else made one before.
#[derive(Debug, Clone, Copy)]
pub struct BreakerMove<'a> {
    pub path: &'a RealPath,
    /// What is changed; 0 where the bus has no row yet.
    pub revision: i64,
    pub to: &'a State,
    pub events: &'a [NewEvent],
}

/// A state in columns.
pub(super) struct StateCells<'a> {
    pub(super) state: &'static str,
    pub(super) cause: Option<Cause>,
    pub(super) failed_probes: u32,
    pub(super) probe_in: Option<Duration>,
    pub(super) holder: Option<&'a str>,
    pub(super) probe_left: Option<Duration>,
}

impl<'a> BreakerMove<'a> {
    pub(super) fn cells(&self) -> StateCells<'a> {
        let cells = StateCells {
            state: "closed",
            cause: self.to.outage().map(|outage| outage.cause),
            failed_probes: self.to.outage().map_or(0, |outage| outage.failed_probes),
            probe_in: None,
            holder: None,
            probe_left: None,
        };
        match self.to {
            State::Closed => cells,
            State::Open { probe_in_ms, .. } => StateCells {
                state: "open",
                probe_in: Some(Duration::from_millis(*probe_in_ms)),
                ..cells
            },
            State::Probing {
                holder, left_ms, ..
            } => StateCells {
                state: "probing",
                holder: Some(holder),
                probe_left: Some(Duration::from_millis(*left_ms)),
                ..cells
            },
        }
    }
}

/// Everything that was decided, in one cell. A row that makes no sense is told
/// of and does not hide the others.
pub(super) fn controls<R: Columns>(cells: &Cells<'_, R>) -> Step<Controls> {
    #[derive(Deserialize)]
    struct Tables {
        flags: Vec<Value>,
        pauses: Vec<Value>,
        approvals: Vec<Value>,
        breakers: Vec<Value>,
        serving: Vec<Value>,
        rollouts: Vec<Value>,
        published: Vec<Value>,
        shadows: Vec<Value>,
    }
    let text = cells.required_text("controls")?;
    let tables: Tables = serde_json::from_str(&text)
        .map_err(|cause| cells.wrong(format!("the decisions are unreadable: {cause}")))?;
    let mut unreadable = Vec::new();
    let flags = readable::<FlagRow>("executor_flags", tables.flags, &mut unreadable);
    let pauses = readable::<PauseRow>("executor_pauses", tables.pauses, &mut unreadable);
    let approvals = readable("executor_approvals", tables.approvals, &mut unreadable);
    let breakers = readable("executor_breakers", tables.breakers, &mut unreadable);
    let published = readable("executor_published", tables.published, &mut unreadable);
    let shadows = readable("executor_shadows", tables.shadows, &mut unreadable);
    let serving = readable::<ServingRow>("executor_serving", tables.serving, &mut unreadable);
    let rollouts = readable("executor_rollouts", tables.rollouts, &mut unreadable);
    Ok(Controls {
        flags: flags
            .into_iter()
            .map(|row| (row.route.clone(), row))
            .collect(),
        pauses: pauses
            .into_iter()
            .map(|row| (row.route.clone(), row))
            .collect(),
        approvals,
        breakers,
        serving: serving
            .into_iter()
            .map(|row| (row.plugin.clone(), row))
            .collect(),
        rollouts,
        published,
        shadows,
        unreadable,
    })
}

fn readable<T: DeserializeOwned>(
    table: &str,
    rows: Vec<Value>,
    unreadable: &mut Vec<String>,
) -> Vec<T> {
    let mut read = Vec::with_capacity(rows.len());
    for row in rows {
        let key =
            ["route", "id", "plugin", "digest"].map(|column| row.get(column).map(Value::to_string));
        match serde_json::from_value(row) {
            Ok(row) => read.push(row),
            Err(cause) => {
                let key = key.into_iter().flatten().next().unwrap_or_default();
                unreadable.push(format!("table `{table}`, row {key}: {cause}"));
            }
        }
    }
    read
}

pub(super) fn approval<R: Columns>(cells: &Cells<'_, R>) -> Step<ApprovalRow> {
    Ok(ApprovalRow {
        id: crate::selection::ApprovalId(cells.required_text("id")?),
        route: cells.parsed("route")?,
        reason: cells.required_text("reason")?,
        approver: cells.required_text("approver")?,
        created_at: cells.required_instant("created_at")?,
        expires_at: cells.required_instant("expires_at")?,
        revoked_at: cells.instant("revoked_at")?,
        revoked_by: cells.text("revoked_by")?,
        left_ms: cells.count("left_ms")?,
    })
}

pub(super) fn published<R: Columns>(cells: &Cells<'_, R>) -> Step<PublishedRow> {
    Ok(PublishedRow {
        digest: cells.parsed("digest")?,
        name: cells.parsed("name")?,
        version: cells.required_text("version")?,
        bytes: cells.count("bytes")?,
        signature: cells.text("signature")?,
        actor: cells.required_text("actor")?,
        reason: cells.text("reason")?,
        published_at: cells.required_instant("published_at")?,
        retracted_at: cells.instant("retracted_at")?,
        retracted_by: cells.text("retracted_by")?,
    })
}

/// None where somebody else's names are none of ours.
pub(super) fn path_evidence<R: Columns>(cells: &Cells<'_, R>) -> Step<Option<PathEvidence>> {
    let plugin = cells.required_text("plugin")?.parse();
    let service = cells.required_text("service")?;
    let route = RouteKey::new(&service, &cells.required_text("role")?);
    let (Ok(plugin), Ok(route)) = (plugin, route) else {
        return Ok(None);
    };
    Ok(Some(PathEvidence {
        path: RealPath { plugin, route },
        evidence: Evidence {
            failures: cells.count32("failures")?,
            answers: cells.count32("answers")?,
            streak: cells.count32("streak")?,
            streak_tasks: cells.count32("streak_tasks")?,
        },
    }))
}
