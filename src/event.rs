//! The events of the audit table `bus_events`: their names, and which ones each
//! step of a task leaves.
//!
//! Events are written by the store in the transaction of the change they
//! record. This module only says what they are; each carries a `trace_id`.

mod payload;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::payload::{AttemptFacts, DoneFacts, FailureFacts};
pub use self::payload::{EventPayload, RetryFacts};
use crate::attempt::{AttemptOutcome, AttemptRecord, Problem};
use crate::ids::{MessageId, TraceId};
use crate::millis::millis;
use crate::route::{Route, RouteKey};
use crate::task::{self, CANCELLED, Next};

/// Written when a task enters the bus, or at its first claim if somebody else
/// put it there.
pub const EXECUTE_ENQUEUED: &str = "execute_enqueued";
pub const EXECUTE_RETRY: &str = "execute_retry";
pub const EXECUTE_FAILED: &str = "execute_failed";
pub const EXECUTE_DONE: &str = "execute_done";
pub const EXECUTE_CANCELLED: &str = "execute_cancelled";
pub const EXECUTE_FALLBACK: &str = "execute_fallback";
/// A write was refused since the lease had gone to somebody else.
pub const LEASE_LOST: &str = "lease_lost";
/// An expired lease was taken back.
pub const TASK_RESCUED: &str = "task_rescued";
pub const GATE_VIOLATION: &str = "gate_violation";
/// An operator set the flag of a route, or left it to configuration and stage.
pub const FLAG_CHANGED: &str = "flag_changed";
/// A route's tasks wait from now on: it was paused, or its real path is down and
/// nothing may stand in.
pub const ROUTE_HELD: &str = "route_held";
/// What [`ROUTE_HELD`] told of is over.
pub const ROUTE_RELEASED: &str = "route_released";
/// An operator lets the mock stand in for the real executor, for a while.
pub const FALLBACK_APPROVED: &str = "fallback_approved";
/// An operator took that back.
pub const FALLBACK_REVOKED: &str = "fallback_revoked";
/// The real path of a route is taken for down.
pub const BREAKER_OPENED: &str = "breaker_opened";
/// It works again.
pub const BREAKER_CLOSED: &str = "breaker_closed";
/// A rollout of a plugin version was asked for.
pub const ROLLOUT_STARTED: &str = "rollout_started";
/// A larger share of tasks gets the candidate from now on.
pub const ROLLOUT_STEP: &str = "rollout_step";
/// A step lasted long enough, and its evidence was not enough to go on.
pub const ROLLOUT_HELD: &str = "rollout_held";
pub const ROLLOUT_PAUSED: &str = "rollout_paused";
pub const ROLLOUT_RESUMED: &str = "rollout_resumed";
/// The candidate serves all tasks.
pub const ROLLOUT_PROMOTED: &str = "rollout_promoted";
/// The candidate was worse: stable serves all tasks again.
pub const ROLLOUT_ROLLED_BACK: &str = "rollout_rolled_back";
/// An operator ended a rollout: stable serves all tasks again.
pub const ROLLOUT_ABORTED: &str = "rollout_aborted";
/// A version runs tasks beside what serves, for comparison, from now on.
pub const SHADOW_STARTED: &str = "shadow_started";
/// It does so no more.
pub const SHADOW_ENDED: &str = "shadow_ended";
/// A shadow came to something else than the task's own attempt.
pub const SHADOW_DIFFERENCE: &str = "shadow_difference";
/// Somebody began a run of the pipeline.
pub const PIPELINE_STARTED: &str = "pipeline_started";
/// A run went on to its next stage.
pub const PIPELINE_STAGE: &str = "pipeline_stage";
/// The gate has spoken over a run.
pub const PIPELINE_DONE: &str = "pipeline_done";
/// A run was ended on request.
pub const PIPELINE_CANCELLED: &str = "pipeline_cancelled";
/// A version is ready: it serves and none served before, or it is a candidate.
pub const PLUGIN_LOADED: &str = "plugin_loaded";
/// Another version of a plugin serves, or none any more.
pub const PLUGIN_SWAPPED: &str = "plugin_swapped";
/// A candidate is none any more.
pub const PLUGIN_WITHDRAWN: &str = "plugin_withdrawn";
/// A version was refused; what served goes on serving.
pub const PLUGIN_REJECTED: &str = "plugin_rejected";
/// An operator put an earlier version back into service.
pub const PLUGIN_ROLLED_BACK: &str = "plugin_rolled_back";
/// A candidate is to serve on every host.
pub const PLUGIN_PROMOTED: &str = "plugin_promoted";
/// A version lies on the bus, for every host.
pub const PLUGIN_PUBLISHED: &str = "plugin_published";
/// It is for no host any more.
pub const PLUGIN_RETRACTED: &str = "plugin_retracted";
/// Each host's own rule says again which version of a plugin serves.
pub const PLUGIN_RELEASED: &str = "plugin_released";

/// An event to be written; the database gives it its id and its instant.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub event_type: Cow<'static, str>,
    pub message_id: Option<MessageId>,
    pub route: Option<Route>,
    pub trace_id: TraceId,
    pub reason: Option<String>,
    pub payload: EventPayload,
}

/// An event as it is read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub event_type: String,
    pub message_id: Option<MessageId>,
    pub service: Option<String>,
    pub role: Option<String>,
    pub shard: Option<i32>,
    pub tenant: Option<String>,
    pub trace_id: Option<String>,
    pub reason: Option<String>,
    pub payload: Value,
}

/// How a role's own event ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleStep {
    Done,
    Failed,
    Retry,
}

/// The name of a role's own event, such as `buildtest_done`.
pub fn role_event(route: &RouteKey, step: RoleStep) -> String {
    let step = match step {
        RoleStep::Done => "done",
        RoleStep::Failed => "failed",
        RoleStep::Retry => "retry",
    };
    format!("{}_{step}", route.event_stem())
}

/// The task whose events are made.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub id: MessageId,
    pub route: &'a Route,
    pub trace_id: &'a TraceId,
    pub task_id: Option<&'a str>,
}

/// What is known of the attempt that a task failed with.
#[derive(Debug, Clone, Copy)]
pub enum LastAttempt<'a> {
    /// None was made.
    Never,
    /// It left nothing but its number.
    Lost(u32),
    Ended(&'a AttemptRecord),
}

impl Subject<'_> {
    pub fn event(
        &self,
        event_type: impl Into<Cow<'static, str>>,
        reason: Option<&str>,
        payload: EventPayload,
    ) -> NewEvent {
        NewEvent {
            event_type: event_type.into(),
            message_id: Some(self.id),
            route: Some(self.route.clone()),
            trace_id: self.trace_id.clone(),
            reason: reason.map(str::to_owned),
            payload,
        }
    }

    /// The first event of every task.
    pub fn enqueued(&self, payload: EventPayload) -> NewEvent {
        self.event(EXECUTE_ENQUEUED, None, payload)
    }

    /// The events that the end of an attempt leaves.
    pub fn settled(&self, next: &Next, attempt: &AttemptRecord) -> Vec<NewEvent> {
        match next {
            Next::Done { result, .. } => self.done(result, attempt),
            Next::Queued { delay, problem, .. } => {
                let code = problem.as_ref().map(|p| p.code.as_str());
                let code = code.or(attempt.code.as_deref());
                let reason = match (problem, attempt.outcome) {
                    (Some(problem), _) => problem.message.as_str(),
                    (None, _) if code == Some(task::ROUTE_HELD) => "the route is held",
                    (None, AttemptOutcome::Drained) => "the host is draining",
                    (None, _) => "given back",
                };
                self.retried(
                    reason,
                    &RetryFacts {
                        attempt: attempt.attempt,
                        delay_ms: millis(*delay),
                        code: code.unwrap_or(attempt.outcome.as_str()),
                        blame: attempt.blame,
                        outcome: attempt.outcome,
                    },
                )
            }
            Next::Failed { problem } if problem.code == CANCELLED => {
                self.cancelled(&problem.message, attempt.attempt)
            }
            Next::Failed { problem } => self.failed(problem, LastAttempt::Ended(attempt)),
        }
    }

    fn done(&self, result: &Value, attempt: &AttemptRecord) -> Vec<NewEvent> {
        let facts = EventPayload::of(&AttemptFacts::of(attempt));
        let own = EventPayload::of(&DoneFacts {
            task_id: self.task_id,
            attempt: attempt.attempt,
            result: payload::WithoutOutput(result),
        });
        let fallback = attempt.why.as_ref().is_some_and(|why| why.fallback);
        let fallback = fallback.then(|| self.event(EXECUTE_FALLBACK, None, facts.clone()));
        let mut events = Vec::with_capacity(3);
        events.push(self.event(EXECUTE_DONE, None, facts));
        events.push(self.event(role_event(&self.route.key, RoleStep::Done), None, own));
        events.extend(fallback);
        events
    }

    /// The events of a task that waits again.
    pub fn retried(&self, reason: &str, facts: &RetryFacts<'_>) -> Vec<NewEvent> {
        let payload = EventPayload::of(facts);
        self.both(EXECUTE_RETRY, RoleStep::Retry, reason, payload)
    }

    /// The event of a task that was cancelled in its attempt.
    pub fn cancelled(&self, reason: &str, attempt: u32) -> Vec<NewEvent> {
        let payload = json!({ "attempt": attempt }).into();
        vec![self.event(EXECUTE_CANCELLED, Some(reason), payload)]
    }

    /// The events of a task that failed for good.
    pub fn failed(&self, problem: &Problem, last: LastAttempt<'_>) -> Vec<NewEvent> {
        let payload = EventPayload::of(&FailureFacts::of(problem, last));
        self.both(EXECUTE_FAILED, RoleStep::Failed, &problem.message, payload)
    }

    /// The general event and the role's own, alike.
    fn both(
        &self,
        general: &'static str,
        step: RoleStep,
        reason: &str,
        payload: EventPayload,
    ) -> Vec<NewEvent> {
        let own = role_event(&self.route.key, step);
        vec![
            self.event(general, Some(reason), payload.clone()),
            self.event(own, Some(reason), payload),
        ]
    }
}
