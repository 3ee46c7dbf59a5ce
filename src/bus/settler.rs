//! Group commit: settlements that arrive while a commit is under way share the
//! next one. An attempt counts as settled only once its commit is durable.
//!
//! It never drops a settlement because the database is away: it tries again for
//! as long as the host runs, and the fence decides whether it was too late.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::ids::HolderId;
use crate::store::{Store, StoreError};
use crate::task::{Settled, Settlement};

/// More than one commit needs; what is above waits for the next.
const BATCH: usize = 256;
const BACKOFF_START: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

struct Request {
    settlement: Settlement,
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
    pub(super) fn start(store: Arc<dyn Store>, holder: HolderId, tracker: &TaskTracker) -> Self {
        // Bounded by the host's concurrency: a flight waits for its answer.
        let (requests, inbox) = mpsc::unbounded_channel();
        tracker.spawn(settle_all(store, holder, inbox));
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
        self.0.send(Request { settlement, answer }).ok()?;
        settled.await.ok().flatten()
    }
}

async fn settle_all(
    store: Arc<dyn Store>,
    holder: HolderId,
    mut inbox: mpsc::UnboundedReceiver<Request>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        let (settlements, answers): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|r| (r.settlement, r.answer)).unzip();
        let settled = settle_batch(&*store, &holder, &settlements).await;
        for (answer, settled) in answers.into_iter().zip(settled) {
            // A flight that is gone was cut off; its outcome is on the bus.
            let _ = answer.send(settled);
        }
    }
}

/// One commit where possible. A batch that the database refuses is taken apart,
/// so that one settlement it cannot store does not hold up the others.
async fn settle_batch(
    store: &dyn Store,
    holder: &HolderId,
    settlements: &[Settlement],
) -> Vec<Option<Settled>> {
    match settle_patiently(store, holder, settlements).await {
        Ok(settled) => settled.into_iter().map(Some).collect(),
        Err(error) if settlements.len() == 1 => {
            let id = settlements.first().map(|s| s.fence.id.to_string());
            tracing::error!(
                message.id = id,
                %error,
                "the database refuses a settlement; the task stays claimed until its lease expires"
            );
            vec![None]
        }
        Err(error) => {
            tracing::warn!(%error, "the database refuses a batch of settlements; settling one by one");
            let mut settled = Vec::with_capacity(settlements.len());
            for one in settlements.chunks(1) {
                settled.extend(Box::pin(settle_batch(store, holder, one)).await);
            }
            settled
        }
    }
}

async fn settle_patiently(
    store: &dyn Store,
    holder: &HolderId,
    settlements: &[Settlement],
) -> Result<Vec<Settled>, StoreError> {
    let mut backoff = BACKOFF_START;
    loop {
        match store.settle(holder, settlements).await {
            Err(error) if error.is_transient() => {
                if backoff == BACKOFF_START {
                    tracing::warn!(%error, "cannot settle; trying until the database is back");
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            answer => return answer,
        }
    }
}
