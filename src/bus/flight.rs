//! One claimed task, from the claim to its settlement.
//!
//! Every path through here ends in exactly one settlement, or in none when the
//! lease went to somebody else. What can be refused without an executor (a bad
//! payload, an expired task, a spent budget) is refused before one is asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Shared;
use super::claimer::Permits;
use super::settler::SettlerHandle;
use crate::attempt::{
    Allowance, Attempt, AttemptControl, AttemptEnd, AttemptOutcome, AttemptRecord, AttemptReport,
    Blame, Fence, Measured, Problem, Progress, StagedArtifact, StopReason,
};
use crate::event::Subject;
use crate::payload::{Payload, PayloadError};
use crate::report::Outcome;
use crate::routing::{Assigned, Unassigned};
use crate::task::{
    CANCELLED, Claim, ClaimedPayload, Next, Settled, Settlement, Standing, TTL_EXCEEDED, next_state,
};

/// An attempt that this host holds the lease of.
pub(super) struct Flight {
    pub(super) fence: Fence,
    stop: watch::Sender<Option<StopReason>>,
    pub(super) progress: watch::Receiver<Option<Progress>>,
    /// Until when the lease is surely ours. Never held over an await.
    leased_until: Mutex<Instant>,
}

impl Flight {
    /// Asks the attempt to end. The first reason stands.
    pub(super) fn stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    pub(super) fn confirm_lease(&self, until: Instant) {
        *self.leased_until.lock() = until;
    }

    pub(super) fn leased_until(&self) -> Instant {
        *self.leased_until.lock()
    }
}

/// A flight that was announced and not yet flown.
pub(super) struct Takeoff {
    claim: Claim,
    claimed: Instant,
    flight: Arc<Flight>,
    control: AttemptControl,
}

/// Registers a claimed task, so that its lease is kept from here on.
pub(super) fn announce(shared: &Shared, claim: Claim, asked: Instant) -> Takeoff {
    let (stop, stopped) = watch::channel(None);
    let (progress_tx, progress) = watch::channel(None);
    let flight = Arc::new(Flight {
        fence: claim.fence(),
        stop,
        progress,
        leased_until: Mutex::new(asked + shared.settings.lease),
    });
    let mut flights = shared.flights.lock();
    flights.insert(flight.fence, Arc::clone(&flight));
    drop(flights);
    Takeoff {
        claim,
        claimed: Instant::now(),
        flight,
        control: AttemptControl {
            stop: stopped,
            progress: progress_tx,
        },
    }
}

/// Runs and settles one claimed task.
pub(super) async fn fly(
    shared: Arc<Shared>,
    takeoff: Takeoff,
    permits: Permits,
    settler: SettlerHandle,
) {
    let fence = takeoff.flight.fence;
    let _registered = Registered {
        shared: &shared,
        fence,
    };
    let settlement = attempt(&shared, takeoff).await;
    // The guest is gone: its place is free while the settlement commits.
    drop(permits);
    if shared.starved.swap(false, Ordering::AcqRel) {
        shared.wake.notify_one();
    }
    if let Some(settlement) = settlement {
        let requeued = matches!(settlement.next, Next::Queued { .. });
        if settler.settle(settlement).await == Some(Settled::LeaseLost) {
            tracing::warn!(message.id = %fence.id, "the lease of task {} was lost; its result is refused", fence.id);
        }
        if requeued {
            shared.wake.notify_one();
        }
    }
}

/// Takes the flight off the list however it ended: a lease that is kept alive
/// for a flight that panicked would never be rescued.
struct Registered<'a> {
    shared: &'a Shared,
    fence: Fence,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock();
        flights.remove(&self.fence);
        if flights.is_empty() && self.shared.settings.until_idle {
            self.shared.wake.notify_one();
        }
    }
}

async fn attempt(shared: &Shared, takeoff: Takeoff) -> Option<Settlement> {
    let Takeoff {
        mut claim,
        claimed,
        control,
        ..
    } = takeoff;
    let max_attempts = claim
        .max_attempts
        .unwrap_or(shared.settings.retry.max_attempts);
    let text = std::mem::replace(&mut claim.payload, ClaimedPayload::TooLarge { bytes: 0 });
    let mut log = Log {
        shared,
        claim: &claim,
        claimed,
        max_attempts,
        ttl: None,
    };
    let payload = match checked_payload(text, &claim) {
        Ok(payload) => payload,
        Err(error) => {
            let problem = Problem::new(error.code(), error.to_string(), Blame::Guest);
            return log.unexecuted(AttemptEnd::Permanent(problem));
        }
    };
    let assignment = payload.assignment.clone().unwrap_or_default();
    log.ttl = assignment.ttl;
    if let Some(end) = refused(&claim, &assignment) {
        return log.unexecuted(end);
    }
    let last = claim.attempt >= max_attempts;
    let assigned = match shared.routing.assign(&claim, last) {
        Ok(assigned) => assigned,
        Err(Unassigned::Held(_)) => {
            return log.unexecuted(AttemptEnd::Stopped(StopReason::Draining));
        }
        Err(Unassigned::Fault(problem)) => {
            return log.unexecuted(AttemptEnd::HostFault(problem));
        }
    };
    let ttl_left = log.ttl_left();
    let attempt = Attempt {
        fence: claim.fence(),
        task_id: claim
            .task_id
            .clone()
            .or(payload.task_id)
            .unwrap_or_else(|| claim.id.to_string()),
        trace_id: claim.trace_id.clone(),
        route: claim.route.clone(),
        number: claim.attempt,
        max_attempts,
        payload: payload.text.into(),
        plugin: assigned.plugin.clone(),
        deadline: ttl_left.map_or(assigned.deadline, |left| left.min(assigned.deadline)),
        allowance: Allowance {
            budget: assignment.budget,
            spent: claim.spent.clone(),
            model: assignment.model,
        },
    };
    let report = shared.executor.execute(attempt, control).await;
    log.executed(assigned, report)
}

fn checked_payload(text: ClaimedPayload, claim: &Claim) -> Result<Payload, PayloadError> {
    match text {
        ClaimedPayload::TooLarge { bytes } => Err(PayloadError::TooLarge { bytes }),
        ClaimedPayload::Text(text) => Payload::parse(text, &claim.route.key),
    }
}

/// Why a task with a good payload is not executed all the same.
fn refused(claim: &Claim, assignment: &crate::payload::Assignment) -> Option<AttemptEnd> {
    if claim.cancel_requested {
        return Some(AttemptEnd::Stopped(StopReason::Cancelled));
    }
    if assignment.ttl.is_some_and(|ttl| claim.age >= ttl) {
        let message = format!(
            "the task is {} ms old; its time to live is over",
            claim.age.as_millis()
        );
        let problem = Problem::new(TTL_EXCEEDED, message, Blame::Guest);
        return Some(AttemptEnd::Permanent(problem));
    }
    if claim.spent.exceeds(&assignment.budget) {
        let message = "earlier attempts spent the task's budget";
        let problem = Problem::new("budget_exceeded", message, Blame::Guest);
        return Some(AttemptEnd::Permanent(problem));
    }
    None
}

/// Turns the end of an attempt into what is written of it.
struct Log<'a> {
    shared: &'a Shared,
    claim: &'a Claim,
    claimed: Instant,
    max_attempts: u32,
    ttl: Option<Duration>,
}

impl Log<'_> {
    fn ttl_left(&self) -> Option<Duration> {
        let age = self.claim.age + self.claimed.elapsed();
        self.ttl.map(|ttl| ttl.saturating_sub(age))
    }

    fn unexecuted(&self, end: AttemptEnd) -> Option<Settlement> {
        self.settlement(end, None, Measured::default(), Vec::new())
    }

    fn executed(&self, assigned: Assigned, report: AttemptReport) -> Option<Settlement> {
        self.settlement(
            report.end,
            Some(assigned),
            report.measured,
            report.artifacts,
        )
    }

    fn settlement(
        &self,
        end: AttemptEnd,
        assigned: Option<Assigned>,
        measured: Measured,
        artifacts: Vec<StagedArtifact>,
    ) -> Option<Settlement> {
        let claim = self.claim;
        let (code, blame) = blame(&end);
        let standing = Standing {
            attempt: claim.attempt,
            max_attempts: self.max_attempts,
            host_faults: claim.host_faults,
            ttl_left: self.ttl_left(),
        };
        let retry = &self.shared.settings.retry;
        let result = |outcome: &Outcome| stamped_result(outcome, assigned.as_ref());
        let mut next = next_state(end, &standing, retry, rand::random(), result)?;
        if let (Next::Done { snippet, .. }, true) = (&mut next, is_fallback(assigned.as_ref())) {
            snippet.insert_str(0, "[mock fallback] ");
        }
        let record = AttemptRecord {
            attempt: claim.attempt,
            outcome: outcome(&next),
            plugin: assigned.as_ref().map(|a| a.plugin.clone()),
            why: assigned.map(|a| a.why),
            stage: self.shared.settings.stage,
            wait_ms: crate::event::millis(claim.wait),
            code,
            blame,
            measured,
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
        Some(Settlement {
            fence: claim.fence(),
            next,
            attempt: record,
            events,
            artifacts: if done { artifacts } else { Vec::new() },
        })
    }
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
    match end {
        AttemptEnd::Completed(_) => (None, None),
        AttemptEnd::Retryable { problem, .. }
        | AttemptEnd::Permanent(problem)
        | AttemptEnd::HostFault(problem) => (Some(problem.code.clone()), Some(problem.blame)),
        AttemptEnd::Stopped(StopReason::Cancelled) => (Some(CANCELLED.to_owned()), None),
        AttemptEnd::Stopped(StopReason::Draining) => (Some("drained".to_owned()), None),
        AttemptEnd::Stopped(StopReason::LeaseLost) => (Some("lease_lost".to_owned()), None),
        AttemptEnd::Stopped(StopReason::Deadline) => {
            (Some("deadline_exceeded".to_owned()), Some(Blame::Guest))
        }
    }
}

fn outcome(next: &Next) -> AttemptOutcome {
    use crate::task::Refund;
    match next {
        Next::Done { .. } => AttemptOutcome::Done,
        Next::Failed { problem } if problem.code == CANCELLED => AttemptOutcome::Cancelled,
        Next::Failed { .. } => AttemptOutcome::Failed,
        Next::Queued { refund, .. } => match refund {
            Refund::None => AttemptOutcome::Retry,
            Refund::Drain => AttemptOutcome::Drained,
            Refund::HostFault => AttemptOutcome::HostFault,
        },
    }
}
