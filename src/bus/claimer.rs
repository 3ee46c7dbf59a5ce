//! Claims tasks for as many attempts as fit, and no more.
//!
//! The wake-up is armed before the claim, so that a task inserted in between is
//! seen; polling always works without any. A call to claim is never dropped on
//! the way: what it claims after nobody waits for it is given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::capacity::{Capacity, GATHER, Group, Places};
use super::outage::{Outage, PATIENCE, bounded, no_answer};
use super::settler::{self, SettlerHandle};
use super::{Shared, flight, maintenance, wants};
use crate::attempt::{AttemptEnd, Blame, Fence, Problem, StopReason};
use crate::routing::ServedRoute;
use crate::store::{ClaimRequest, StoreError, Want};
use crate::task::Claim;

const BACKOFF_START: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// After one hint in vain; the longest is eight times that.
const HINT_PAUSE: Duration = Duration::from_millis(2);

/// Claims and launches until a drain begins, or, where asked, until idle.
pub(super) async fn claim_until_drained(shared: &Arc<Shared>, capacity: &mut Capacity) {
    let mut outage = Outage::of("claim");
    let mut backoff = BACKOFF_START;
    // Looks in a row that found nothing although something was due.
    let mut in_vain = 0_u32;
    // Hints in a row that were of no task for this host.
    let mut hinted = 0_u32;
    // A call to claim failed: what it claimed all the same is known to nobody.
    let mut in_doubt = false;
    while !shared.draining.is_cancelled() {
        let wake = shared.wake.notified();
        tokio::pin!(wake);
        wake.as_mut().enable();

        // Said before the places are counted: whoever frees one after that wakes.
        shared.say_full(true);
        let served = shared.routing.served();
        let places = capacity.places(served.clone());
        let unsettled = shared.room_for_unsettled();
        shared.say_full(!places.full.is_empty() || unsettled == 0);
        let looked = async {
            if in_doubt {
                give_back_unanswered(shared).await?;
            }
            look(shared, capacity, &places, unsettled).await
        };
        let looked = looked.await;
        in_doubt = looked.is_err();
        match looked {
            Ok(0) => {
                outage.is_over();
                backoff = BACKOFF_START;
                tokio::select! {
                    ended = rest(shared, &served, &places, &mut in_vain) => {
                        if ended {
                            return;
                        }
                    }
                    () = &mut wake => {
                        in_vain = 0;
                        // One place rarely comes free alone, nor is one attempt
                        // settled alone.
                        match places.full.first() {
                            Some(pool) => pool.gather().await,
                            None if unsettled == 0 => tokio::time::sleep(GATHER).await,
                            None => {}
                        }
                    }
                    () = next_hint(shared, hinted), if places.full.is_empty() => hinted += 1,
                    () = shared.draining.cancelled() => {}
                }
            }
            Ok(_) => {
                outage.is_over();
                backoff = BACKOFF_START;
                in_vain = 0;
                hinted = 0;
                let host = capacity.host();
                if !host.has_share() {
                    tokio::select! {
                        () = host.any() => host.gather().await,
                        () = shared.draining.cancelled() => {}
                    }
                }
            }
            Err(error) => {
                outage.goes_on(&error);
                tokio::select! {
                    () = tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>())) => {}
                    () = shared.draining.cancelled() => {}
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Gives back what this host has claimed without knowing it. What the database
/// commits only after this waits for its lease to run out.
async fn give_back_unanswered(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let Some(settler) = shared.settler.handle() else {
        return Ok(());
    };
    let asked = Instant::now();
    let known: Vec<Fence> = shared.flights().iter().map(|f| f.fence).collect();
    let unanswered = shared.store.unanswered(&shared.holder, &known);
    for claim in bounded(PATIENCE, unanswered).await? {
        let end = host_fault("claim_unanswered", "the answer to the claim was lost");
        give_back(shared, claim, asked, end, settler.clone());
    }
    Ok(())
}

/// Claims once for every route that has room; the number of tasks.
async fn look(
    shared: &Arc<Shared>,
    capacity: &mut Capacity,
    places: &Places,
    mut unsettled: u32,
) -> Result<usize, StoreError> {
    let mut found = 0;
    let mut failed = None;
    for group in &places.groups {
        let limit = capacity.limit(group).min(unsettled);
        if limit == 0 || shared.draining.is_cancelled() {
            continue;
        }
        let asked = Instant::now();
        match claim(shared, group.wants.clone(), limit).await {
            Ok(claims) => {
                capacity.claimed();
                shared.tally.claimed(claims.len());
                found += claims.len();
                let count = u32::try_from(claims.len()).unwrap_or(limit);
                unsettled = unsettled.saturating_sub(count);
                for claim in claims {
                    launch(shared, capacity, group, claim, asked);
                }
                if (1..limit).contains(&count) {
                    // There is no more to be had for now: what was launched goes
                    // before another question to the store.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if error.is_transient() => return Err(error),
            // A route whose rows cannot be read is not the others' trouble.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found == 0 => Err(error),
        _ => Ok(found),
    }
}

/// One call to the store, in a task of its own. It is waited for no longer than
/// half its lease runs, so that what comes too late can still be given back, and
/// not once a drain begins.
async fn claim(
    shared: &Arc<Shared>,
    wants: Vec<Want>,
    limit: u32,
) -> Result<Vec<Claim>, StoreError> {
    let Some(settler) = shared.settler.handle() else {
        return Ok(Vec::new());
    };
    let (answer, mut answered) = oneshot::channel();
    let call = Call {
        shared: Arc::clone(shared),
        wants,
        limit,
        settler,
    };
    shared.tracker.spawn(call.make(answer));
    let patience = (shared.settings.lease / 2).min(PATIENCE);
    let in_time = tokio::select! {
        biased;
        answer = &mut answered => answer.ok(),
        () = tokio::time::sleep(patience) => None,
        () = shared.draining.cancelled() => None,
    };
    match in_time {
        Some(answer) => answer,
        None => {
            // From here on, the call itself gives back what it claims.
            answered.close();
            let answer = answered.try_recv();
            answer.unwrap_or_else(|_| Err(no_answer(patience)))
        }
    }
}

struct Call {
    shared: Arc<Shared>,
    wants: Vec<Want>,
    limit: u32,
    settler: SettlerHandle,
}

impl Call {
    async fn make(self, answer: oneshot::Sender<Result<Vec<Claim>, StoreError>>) {
        let asked = Instant::now();
        let shared = &self.shared;
        let request = ClaimRequest {
            holder: &shared.holder,
            lease: shared.settings.lease,
            wants: self.wants,
            limit: self.limit,
        };
        let claims = tokio::select! {
            claims = shared.store.claim(&request) => claims,
            () = shared.ended.cancelled() => return,
        };
        let Err(Ok(late)) = answer.send(claims) else {
            return;
        };
        for claim in late {
            let end = match shared.draining.is_cancelled() {
                true => AttemptEnd::Stopped(StopReason::Draining),
                false => host_fault("claim_late", "the database took too long over the claim"),
            };
            give_back(shared, claim, asked, end, self.settler.clone());
        }
    }
}

fn launch(
    shared: &Arc<Shared>,
    capacity: &mut Capacity,
    group: &Group,
    claim: Claim,
    asked: Instant,
) {
    let Some(settler) = shared.settler.handle() else {
        // Only the end of this loop closes the settler.
        tracing::error!(message.id = %claim.id, "claimed task {} after the end", claim.id);
        return;
    };
    if shared.draining.is_cancelled() {
        let end = AttemptEnd::Stopped(StopReason::Draining);
        return give_back(shared, claim, asked, end, settler);
    }
    let Some(permits) = capacity.take(group, &claim.route) else {
        // The store claimed what it was not asked for: a bug there.
        tracing::error!(message.id = %claim.id, "there is no place for task {}", claim.id);
        let end = host_fault("no_place", "the task was claimed without a place for it");
        return give_back(shared, claim, asked, end, settler);
    };
    let takeoff = flight::announce(shared, claim, asked);
    // Boxed, since a task is moved several times and this one is large.
    let flight = flight::fly(Arc::clone(shared), takeoff, permits, settler);
    shared.tracker.spawn(Box::pin(flight));
}

fn give_back(
    shared: &Arc<Shared>,
    claim: Claim,
    asked: Instant,
    end: AttemptEnd,
    settler: SettlerHandle,
) {
    let takeoff = flight::announce(shared, claim, asked);
    shared
        .tracker
        .spawn(flight::give_back(Arc::clone(shared), takeoff, end, settler));
}

fn host_fault(code: &str, message: &str) -> AttemptEnd {
    AttemptEnd::HostFault(Problem::new(code, message, Blame::Host))
}

/// Waits for a hint. Where other routes are busy, hints come all the time, and most
/// are for nothing here.
async fn next_hint(shared: &Shared, in_vain: u32) {
    if in_vain > 0 {
        tokio::time::sleep(HINT_PAUSE * (1 << (in_vain - 1).min(3))).await;
    }
    shared.store.hint(&shared.holder).await;
}

/// Waits until another look is worth it; whether the loop may end instead, since
/// it was asked to end when idle and is.
async fn rest(
    shared: &Arc<Shared>,
    served: &[ServedRoute],
    places: &Places,
    in_vain: &mut u32,
) -> bool {
    let poll = shared.settings.poll.mul_f64(0.5 + rand::random::<f64>());
    // Before the question: what ends after it may wait again by then.
    let nothing_runs = shared.flights.lock().is_empty() && shared.shadows.running() == 0;
    let asked = match nothing_runs {
        true => wants(served),
        // What the full routes have waiting is not for now: a place that comes
        // free wakes.
        false => roomy(places),
    };
    if !nothing_runs {
        // Where attempts end all the time, the next one wakes before the answer
        // would be of any use.
        tokio::time::sleep(GATHER).await;
    }
    let pause = match next_due(shared, asked).await {
        Ok(None) if shared.settings.until_idle && nothing_runs => {
            if is_idle(shared).await {
                return true;
            }
            poll
        }
        Ok(Some(due)) => {
            // It was due and yet not to be had: somebody else's, or unreadable.
            let floor = Duration::from_millis(1 << (*in_vain).min(16));
            *in_vain = if due < floor { *in_vain + 1 } else { 0 };
            due.max(floor).min(poll)
        }
        // Idle, or away: either way the poll finds out.
        Ok(None) | Err(_) => poll,
    };
    tokio::time::sleep(pause).await;
    false
}

/// When the next task is due. Asked in a task of its own: whoever waits here may
/// let go at any moment, and a statement that is let go of costs its connection.
async fn next_due(shared: &Arc<Shared>, asked: Vec<Want>) -> Result<Option<Duration>, StoreError> {
    let asking = Arc::clone(shared);
    let question = shared.tracker.spawn(async move {
        tokio::select! {
            due = bounded(PATIENCE, asking.store.next_due(&asked)) => due,
            () = asking.ended.cancelled() => Ok(None),
        }
    });
    match question.await {
        Ok(answer) => answer,
        Err(gone) => match gone.try_into_panic() {
            // As if it had been asked here: the claimer starts again.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(None),
        },
    }
}

/// Whether no row is about to wait although none does: an expired lease is work,
/// too, if nobody took it back yet, and so is a pipeline between its stages.
async fn is_idle(shared: &Shared) -> bool {
    if !matches!(maintenance::rescue(shared).await, Ok(false)) {
        return false;
    }
    let runs = bounded(PATIENCE, shared.store.due_runs(1)).await;
    runs.is_ok_and(|runs| runs.is_empty())
}

fn roomy(places: &Places) -> Vec<Want> {
    let groups = places.groups.iter();
    groups.flat_map(|group| group.wants.clone()).collect()
}

/// How many attempts may have ended without being settled, beyond those that
/// run: a database that takes claims but no settlements must not pile them up.
pub(super) const fn unsettled_limit(concurrency: u32) -> u32 {
    concurrency
        .saturating_mul(2)
        .saturating_add(settler::BATCH as u32)
}
