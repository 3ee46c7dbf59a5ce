//! The same random history on SQLite and on Postgres: every answer, and all
//! that can be observed afterwards, must be the same.
//!
//! Ids are the history's own, so only instants and generated traces differ;
//! they are compared by what they mean ([`seen`]). Histories count in hours and
//! let a second pass after each step, so that no two instants of one history
//! are alike by chance and none is near the border of an hour.

mod history;
mod seen;

use std::time::Duration;

use cogo_host::ids::MessageId;
use cogo_host::route::Route;
use cogo_host::store::{ClaimRequest, Renewal, Retention, Settlement, Want};
use cogo_host::task::{Claim, NewTask};
use serde_json::{Value, json};
use uuid::Uuid;

use self::history::{End, Foreign, ROUTES, Step, TENANTS, history};
use crate::support::bed::Bed;
use crate::support::hand::{
    Hand, artifact, done, drained, failed, host_fault, key, retry, settlement, task, want,
};

const HOSTS: usize = 3;
const MAX_ATTEMPTS: u32 = 3;
const HOUR: Duration = Duration::from_secs(3600);
/// Outlives every history.
const LEASE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many histories are run; `COGO_HISTORIES` names another number.
const HISTORIES: u64 = 200;
/// Between two comparisons of everything; answers are compared at each step.
const STRIDE: usize = 12;

/// One history on two databases.
struct Pair {
    beds: [Bed; 2],
    hosts: Vec<Hand>,
    /// What the hosts hold: the same claim as either database gave it out.
    held: Vec<(usize, [Claim; 2])>,
    /// What they have settled, for answers that were lost.
    settled: Vec<(usize, [Settlement; 2])>,
    known: Vec<MessageId>,
    seed: u64,
    steps: usize,
}

impl Pair {
    async fn open(seed: u64) -> Self {
        Self {
            beds: [
                crate::support::sqlite::bed().await,
                crate::support::postgres::bed().await,
            ],
            hosts: (0..HOSTS).map(|_| Hand::new()).collect(),
            held: Vec::new(),
            settled: Vec::new(),
            known: Vec::new(),
            seed,
            steps: 0,
        }
    }

    /// Takes a step on both and gives both answers.
    async fn take(&mut self, step: &Step) -> [Value; 2] {
        self.steps += 1;
        let answers = match step.clone() {
            Step::Claim { host, wants, limit } => self.claim(host, &wants, limit).await,
            Step::Settle { which, n, end } => self.settle(which, n, end).await,
            Step::SettleAgain { which } => self.settle_again(which).await,
            Step::Renew { host } => self.renew(host).await,
            _ => {
                self.prepare(step);
                let sqlite = self.answer(0, step).await;
                [sqlite, self.answer(1, step).await]
            }
        };
        for bed in &self.beds {
            for column in ["created_at", "retry_at", "claimed_at", "lease_expires_at"] {
                let second = Duration::from_secs(1);
                bed.door.age("agent_messages", column, second, "TRUE").await;
            }
        }
        answers
    }

    fn prepare(&mut self, step: &Step) {
        let new = match step {
            Step::Enqueue { tasks } => tasks.len(),
            Step::Foreign { .. } => 1,
            _ => 0,
        };
        let first = self.known.len();
        let ids: Vec<_> = (first..first + new).map(|n| self.id(n as u64)).collect();
        self.known.extend(ids);
    }

    /// The ids of a history, in no order.
    fn id(&self, n: u64) -> MessageId {
        let mixed = (self.seed * 1_000_003 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        MessageId(Uuid::from_u64_pair(mixed, n))
    }

    fn pick(&self, which: usize) -> MessageId {
        let n = self.known.len().max(1);
        self.known
            .get(which % n)
            .copied()
            .unwrap_or(MessageId(Uuid::nil()))
    }

    /// What needs no memory beyond the ids.
    async fn answer(&self, side: usize, step: &Step) -> Value {
        let Bed { store, door, .. } = &self.beds[side];
        match step {
            Step::Enqueue { tasks } => {
                let ids = &self.known[self.known.len() - tasks.len()..];
                let new: Vec<NewTask> = ids.iter().zip(tasks).map(|(id, t)| t.task(*id)).collect();
                json!(format!("{:?}", store.enqueue(&new).await.unwrap()))
            }
            Step::Foreign { route, foreign } => {
                let id = *self.known.last().unwrap();
                door.execute(&foreign.insert(id, ROUTES[*route])).await;
                if *foreign == Foreign::Claimed {
                    let which = format!("id = '{id}'");
                    door.age("agent_messages", "claimed_at", 3 * HOUR, &which)
                        .await;
                }
                Value::Null
            }
            Step::EndLease { which } => {
                // Each at an instant of its own.
                let by = 2 * LEASE + Duration::from_secs(1000 * self.steps as u64);
                let which = format!("id = '{}'", self.pick(*which));
                door.age("agent_messages", "lease_expires_at", by, &which)
                    .await;
                Value::Null
            }
            Step::Rescue { limit } => {
                let rescued = store.rescue(*limit, MAX_ATTEMPTS).await.unwrap();
                json!(format!("{rescued:?}"))
            }
            Step::Cancel { which } => {
                let answer = store.cancel(self.pick(*which), "operator").await.unwrap();
                json!(answer)
            }
            Step::GrowOld { which } => {
                let which = format!("id = '{}' AND status = 'queued'", self.pick(*which));
                door.age("agent_messages", "created_at", 24 * HOUR, &which)
                    .await;
                Value::Null
            }
            Step::EndLongAgo { which } => {
                let which = format!("id = '{}'", self.pick(*which));
                door.age("agent_messages", "done_at", 24 * HOUR, &which)
                    .await;
                Value::Null
            }
            Step::MakeDue => {
                door.age("agent_messages", "retry_at", 24 * HOUR, "status = 'queued'")
                    .await;
                Value::Null
            }
            Step::Expire => {
                let wants = [want(ROUTES[0]), want(ROUTES[1])];
                let mut expired = store.expire(&wants, 100).await.unwrap();
                expired.sort_unstable();
                json!(expired)
            }
            Step::Retire => {
                let old = Retention {
                    tasks: Some(12 * HOUR),
                    events: None,
                    batch: 100,
                };
                json!(store.retire(&old).await.unwrap())
            }
            Step::NextDue { wants } => {
                let due = store.next_due(&wants_of(wants)).await.unwrap();
                // An hour, more or less.
                json!(due.map(|due| (due.as_secs_f64() / HOUR.as_secs_f64()).round()))
            }
            Step::Claim { .. }
            | Step::Settle { .. }
            | Step::SettleAgain { .. }
            | Step::Renew { .. } => Value::Null,
        }
    }

    async fn claim(&mut self, host: usize, wants: &[history::Wanted], limit: u32) -> [Value; 2] {
        let host = host % HOSTS;
        let mut both = Vec::new();
        for bed in &self.beds {
            let request = ClaimRequest {
                holder: &self.hosts[host].id,
                lease: LEASE,
                wants: wants_of(wants),
                limit,
            };
            both.push(bed.store.claim(&request).await.unwrap());
        }
        let answers = [seen::claims(&both[0]), seen::claims(&both[1])];
        let [postgres, sqlite] = [both.pop().unwrap(), both.pop().unwrap()];
        let pairs = sqlite.into_iter().zip(postgres);
        self.held.extend(pairs.map(|(a, b)| (host, [a, b])));
        answers
    }

    /// Settles up to `n` of what the host of one claim holds, in one batch.
    async fn settle(&mut self, which: usize, n: usize, end: End) -> [Value; 2] {
        if self.held.is_empty() {
            return [Value::Null, Value::Null];
        }
        let (host, _) = self.held[which % self.held.len()];
        let mut batch = Vec::new();
        let mut rest = Vec::new();
        for (holder, claims) in std::mem::take(&mut self.held) {
            match holder == host && batch.len() < n {
                true => batch.push(claims.map(|claim| ended(&claim, end))),
                false => rest.push((holder, claims)),
            }
        }
        self.held = rest;
        let answers = self.write(host, &batch).await;
        self.settled
            .extend(batch.into_iter().map(|both| (host, both)));
        answers
    }

    /// Writes an end once more, as after an answer that was lost.
    async fn settle_again(&mut self, which: usize) -> [Value; 2] {
        if self.settled.is_empty() {
            return [Value::Null, Value::Null];
        }
        let (host, both) = self.settled[which % self.settled.len()].clone();
        // Twice in one batch: one fence settles once.
        self.write(host, &[both.clone(), both]).await
    }

    async fn write(&self, host: usize, batch: &[[Settlement; 2]]) -> [Value; 2] {
        let mut answers = [Value::Null, Value::Null];
        for (side, answer) in answers.iter_mut().enumerate() {
            let ends: Vec<Settlement> = batch.iter().map(|both| both[side].clone()).collect();
            let store = &self.beds[side].store;
            let settled = store.settle(&self.hosts[host].id, &ends).await.unwrap();
            *answer = json!(format!("{settled:?}"));
        }
        answers
    }

    async fn renew(&self, host: usize) -> [Value; 2] {
        let host = host % HOSTS;
        let own = self.held.iter().filter(|(holder, _)| *holder == host);
        let fences: Vec<_> = own.map(|(_, claims)| claims[0].fence()).collect();
        let mut answers = [Value::Null, Value::Null];
        for (bed, answer) in self.beds.iter().zip(&mut answers) {
            let holder = &self.hosts[host].id;
            let renewed: Vec<Renewal> = bed.store.renew(holder, &fences, LEASE).await.unwrap();
            let mut asked = bed.store.cancel_requests(holder).await.unwrap();
            asked.sort_unstable_by_key(|fence| fence.id);
            *answer = json!(format!("{renewed:?} {asked:?}"));
        }
        answers
    }

    /// All that can be observed of either database.
    async fn observe(&self) -> [Value; 2] {
        let mut all = [Value::Null, Value::Null];
        for (bed, all) in self.beds.iter().zip(&mut all) {
            *all = seen::everything(&*bed.store, &self.known).await;
        }
        all
    }
}

fn wants_of(wanted: &[history::Wanted]) -> Vec<Want> {
    let each = wanted.iter().map(|wanted| Want {
        key: key(ROUTES[wanted.route]),
        shard: wanted.shard,
        tenant: wanted.tenant.map(|n| TENANTS[n].to_owned()),
        limit: wanted.limit,
        reclaim_foreign_after: wanted.reclaim.then_some(2 * HOUR),
        draw: None,
    });
    each.collect()
}

impl history::Planned {
    fn task(&self, id: MessageId) -> NewTask {
        let plain = task(ROUTES[self.route]);
        NewTask {
            id,
            route: Route {
                shard: self.shard,
                tenant: self.tenant.map(|n| TENANTS[n].to_owned()),
                ..plain.route
            },
            trace_id: format!("trace-{id}").parse().unwrap(),
            priority: self.priority,
            max_attempts: self.one_shot.then_some(1),
            unique_key: self.keyed.map(|key| format!("key {key}")),
            delay: HOUR * self.delay_hours,
            payload: match self.ttl_hours {
                Some(hours) => json!({ "__assignment": { "ttl_ms": hours * 3_600_000 } }),
                None => plain.payload,
            },
            ..plain
        }
    }
}

fn ended(claim: &Claim, end: End) -> Settlement {
    let max = claim.max_attempts.unwrap_or(MAX_ATTEMPTS);
    let next = match end {
        End::Done => done(),
        End::Failed => failed("no"),
        // What the domain decides before a store is asked.
        End::Retry | End::RetryLater if claim.attempt >= max => failed("last"),
        End::Retry => retry(Duration::ZERO),
        End::RetryLater => retry(2 * HOUR),
        End::Drained => drained(),
        End::HostFault => host_fault(),
    };
    let mut settlement = settlement(claim, next);
    if matches!(end, End::Done) {
        settlement.artifacts = vec![artifact("a.txt"), artifact("b.txt"), artifact("a.txt")];
    }
    settlement
}

/// Where a history parts ways: after how many steps, and how.
async fn compare(seed: u64, steps: &[Step], stride: usize) -> Result<(), (usize, String)> {
    let mut pair = Pair::open(seed).await;
    for (place, step) in steps.iter().enumerate() {
        let mut both = pair.take(step).await;
        if both[0] == both[1] && ((place + 1) % stride == 0 || place + 1 == steps.len()) {
            both = pair.observe().await;
        }
        if both[0] != both[1] {
            let told = seen::difference(&both[0], &both[1]);
            return Err((place + 1, told));
        }
    }
    Ok(())
}

#[tokio::test]
async fn random_histories_are_the_same_on_sqlite_and_postgres() {
    let named = std::env::var("COGO_HISTORIES").ok();
    let histories = named.map_or(HISTORIES, |n| n.parse().unwrap());
    for seed in 0..histories {
        let steps = history(seed);
        let Err((at, told)) = compare(seed, &steps, STRIDE).await else {
            continue;
        };
        // Again, looking at everything after each step.
        let (at, told) = match compare(seed, &steps[..at], 1).await {
            Err(first) => first,
            Ok(()) => (at, told),
        };
        let steps: Vec<String> = steps[..at].iter().map(|step| format!("{step:?}")).collect();
        panic!(
            "seed {seed}: SQLite and Postgres part ways after {at} steps\n  {}\n\n{told}",
            steps.join("\n  ")
        );
    }
}
