//! What was decided about routes, as this host knows it: read from the bus more
//! than twice a second, and at once after a decision that was made here.
//!
//! **Invariants.** While the bus is out of reach, what was known stays in force,
//! but for approvals, which end when their time is over. A read never undoes a
//! later one: they wait for each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, Notify, watch};

use super::routes::{BusFlags, RouteEntry};
use crate::breaker::{BreakerRow, RealPath, State};
use crate::bus::outage::bounded;
use crate::control::{ApprovalRow, Controls};
use crate::ids::PluginName;
use crate::millis::millis;
use crate::rollout::RolloutRow;
use crate::route::{RouteKey, RoutePlugins};
use crate::selection::{ApprovalId, Breaker, FixedSide, RolloutShare, Side};
use crate::store::{Store, StoreError};

/// How long a read may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was decided about one route, as far as its next task is concerned.
#[derive(Debug, Clone, Copy)]
pub struct RouteNow<'a> {
    pub paused: bool,
    /// As it is set on the bus.
    pub flag: Option<bool>,
    pub breaker: Breaker,
    pub approval: Option<&'a ApprovalId>,
    /// This host has a probe of the route's real path to give to a task.
    pub probe_ready: bool,
    /// Under way on the route.
    pub rollout: Option<&'a RolloutRow>,
    /// The task's side in it, where it has one.
    pub side: Option<Side>,
    /// This host cannot run the candidate.
    pub withdrawn: bool,
}

impl Default for RouteNow<'_> {
    fn default() -> Self {
        Self {
            paused: false,
            flag: None,
            breaker: Breaker::Closed,
            approval: None,
            probe_ready: false,
            rollout: None,
            side: None,
            withdrawn: false,
        }
    }
}

impl<'a> RouteNow<'a> {
    /// The same, for a task that drew this side.
    pub fn drawn(self, side: Option<&FixedSide>) -> Self {
        let rollout = self.rollout.map(|row| &row.id);
        let side = side.filter(|side| Some(&side.rollout) == rollout);
        Self {
            side: side.map(|side| side.side),
            ..self
        }
    }

    /// What of the rollout concerns the choice of an executor.
    pub fn share(&self) -> Option<RolloutShare<'a>> {
        let row = self.rollout?;
        Some(RolloutShare {
            id: &row.id,
            plugin: &row.plugin,
            candidate: row.candidate,
            side: self.side?,
            withdrawn: self.withdrawn || row.share().is_none(),
        })
    }
}

/// Everything that was decided, and when this host read it.
#[derive(Debug)]
pub struct Known {
    pub controls: Controls,
    read: Instant,
}

impl Known {
    /// What concerns a route; whether a probe is ready is not known here.
    pub fn of(&self, entry: &RouteEntry) -> RouteNow<'_> {
        let real = match &entry.plugins {
            RoutePlugins::Pair { real, .. } => Some(real),
            RoutePlugins::Only(_) => None,
        };
        let is_down = self.controls.breakers.iter().any(|row| {
            row.path.route == entry.key && Some(&row.path.plugin) == real && !row.state.is_closed()
        });
        RouteNow {
            paused: self.controls.pauses.contains_key(&entry.key),
            flag: self.flag(&entry.key),
            breaker: if is_down {
                Breaker::Open
            } else {
                Breaker::Closed
            },
            approval: self.approval(&entry.key).map(|approval| &approval.id),
            rollout: self.rollout(&entry.key),
            ..RouteNow::default()
        }
    }

    /// The rollout that is under way on a route.
    pub fn rollout(&self, route: &RouteKey) -> Option<&RolloutRow> {
        let mut rollouts = self.controls.rollouts.iter();
        rollouts.find(|row| row.route == *route)
    }

    /// All rollouts that are under way, their steps as old as they are by now.
    pub fn rollouts(&self) -> Vec<RolloutRow> {
        let passed = millis(self.read.elapsed());
        let mut rollouts = self.controls.rollouts.clone();
        for row in &mut rollouts {
            row.state.aged(passed);
        }
        rollouts
    }

    pub fn flag(&self, route: &RouteKey) -> Option<bool> {
        self.controls.flags.get(route).map(|flag| flag.enabled)
    }

    pub fn flags(&self) -> BusFlags {
        let flags = self.controls.flags.iter();
        flags
            .map(|(route, flag)| (route.clone(), flag.enabled))
            .collect::<BTreeMap<_, _>>()
    }

    /// The plugins of which the bus has versions, or says what serves; the one
    /// that came first before all others.
    pub fn plugins(&self) -> Vec<PluginName> {
        let published = self.controls.published.iter();
        let published = published.map(|row| (&row.name, row.published_at));
        let decided = self.controls.serving.values();
        let decided = decided.map(|row| (&row.plugin, row.changed_at));
        let mut first: BTreeMap<&PluginName, DateTime<Utc>> = BTreeMap::new();
        for (name, at) in published.chain(decided) {
            let earliest = first.entry(name).or_insert(at);
            *earliest = at.min(*earliest);
        }
        let mut names: Vec<_> = first.into_iter().collect();
        names.sort_by_key(|(_, at)| *at);
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The approval in force that lasts longest.
    pub fn approval(&self, route: &RouteKey) -> Option<&ApprovalRow> {
        let passed = millis(self.read.elapsed());
        let approvals = self.controls.approvals.iter();
        let mut of_route = approvals.filter(|approval| approval.route == *route);
        of_route.find(|approval| approval.left_ms > passed)
    }

    /// The breaker of a path, its waits as they are by now; closed where the bus
    /// never had one.
    pub fn breaker(&self, path: &RealPath) -> BreakerRow {
        let mut rows = self.controls.breakers.iter();
        let Some(row) = rows.find(|row| row.path == *path) else {
            return BreakerRow {
                path: path.clone(),
                revision: 0,
                state: State::Closed,
            };
        };
        let mut row = row.clone();
        let passed = millis(self.read.elapsed());
        match &mut row.state {
            State::Closed => {}
            State::Open { probe_in_ms, .. } => *probe_in_ms = probe_in_ms.saturating_sub(passed),
            State::Probing { left_ms, .. } => *left_ms = left_ms.saturating_sub(passed),
        }
        row
    }
}

/// What was decided, always as new as this host could learn.
#[derive(Debug)]
pub struct LiveControls {
    now: ArcSwap<Known>,
    reading: Mutex<()>,
    nudged: Notify,
    changes: watch::Sender<u64>,
}

impl Default for LiveControls {
    fn default() -> Self {
        Self::of(Controls::default())
    }
}

impl LiveControls {
    pub fn of(controls: Controls) -> Self {
        Self {
            now: ArcSwap::from_pointee(Known {
                controls,
                read: Instant::now(),
            }),
            reading: Mutex::new(()),
            nudged: Notify::new(),
            changes: watch::Sender::default(),
        }
    }

    pub fn now(&self) -> Arc<Known> {
        self.now.load_full()
    }

    /// Reads the bus; whether anything is decided otherwise than before.
    ///
    /// # Errors
    /// When it cannot be read; what was known stays in force.
    pub async fn refresh(&self, store: &dyn Store) -> Result<bool, StoreError> {
        let _turn = self.reading.lock().await;
        // Before the answer: what it says to be left is so from then on.
        let read = Instant::now();
        let controls = bounded(PATIENCE, store.controls()).await?;
        let before = self.now();
        let changed = controls.differ_from(&before.controls);
        for problem in &controls.unreadable {
            if !before.controls.unreadable.contains(problem) {
                tracing::error!("a decision on the bus is not followed: {problem}");
            }
        }
        self.now.store(Arc::new(Known { controls, read }));
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(changed)
    }

    /// Counts what was decided otherwise, for whoever wants to know of the next.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Has the follower look at once.
    pub fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Waits for a nudge.
    pub async fn nudged(&self) {
        self.nudged.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{Cause, Outage};

    fn path() -> RealPath {
        RealPath {
            plugin: "cogo-worker".parse().unwrap(),
            route: "code/build-test".parse().unwrap(),
        }
    }

    fn known(controls: Controls, ago: Duration) -> Known {
        Known {
            controls,
            read: Instant::now().checked_sub(ago).unwrap(),
        }
    }

    fn approval(id: &str, left_ms: u64) -> ApprovalRow {
        ApprovalRow {
            id: ApprovalId(id.to_owned()),
            route: path().route,
            reason: "r".to_owned(),
            approver: "anna".to_owned(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            expires_at: chrono::DateTime::UNIX_EPOCH,
            revoked_at: None,
            revoked_by: None,
            left_ms,
        }
    }

    #[test]
    fn an_approval_ends_though_the_bus_is_out_of_reach() {
        let controls = Controls {
            approvals: vec![approval("long", 60_000), approval("short", 10_000)],
            ..Controls::default()
        };
        let id = |ago| {
            let known = known(controls.clone(), Duration::from_secs(ago));
            known.approval(&path().route).map(|a| a.id.0.clone())
        };
        assert_eq!(id(0).as_deref(), Some("long"));
        assert_eq!(id(30).as_deref(), Some("long"));
        assert_eq!(id(61), None);
    }

    #[test]
    fn waits_go_on_between_two_reads() {
        let outage = Outage {
            cause: Cause::Unreachable {
                attempts: 5,
                tasks: 2,
            },
            failed_probes: 0,
        };
        let row = BreakerRow {
            path: path(),
            revision: 3,
            state: State::Open {
                outage,
                probe_in_ms: 5_000,
            },
        };
        let controls = Controls {
            breakers: vec![row],
            ..Controls::default()
        };
        let due = |ago| {
            let known = known(controls.clone(), Duration::from_secs(ago));
            let row = known.breaker(&path());
            matches!(row.state, State::Open { probe_in_ms: 0, .. })
        };
        assert!(!due(4));
        assert!(due(6));
        let other = RealPath {
            plugin: "other".parse().unwrap(),
            ..path()
        };
        let none = known(controls, Duration::ZERO).breaker(&other);
        assert_eq!((none.revision, none.state), (0, State::Closed));
    }
}
