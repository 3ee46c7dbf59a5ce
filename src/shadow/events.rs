//! The events of shadows: of the order in its own trace, of a difference in the
//! trace of its task.

use serde_json::{Value, json};

use super::difference::told;
use super::{ShadowRow, ShadowRun};
use crate::event::{NewEvent, SHADOW_DIFFERENCE, SHADOW_ENDED, SHADOW_STARTED};
use crate::route::Route;

/// The event of a shadow that was ordered.
pub fn started(row: &ShadowRow) -> NewEvent {
    order(SHADOW_STARTED, row, &row.started_by, row.reason.clone())
}

/// The event of a shadow that somebody ended.
pub fn ended(row: &ShadowRow, actor: &str, reason: Option<&str>) -> NewEvent {
    order(SHADOW_ENDED, row, actor, reason.map(str::to_owned))
}

fn order(
    event_type: &'static str,
    row: &ShadowRow,
    actor: &str,
    reason: Option<String>,
) -> NewEvent {
    NewEvent {
        event_type: event_type.into(),
        message_id: None,
        route: Some(Route::of(row.route.clone())),
        trace_id: row.trace_id.clone(),
        reason,
        payload: json!({
            "shadow": row.id,
            "plugin": row.plugin,
            "candidate": row.candidate,
            "side_effects": row.side_effects,
            "share": row.share,
            "actor": actor,
        })
        .into(),
    }
}

/// The event of a run that came to something else than its task did; none of
/// one that agrees or says nothing.
pub fn difference(run: &ShadowRun) -> Option<NewEvent> {
    if run.comparison.agrees != Some(false) {
        return None;
    }
    let side = |plugin, seen| -> Value { json!({ "plugin": plugin, "seen": seen }) };
    Some(NewEvent {
        event_type: SHADOW_DIFFERENCE.into(),
        message_id: Some(run.message_id),
        route: Some(run.route.clone()),
        trace_id: run.trace_id.clone(),
        reason: Some(told(&run.stable_seen, &run.candidate_seen, &run.comparison)),
        payload: json!({
            "shadow": run.shadow,
            "differences": run.comparison.differences,
            "stable": side(&run.stable, &run.stable_seen),
            "candidate": side(&run.candidate, &run.candidate_seen),
            "host": run.host,
        })
        .into(),
    })
}
