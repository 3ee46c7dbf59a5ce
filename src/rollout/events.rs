//! The events of a rollout, all in its one trace: `cogo-host trace ID` tells it.

use serde_json::{Value, json};

use super::{Change, RolloutRow, State};
use crate::event::{
    NewEvent, ROLLOUT_ABORTED, ROLLOUT_HELD, ROLLOUT_PAUSED, ROLLOUT_PROMOTED, ROLLOUT_RESUMED,
    ROLLOUT_ROLLED_BACK, ROLLOUT_STARTED, ROLLOUT_STEP,
};
use crate::gate::GateReport;
use crate::route::Route;

/// Who made a change, and on what grounds.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// The name of a token, or of a host.
    pub actor: &'a str,
    pub reason: Option<&'a str>,
    /// Where a verdict decided.
    pub report: Option<&'a GateReport>,
}

/// The event of a rollout that was asked for.
pub fn started(row: &RolloutRow) -> NewEvent {
    let payload = json!({
        "actor": row.started_by,
        "steps": row.steps,
        "interval_ms": row.interval_ms,
    });
    event(ROLLOUT_STARTED, row, row.reason.clone(), payload)
}

/// The event of a change that led to `to`.
pub fn changed(row: &RolloutRow, change: &Change, to: &State, grounds: Grounds<'_>) -> NewEvent {
    let event_type = match (change, to) {
        (_, State::Promoted { .. }) => ROLLOUT_PROMOTED,
        (_, State::RolledBack { .. }) => ROLLOUT_ROLLED_BACK,
        (_, State::Aborted { .. }) => ROLLOUT_ABORTED,
        (_, State::Held { .. }) => ROLLOUT_HELD,
        (_, State::Paused { .. }) => ROLLOUT_PAUSED,
        (Change::Resume, _) => ROLLOUT_RESUMED,
        (_, State::Step { .. } | State::Waiting) => ROLLOUT_STEP,
    };
    let why = match to {
        State::Held { why, .. } | State::RolledBack { why, .. } => Some(why.clone()),
        _ => grounds.reason.map(str::to_owned),
    };
    let share = to.step().and_then(|step| row.steps.share(step));
    let payload = json!({
        "actor": grounds.actor,
        "from": row.state.name(),
        "state": to.name(),
        "step": to.step(),
        "share": share.filter(|_| to.is_active()),
        "gate": grounds.report,
    });
    event(event_type, row, why, payload)
}

fn event(
    event_type: &'static str,
    row: &RolloutRow,
    reason: Option<String>,
    more: Value,
) -> NewEvent {
    let mut payload = json!({
        "rollout": row.id,
        "plugin": row.plugin,
        "candidate": row.candidate,
        "stable": row.stable,
    });
    if let (Some(object), Value::Object(more)) = (payload.as_object_mut(), more) {
        object.extend(more);
    }
    NewEvent {
        event_type: event_type.into(),
        message_id: None,
        route: Some(Route::of(row.route.clone())),
        trace_id: row.trace_id.clone(),
        reason,
        payload: payload.into(),
    }
}
