//! What is written of an attempt that has ended: the row's next state, the
//! attempt's record and the events.
//!
//! Decides nothing that [`next_state`] decides, and writes nothing itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use crate::attempt::{
    Allowance, AttemptEnd, AttemptOutcome, AttemptRecord, AttemptReport, Blame, Measured, Problem,
    StagedArtifact, StopReason, Usage,
};
use crate::breaker::{RealPath, Said};
use crate::dispatch;
use crate::event::Subject;
use crate::report::Outcome;
use crate::routing::{Assigned, EndedAttempt};
use crate::selection::Path;
use crate::store::{Settlement, StoreError};
use crate::task::{
    CANCELLED, Claim, LEASE_UNCONFIRMED, NewTask, Next, ROUTE_HELD, Refund, Standing, next_state,
};

/// How long a task of a route that came to be held is left alone.
const HELD_PAUSE: Duration = Duration::from_secs(1);
/// The longest reason of the database that a row repeats, in characters.
const SHOWN: usize = 500;

/// Turns the end of an attempt into what is written of it.
pub(super) struct Log<'a> {
    pub(super) shared: &'a Shared,
    pub(super) claim: &'a Claim,
    /// When the claim was asked for: its age was measured after that.
    pub(super) asked: Instant,
    pub(super) max_attempts: u32,
    pub(super) ttl: Option<Duration>,
}

/// What an attempt leaves besides its end.
#[derive(Default)]
struct Left {
    assigned: Option<Assigned>,
    measured: Measured,
    artifacts: Vec<StagedArtifact>,
    forward: Option<Box<NewTask>>,
}

impl Log<'_> {
    /// How old the task is now, at most.
    pub(super) fn age(&self) -> Duration {
        self.claim.age + self.asked.elapsed()
    }

    /// What is left of the task's time to live.
    pub(super) fn ttl_left(&self) -> Option<Duration> {
        self.ttl.map(|ttl| ttl.saturating_sub(self.age()))
    }

    /// Of a claim that never reached an executor.
    pub(super) fn unexecuted(&self, end: AttemptEnd) -> Settlement {
        self.ended(end, Left::default())
    }

    pub(super) fn executed(&self, assigned: Assigned, report: AttemptReport) -> Settlement {
        let left = Left {
            assigned: Some(assigned),
            measured: report.measured,
            artifacts: report.artifacts,
            forward: None,
        };
        self.ended(report.end, left)
    }

    /// A task that the dispatcher sends on.
    pub(super) fn forwarded(&self, task: NewTask) -> Settlement {
        let next = Next::Done {
            result: dispatch::result(&task),
            snippet: format!("forwarded to {}", task.route.key),
            url: None,
        };
        let left = Left {
            forward: Some(Box::new(task)),
            ..Left::default()
        };
        self.settlement(next, (None, None), left)
    }

    /// The route came to be held after the wish to claim. The pause keeps a
    /// hold that is not known everywhere yet from claiming in circles.
    pub(super) fn held(&self) -> Settlement {
        let next = Next::Queued {
            delay: HELD_PAUSE,
            refund: Refund::Drain,
            problem: None,
        };
        self.settlement(next, (Some(ROUTE_HELD.to_owned()), None), Left::default())
    }

    fn ended(&self, end: AttemptEnd, left: Left) -> Settlement {
        let blamed = blame(&end);
        let assigned = left.assigned.as_ref();
        let standing = Standing {
            attempt: self.claim.attempt,
            max_attempts: self.max_attempts,
            host_faults: self.claim.host_faults,
            ttl_left: self.ttl_left(),
            probe: assigned.and_then(|assigned| assigned.probe),
        };
        let retry = &self.shared.settings.retry;
        let result = |outcome: &Outcome| stamped_result(outcome, assigned);
        let mut next = next_state(end, &standing, retry, rand::random(), result);
        if let (Next::Done { snippet, .. }, true) = (&mut next, is_fallback(assigned)) {
            snippet.insert_str(0, "[mock fallback] ");
        }
        self.settlement(next, blamed, left)
    }

    fn settlement(
        &self,
        next: Next,
        (code, blame): (Option<String>, Option<Blame>),
        left: Left,
    ) -> Settlement {
        let claim = self.claim;
        let record = AttemptRecord {
            attempt: claim.attempt,
            outcome: outcome(&next),
            plugin: left.assigned.as_ref().map(|a| a.plugin.clone()),
            why: left.assigned.map(|a| a.why),
            stage: self.shared.settings.stage,
            wait_ms: crate::millis::millis(claim.wait),
            code,
            blame,
            measured: left.measured,
        };
        let subject = Subject {
            id: claim.id,
            route: &claim.route,
            trace_id: &claim.trace_id,
            task_id: claim.task_id.as_deref(),
        };
        let events = subject.settled(&next, &record);
        // Artifacts of an attempt that did not finish are of no task's result.
        let done = matches!(next, Next::Done { .. });
        Settlement {
            fence: claim.fence(),
            next,
            attempt: record,
            events,
            artifacts: if done { left.artifacts } else { Vec::new() },
            forward: left.forward.filter(|_| done),
        }
    }
}

/// What an attempt used that its task's assignment does not allow.
pub(super) fn overstepped(allowance: &Allowance, used: &Usage) -> Option<Problem> {
    let mut spent = allowance.spent.clone();
    spent.add(used);
    if spent.exceeds(&allowance.budget) {
        let message = "the attempts of the task spent more than its budget";
        return Some(Problem::new("budget_exceeded", message, Blame::Guest));
    }
    let (allowed, named) = (allowance.model.as_ref()?, used.model.as_ref()?);
    (allowed != named).then(|| {
        let message = format!("the attempt used model `{named}`; the task allows `{allowed}` only");
        Problem::new("model_policy_violation", message, Blame::Guest)
    })
}

/// What is written instead of a settlement that the database refuses: the same
/// end without anything that came from outside. A result that cannot be stored
/// is none.
pub(super) fn substitute(refused: &Settlement, error: &StoreError) -> Option<Settlement> {
    let about = refused.events.first()?;
    let reason: String = error.to_string().chars().take(SHOWN).collect();
    let problem = Problem::new(
        "settlement_refused",
        format!("the end of the attempt cannot be stored: {reason}").replace('\0', "\u{fffd}"),
        refused.attempt.blame.unwrap_or(Blame::Guest),
    );
    let next = match &refused.next {
        Next::Queued { delay, refund, .. } => Next::Queued {
            delay: *delay,
            refund: *refund,
            problem: Some(problem.clone()),
        },
        Next::Done { .. } | Next::Failed { .. } => Next::Failed {
            problem: problem.clone(),
        },
    };
    let measured = &refused.attempt.measured;
    let attempt = AttemptRecord {
        outcome: outcome(&next),
        code: Some(problem.code),
        blame: Some(problem.blame),
        measured: Measured {
            run: measured.run,
            busy: measured.busy,
            usage: Usage {
                model: None,
                ..measured.usage
            },
            peak_memory_bytes: measured.peak_memory_bytes,
            outbound_requests: measured.outbound_requests,
            outbound_denied: measured.outbound_denied.clone(),
            log_dropped: measured.log_dropped,
            ..Measured::default()
        },
        ..refused.attempt.clone()
    };
    let subject = Subject {
        id: refused.fence.id,
        route: about.route.as_ref()?,
        trace_id: &about.trace_id,
        task_id: None,
    };
    let events = subject.settled(&next, &attempt);
    Some(Settlement {
        fence: refused.fence,
        next,
        attempt,
        events,
        artifacts: Vec::new(),
        // The row has failed: what it asked for must not happen all the same.
        forward: None,
    })
}

/// What a settled attempt says of the real path that it ran on.
pub(super) fn ended(settlement: &Settlement) -> Option<EndedAttempt> {
    let attempt = &settlement.attempt;
    let why = attempt.why.as_ref().filter(|why| why.path == Path::Real)?;
    let route = settlement.events.first()?.route.as_ref()?;
    Some(EndedAttempt {
        path: RealPath {
            plugin: attempt.plugin.as_ref()?.name.clone(),
            route: route.key.clone(),
        },
        probe: why.probe,
        said: Said::of(attempt.outcome, attempt.code.as_deref(), attempt.blame),
    })
}

fn is_fallback(assigned: Option<&Assigned>) -> bool {
    assigned.is_some_and(|assigned| assigned.why.fallback)
}

/// The `result` column: the report, and where it came from.
fn stamped_result(outcome: &Outcome, assigned: Option<&Assigned>) -> Value {
    let mut result = json!(outcome.report);
    if let Some(object) = result.as_object_mut() {
        if let Some(assigned) = assigned {
            object.insert("plugin".to_owned(), json!(assigned.plugin.name));
            object.insert("digest".to_owned(), json!(assigned.plugin.digest));
            object.insert("kind".to_owned(), json!(assigned.plugin.kind));
        }
        let fallback = is_fallback(assigned);
        object.insert("fallback".to_owned(), json!(fallback));
        if !outcome.attributes.is_empty() {
            let attributes: serde_json::Map<_, _> = outcome
                .attributes
                .iter()
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            object.insert("attributes".to_owned(), Value::Object(attributes));
        }
    }
    result
}

fn blame(end: &AttemptEnd) -> (Option<String>, Option<Blame>) {
    let own = |code: &str, blame| (Some(code.to_owned()), blame);
    match end {
        AttemptEnd::Completed(_) => (None, None),
        AttemptEnd::Retryable { problem, .. }
        | AttemptEnd::Permanent(problem)
        | AttemptEnd::HostFault(problem) => own(&problem.code, Some(problem.blame)),
        AttemptEnd::Stopped(StopReason::Cancelled) => own(CANCELLED, None),
        AttemptEnd::Stopped(StopReason::Draining) => own("drained", None),
        AttemptEnd::Stopped(StopReason::LeaseLost) => own(LEASE_UNCONFIRMED, Some(Blame::Host)),
        AttemptEnd::Stopped(StopReason::Deadline) => own("deadline_exceeded", Some(Blame::Guest)),
    }
}

fn outcome(next: &Next) -> AttemptOutcome {
    match next {
        Next::Done { .. } => AttemptOutcome::Done,
        Next::Failed { problem } if problem.code == CANCELLED => AttemptOutcome::Cancelled,
        Next::Failed { .. } => AttemptOutcome::Failed,
        Next::Queued { refund, .. } => match refund {
            Refund::None => AttemptOutcome::Retry,
            Refund::Drain => AttemptOutcome::Drained,
            Refund::HostFault => AttemptOutcome::HostFault,
            Refund::Probe => AttemptOutcome::Probe,
        },
    }
}
