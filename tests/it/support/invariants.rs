//! The invariants that must hold after every history, read from the bus alone.
//!
//! A number in a message is that of the invariant: 1 nothing acknowledged is
//! lost, 2 one terminal record a task, 3 epochs only rise, 4 attempts are
//! claims less what was given back, 5 every transition left its events and no
//! event came without one, 6 an attempt ran on one digest, 7 claims of a task
//! do not overlap, 8 what ended never changes, 9 unknown routes are untouched,
//! 12 nothing is left held after a drain. 10 and 11 are not the bus's to show.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use cogo_host::event::Event;
use cogo_host::ids::{HolderId, MessageId};
use cogo_host::store::{AttemptRow, EventFilter, Store, TaskFilter};
use cogo_host::task::{Status, TaskRow};

const ALL: u32 = 1_000_000;

/// Remembers what must not change from one check to the next.
#[derive(Default)]
pub struct Watch {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Acknowledged inserts.
    acknowledged: HashSet<MessageId>,
    /// Rows that other programs wrote to besides inserting them: their columns
    /// follow nobody's rules.
    meddled: HashSet<MessageId>,
    /// Routes that no host here serves, as `service/role`.
    unknown: HashSet<String>,
    /// What a task that ended looked like, and its highest epoch before.
    ended: HashMap<MessageId, String>,
    epochs: HashMap<MessageId, i64>,
}

/// One task and all that was recorded of it.
struct Record<'a> {
    task: &'a TaskRow,
    attempts: Vec<AttemptRow>,
    events: Vec<&'a Event>,
}

impl Watch {
    pub fn acknowledge(&self, ids: impl IntoIterator<Item = MessageId>) {
        self.seen.lock().unwrap().acknowledged.extend(ids);
    }

    pub fn meddled(&self, id: MessageId) {
        self.seen.lock().unwrap().meddled.insert(id);
    }

    pub fn unknown(&self, route: &str) {
        self.seen.lock().unwrap().unknown.insert(route.to_owned());
    }

    /// Forgets what a retention has deleted.
    pub fn retired(&self, id: MessageId) {
        let mut seen = self.seen.lock().unwrap();
        seen.acknowledged.remove(&id);
        seen.ended.remove(&id);
    }

    /// # Panics
    /// When an invariant does not hold.
    pub async fn check(&self, store: &dyn Store) {
        let everything = TaskFilter {
            limit: ALL,
            ..TaskFilter::default()
        };
        let tasks = store.tasks(&everything).await.unwrap();
        let everything = EventFilter {
            limit: ALL,
            ..EventFilter::default()
        };
        let events = store.events(&everything).await.unwrap();
        let mut by_task: HashMap<MessageId, Vec<&Event>> = HashMap::new();
        for event in &events {
            let trace = event.trace_id.as_deref().unwrap_or("");
            assert!(!trace.is_empty(), "an event without a trace: {event:?}");
            if let Some(id) = event.message_id {
                by_task.entry(id).or_default().push(event);
            }
        }
        let mut attempts = HashMap::new();
        for task in &tasks {
            if task.lease_epoch > 0 {
                attempts.insert(task.id, store.attempts(task.id).await.unwrap());
            }
        }
        let mut seen = self.seen.lock().unwrap();
        let present: HashSet<MessageId> = tasks.iter().map(|t| t.id).collect();
        for id in &seen.acknowledged {
            assert!(present.contains(id), "1: task {id} is lost");
        }
        for task in &tasks {
            let record = Record {
                task,
                attempts: attempts.remove(&task.id).unwrap_or_default(),
                events: by_task.remove(&task.id).unwrap_or_default(),
            };
            seen.check(&record);
        }
    }

    /// What may be looked at while hosts are at work: epochs only rise, and
    /// what ended stays as it is.
    ///
    /// # Panics
    /// When one of the two does not hold.
    pub fn look(&self, tasks: &[TaskRow]) {
        let mut seen = self.seen.lock().unwrap();
        for task in tasks {
            seen.check_over_time(task);
        }
    }

    /// After a drain, nothing is held by that host.
    pub async fn check_drained(&self, store: &dyn Store, holder: &HolderId) {
        let claimed = TaskFilter {
            status: Some(Status::Claimed),
            limit: ALL,
            ..TaskFilter::default()
        };
        for task in store.tasks(&claimed).await.unwrap() {
            let held = task.claimed_by.as_deref() == Some(holder.as_str());
            assert!(!held, "12: {} is still held by {holder}", task.id);
        }
    }
}

impl Seen {
    fn check(&mut self, record: &Record<'_>) {
        let task = record.task;
        let route = format!("{}/{}", task.service, task.role);
        if self.unknown.contains(&route) {
            assert_eq!(task.attempts, 0, "9: {} was claimed", task.id);
            assert!(record.events.is_empty(), "9: {} has events", task.id);
            return;
        }
        self.check_over_time(task);
        if self.meddled.contains(&task.id) {
            return;
        }
        record.check_columns();
        record.check_ends();
        record.check_attempts();
        record.check_events();
    }

    fn check_over_time(&mut self, task: &TaskRow) {
        let before = self.epochs.insert(task.id, task.lease_epoch).unwrap_or(0);
        assert!(
            task.lease_epoch >= before,
            "3: the epoch of {} went down",
            task.id
        );
        if task.status.is_terminal() && !self.meddled.contains(&task.id) {
            let now = serde_json::to_string(task).unwrap();
            let before = self.ended.entry(task.id).or_insert_with(|| now.clone());
            assert_eq!(*before, now, "8: {} changed after its end", task.id);
        }
    }
}

impl Record<'_> {
    fn count(&self, event_type: &str) -> usize {
        let all = self.events.iter();
        all.filter(|e| e.event_type == event_type).count()
    }

    fn outcomes(&self, outcomes: &[&str]) -> usize {
        let all = self.attempts.iter();
        all.filter(|a| outcomes.contains(&a.outcome.as_str()))
            .count()
    }

    fn check_columns(&self) {
        let task = self.task;
        let id = task.id;
        match task.status {
            Status::Claimed => {
                assert!(task.lease_expires_at.is_some(), "{id} has no lease");
                assert!(task.claimed_by.is_some(), "{id} has no holder");
            }
            Status::Queued => {
                assert_eq!(task.claimed_by, None, "{id} waits and is held");
                let again = task.lease_epoch > 0;
                assert!(!again || task.retry_at.is_some(), "{id} is never due");
            }
            Status::Done => {
                assert!(task.result.is_some(), "{id} has no result");
                assert_eq!(task.error, None, "{id} is done with an error");
            }
            Status::Failed => assert!(task.error.is_some(), "{id} failed for nothing"),
        }
        if task.status != Status::Claimed {
            assert_eq!(task.lease_expires_at, None, "{id} kept its lease");
        }
        assert_eq!(
            task.status.is_terminal(),
            task.done_at.is_some(),
            "{id}: end without instant, or the reverse"
        );
    }

    fn check_ends(&self) {
        let ends = ["execute_done", "execute_failed", "execute_cancelled"];
        let ends: usize = ends.iter().map(|end| self.count(end)).sum();
        let expected = usize::from(self.task.status.is_terminal());
        assert_eq!(ends, expected, "2: terminal records of {}", self.task.id);
        assert!(self.outcomes(&["done"]) <= 1, "2: {} twice", self.task.id);
    }

    fn check_attempts(&self) {
        let id = self.task.id;
        let held = u32::from(self.task.status == Status::Claimed);
        let claims = u32::try_from(self.attempts.len()).unwrap() + held;
        let refunds = u32::try_from(self.outcomes(&["drained", "host-fault", "probe"])).unwrap();
        assert_eq!(self.task.attempts, claims - refunds, "4: attempts of {id}");
        // A claim raises the epoch, and so does taking one back: a claim that
        // left no row would show as a gap.
        let raised = i64::from(claims) + i64::try_from(self.outcomes(&["lost"])).unwrap();
        assert_eq!(self.task.lease_epoch, raised, "3: epochs of {id}");
        let faults = u32::try_from(self.outcomes(&["host-fault"])).unwrap();
        assert_eq!(self.task.host_faults, faults, "4: host faults of {id}");
        for attempt in &self.attempts {
            let whole = attempt.plugin.is_some() == attempt.digest.is_some();
            assert!(whole, "6: an attempt of {id} names half a plugin");
            let below = attempt.lease_epoch < self.task.lease_epoch + i64::from(1 - held);
            assert!(below, "3: an attempt of {id} has an epoch to come");
        }
        for pair in self.attempts.windows(2) {
            assert!(pair[0].lease_epoch < pair[1].lease_epoch, "3: {id}");
            let apart = pair[1].claimed_at >= Some(pair[0].ended_at);
            assert!(apart, "7: claims of {id} overlap: {pair:?}");
        }
    }

    fn check_events(&self) {
        let id = self.task.id;
        for event in &self.events {
            assert_eq!(
                event.trace_id, self.task.trace_id,
                "5: {} of {id} is in another trace",
                event.event_type
            );
        }
        let known = self.task.lease_epoch > 0 || !self.events.is_empty();
        assert_eq!(
            self.count("execute_enqueued"),
            usize::from(known),
            "5: {id} was enqueued"
        );
        let again = self.outcomes(&["retry", "drained", "host-fault", "probe"]);
        assert_eq!(
            self.count("execute_retry"),
            again + self.rescued_into("execute_retry"),
            "5: retries of {id}"
        );
        // A rescue leads on in the same breath.
        let ends = self.rescued_into("execute_failed") + self.rescued_into("execute_cancelled");
        assert_eq!(
            self.outcomes(&["lost"]),
            self.rescued_into("execute_retry") + ends,
            "5: rescues of {id}"
        );
    }

    /// How many rescues led directly to that event.
    fn rescued_into(&self, event_type: &str) -> usize {
        let pairs = self.events.windows(2);
        pairs
            .filter(|pair| pair[0].event_type == "task_rescued")
            .filter(|pair| pair[1].event_type == event_type)
            .count()
    }
}
