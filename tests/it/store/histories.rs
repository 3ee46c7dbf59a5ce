//! Random histories of hosts, producers and operators, with every invariant
//! checked after each step.

use std::time::Duration;

use cogo_host::ids::MessageId;
use cogo_host::store::{Retention, Settled};
use cogo_host::task::{Claim, NewTask};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{
    BUILD_TEST, DOCS, Hand, done, drained, failed, host_fault, retry, settlement, task, want,
};

const ROUTES: [&str; 2] = [BUILD_TEST, DOCS];
const HOSTS: usize = 3;
const MAX_ATTEMPTS: u32 = 3;

/// One step; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        route: usize,
        kind: NewKind,
    },
    Foreign {
        route: usize,
    },
    Claim {
        host: usize,
        route: usize,
        limit: u32,
    },
    Settle {
        host: usize,
        which: usize,
        end: End,
    },
    SettleAll {
        host: usize,
        end: End,
    },
    Renew {
        host: usize,
    },
    EndLease {
        which: usize,
    },
    Rescue {
        limit: u32,
    },
    Cancel {
        which: usize,
    },
    GrowOld {
        which: usize,
    },
    Expire,
    MakeDue,
    Retire,
}

#[derive(Debug, Clone, Copy)]
enum NewKind {
    Plain,
    Keyed,
    Mortal,
    Urgent,
    OneShot,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Done,
    Failed,
    Retry,
    Drained,
    HostFault,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        Just(End::Done),
        Just(End::Failed),
        Just(End::Retry),
        Just(End::Drained),
        Just(End::HostFault)
    ];
    let kind = prop_oneof![
        Just(NewKind::Plain),
        Just(NewKind::Keyed),
        Just(NewKind::Mortal),
        Just(NewKind::Urgent),
        Just(NewKind::OneShot)
    ];
    let n = 0..64_usize;
    prop_oneof![
        4 => (n.clone(), kind).prop_map(|(route, kind)| Step::Enqueue { route, kind }),
        1 => n.clone().prop_map(|route| Step::Foreign { route }),
        6 => (n.clone(), n.clone(), 1..4_u32)
            .prop_map(|(host, route, limit)| Step::Claim { host, route, limit }),
        5 => (n.clone(), n.clone(), end.clone())
            .prop_map(|(host, which, end)| Step::Settle { host, which, end }),
        1 => (n.clone(), end).prop_map(|(host, end)| Step::SettleAll { host, end }),
        1 => n.clone().prop_map(|host| Step::Renew { host }),
        3 => n.clone().prop_map(|which| Step::EndLease { which }),
        2 => (1..4_u32).prop_map(|limit| Step::Rescue { limit }),
        1 => n.clone().prop_map(|which| Step::Cancel { which }),
        1 => n.prop_map(|which| Step::GrowOld { which }),
        1 => Just(Step::Expire),
        2 => Just(Step::MakeDue),
        1 => Just(Step::Retire),
    ]
}

/// The bus and what its hosts believe they hold.
struct World<'a> {
    bed: &'a Bed,
    hosts: Vec<(Hand, Vec<Claim>)>,
    known: Vec<MessageId>,
}

impl World<'_> {
    fn new(bed: &Bed) -> World<'_> {
        World {
            bed,
            hosts: (0..HOSTS).map(|_| (Hand::new(), Vec::new())).collect(),
            known: Vec::new(),
        }
    }

    async fn take(&mut self, step: &Step) {
        let store = &*self.bed.store;
        match *step {
            Step::Enqueue { route, kind } => self.enqueue(route, kind).await,
            Step::Foreign { route } => {
                let route = ROUTES[route % ROUTES.len()];
                self.known.push(self.bed.foreign(route, "{}").await);
            }
            Step::Claim { host, route, limit } => {
                let (hand, held) = &mut self.hosts[host % HOSTS];
                let route = ROUTES[route % ROUTES.len()];
                held.append(&mut hand.claim(store, route, limit).await);
            }
            Step::Settle { host, which, end } => {
                let (hand, held) = &mut self.hosts[host % HOSTS];
                if !held.is_empty() {
                    let claim = held.remove(which % held.len());
                    settle(store, hand, &[claim], end).await;
                }
            }
            Step::SettleAll { host, end } => {
                let (hand, held) = &mut self.hosts[host % HOSTS];
                settle(store, hand, &std::mem::take(held), end).await;
                self.bed.watch.check_drained(store, &hand.id).await;
            }
            Step::Renew { host } => {
                let (hand, held) = &self.hosts[host % HOSTS];
                let fences: Vec<_> = held.iter().map(Claim::fence).collect();
                let lease = Duration::from_secs(60);
                store.renew(&hand.id, &fences, lease).await.unwrap();
            }
            Step::EndLease { which } => {
                if let Some(id) = self.pick(which) {
                    self.bed.end_lease(id).await;
                }
            }
            Step::Rescue { limit } => {
                store.rescue(limit, MAX_ATTEMPTS).await.unwrap();
            }
            Step::Cancel { which } => {
                if let Some(id) = self.pick(which) {
                    store.cancel(id, "operator").await.unwrap();
                }
            }
            Step::GrowOld { which } => {
                if let Some(id) = self.pick(which) {
                    let which = format!("id = '{id}' AND status = 'queued'");
                    let day = Duration::from_secs(86_400);
                    let door = &self.bed.door;
                    door.age("agent_messages", "created_at", day, &which).await;
                }
            }
            Step::Expire => {
                let wants = ROUTES.map(want);
                store.expire(&wants, 2).await.unwrap();
            }
            Step::MakeDue => {
                let hour = Duration::from_secs(3600);
                let door = &self.bed.door;
                door.age("agent_messages", "retry_at", hour, "status = 'queued'")
                    .await;
            }
            Step::Retire => {
                let nothing = Retention {
                    tasks: Some(Duration::from_secs(3600)),
                    events: None,
                    batch: 10,
                };
                assert_eq!(store.retire(&nothing).await.unwrap(), 0);
            }
        }
    }

    fn pick(&self, which: usize) -> Option<MessageId> {
        let n = self.known.len();
        (n > 0).then(|| self.known[which % n])
    }

    async fn enqueue(&mut self, route: usize, kind: NewKind) {
        let mut new: NewTask = task(ROUTES[route % ROUTES.len()]);
        match kind {
            NewKind::Plain => {}
            NewKind::Keyed => new.unique_key = Some("the only one".to_owned()),
            NewKind::Mortal => new.payload = json!({ "__assignment": { "ttl_ms": 3_600_000 } }),
            NewKind::Urgent => new.priority = 5,
            NewKind::OneShot => new.max_attempts = Some(1),
        }
        let answer = self.bed.store.enqueue(&[new]).await.unwrap();
        self.bed.watch.acknowledge([answer[0].id()]);
        self.known.push(answer[0].id());
    }
}

async fn settle(store: &dyn cogo_host::store::Store, hand: &Hand, claims: &[Claim], end: End) {
    let ends: Vec<_> = claims
        .iter()
        .map(|claim| {
            let max = claim.max_attempts.unwrap_or(MAX_ATTEMPTS);
            let next = match end {
                End::Done => done(),
                End::Failed => failed("no"),
                // What the domain decides before a store is asked.
                End::Retry if claim.attempt >= max => failed("last"),
                End::Retry => retry(Duration::from_secs(1)),
                End::Drained => drained(),
                End::HostFault => host_fault(),
            };
            settlement(claim, next)
        })
        .collect();
    let answers = store.settle(&hand.id, &ends).await.unwrap();
    for (claim, answer) in claims.iter().zip(answers) {
        if answer == Settled::LeaseLost {
            let row = store.task(claim.id).await.unwrap().unwrap();
            assert!(row.lease_epoch > claim.epoch.0, "refused while still held");
        }
    }
}

/// Runs random histories against beds that `make` opens.
fn run<F: Future<Output = Bed>>(cases: u32, make: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        // Failures are printed whole; they need no file.
        failure_persistence: None,
        ..Config::default()
    });
    let histories = proptest::collection::vec(step(), 1..60);
    let result = runner.run(&histories, |steps| {
        let run = std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                let bed = make().await;
                let mut world = World::new(&bed);
                for step in &steps {
                    world.take(step).await;
                    bed.check().await;
                }
            });
        });
        std::panic::catch_unwind(run).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_else(|| "panicked".to_owned()))
        })
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn invariants_hold_after_every_step_on_sqlite() {
    run(32, crate::support::sqlite::bed);
}

#[test]
fn invariants_hold_after_every_step_on_postgres() {
    run(16, crate::support::postgres::bed);
}
