//! Runs tasks again in shadows, once they have ended.
//!
//! **Invariants.** A shadow begins after the settlement of its task is durable,
//! and only while tasks leave a place of the host free; what finds none is
//! dropped and counted. It takes no place that the claimer hands out, holds no
//! lease, and ends at once when the host drains. Whatever becomes of it, no task
//! notices.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::outage::{PATIENCE, bounded};
use super::{Shared, flight};
use crate::attempt::{Attempt, AttemptControl};
use crate::ids::ShadowId;
use crate::routing::{Assigned, Shadowing};
use crate::shadow::ShadowRun;
use crate::shadow::difference::{Seen, compare};
use crate::store::StoreError;
use crate::task::Claim;

/// One of so many places of a host is for shadows, and at least one.
const PART: u32 = 4;

/// The shadows of one host.
pub(super) struct Shadows {
    places: Arc<Semaphore>,
    size: u32,
    /// Not yet told to the bus. Never held over an await.
    dropped: Mutex<BTreeMap<ShadowId, u64>>,
    ran_total: AtomicU64,
    dropped_total: AtomicU64,
}

/// How shadows fared on this host since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowCounts {
    pub running: u64,
    pub ran: u64,
    pub dropped: u64,
}

impl Shadows {
    pub(super) fn new(concurrency: u32) -> Self {
        let size = (concurrency / PART).max(1);
        Self {
            places: Arc::new(Semaphore::new(size as usize)),
            size,
            dropped: Mutex::default(),
            ran_total: AtomicU64::new(0),
            dropped_total: AtomicU64::new(0),
        }
    }

    pub(super) fn running(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX);
        self.size.saturating_sub(free)
    }

    pub(super) fn counts(&self) -> ShadowCounts {
        ShadowCounts {
            running: self.running().into(),
            ran: self.ran_total.load(Ordering::Relaxed),
            dropped: self.dropped_total.load(Ordering::Relaxed),
        }
    }

    fn drop_one(&self, id: &ShadowId) {
        self.dropped_total.fetch_add(1, Ordering::Relaxed);
        *self.dropped.lock().entry(id.clone()).or_default() += 1;
    }
}

/// A task's own attempt, as it went, and who is to run it again.
pub(super) struct Original {
    attempt: Attempt,
    wanted: Vec<Shadowing>,
    seen: Option<Seen>,
}

impl Original {
    /// Of an attempt that is about to run; `None` where nobody watches.
    pub(super) fn of(
        shared: &Shared,
        claim: &Claim,
        assigned: &Assigned,
        attempt: &Attempt,
    ) -> Option<Self> {
        let wanted = || shared.routing.shadows(claim, assigned);
        let wanted = catch_unwind(AssertUnwindSafe(wanted)).unwrap_or_default();
        (!wanted.is_empty()).then(|| Self {
            attempt: attempt.clone(),
            wanted,
            seen: None,
        })
    }

    /// The same, with what the attempt came to.
    pub(super) fn ended(self, seen: Seen) -> Self {
        Self {
            seen: Some(seen),
            ..self
        }
    }
}

/// Runs a task again whose end is durable, if there is room. Called while its
/// flight is still on the list, so that a host that ends when idle waits.
pub(super) fn begin(shared: &Arc<Shared>, original: Original) {
    let Original {
        attempt,
        wanted,
        seen: Some(stable),
    } = original
    else {
        return;
    };
    for shadowing in wanted {
        if shared.draining.is_cancelled() {
            return;
        }
        let Some(place) = spare_place(shared) else {
            shared.shadows.drop_one(&shadowing.terms.id);
            continue;
        };
        let again = Again {
            original: attempt.clone(),
            stable: stable.clone(),
            shadowing,
        };
        shared.tracker.spawn(again.run(Arc::clone(shared), place));
    }
}

/// A place that no task takes now.
fn spare_place(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    // The flight of the task itself is over but for its name on the list.
    let flights = shared.flights.lock().len().saturating_sub(1);
    let flights = u32::try_from(flights).unwrap_or(u32::MAX);
    let taken = flights.saturating_add(shared.shadows.running());
    if taken >= shared.settings.concurrency {
        return None;
    }
    Arc::clone(&shared.shadows.places).try_acquire_owned().ok()
}

/// One task on its way through a shadow.
struct Again {
    original: Attempt,
    stable: Seen,
    shadowing: Shadowing,
}

impl Again {
    async fn run(self, shared: Arc<Shared>, place: OwnedSemaphorePermit) {
        let id = self.shadowing.terms.id.clone();
        let kept = tokio::select! {
            kept = self.execute(&shared) => kept,
            () = shared.draining.cancelled() => Ok(()),
        };
        match kept {
            Ok(()) => {}
            Err(error) => {
                shared.shadows.drop_one(&id);
                tracing::debug!(%error, shadow = %id, "a shadow's run is not kept");
            }
        }
        drop(place);
        if shared.settings.until_idle {
            shared.wake.notify_one();
        }
    }

    async fn execute(self, shared: &Shared) -> Result<(), StoreError> {
        let Self {
            original,
            stable,
            shadowing,
        } = self;
        let Shadowing {
            terms,
            plugin,
            deadline,
            hold,
        } = shadowing;
        let attempt = Attempt {
            plugin: plugin.clone(),
            deadline,
            shadow: Some(terms.clone()),
            ..original.clone()
        };
        // Nobody asks it to stop: it has its deadline, and a drain drops it.
        let (_stop, stopped) = watch::channel(None);
        let (progress, _) = watch::channel(None);
        let control = AttemptControl {
            stop: stopped,
            progress,
        };
        let report = flight::execute(shared, attempt, control).await;
        drop(hold);
        shared.shadows.ran_total.fetch_add(1, Ordering::Relaxed);
        let candidate = Seen::of(&report);
        let run = ShadowRun {
            shadow: terms.id,
            message_id: original.fence.id,
            route: original.route,
            trace_id: original.trace_id,
            host: shared.holder.to_string(),
            side_effects: terms.side_effects,
            candidate: plugin,
            stable: original.plugin,
            comparison: compare(&stable, &candidate),
            candidate_seen: candidate,
            stable_seen: stable,
        };
        bounded(PATIENCE, shared.store.record_shadow(&run)).await?;
        Ok(())
    }
}

/// Tells the bus what was dropped since the last time.
pub(super) async fn tell_dropped(shared: &Shared) -> Result<(), StoreError> {
    let dropped = std::mem::take(&mut *shared.shadows.dropped.lock());
    if dropped.is_empty() {
        return Ok(());
    }
    let counts: Vec<(ShadowId, u64)> = dropped.into_iter().collect();
    let told = bounded(PATIENCE, shared.store.count_dropped(&counts)).await;
    if told.is_err() {
        let mut dropped = shared.shadows.dropped.lock();
        for (id, count) in counts {
            *dropped.entry(id).or_default() += count;
        }
    }
    told
}
