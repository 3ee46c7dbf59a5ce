//! The invariants that must hold after every history, read from the bus alone.
//!
//! A number in a message is that of the invariant: 1 nothing acknowledged is
//! lost, 2 one terminal record a task, 3 epochs only rise, 4 attempts are
//! claims less what was given back, and no more than allowed, 5 every transition
//! left its events and no event came without one, 6 an attempt ran on one
//! version, and on one that was there to run, 7 claims of a task do not overlap
//! and none is taken back before its lease is over, 8 what ended never changes,
//! 9 unknown routes are untouched, 10 a rollout that ended stays as it is,
//! 11 no secret is anywhere on the bus, 12 nothing is left held after a drain.
//!
//! Some hold of what a test has told of: versions, limits, routes, secrets. What
//! is on the bus says nothing of a host's memory, threads and files (12), nor of
//! the requests that a secret is meant for (11).

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use cogo_host::event::{Event, RoleStep, role_event};
use cogo_host::ids::{Digest, HolderId, MessageId};
use cogo_host::rollout::{RolloutRow, State};
use cogo_host::route::RouteKey;
use cogo_host::store::{AttemptRow, EventFilter, HostRow, Store, TaskFilter};
use cogo_host::task::{Status, TaskRow};

const ALL: u32 = 1_000_000;
/// What a span in whole milliseconds may be off.
const ROUNDING_MS: i64 = 1;

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
    /// Deleted, as a retention should; their events may stay.
    retired: HashSet<MessageId>,
    /// Routes that no host here serves, as `service/role`, and what their rows
    /// looked like at first.
    unknown: HashSet<String>,
    untouched: HashMap<MessageId, String>,
    /// The versions that hosts had, of plugins that a test told of.
    served: HashMap<String, HashSet<Digest>>,
    /// What a task is allowed that does not say so itself.
    max_attempts: Option<u32>,
    secrets: Vec<String>,
    /// What a task or a rollout that ended looked like, and a task's highest
    /// epoch before.
    ended: HashMap<MessageId, String>,
    ended_rollouts: HashMap<String, String>,
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

    /// No other version of that plugin was there to run. Of a plugin that
    /// nobody tells of, any will do.
    pub fn served(&self, plugin: &str, digest: Digest) {
        let mut seen = self.seen.lock().unwrap();
        let versions = seen.served.entry(plugin.to_owned()).or_default();
        versions.insert(digest);
    }

    /// The hosts' own limit on the attempts of a task.
    pub fn max_attempts(&self, max: u32) {
        self.seen.lock().unwrap().max_attempts = Some(max);
    }

    /// Something that hosts know and nobody may read.
    pub fn secret(&self, secret: &str) {
        self.seen.lock().unwrap().secrets.push(secret.to_owned());
    }

    /// Forgets what a retention has deleted.
    pub fn retired(&self, id: MessageId) {
        let mut seen = self.seen.lock().unwrap();
        seen.retired.insert(id);
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
        let rollouts = store.rollouts(ALL).await.unwrap();
        let hosts = store.hosts().await.unwrap();
        let mut seen = self.seen.lock().unwrap();
        seen.check_secrets(&tasks, &events, &attempts, &rollouts, &hosts);
        seen.check_rollouts(&rollouts);
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
        by_task.retain(|id, _| !seen.retired.contains(id));
        assert!(by_task.is_empty(), "5: events of no task: {by_task:?}");
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
        if self.is_unknown(task) {
            let events = record.events.len();
            assert_eq!(task.lease_epoch, 0, "9: {} was claimed", task.id);
            let enqueued = record.count("execute_enqueued");
            assert_eq!(events, enqueued, "9: {:?}", record.events);
            return self.check_over_time(task);
        }
        self.check_over_time(task);
        if self.meddled.contains(&task.id) {
            return;
        }
        record.check_columns();
        record.check_ends();
        record.check_attempts();
        record.check_leases();
        record.check_events();
        self.check_limit(task);
        self.check_versions(record);
    }

    fn is_unknown(&self, task: &TaskRow) -> bool {
        let route = format!("{}/{}", task.service, task.role);
        self.unknown.contains(&route)
    }

    fn check_limit(&self, task: &TaskRow) {
        if let Some(max) = task.max_attempts.or(self.max_attempts) {
            let id = task.id;
            assert!(task.attempts <= max, "4: {id} had more than {max} attempts");
        }
    }

    fn check_versions(&self, record: &Record<'_>) {
        let id = record.task.id;
        for attempt in &record.attempts {
            let (Some(plugin), Some(digest)) = (&attempt.plugin, attempt.digest) else {
                let neither = attempt.plugin.is_none() && attempt.digest.is_none();
                assert!(neither, "6: an attempt of {id} names half a plugin");
                continue;
            };
            let versions = self.served.get(plugin);
            let there = versions.is_none_or(|versions| versions.contains(&digest));
            assert!(there, "6: {id} ran on {plugin} {digest}, which no host had");
        }
        for event in &record.events {
            if event.event_type != "execute_done" {
                continue;
            }
            let ran = record.attempts.iter().find(|a| a.outcome == "done");
            let ran = ran.and_then(|attempt| attempt.digest);
            let ran = serde_json::to_value(ran).unwrap();
            assert_eq!(event.payload["digest"], ran, "6: versions of {id}");
        }
    }

    fn check_secrets(
        &self,
        tasks: &[TaskRow],
        events: &[Event],
        attempts: &HashMap<MessageId, Vec<AttemptRow>>,
        rollouts: &[RolloutRow],
        hosts: &[HostRow],
    ) {
        if self.secrets.is_empty() {
            return;
        }
        let everything = serde_json::to_string(&(tasks, events, attempts, rollouts, hosts));
        let everything = everything.unwrap();
        for secret in &self.secrets {
            let found = everything.find(secret.as_str()).map(|at| {
                let around = at.saturating_sub(200)..everything.len().min(at + 200);
                String::from_utf8_lossy(&everything.as_bytes()[around]).into_owned()
            });
            assert_eq!(found, None, "11: a secret is on the bus");
        }
    }

    fn check_rollouts(&mut self, rollouts: &[RolloutRow]) {
        for rollout in rollouts {
            let ended = matches!(
                rollout.state,
                State::Promoted { .. } | State::RolledBack { .. } | State::Aborted { .. }
            );
            let before = self.ended_rollouts.get(rollout.id.as_str());
            assert!(ended || before.is_none(), "10: {rollout:?} goes on");
            if ended {
                let now = serde_json::to_string(rollout).unwrap();
                let id = rollout.id.as_str().to_owned();
                let before = self.ended_rollouts.entry(id).or_insert(now.clone());
                assert_eq!(*before, now, "10: a rollout changed after its end");
            }
        }
        let ids: HashSet<&str> = rollouts.iter().map(|one| one.id.as_str()).collect();
        for id in self.ended_rollouts.keys() {
            assert!(ids.contains(id.as_str()), "10: rollout {id} is gone");
        }
    }

    fn check_over_time(&mut self, task: &TaskRow) {
        let before = self.epochs.insert(task.id, task.lease_epoch).unwrap_or(0);
        assert!(
            task.lease_epoch >= before,
            "3: the epoch of {} went down",
            task.id
        );
        if self.is_unknown(task) {
            let now = serde_json::to_string(task).unwrap();
            let at_first = self.untouched.entry(task.id).or_insert(now.clone());
            assert_eq!(*at_first, now, "9: {} changed", task.id);
        }
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
            let below = attempt.lease_epoch < self.task.lease_epoch + i64::from(1 - held);
            assert!(below, "3: an attempt of {id} has an epoch to come");
        }
    }

    /// By the database's clock alone.
    fn check_leases(&self) {
        let id = self.task.id;
        for pair in self.attempts.windows(2) {
            assert!(pair[0].lease_epoch < pair[1].lease_epoch, "3: {id}");
            let apart = pair[1].claimed_at >= Some(pair[0].ended_at);
            assert!(apart, "7: claims of {id} overlap: {pair:?}");
        }
        for attempt in self.attempts.iter().filter(|a| a.outcome == "lost") {
            let late = rescued_after_ms(attempt);
            let over = late.is_none_or(|late| late >= -ROUNDING_MS);
            assert!(over, "7: {id} was rescued {late:?} ms after its lease");
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
        self.check_role_events();
        self.check_refusals();
    }

    /// Each of these has one of the role's own beside it.
    fn check_role_events(&self) {
        let task = self.task;
        let Ok(route) = RouteKey::new(&task.service, &task.role) else {
            return;
        };
        for (general, step) in [
            ("execute_done", RoleStep::Done),
            ("execute_failed", RoleStep::Failed),
            ("execute_retry", RoleStep::Retry),
        ] {
            let own = role_event(&route, step);
            assert_eq!(
                self.count(&own),
                self.count(general),
                "5: {own} of {}",
                task.id
            );
        }
        let fallbacks = self.count("execute_fallback");
        assert!(fallbacks <= self.count("execute_done"), "5: {}", task.id);
    }

    /// How many rescues led directly to that event.
    fn rescued_into(&self, event_type: &str) -> usize {
        let pairs = self.events.windows(2);
        pairs
            .filter(|pair| pair[0].event_type == "task_rescued")
            .filter(|pair| pair[1].event_type == event_type)
            .count()
    }

    /// What was refused had once been claimed.
    fn check_refusals(&self) {
        let claims = 1..=self.task.lease_epoch;
        for event in &self.events {
            let epoch = event.payload["lease_epoch"].as_i64();
            let known = epoch.is_some_and(|epoch| claims.contains(&epoch));
            let fits = event.event_type != "lease_lost" || known;
            assert!(fits, "5: {} never had that claim: {event:?}", self.task.id);
        }
    }
}

/// How long after the end of its lease an attempt was taken back; what ran is
/// what was leased, where nobody lived to tell. Both are instants of the
/// database.
pub fn rescued_after_ms(attempt: &AttemptRow) -> Option<i64> {
    let held = attempt.ended_at - attempt.claimed_at?;
    let leased = i64::try_from(attempt.run_ms).unwrap();
    Some(held.num_milliseconds() - leased)
}
