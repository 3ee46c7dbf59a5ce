//! Writes what happens to the host itself into `bus_events`, without ever
//! making it wait: an audit that a database outage delays must not delay what
//! it tells of.
//!
//! **Invariant:** order is kept. What cannot be written for good, or does not
//! fit any more, goes to the log as a whole, never silently.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::event::NewEvent;
use crate::store::Store;

/// More events than this are not kept for a database that is away.
const ROOM: usize = 1_024;
/// Written in one transaction.
const BATCH: usize = 64;
const BACKOFF_START: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long the end of the host waits for what is left.
const LAST_TRY: Duration = Duration::from_secs(2);

/// Takes events to be written. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<NewEvent>,
}

impl Recorder {
    /// Starts writing; `ending` lets it write what is left, once, and end.
    pub fn start(store: Arc<dyn Store>, ending: CancellationToken) -> (Self, JoinHandle<()>) {
        let (queue, events) = mpsc::channel(ROOM);
        let writer = Writer {
            store,
            events,
            ending,
            give_up: None,
        };
        (Self { queue }, tokio::spawn(writer.write()))
    }

    /// Has an event written as soon as the database can.
    pub fn record(&self, event: NewEvent) {
        if let Err(refused) = self.queue.try_send(event) {
            lost(&[refused.into_inner()], "the queue of events is full");
        }
    }
}

fn lost(events: &[NewEvent], why: &str) {
    for event in events {
        tracing::error!(
            trace.id = %event.trace_id, reason = event.reason, payload = %event.payload,
            "event {} is not recorded: {why}", event.event_type
        );
    }
}

struct Writer {
    store: Arc<dyn Store>,
    events: mpsc::Receiver<NewEvent>,
    ending: CancellationToken,
    /// Set once the host ends.
    give_up: Option<Instant>,
}

impl Writer {
    async fn write(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                received = self.events.recv_many(&mut batch, BATCH) => if received == 0 {
                    return;
                },
                () = self.ending.cancelled() => return,
            }
            if let Err(why) = self.persist(&batch).await {
                lost(&batch, &why);
            }
            batch.clear();
        }
    }

    /// Writes a batch, however long that takes; only the end of the host ends it.
    async fn persist(&mut self, batch: &[NewEvent]) -> Result<(), String> {
        let mut backoff = BACKOFF_START;
        loop {
            if self.has_to_give_up() {
                return Err("the database did not take it before the host ended".to_owned());
            }
            match self.store.record(batch).await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error.to_string()),
                Err(error) => {
                    tracing::warn!(%error, waiting = batch.len(), "cannot record events; trying again");
                }
            }
            if self.ending.is_cancelled() {
                tokio::time::sleep(BACKOFF_START).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.ending.cancelled() => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn has_to_give_up(&mut self) -> bool {
        if !self.ending.is_cancelled() {
            return false;
        }
        let now = Instant::now();
        *self.give_up.get_or_insert(now + LAST_TRY) < now
    }
}
