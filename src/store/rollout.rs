//! Rollouts, as they go to and come from every database.

use std::time::Duration;

use serde::Serialize;

use super::cells::{Cells, Columns, Step};
use super::{Want, audit};
use crate::control::{Decider, Decision, Reason};
use crate::gate::GateReport;
use crate::ids::{Digest, MessageId, PluginName};
use crate::rollout::verdict::{Evidence, SLOWER, SLOWER_BY_MS, Tally, WINDOW};
use crate::rollout::{Change, RolloutRow, Share, State, Steps};
use crate::route::RouteKey;
use crate::selection::{FixedSide, Side};
use crate::task::Claim;

/// A rollout, as it is asked for.
#[derive(Debug, Clone)]
pub struct NewRollout {
    pub route: RouteKey,
    pub plugin: PluginName,
    pub candidate: Digest,
    /// What serves now, as far as that is known.
    pub stable: Option<Digest>,
    pub steps: Steps,
    /// How long a step lasts at least.
    pub interval: Duration,
    pub by: Decider,
    pub reason: Option<Reason>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartedRollout {
    Now(RolloutRow),
    /// This one is still under way, on the same route or of the same plugin.
    Busy(RolloutRow),
}

/// A change of a rollout, made only if nobody else made one before.
#[derive(Debug, Clone, Copy)]
pub struct RolloutMove<'a> {
    /// As it was when the change was decided.
    pub row: &'a RolloutRow,
    pub change: &'a Change,
    pub decision: &'a Decision,
    /// The verdict that it follows, where there was one.
    pub report: Option<&'a GateReport>,
}

/// What is asked of the evidence.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) candidate: String,
    pub(super) stable: String,
    /// Nothing runs on stable in this step.
    pub(super) all: bool,
    pub(super) wait_max_ms: u64,
    /// The report that the route promises.
    pub(super) report: &'static str,
    pub(super) slower: u64,
    pub(super) slower_by_ms: u64,
    pub(super) window: Duration,
}

impl Asked {
    pub(super) fn of(row: &RolloutRow, wait_max_ms: u64) -> Self {
        let key = |side| {
            let rollout = row.id.clone();
            FixedSide { side, rollout }.to_string()
        };
        Self {
            id: row.id.to_string(),
            candidate: key(Side::Candidate),
            stable: key(Side::Stable),
            all: row.share() == Some(Share::ALL),
            wait_max_ms,
            report: audit::promised(&row.route),
            slower: SLOWER,
            slower_by_ms: SLOWER_BY_MS,
            window: WINDOW,
        }
    }
}

/// A state in columns.
pub(super) struct StateCells<'a> {
    pub(super) state: &'static str,
    pub(super) step: Option<u32>,
    pub(super) why: Option<&'a str>,
    pub(super) actor: Option<&'a str>,
}

pub(super) fn cells(state: &State) -> StateCells<'_> {
    let (why, actor) = match state {
        State::Waiting | State::Step { .. } => (None, None),
        State::Held { why, .. } | State::RolledBack { why, .. } => (Some(why.as_str()), None),
        State::Paused { by, .. } | State::Promoted { by } | State::Aborted { by } => {
            (None, Some(by.as_str()))
        }
    };
    StateCells {
        state: state.name(),
        step: state.step(),
        why,
        actor,
    }
}

/// A rollout in one cell.
pub(super) fn rollout<R: Columns>(cells: &Cells<'_, R>) -> Step<RolloutRow> {
    let text = cells.required_text("rollout")?;
    let row = serde_json::from_str(&text);
    Ok(row.map_err(|cause| cells.wrong(cause))?)
}

/// One row a side.
pub(super) fn evidence<'r, R: Columns + 'r>(
    rows: impl IntoIterator<Item = Cells<'r, R>>,
) -> Step<Evidence> {
    let mut evidence = Evidence::default();
    for cells in rows {
        let tally = tally(&cells)?;
        match cells.required_text("side")?.as_str() {
            "candidate" => evidence.candidate = tally,
            _ => evidence.stable = tally,
        }
    }
    Ok(evidence)
}

fn tally<R: Columns>(cells: &Cells<'_, R>) -> Step<Tally> {
    let or_none = |column| -> Step<Option<u64>> {
        let value = cells.int(column)?;
        Ok(value.map(|value| u64::try_from(value).unwrap_or(0)))
    };
    Ok(Tally {
        tried: cells.count("tried")?,
        failed: cells.count("failed")?,
        ended: cells.count("ended")?,
        ended_failed: cells.count("ended_failed")?,
        ended_held: cells.count("ended_held")?,
        waits: cells.count("waits")?,
        waits_long: cells.count("waits_long")?,
        wait_p90_ms: or_none("wait_p90_ms")?,
        runs: cells.count("runs")?,
        runs_slow: cells.count("runs_slow")?,
        run_p90_ms: or_none("run_p90_ms")?,
    })
}

/// A side that is to be written.
#[derive(Serialize)]
pub(super) struct SideCells {
    id: MessageId,
    side: String,
}

/// Draws the sides of tasks that their rollout has not met yet; what is to be
/// written of that, nothing where no route that is claimed for has a rollout.
pub(super) fn fix_sides<'c>(
    wants: &[Want],
    claims: impl IntoIterator<Item = &'c mut Claim>,
) -> Vec<SideCells> {
    if wants.iter().all(|want| want.draw.is_none()) {
        return Vec::new();
    }
    let mut fixed = Vec::new();
    for claim in claims {
        let want = wants.iter().find(|want| want.key == claim.route.key);
        let Some(draw) = want.and_then(|want| want.draw.as_ref()) else {
            continue;
        };
        if claim
            .side
            .as_ref()
            .is_some_and(|side| side.rollout == draw.rollout)
        {
            continue;
        }
        let side = FixedSide {
            side: draw.side(claim.id),
            rollout: draw.rollout.clone(),
        };
        fixed.push(SideCells {
            id: claim.id,
            side: side.to_string(),
        });
        claim.side = Some(side);
    }
    fixed
}
