//! Group commit: settlements that arrive while a commit is under way share the
//! next one, which begins when it is full or the other is done. An attempt counts
//! as settled only once its commit is durable.
//!
//! It never drops a settlement because the database is away: it tries again for
//! as long as the host runs, and the fence decides whether it was too late. One
//! settlement that cannot be written never holds up the others for long: every
//! failure halves the next batch, and what the database could not take for now
//! goes to the end of the line.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::figures::Tally;
use super::outage::{Outage, PATIENCE, bounded};
use super::outcome;
use crate::ids::HolderId;
use crate::store::{Settled, Settlement, Store, StoreError};

/// More than one commit needs; what is above waits for the next.
pub(super) const BATCH: usize = 256;
/// Commits at once: while one is made durable, the database works on the other.
const PARALLEL: usize = 2;
const BACKOFF_START: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

struct Request {
    settlement: Settlement,
    /// It stands in for one that the database refused.
    substitute: bool,
    answer: oneshot::Sender<Option<Settled>>,
}

/// The way to the settler's task.
pub(super) struct Settler {
    /// Taken at the end, so that the task sees the channel closed.
    requests: Mutex<Option<mpsc::UnboundedSender<Request>>>,
}

/// Hands settlements over; lives as long as a flight.
#[derive(Clone)]
pub(super) struct SettlerHandle(mpsc::UnboundedSender<Request>);

impl Settler {
    /// Settles until the last handle is gone, or until `ended`, whatever is
    /// left then.
    pub(super) fn start(line: Line, tracker: &TaskTracker, ended: CancellationToken) -> Self {
        // Bounded by the claimer, which counts the flights that wait for it.
        let (requests, inbox) = mpsc::unbounded_channel();
        tracker.spawn(async move {
            tokio::select! {
                () = line.settle_all(inbox) => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            requests: Mutex::new(Some(requests)),
        }
    }

    /// `None` once the drain has begun.
    pub(super) fn handle(&self) -> Option<SettlerHandle> {
        self.requests.lock().clone().map(SettlerHandle)
    }

    /// Lets the task end with the last flight that still holds a handle.
    pub(super) fn close_when_idle(&self) {
        self.requests.lock().take();
    }
}

impl SettlerHandle {
    /// Settles one attempt; `None` if the database refuses it for good, in
    /// which case the lease is left to expire.
    pub(super) async fn settle(&self, settlement: Settlement) -> Option<Settled> {
        let (answer, settled) = oneshot::channel();
        let request = Request {
            settlement,
            substitute: false,
            answer,
        };
        self.0.send(request).ok()?;
        settled.await.ok().flatten()
    }
}

/// What waits to be written.
pub(super) struct Line {
    store: Arc<dyn Store>,
    holder: HolderId,
    tally: Arc<Tally>,
    waiting: VecDeque<Request>,
    /// The next batch: halved by every failure, doubled by every success.
    size: usize,
    backoff: Duration,
    /// Nothing is tried before.
    resumes: Instant,
    outage: Outage,
}

/// What was to be settled, and what the store says of it.
type Committed = (Vec<Request>, Result<Vec<Settled>, StoreError>);

impl Line {
    pub(super) fn new(store: Arc<dyn Store>, holder: HolderId, tally: Arc<Tally>) -> Self {
        Self {
            store,
            holder,
            tally,
            waiting: VecDeque::new(),
            size: BATCH,
            backoff: BACKOFF_START,
            resumes: Instant::now(),
            outage: Outage::of("settle"),
        }
    }

    async fn settle_all(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        let mut commits = FuturesUnordered::new();
        let mut open = true;
        loop {
            while let Ok(request) = inbox.try_recv() {
                self.waiting.push_back(request);
            }
            while self.may_commit(commits.len()) {
                commits.push(self.next_commit());
            }
            if !open && commits.is_empty() && self.waiting.is_empty() {
                return;
            }
            tokio::select! {
                Some((requests, settled)) = commits.next() => self.answer(requests, settled),
                request = inbox.recv(), if open => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => open = false,
                },
                () = tokio::time::sleep_until(self.resumes),
                    if commits.is_empty() && !self.waiting.is_empty() => {}
            }
        }
    }

    /// What arrives while a commit is under way makes the next one larger; only
    /// what fills one by itself has nothing to wait for.
    fn may_commit(&self, under_way: usize) -> bool {
        let worth = match under_way {
            0 => 1,
            PARALLEL.. => return false,
            _ => BATCH,
        };
        self.waiting.len() >= worth && self.resumes <= Instant::now()
    }

    /// One transaction, one durable commit. Writing the same again is harmless.
    fn next_commit(&mut self) -> impl Future<Output = Committed> + use<> {
        let next = self.size.min(self.waiting.len());
        let mut settlements = Vec::with_capacity(next);
        let mut answers = Vec::with_capacity(next);
        for request in self.waiting.drain(..next) {
            settlements.push(request.settlement);
            answers.push((request.substitute, request.answer));
        }
        let (store, holder) = (Arc::clone(&self.store), self.holder.clone());
        async move {
            let call = bounded(PATIENCE, store.settle(&holder, &settlements));
            let settled = AssertUnwindSafe(call).catch_unwind().await;
            // A settler that is gone would leave every attempt unsettled.
            let settled = settled
                .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".to_owned())));
            let requests = settlements.into_iter().zip(answers);
            let requests = requests.map(|(settlement, (substitute, answer))| Request {
                settlement,
                substitute,
                answer,
            });
            (requests.collect(), settled)
        }
    }

    fn answer(&mut self, requests: Vec<Request>, settled: Result<Vec<Settled>, StoreError>) {
        match settled {
            Ok(settled) => {
                self.tally.committed(settled.len());
                self.outage.is_over();
                self.size = (self.size * 2).min(BATCH);
                self.backoff = BACKOFF_START;
                for (request, settled) in requests.into_iter().zip(settled) {
                    // A flight that is gone was cut off; its outcome is on the bus.
                    let _ = request.answer.send(Some(settled));
                }
            }
            Err(error) => {
                self.size = (requests.len() / 2).max(1);
                if is_own_fault(&error) {
                    self.refused(requests, &error);
                } else {
                    self.outage.goes_on(&error);
                    self.waiting.extend(requests);
                    let pause = self.backoff.mul_f64(0.5 + rand::random::<f64>());
                    self.resumes = Instant::now() + pause;
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// What the database will never take: a batch is taken apart; one by itself
    /// is replaced by the plain statement that it could not be written, since
    /// trying its task again would only end here again.
    fn refused(&mut self, mut requests: Vec<Request>, error: &StoreError) {
        if requests.len() > 1 {
            tracing::warn!(%error, "the database refuses a batch of settlements; taking it apart");
            // To the front: halved again and again, it comes down to the one.
            for request in requests.into_iter().rev() {
                self.waiting.push_front(request);
            }
            return;
        }
        let Some(request) = requests.pop() else {
            return;
        };
        let id = request.settlement.fence.id;
        let substitute = match request.substitute {
            true => None,
            false => outcome::substitute(&request.settlement, error),
        };
        tracing::error!(
            message.id = %id,
            %error,
            replaced = substitute.is_some(),
            "the database refuses the settlement of task {id}"
        );
        match substitute {
            Some(settlement) => self.waiting.push_front(Request {
                settlement,
                substitute: true,
                answer: request.answer,
            }),
            // The task stays claimed until its lease expires.
            None => drop(request.answer),
        }
    }
}

/// Whether the settlement itself is what cannot be written. Anything else is
/// the database's trouble and passes, by itself or by somebody's doing.
const fn is_own_fault(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Refused(_) | StoreError::Inconsistent { .. }
    )
}
