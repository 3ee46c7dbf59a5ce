//! Random histories: what producers, hosts, operators and other programs do,
//! drawn from a seed.

use cogo_host::ids::MessageId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::hand::{BUILD_TEST, DOCS};

pub const ROUTES: [&str; 2] = [BUILD_TEST, DOCS];
pub const TENANTS: [&str; 3] = ["acme", "bolt", "zeta"];

/// One step; `which` is taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Step {
    Enqueue {
        tasks: Vec<Planned>,
    },
    Foreign {
        route: usize,
        foreign: Foreign,
    },
    Claim {
        host: usize,
        wants: Vec<Wanted>,
        limit: u32,
    },
    Settle {
        which: usize,
        n: usize,
        end: End,
    },
    SettleAgain {
        which: usize,
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
    EndLongAgo {
        which: usize,
    },
    MakeDue,
    Expire,
    Retire,
    NextDue {
        wants: Vec<Wanted>,
    },
}

/// A task to enqueue.
#[derive(Debug, Clone)]
pub struct Planned {
    pub route: usize,
    pub shard: i32,
    pub tenant: Option<usize>,
    pub priority: i32,
    pub delay_hours: u32,
    pub ttl_hours: Option<i64>,
    pub keyed: Option<u8>,
    pub one_shot: bool,
}

/// What a host serves.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub route: usize,
    pub shard: Option<i32>,
    pub tenant: Option<usize>,
    pub limit: u32,
    pub reclaim: bool,
}

/// A row by another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    Plain,
    Labelled,
    /// Its trace id is none.
    OddTrace,
    /// A time to live that is none.
    NegativeTtl,
    /// By a worker that knows no leases.
    Claimed,
    Tenant(usize),
}

#[derive(Debug, Clone, Copy)]
pub enum End {
    Done,
    Failed,
    Retry,
    RetryLater,
    Drained,
    HostFault,
}

impl Foreign {
    /// The statement, in the words of either database.
    pub fn insert(self, id: MessageId, route: &str) -> String {
        let (service, role) = route.split_once('/').unwrap();
        let (payload, columns, values) = match self {
            Self::Plain => ("{}", "", String::new()),
            Self::Labelled => (
                r#"{"trace_id":"its-trace","task_id":"its-label"}"#,
                "",
                String::new(),
            ),
            Self::OddTrace => ("{}", ", trace_id", ", 'no trace'".to_owned()),
            Self::NegativeTtl => (r#"{"__assignment":{"ttl_ms":-5}}"#, "", String::new()),
            Self::Claimed => (
                "{}",
                ", claimed_by, claimed_at",
                ", 'old-worker', CURRENT_TIMESTAMP".to_owned(),
            ),
            Self::Tenant(n) => ("{}", ", tenant", format!(", '{}'", TENANTS[n])),
        };
        let status = match self {
            Self::Claimed => "claimed",
            _ => "queued",
        };
        format!(
            "INSERT INTO agent_messages (id, service, role, payload, status{columns})
             VALUES ('{id}', '{service}', '{role}', '{payload}', '{status}'{values})"
        )
    }
}

/// The history of a seed.
pub fn history(seed: u64) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let length = rng.random_range(20..70);
    // It begins with something to do.
    let first = Step::Enqueue {
        tasks: batch(&mut rng),
    };
    let rest = (1..length).map(|_| step(&mut rng));
    std::iter::once(first).chain(rest).collect()
}

fn step(rng: &mut StdRng) -> Step {
    let which = rng.random_range(0..1000);
    let host = rng.random_range(0..8);
    match rng.random_range(0..100) {
        0..20 => Step::Enqueue { tasks: batch(rng) },
        20..26 => Step::Foreign {
            route: rng.random_range(0..ROUTES.len()),
            foreign: foreign(rng),
        },
        26..50 => Step::Claim {
            host,
            wants: wants(rng),
            limit: rng.random_range(1..7),
        },
        50..68 => Step::Settle {
            which,
            n: rng.random_range(1..4),
            end: end(rng),
        },
        68..71 => Step::SettleAgain { which },
        71..74 => Step::Renew { host },
        74..80 => Step::EndLease { which },
        80..84 => Step::Rescue {
            limit: rng.random_range(1..4),
        },
        84..88 => Step::Cancel { which },
        88..90 => Step::GrowOld { which },
        90..92 => Step::EndLongAgo { which },
        92..94 => Step::MakeDue,
        94..96 => Step::Expire,
        96..98 => Step::Retire,
        _ => Step::NextDue { wants: wants(rng) },
    }
}

fn batch(rng: &mut StdRng) -> Vec<Planned> {
    let n = rng.random_range(1..5);
    (0..n)
        .map(|_| Planned {
            route: rng.random_range(0..ROUTES.len()),
            shard: *pick(rng, &[0, 0, 0, 3]),
            tenant: one_in(rng, 2).then(|| rng.random_range(0..TENANTS.len())),
            priority: *pick(rng, &[0, 0, 0, 5, -2]),
            delay_hours: *pick(rng, &[0, 0, 0, 3]),
            ttl_hours: one_in(rng, 6).then(|| *pick(rng, &[2, 30])),
            keyed: one_in(rng, 6).then(|| rng.random_range(0..2)),
            one_shot: one_in(rng, 8),
        })
        .collect()
}

fn wants(rng: &mut StdRng) -> Vec<Wanted> {
    // No two of one route, as a host has them.
    let first = rng.random_range(0..ROUTES.len());
    let n = rng.random_range(1..=ROUTES.len());
    (0..n)
        .map(|i| Wanted {
            route: (first + i) % ROUTES.len(),
            shard: one_in(rng, 5).then(|| *pick(rng, &[0, 3])),
            tenant: one_in(rng, 5).then(|| rng.random_range(0..TENANTS.len())),
            limit: rng.random_range(1..6),
            reclaim: one_in(rng, 4),
        })
        .collect()
}

fn foreign(rng: &mut StdRng) -> Foreign {
    let tenant = Foreign::Tenant(rng.random_range(0..TENANTS.len()));
    *pick(
        rng,
        &[
            Foreign::Plain,
            Foreign::Labelled,
            Foreign::OddTrace,
            Foreign::NegativeTtl,
            Foreign::Claimed,
            Foreign::Claimed,
            tenant,
        ],
    )
}

fn end(rng: &mut StdRng) -> End {
    *pick(
        rng,
        &[
            End::Done,
            End::Done,
            End::Failed,
            End::Retry,
            End::RetryLater,
            End::Drained,
            End::HostFault,
        ],
    )
}

fn one_in(rng: &mut StdRng, n: u32) -> bool {
    rng.random_ratio(1, n)
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}
