//! The events that every store writes by itself, and the choices behind them,
//! so that all databases leave the same trail.
//!
//! Pure: rows in, events out. What an attempt's end leaves is made by
//! [`crate::event::Subject::settled`] before the store sees it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::attempt::{AttemptOutcome, Blame, Problem};
use crate::event::{
    EXECUTE_CANCELLED, LEASE_LOST, LastAttempt, NewEvent, RetryFacts, Subject, TASK_RESCUED,
};
use crate::ids::{HolderId, MessageId, TraceId};
use crate::millis::millis;
use crate::route::{KnownRole, Route, RouteKey};
use crate::store::Settlement;
use crate::task::{CANCELLED, Claim, NewTask, POISON_DEATHS, POISONED, TTL_EXCEEDED};

/// Somebody asked to cancel a task that is running.
pub const CANCEL_REQUESTED: &str = "cancel_requested";

/// The code of a task whose last allowed attempt lost its host.
pub const LEASE_EXPIRED: &str = "lease_expired";

/// The `execute_enqueued` of a task that this host puts on the bus.
pub fn enqueued(task: &NewTask) -> NewEvent {
    let subject = Subject {
        id: task.id,
        route: &task.route,
        trace_id: &task.trace_id,
        task_id: task.task_id.as_deref(),
    };
    subject.enqueued(
        json!({
            "task_id": task.task_id,
            "priority": task.priority,
            "delay_ms": millis(task.delay),
            "unique_key": task.unique_key,
            "repeats": task.repeats,
        })
        .into(),
    )
}

/// What a row that somebody else put on the bus says of its trace and its
/// label, in its columns and in its payload.
#[derive(Debug, Clone, Default)]
pub struct ForeignLabels {
    pub trace_column: Option<String>,
    pub trace_payload: Option<String>,
    pub task_column: Option<String>,
    pub task_payload: Option<String>,
}

/// The labels that such a row goes by from its first claim on.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub trace_id: TraceId,
    pub task_id: Option<String>,
    /// What stood where the trace id belongs, if it could not be used.
    refused_trace: Option<String>,
}

/// The longest text of a stranger that an event repeats, in characters.
const SHOWN: usize = 200;

/// The trace id and the label that a payload holds. They are short where they
/// are meant: the rest of the payload is skipped, and nothing here can fail.
pub fn payload_labels(payload: &str) -> (Option<String>, Option<String>) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Labels {
        trace_id: Value,
        task_id: Value,
    }
    let labels: Labels = serde_json::from_str(payload).unwrap_or_default();
    let text = |value: Value| match value {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    };
    (text(labels.trace_id), text(labels.task_id))
}

impl ForeignLabels {
    /// The first usable trace id of column and payload, else a new one.
    pub fn adopt(self) -> Adopted {
        let given = [self.trace_column, self.trace_payload];
        let named = given.into_iter().flatten().find(|text| !text.is_empty());
        let (trace_id, refused_trace) = match named {
            None => (TraceId::generate(), None),
            Some(text) => match text.parse() {
                Ok(trace_id) => (trace_id, None),
                Err(_) => (
                    TraceId::generate(),
                    Some(text.chars().take(SHOWN).collect()),
                ),
            },
        };
        Adopted {
            trace_id,
            task_id: self.task_column.or(self.task_payload),
            refused_trace,
        }
    }
}

impl Adopted {
    /// The `execute_enqueued` that nobody wrote when the row was inserted.
    pub fn enqueued(&self, id: MessageId, route: &Route) -> NewEvent {
        let subject = Subject {
            id,
            route,
            trace_id: &self.trace_id,
            task_id: self.task_id.as_deref(),
        };
        let mut payload = json!({ "task_id": self.task_id, "adopted": true });
        if let (Some(object), Some(refused)) = (payload.as_object_mut(), &self.refused_trace) {
            object.insert("refused_trace_id".to_owned(), json!(refused));
        }
        subject.enqueued(payload.into())
    }
}

/// Gives a row that is being claimed the labels that it lacks, and adds the
/// events of that and of the foreign claim that it is taken from (its holder
/// and its age in milliseconds). `unseen` where nobody here had it before.
/// Answers whether there are labels to be written.
pub fn adopt(
    claim: &mut Claim,
    unseen: bool,
    labels: Option<ForeignLabels>,
    reclaimed: Option<&(Option<String>, u64)>,
    events: &mut Vec<NewEvent>,
) -> bool {
    let labelled = labels.is_some();
    if let Some(labels) = labels {
        let adopted = labels.adopt();
        if unseen {
            events.push(adopted.enqueued(claim.id, &claim.route));
        }
        claim.trace_id = adopted.trace_id;
        claim.task_id = adopted.task_id;
    }
    if let Some((holder, claimed_ms)) = reclaimed {
        let subject = Subject {
            id: claim.id,
            route: &claim.route,
            trace_id: &claim.trace_id,
            task_id: claim.task_id.as_deref(),
        };
        events.push(self::reclaimed(&subject, holder.as_deref(), *claimed_ms));
    }
    labelled
}

/// The event that a refused settlement leaves.
pub fn lease_lost(
    holder: &HolderId,
    settlement: &Settlement,
    trace_id: TraceId,
    route: Option<Route>,
) -> NewEvent {
    NewEvent {
        event_type: LEASE_LOST.into(),
        message_id: Some(settlement.fence.id),
        route,
        trace_id,
        reason: Some("the task was no longer held when the attempt's end was written".to_owned()),
        payload: json!({
            "holder": holder.as_str(),
            "lease_epoch": settlement.fence.epoch,
            "attempt": settlement.attempt.attempt,
            "outcome": settlement.attempt.outcome,
            "code": settlement.attempt.code,
        })
        .into(),
    }
}

/// The events of a task that was cancelled while it waited.
pub fn cancelled(subject: &Subject<'_>, actor: &str) -> Vec<NewEvent> {
    let payload = json!({ "actor": actor }).into();
    vec![subject.event(EXECUTE_CANCELLED, Some("cancelled on request"), payload)]
}

/// The event of a wish to cancel a task that is running.
pub fn cancel_requested(subject: &Subject<'_>, actor: &str) -> NewEvent {
    subject.event(CANCEL_REQUESTED, None, json!({ "actor": actor }).into())
}

/// A claim whose lease ran out.
#[derive(Debug, Clone)]
pub struct Vacant {
    /// Who held it.
    pub holder: Option<String>,
    pub epoch: i64,
    pub attempts: u32,
    pub max_attempts: u32,
    /// Attempts of this task that ended like this one, before it.
    pub deaths: u32,
    pub cancel_requested: bool,
}

/// Where a rescued task goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rescue {
    /// Due at once: it has waited for its whole lease already.
    Queued,
    Failed(Problem),
}

impl Vacant {
    /// Decides by what the task went through.
    pub fn rescue(&self) -> Rescue {
        let problem = if self.cancel_requested {
            Problem::new(CANCELLED, "cancelled on request", Blame::Host)
        } else if self.deaths + 1 >= POISON_DEATHS {
            let message = format!(
                "{} hosts vanished while they ran this task",
                self.deaths + 1
            );
            Problem::new(POISONED, message, Blame::Host)
        } else if self.attempts >= self.max_attempts {
            let message = format!(
                "the host vanished during the last of {} attempts",
                self.max_attempts
            );
            Problem::new(LEASE_EXPIRED, message, Blame::Host)
        } else {
            return Rescue::Queued;
        };
        Rescue::Failed(problem)
    }

    /// `task_rescued`, and what the next state leaves.
    pub fn events(&self, subject: &Subject<'_>, rescue: &Rescue) -> Vec<NewEvent> {
        const REASON: &str = "the lease expired";
        let payload = json!({
            "holder": self.holder,
            "lease_epoch": self.epoch,
            "attempt": self.attempts,
            "deaths": self.deaths + 1,
        });
        let mut events = vec![subject.event(TASK_RESCUED, Some(REASON), payload.into())];
        match rescue {
            Rescue::Queued => {
                let facts = RetryFacts {
                    attempt: self.attempts,
                    delay_ms: 0,
                    code: LEASE_EXPIRED,
                    blame: Some(Blame::Host),
                    outcome: AttemptOutcome::Lost,
                };
                events.extend(subject.retried(REASON, &facts));
            }
            Rescue::Failed(problem) if problem.code == CANCELLED => {
                events.extend(subject.cancelled(&problem.message, self.attempts));
            }
            Rescue::Failed(problem) => {
                events.extend(subject.failed(problem, LastAttempt::Lost(self.attempts)));
            }
        }
        events
    }
}

/// The event of a row that is taken over from a foreign worker.
fn reclaimed(subject: &Subject<'_>, holder: Option<&str>, claimed_ms: u64) -> NewEvent {
    let payload = json!({ "holder": holder, "claimed_ms": claimed_ms, "foreign": true });
    let reason = "a foreign worker left its claim without a lease for too long";
    subject.event(TASK_RESCUED, Some(reason), payload.into())
}

/// Why a task whose time to live ran out while it waited has failed.
pub fn expired() -> Problem {
    let message = "the task's time to live ran out while it waited";
    Problem::new(TTL_EXCEEDED, message, Blame::Host)
}

/// The case of the report that a route promises.
pub fn promised(route: &RouteKey) -> &'static str {
    match route.known_role() {
        Some(KnownRole::BuildTest) => "build-test",
        Some(KnownRole::Codegen) => "codegen",
        Some(KnownRole::Sandbox) => "sandbox",
        None => "custom",
    }
}

/// Whether a `result` whose report is of this case is what the route promises.
pub fn fits(route: &RouteKey, case: Option<&str>) -> bool {
    case == Some(promised(route))
}

/// The `error` column of a task that waits again since its lease expired.
pub fn lost_error() -> Cow<'static, str> {
    let message = "the host vanished while it ran the task";
    error_text(&Problem::new(LEASE_EXPIRED, message, Blame::Host))
}

/// The `error` column of a problem: other programs read it.
pub fn error_text(problem: &Problem) -> Cow<'static, str> {
    if problem.code == CANCELLED {
        CANCELLED.into()
    } else {
        format!("{}: {}", problem.code, problem.message).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vacant() -> Vacant {
        Vacant {
            holder: Some("h:1".to_owned()),
            epoch: 1,
            attempts: 1,
            max_attempts: 5,
            deaths: 0,
            cancel_requested: false,
        }
    }

    fn code(vacant: &Vacant) -> String {
        match vacant.rescue() {
            Rescue::Queued => "queued".to_owned(),
            Rescue::Failed(problem) => problem.code,
        }
    }

    #[test]
    fn a_rescue_decides_by_wish_deaths_and_attempts() {
        assert_eq!(code(&vacant()), "queued");
        let mut last = vacant();
        last.attempts = 5;
        assert_eq!(code(&last), LEASE_EXPIRED);
        last.deaths = 2;
        assert_eq!(code(&last), POISONED);
        last.cancel_requested = true;
        assert_eq!(code(&last), CANCELLED);
    }

    #[test]
    fn labels_come_from_the_column_then_the_payload_then_nowhere() {
        let labels = |column: Option<&str>, payload: Option<&str>| ForeignLabels {
            trace_column: column.map(str::to_owned),
            trace_payload: payload.map(str::to_owned),
            ..ForeignLabels::default()
        };
        assert_eq!(labels(Some("c"), Some("p")).adopt().trace_id.as_str(), "c");
        assert_eq!(labels(None, Some("p")).adopt().trace_id.as_str(), "p");
        assert_eq!(labels(None, None).adopt().trace_id.as_str().len(), 32);
        let refused = labels(Some("a b"), Some("p")).adopt();
        assert_eq!(refused.trace_id.as_str().len(), 32);
        assert_eq!(refused.refused_trace.as_deref(), Some("a b"));
    }
}
