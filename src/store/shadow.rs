//! Shadows, as they go to and come from every database.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cells::{Cells, Columns, Step};
use crate::attempt::SideEffects;
use crate::control::{Decider, Reason};
use crate::ids::{Digest, MessageId, PluginName, ShadowId};
use crate::rollout::Share;
use crate::rollout::interval::Part;
use crate::rollout::verdict::WINDOW;
use crate::route::RouteKey;
use crate::shadow::difference::Kind;
use crate::shadow::verdict::Tally;
use crate::shadow::{ShadowRow, ShadowRun, ShadowRunRow};

/// How many of the latest runs a tally looks at.
pub(super) const TALLIED: u32 = 10_000;
/// How many of the latest runs of a version a rollout looks at.
pub(super) const EVIDENCE: u32 = 2_000;
/// No evidence for a rollout is older.
pub(super) const EVIDENCE_WINDOW: Duration = WINDOW;

/// A shadow, as it is asked for.
#[derive(Debug, Clone)]
pub struct NewShadow {
    pub route: RouteKey,
    pub plugin: PluginName,
    pub candidate: Digest,
    pub share: Share,
    pub side_effects: SideEffects,
    pub by: Decider,
    pub reason: Option<Reason>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartedShadow {
    Now(ShadowRow),
    /// This one still watches the route.
    Busy(ShadowRow),
}

/// What became of the wish to end a shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndedShadow {
    Now(ShadowRow),
    /// It had ended before.
    Over(ShadowRow),
    Unknown,
}

/// Which runs of shadows to read.
#[derive(Debug, Clone, Default)]
pub struct ShadowRunFilter {
    pub shadow: Option<ShadowId>,
    pub route: Option<RouteKey>,
    pub task: Option<MessageId>,
    /// Only those that disagree.
    pub differing: bool,
    /// At most this many, newest first.
    pub limit: u32,
}

/// A shadow in one cell.
pub(super) fn shadow<R: Columns>(cells: &Cells<'_, R>) -> Step<ShadowRow> {
    let text = cells.required_text("shadow")?;
    let row = serde_json::from_str(&text);
    Ok(row.map_err(|cause| cells.wrong(cause))?)
}

pub(super) fn run<R: Columns>(cells: &Cells<'_, R>) -> Step<ShadowRunRow> {
    let text = cells.required_text("run")?;
    let run: ShadowRun = serde_json::from_str(&text).map_err(|cause| cells.wrong(cause))?;
    Ok(ShadowRunRow {
        run,
        ended_at: cells.required_instant("ended_at")?,
    })
}

pub(super) fn tally<R: Columns>(cells: &Cells<'_, R>) -> Step<Tally> {
    let or_none = |column| -> Step<Option<u64>> {
        let value = cells.int(column)?;
        Ok(value.map(|value| u64::try_from(value).unwrap_or(0)))
    };
    // A later build may tell of more kinds.
    let named: BTreeMap<String, u64> = cells.json_or_default("differences")?;
    let of_kind = |kind: Kind| Some((kind, *named.get(kind.as_str())?));
    Ok(Tally {
        runs: cells.count("runs")?,
        compared: cells.count("compared")?,
        agreed: cells.count("agreed")?,
        differences: Kind::ALL.into_iter().filter_map(of_kind).collect(),
        timed: cells.count("timed")?,
        p50_ms: or_none("p50_ms")?,
        p90_ms: or_none("p90_ms")?,
        stable_p50_ms: or_none("stable_p50_ms")?,
        stable_p90_ms: or_none("stable_p90_ms")?,
    })
}

pub(super) fn agreement<R: Columns>(cells: &Cells<'_, R>) -> Step<Part> {
    Ok(Part {
        part: cells.count("agreed")?,
        whole: cells.count("compared")?,
    })
}
