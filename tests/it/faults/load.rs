//! The work that hosts do while things break, and what must have become of it.

use std::collections::{BTreeMap, HashMap};

use cogo_host::ids::MessageId;
use cogo_host::task::{NewTask, POISON_DEATHS, POISONED, Status};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::fleet::Bus;
use crate::support::hand;
use crate::support::invariants::rescued_after_ms;

const ROUTES: [&str; 2] = ["code/build-test", "sandbox/run"];

/// How a task ends when nobody dies of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Failed,
}

/// What became of the hosts themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// Some were killed, so that a task may be taken for what kills them.
    Died,
    /// None died, whatever else broke: no task is to blame for anything.
    Lived,
}

/// Every task that was put on the bus, with the end that it asks for.
#[derive(Default)]
pub struct Load {
    ends: HashMap<MessageId, End>,
}

/// A task that the `mock` plugin does as `mock` says.
pub fn task(route: &str, mock: Value) -> NewTask {
    NewTask {
        payload: match route {
            "sandbox/run" => json!({ "command": "true", "mock": mock }),
            _ => json!({ "repo": "r", "mock": mock }),
        },
        ..hand::task(route)
    }
}

/// A build-test that takes so long.
pub fn taking(delay_ms: u64) -> NewTask {
    task("code/build-test", json!({ "delay_ms": delay_ms }))
}

/// One that runs until it is asked to stop.
pub fn stalled() -> NewTask {
    task("code/build-test", json!({ "behaviour": "stall" }))
}

impl Load {
    /// So many tasks: quick ones, some that take 5 to 50 ms, some that fail at
    /// first, some that fail for good.
    pub fn mixed(&mut self, chance: &mut StdRng, n: usize) -> Vec<NewTask> {
        let tasks: Vec<NewTask> = (0..n).map(|_| self.one(chance)).collect();
        tasks
    }

    fn one(&mut self, chance: &mut StdRng) -> NewTask {
        let route = ROUTES[chance.random_range(0..ROUTES.len())];
        let (mock, end) = match chance.random_range(0..100) {
            0..40 => (json!({}), End::Done),
            40..75 => {
                let delay: u64 = chance.random_range(5..=50);
                (json!({ "delay_ms": delay }), End::Done)
            }
            75..90 => (json!({ "retries": 1 }), End::Done),
            _ => (json!({ "behaviour": "permanent" }), End::Failed),
        };
        let task = task(route, mock);
        self.ends.insert(task.id, end);
        task
    }

    /// Notes a task that is to be done.
    pub fn done(&mut self, task: NewTask) -> NewTask {
        self.ends.insert(task.id, End::Done);
        task
    }

    /// Waits for the last task and checks the whole history; what was lost on
    /// the way, by holder.
    ///
    /// # Panics
    /// When a task was lost, done twice, or ended as it should not have, or an
    /// invariant does not hold.
    pub fn verdict(&self, bus: &Bus, hosts: Hosts) -> BTreeMap<String, usize> {
        bus.until("every task has ended", |tasks| {
            tasks.iter().all(|task| task.status.is_terminal())
        });
        bus.check();
        let tasks = bus.tasks();
        let mut lost: BTreeMap<String, usize> = BTreeMap::new();
        let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
        let mut slowest_rescue = None;
        let ended: HashMap<MessageId, _> = tasks.iter().map(|task| (task.id, task)).collect();
        for (id, end) in &self.ends {
            let task = ended
                .get(id)
                .unwrap_or_else(|| panic!("1: task {id} is lost"));
            let attempts = bus.attempts(*id);
            let mut deaths = 0;
            for attempt in attempts.iter().filter(|attempt| attempt.outcome == "lost") {
                deaths += 1;
                *lost.entry(attempt.host.clone()).or_default() += 1;
                slowest_rescue = slowest_rescue.max(rescued_after_ms(attempt));
            }
            let error = task.error.as_deref().unwrap_or_default();
            let reached = match (task.status, end) {
                (Status::Done, End::Done) => "done",
                (Status::Failed, End::Failed) if error.contains("mock_permanent") => "failed",
                // Three hosts died under it: that is what the rule is for.
                (Status::Failed, _)
                    if hosts == Hosts::Died
                        && error.contains(POISONED)
                        && deaths >= POISON_DEATHS =>
                {
                    "poisoned"
                }
                _ => panic!("{id} was to be {end:?} and is {:?}: {error}", task.status),
            };
            *tally.entry(reached).or_default() += 1;
        }
        let executions: usize = lost.values().sum();
        eprintln!(
            "{} tasks acknowledged, {tally:?}; lost 0, completed twice 0; {executions} attempts \
             lost; the slowest rescue: {slowest_rescue:?} ms after the lease",
            self.ends.len()
        );
        lost
    }
}
