//! One claimed task, from the claim to its settlement.
//!
//! Every path through here ends in exactly one settlement; the fence refuses it
//! where the lease went to somebody else. What can be refused without an
//! executor (a bad payload, an expired task, a spent budget) is refused before
//! one is asked. An executor that panics or does not come back in time is
//! answered for here, so that no task hangs on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Shared;
use super::capacity::Permits;
use super::figures::Ended as Counted;
use super::outcome::{self, Log, overstepped};
use super::settler::SettlerHandle;
use super::shadow::{self, Original};
use crate::attempt::{
    Allowance, Attempt, AttemptControl, AttemptEnd, AttemptReport, Blame, Fence, Measured, Problem,
    Progress, StopReason,
};
use crate::dispatch;
use crate::payload::{Assignment, Payload, PayloadError};
use crate::route::RouteKey;
use crate::routing::{Assigned, Unassigned};
use crate::shadow::difference::Seen;
use crate::store::{Settled, Settlement};
use crate::task::{CANCELLED, Claim, ClaimedPayload, Next, TTL_EXCEEDED};

/// What an executor may take longer than its deadline and its grace, which it
/// keeps by itself, before it is given up.
const SLACK: Duration = Duration::from_millis(250);

/// An attempt that this host holds the lease of.
pub(super) struct Flight {
    pub(super) fence: Fence,
    stop: watch::Sender<Option<StopReason>>,
    pub(super) progress: watch::Receiver<Option<Progress>>,
    /// Until when the lease is surely ours. Never held over an await.
    leased_until: Mutex<Instant>,
    /// Somebody asked to cancel the task, whatever stopped the attempt first.
    cancelled: AtomicBool,
}

impl Flight {
    /// Asks the attempt to end. The first reason stands.
    pub(super) fn stop(&self, reason: StopReason) {
        if reason == StopReason::Cancelled {
            self.cancelled.store(true, Ordering::Release);
        }
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
    /// Before the claim was answered, so before its lease and its age began.
    asked: Instant,
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
        cancelled: AtomicBool::new(claim.cancel_requested),
    });
    let mut flights = shared.flights.lock();
    flights.insert(flight.fence, Arc::clone(&flight));
    drop(flights);
    Takeoff {
        claim,
        asked,
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
    let registered = Registered::of(&shared, &takeoff);
    let Flown {
        settlement,
        original,
    } = attempt(&shared, takeoff).await;
    // The guest is gone: its place is free while the settlement commits.
    drop(permits);
    shared.place_freed();
    let original = original.filter(|_| is_end(&settlement.next));
    let applied = settle(&registered, settlement, &settler).await;
    if let (true, Some(original)) = (applied, original) {
        shadow::begin(&shared, *original);
    }
}

/// Whether a task ended by itself.
fn is_end(next: &Next) -> bool {
    match next {
        Next::Done { .. } => true,
        Next::Failed { problem } => problem.code != CANCELLED,
        Next::Queued { .. } => false,
    }
}

/// How an attempt went, and what is to run it again.
struct Flown {
    settlement: Settlement,
    original: Option<Box<Original>>,
}

impl From<Settlement> for Flown {
    fn from(settlement: Settlement) -> Self {
        Self {
            settlement,
            original: None,
        }
    }
}

/// Settles one claimed task that is not to be run.
pub(super) async fn give_back(
    shared: Arc<Shared>,
    takeoff: Takeoff,
    end: AttemptEnd,
    settler: SettlerHandle,
) {
    let registered = Registered::of(&shared, &takeoff);
    let default = shared.settings.retry.max_attempts;
    let log = Log {
        shared: &shared,
        claim: &takeoff.claim,
        asked: takeoff.asked,
        max_attempts: takeoff.claim.max_attempts.unwrap_or(default),
        ttl: None,
    };
    let settlement = log.unexecuted(end);
    settle(&registered, settlement, &settler).await;
}

/// Whether the settlement is durable.
async fn settle(
    registered: &Registered<'_>,
    settlement: Settlement,
    settler: &SettlerHandle,
) -> bool {
    let id = registered.fence.id;
    // Something new is due, and it may be this host's.
    let requeued = matches!(settlement.next, Next::Queued { .. }) || settlement.forward.is_some();
    let ended = outcome::ended(&settlement);
    let counted = Counted::of(&settlement);
    let settled = settler.settle(settlement).await;
    match (settled, &counted) {
        (Some(Settled::Applied), Some(counted)) => registered.shared.tally.ended(counted),
        (Some(Settled::LeaseLost), _) => registered.shared.tally.fenced(),
        _ => {}
    }
    let applied = matches!(settled, Some(Settled::Applied));
    match (settled, ended) {
        (Some(Settled::LeaseLost), _) => {
            tracing::warn!(message.id = %id, "the lease of task {id} was lost; its result is refused");
        }
        (Some(Settled::Applied), Some(ended)) => registered.shared.routing.ended(ended),
        (Some(Settled::Applied) | None, _) => {}
    }
    if requeued {
        registered.shared.wake.notify_one();
    }
    applied
}

/// Takes the flight off the list however it ended: a lease that is kept alive
/// for a flight that panicked would never be rescued.
struct Registered<'a> {
    shared: &'a Shared,
    fence: Fence,
}

impl<'a> Registered<'a> {
    fn of(shared: &'a Shared, takeoff: &Takeoff) -> Self {
        Self {
            shared,
            fence: takeoff.flight.fence,
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock();
        flights.remove(&self.fence);
        let idle = flights.is_empty() && self.shared.settings.until_idle;
        drop(flights);
        if idle {
            self.shared.wake.notify_one();
        }
        self.shared.place_freed();
    }
}

async fn attempt(shared: &Shared, takeoff: Takeoff) -> Flown {
    let Takeoff {
        mut claim,
        asked,
        flight,
        control,
    } = takeoff;
    let default = shared.settings.retry.max_attempts;
    let max_attempts = claim.max_attempts.unwrap_or(default);
    let text = std::mem::replace(&mut claim.payload, ClaimedPayload::TooLarge { bytes: 0 });
    let mut log = Log {
        shared,
        claim: &claim,
        asked,
        max_attempts,
        ttl: None,
    };
    let payload = match checked_payload(text, &claim) {
        Ok(payload) => payload,
        Err(error) => {
            let problem = Problem::new(error.code(), error.to_string(), Blame::Guest);
            return log.unexecuted(AttemptEnd::Permanent(problem)).into();
        }
    };
    let assignment = payload.assignment.clone().unwrap_or_default();
    log.ttl = assignment.ttl;
    if let Some(end) = refused(&log, &assignment) {
        return log.unexecuted(end).into();
    }
    let stop = *control.stop.borrow();
    if let Some(reason) = stop {
        return log.unexecuted(AttemptEnd::Stopped(reason)).into();
    }
    if claim.route.key.is_dispatcher() {
        return dispatched(&log, &payload, &shared.routing.handled()).into();
    }
    let assigned = match assign(shared, &claim, claim.attempt >= max_attempts) {
        Ok(assigned) => assigned,
        Err(Unassigned::Held(reason)) => {
            tracing::info!(message.id = %claim.id, reason, "gave task {} back: its route is held", claim.id);
            return log.held().into();
        }
        Err(Unassigned::Fault(problem)) => {
            return log.unexecuted(AttemptEnd::HostFault(problem)).into();
        }
    };
    let allowance = Allowance {
        budget: assignment.budget,
        spent: claim.spent.clone(),
        model: assignment.model,
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
        allowance: allowance.clone(),
        shadow: None,
    };
    let original = Original::of(shared, &claim, &assigned, &attempt);
    let mut report = execute(shared, attempt, control).await;
    report.end = judged(report.end, &report.measured, &allowance, &flight);
    Flown {
        original: original.map(|original| Box::new(original.ended(Seen::of(&report)))),
        settlement: log.executed(assigned, report),
    }
}

/// The end of a task that the host itself forwards: no executor is needed.
fn dispatched(log: &Log<'_>, payload: &Payload, handled: &[RouteKey]) -> Settlement {
    match dispatch::forward(log.claim, payload, log.ttl_left(), handled) {
        Ok(task) => log.forwarded(task),
        Err(problem) => log.unexecuted(AttemptEnd::Permanent(problem)),
    }
}

fn checked_payload(text: ClaimedPayload, claim: &Claim) -> Result<Payload, PayloadError> {
    match text {
        ClaimedPayload::TooLarge { bytes } => Err(PayloadError::TooLarge { bytes }),
        ClaimedPayload::Text(text) => Payload::parse(text, &claim.route.key),
    }
}

/// Why a task with a good payload is not executed all the same.
fn refused(log: &Log<'_>, assignment: &Assignment) -> Option<AttemptEnd> {
    let claim = log.claim;
    if claim.cancel_requested {
        return Some(AttemptEnd::Stopped(StopReason::Cancelled));
    }
    if log.ttl_left().is_some_and(|left| left.is_zero()) {
        let message = format!(
            "the task is {} ms old; its time to live is over",
            log.age().as_millis()
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

fn assign(shared: &Shared, claim: &Claim, last: bool) -> Result<Assigned, Unassigned> {
    let assign = || shared.routing.assign(claim, last);
    catch_unwind(AssertUnwindSafe(assign)).unwrap_or_else(|_| {
        let message = "the host panicked while it chose the executor";
        let problem = Problem::new("host_panic", message, Blame::Host);
        Err(Unassigned::Fault(problem))
    })
}

/// Runs the attempt, and answers for an executor that does not.
pub(super) async fn execute(
    shared: &Shared,
    attempt: Attempt,
    control: AttemptControl,
) -> AttemptReport {
    let begun = Instant::now();
    let grace = shared.settings.stop_grace + SLACK;
    let overdue = overdue(control.stop.clone(), attempt.deadline, grace);
    let id = attempt.fence.id;
    let running = AssertUnwindSafe(shared.executor.execute(attempt, control)).catch_unwind();
    let end = tokio::select! {
        biased;
        ended = running => match ended {
            Ok(report) => return report,
            Err(_) => AttemptEnd::HostFault(Problem::new(
                "host_panic",
                "the executor panicked",
                Blame::Host,
            )),
        },
        reason = overdue => AttemptEnd::Stopped(reason),
        () = shared.ended.cancelled() => AttemptEnd::Stopped(StopReason::Draining),
    };
    tracing::error!(message.id = %id, ?end, "the executor gave no answer for task {id}");
    AttemptReport {
        end,
        measured: Measured {
            run: begun.elapsed(),
            ..Measured::default()
        },
        artifacts: Vec::new(),
    }
}

/// Ends when the attempt should have been over for a while, with the reason.
async fn overdue(
    mut stop: watch::Receiver<Option<StopReason>>,
    deadline: Duration,
    grace: Duration,
) -> StopReason {
    let asked = async {
        let reason = match stop.wait_for(Option::is_some).await {
            Ok(reason) => *reason,
            Err(_) => None,
        };
        match reason {
            Some(reason) => {
                tokio::time::sleep(grace).await;
                reason
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reason = asked => reason,
        () = tokio::time::sleep(deadline.saturating_add(grace)) => StopReason::Deadline,
    }
}

/// What the end of an attempt comes to, seen with what the executor may not know:
/// an assignment that was overstepped ends its task, and so does a wish to
/// cancel that met an attempt which would otherwise be repeated.
fn judged(
    end: AttemptEnd,
    measured: &Measured,
    allowance: &Allowance,
    flight: &Flight,
) -> AttemptEnd {
    let repeated = match end {
        AttemptEnd::Completed(_) => false,
        AttemptEnd::Permanent(_) | AttemptEnd::Stopped(StopReason::Cancelled) => return end,
        AttemptEnd::Retryable { .. } | AttemptEnd::HostFault(_) | AttemptEnd::Stopped(_) => true,
    };
    if repeated && flight.cancelled.load(Ordering::Acquire) {
        return AttemptEnd::Stopped(StopReason::Cancelled);
    }
    match overstepped(allowance, &measured.usage) {
        Some(problem) => AttemptEnd::Permanent(problem),
        None => end,
    }
}
