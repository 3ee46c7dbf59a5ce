//! The bus loop: claims tasks, has them executed, settles them, keeps their
//! leases alive, and gives back what it cannot finish.
//!
//! **Invariants.** The bus never names a plugin's insides (it holds an
//! [`Executor`]) nor a database (it holds a [`Store`]). A claim is committed
//! before its attempt starts; the lease protects it, not an open transaction.
//! Every way out of an attempt goes through one settlement. No task is spawned
//! outside the bus's trackers, so that a drain can wait for all of them, and no
//! call to the store is waited for without end. A part that panics starts again:
//! without it the host would only seem to work.
//!
//! ```text
//!  claimer ── Claim ──▶ flight (checks, assignment, executor) ── Settlement ──▶ settler
//!     ▲                    │ stop                                                  │
//!     └─ wake, poll        └──── lease keeper (renew, cancel, lost)     group commit
//!                                 maintenance (rescue, expire, retire)     │ durable
//!                                                                       shadows
//! ```

mod capacity;
mod claimer;
mod figures;
mod flight;
mod lease;
mod maintenance;
pub(crate) mod outage;
mod outcome;
mod settler;
mod shadow;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::{Executor, Fence, Progress, StopReason};
use crate::ids::{HolderId, MessageId};
use crate::retry::RetryPolicy;
use crate::routing::{Routing, ServedRoute};
use crate::stage::Stage;
use crate::store::{Retention, Store, Want};
use capacity::Capacity;
use figures::Tally;
pub use figures::{Figures, Histogram, PluginFigures};
use flight::Flight;
use settler::Settler;
pub use shadow::ShadowCounts;
use shadow::Shadows;

/// How the loop behaves. Checked by [`BusSettings::check`].
#[derive(Debug, Clone)]
pub struct BusSettings {
    pub stage: Stage,
    /// Attempts at once on this host, over all routes.
    pub concurrency: u32,
    /// How long a claim is ours without a renewal.
    pub lease: Duration,
    /// How long an empty bus is left alone, give or take half.
    pub poll: Duration,
    pub retry: RetryPolicy,
    /// How long a drain may take in all; never less than a guest needs to give
    /// way, and a commit.
    pub drain: Duration,
    /// How long a guest may take to give way.
    pub stop_grace: Duration,
    pub retention: Retention,
    /// End once nothing waits and nothing runs.
    pub until_idle: bool,
}

/// Why settings cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("the lease is {0:?}; expected at least 500 ms, or renewals come too late")]
    LeaseTooShort(Duration),
    #[error("the concurrency is 0; expected at least 1")]
    NoConcurrency,
    #[error("the poll interval is zero; expected at least 1 ms")]
    NoPoll,
}

impl BusSettings {
    /// # Errors
    /// Names the setting that cannot work and what would.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        if self.lease < Duration::from_millis(500) {
            return Err(InvalidSettings::LeaseTooShort(self.lease));
        }
        if self.concurrency == 0 {
            return Err(InvalidSettings::NoConcurrency);
        }
        if self.poll.is_zero() {
            return Err(InvalidSettings::NoPoll);
        }
        Ok(())
    }
}

/// What the parts of the loop share.
struct Shared {
    store: Arc<dyn Store>,
    executor: Arc<dyn Executor>,
    routing: Arc<dyn Routing>,
    settings: BusSettings,
    holder: HolderId,
    settler: Settler,
    tally: Arc<Tally>,
    /// Attempts that this host holds a lease for.
    flights: Mutex<HashMap<Fence, Arc<Flight>>>,
    shadows: Shadows,
    wake: Notify,
    /// The claimer lacks a place that a flight may free.
    full: AtomicBool,
    /// Set once no more is claimed.
    draining: CancellationToken,
    /// Set once the drain is over, whatever is left.
    ended: CancellationToken,
    /// What a drain waits for: flights, calls to claim, the settler, and shadows,
    /// which it ends.
    tracker: TaskTracker,
}

impl Shared {
    fn flights(&self) -> Vec<Arc<Flight>> {
        self.flights.lock().values().cloned().collect()
    }

    /// Asks for a wake-up as soon as a place comes free, or no longer.
    fn say_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
        // What is counted after this is counted after it was said.
        fence(Ordering::SeqCst);
    }

    /// A place came free; the claimer is told if it waits for one.
    fn place_freed(&self) {
        fence(Ordering::SeqCst);
        if self.full.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// How many more attempts may begin before too many wait for their commit;
    /// none where it is too few for a claim.
    fn room_for_unsettled(&self) -> u32 {
        let concurrency = self.settings.concurrency;
        let flights = u32::try_from(self.flights.lock().len()).unwrap_or(u32::MAX);
        let room = claimer::unsettled_limit(concurrency).saturating_sub(flights);
        if room < capacity::share(concurrency) {
            0
        } else {
            room
        }
    }
}

/// A running bus, as the API and the signal handler see it.
#[derive(Clone)]
pub struct BusHandle {
    shared: Arc<Shared>,
    finished: watch::Receiver<bool>,
}

impl BusHandle {
    /// Tells the loop that something may be due: a hint, the poll stays.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Asks a running attempt of this host to end since its task was cancelled;
    /// without one, the holder finds out by polling.
    pub fn cancel_hint(&self, id: MessageId) {
        for flight in self.shared.flights() {
            if flight.fence.id == id {
                flight.stop(StopReason::Cancelled);
            }
        }
    }

    /// The latest progress of a task that runs here.
    pub fn progress(&self, id: MessageId) -> Option<Progress> {
        let flights = self.shared.flights.lock();
        let flight = flights.values().find(|flight| flight.fence.id == id)?;
        flight.progress.borrow().clone()
    }

    pub fn holder(&self) -> &HolderId {
        &self.shared.holder
    }

    /// How many attempts run here.
    pub fn in_flight(&self) -> usize {
        self.shared.flights.lock().len()
    }

    /// How shadows fared here.
    pub fn shadow_counts(&self) -> ShadowCounts {
        self.shared.shadows.counts()
    }

    /// What was counted since the start.
    pub fn figures(&self) -> Figures {
        self.shared.tally.read()
    }

    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    /// Stops claiming; [`BusHandle::finished`] tells when all is settled.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }

    /// Waits until the loop has ended, drained or idle.
    pub async fn finished(&self) {
        // A sender that is gone has finished, too.
        let _ = self.finished.clone().wait_for(|finished| *finished).await;
    }
}

/// Starts the loop on the current runtime.
pub fn start(
    store: Arc<dyn Store>,
    executor: Arc<dyn Executor>,
    routing: Arc<dyn Routing>,
    holder: HolderId,
    settings: BusSettings,
) -> Result<BusHandle, InvalidSettings> {
    settings.check()?;
    let tracker = TaskTracker::new();
    let ended = CancellationToken::new();
    let tally = Arc::<Tally>::default();
    let line = settler::Line::new(Arc::clone(&store), holder.clone(), Arc::clone(&tally));
    let settler = Settler::start(line, &tracker, ended.clone());
    let shared = Arc::new(Shared {
        store,
        executor,
        routing,
        shadows: Shadows::new(settings.concurrency),
        settings,
        holder,
        settler,
        tally,
        flights: Mutex::default(),
        wake: Notify::new(),
        full: AtomicBool::new(false),
        draining: CancellationToken::new(),
        ended,
        tracker,
    });
    let (finished_tx, finished) = watch::channel(false);
    let services = TaskTracker::new();
    let part = |name, run: fn(Arc<Shared>) -> Service| {
        services.spawn(serve(Arc::clone(&shared), name, run));
    };
    part("lease keeper", |shared| Box::pin(lease::keep(shared)));
    part("rescue", |shared| {
        Box::pin(maintenance::keep_rescuing(shared))
    });
    part("expiry", |shared| {
        Box::pin(maintenance::keep_expiring(shared))
    });
    part("mending", |shared| {
        Box::pin(maintenance::keep_mending(shared))
    });
    part("retention", |shared| {
        Box::pin(maintenance::keep_retiring(shared))
    });
    services.close();
    tokio::spawn({
        let shared = Arc::clone(&shared);
        async move {
            claim(&shared).await;
            drain(&shared).await;
            services.wait().await;
            let _ = finished_tx.send(true);
        }
    });
    Ok(BusHandle { shared, finished })
}

type Service = futures::future::BoxFuture<'static, ()>;

/// How long a part that panicked is left alone.
const RESTART: Duration = Duration::from_secs(1);

/// Keeps one part of the loop going until the bus has ended.
async fn serve(shared: Arc<Shared>, name: &'static str, run: fn(Arc<Shared>) -> Service) {
    let running = async {
        loop {
            let run = AssertUnwindSafe(run(Arc::clone(&shared))).catch_unwind();
            if run.await.is_ok() {
                return;
            }
            tracing::error!("the bus's {name} panicked; starting it again");
            tokio::time::sleep(RESTART).await;
        }
    };
    tokio::select! {
        () = running => {}
        () = shared.ended.cancelled() => {}
    }
}

/// Claims until a drain begins. The places taken outlive a panic.
async fn claim(shared: &Arc<Shared>) {
    let mut capacity = Capacity::new(shared.settings.concurrency);
    loop {
        let claiming = claimer::claim_until_drained(shared, &mut capacity);
        if AssertUnwindSafe(claiming).catch_unwind().await.is_ok() {
            return;
        }
        tracing::error!("the bus's claimer panicked; starting it again");
        tokio::select! {
            () = tokio::time::sleep(RESTART) => {}
            () = shared.draining.cancelled() => return,
        }
    }
}

/// The routes by themselves, for questions that take no task.
fn wants(served: &[ServedRoute]) -> Vec<Want> {
    let want = |route: &ServedRoute| Want {
        key: route.key.clone(),
        shard: route.shard,
        tenant: route.tenant.clone(),
        limit: 1,
        reclaim_foreign_after: None,
        draw: None,
    };
    served.iter().map(want).collect()
}

/// Lets what runs finish, then asks it to give way, and waits until all of it
/// is settled or the time is up. Nothing of the bus runs after it.
async fn drain(shared: &Arc<Shared>) {
    shared.draining.cancel();
    shared.settler.close_when_idle();
    shared.tracker.close();
    // What gives way needs its grace, and the settlement a commit.
    let reserve = shared.settings.stop_grace + Duration::from_secs(1);
    let patience = shared.settings.drain.saturating_sub(reserve);
    if !settled_within(shared, patience).await {
        let running = shared.flights();
        tracing::info!(
            in_flight = running.len(),
            "the drain gives back what still runs"
        );
        for flight in running {
            flight.stop(StopReason::Draining);
        }
        if !settled_within(shared, reserve).await {
            let left = shared.flights().len();
            tracing::warn!(
                in_flight = left,
                "the drain ends with attempts that did not settle; their leases will expire and be rescued"
            );
        }
    }
    shared.ended.cancel();
    // Each of what is left sees that at its next await, guests included.
    if !settled_within(shared, LAST_WAIT).await {
        tracing::error!("an executor blocks its thread; the drain does not wait for it");
    }
}

/// How long cancelled work is waited for.
const LAST_WAIT: Duration = Duration::from_millis(200);

async fn settled_within(shared: &Shared, patience: Duration) -> bool {
    let settled = tokio::time::timeout(patience, shared.tracker.wait());
    settled.await.is_ok()
}
