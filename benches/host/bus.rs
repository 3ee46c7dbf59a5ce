//! The bus on SQLite with durable commits: tasks a second from end to end, and
//! the time from a submission to its start on an idle host.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cogo_host::attempt::{
    Attempt, AttemptControl, AttemptOutcome, AttemptRecord, AttemptReport, Executor, Measured,
};
use cogo_host::bus::{self, BusHandle, BusSettings};
use cogo_host::event::Subject;
use cogo_host::ids::{HolderId, MessageId, TraceId};
use cogo_host::plugin::engine::Engines;
use cogo_host::plugin::load::Plugin;
use cogo_host::retry::RetryPolicy;
use cogo_host::route::{KnownRole, Route};
use cogo_host::routing::{
    Assigned, EndedAttempt, Hold, KnownRoute, Routing, ServedRoute, Unassigned,
};
use cogo_host::selection::{Basis, Path as ChosenPath, Why};
use cogo_host::stage::Stage;
use cogo_host::store::{
    ClaimRequest, OpenMode, Retention, Settled, Settlement, SqliteStore, Store, Want,
};
use cogo_host::task::{Claim, NewTask, Next};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::{floor, median, pairs, percentile, sandbox};

const TASKS: usize = 20_000;
const BATCH: u32 = 100;
/// Places for attempts. A busy host claims once a quarter of them is free, so its
/// claims are of the same batch as the floor's.
const PLACES: u32 = 4 * BATCH;
const SUBMISSIONS: usize = 300;

/// One route, one plugin.
struct OneRoute {
    plugin: Arc<Plugin>,
    concurrency: u32,
}

impl Routing for OneRoute {
    fn served(&self) -> Vec<ServedRoute> {
        vec![ServedRoute {
            key: KnownRole::BuildTest.key(),
            shard: None,
            tenant: None,
            concurrency: self.concurrency,
            plugin: self.plugin.name().clone(),
            plugin_concurrency: self.concurrency,
            reclaim_foreign_after: None,
            draw: None,
            only_probe: false,
        }]
    }

    fn known(&self) -> Vec<KnownRoute> {
        self.served().iter().map(ServedRoute::known).collect()
    }

    fn assign(&self, _claim: &Claim, _last_attempt: bool) -> Result<Assigned, Unassigned> {
        Ok(Assigned {
            plugin: self.plugin.version(),
            why: Why {
                path: ChosenPath::Mock,
                basis: Basis::Flag,
                fallback: false,
                probe: false,
                approval: None,
                rollout: None,
            },
            deadline: Duration::from_secs(60),
            probe: None,
            hold: Hold::default(),
        })
    }

    fn ended(&self, _: EndedAttempt) {}
}

pub fn task() -> NewTask {
    let trace_id = TraceId::generate();
    NewTask {
        id: MessageId::generate(),
        route: Route::of(KnownRole::BuildTest.key()),
        task_id: Some("bench".to_owned()),
        payload: serde_json::json!({
            "task_id": "bench", "trace_id": trace_id, "repo": "https://example.com/r.git"
        }),
        trace_id,
        priority: 0,
        max_attempts: None,
        unique_key: None,
        delay: Duration::ZERO,
        repeats: None,
    }
}

pub async fn filled(path: &Path, tasks: usize) -> Arc<dyn Store> {
    let store = SqliteStore::open(path, OpenMode::Create).await.unwrap();
    store.migrate(false).await.unwrap();
    fill(&store, tasks).await;
    Arc::new(store)
}

pub async fn fill(store: &dyn Store, tasks: usize) {
    for _ in 0..tasks.div_ceil(500) {
        let batch: Vec<NewTask> = (0..500.min(tasks)).map(|_| task()).collect();
        store.enqueue(&batch).await.unwrap();
    }
}

pub fn settings(until_idle: bool) -> BusSettings {
    BusSettings {
        stage: Stage::Development,
        concurrency: PLACES,
        lease: Duration::from_secs(30),
        poll: Duration::from_secs(1),
        retry: RetryPolicy::DEFAULT,
        drain: Duration::from_secs(5),
        stop_grace: Duration::from_secs(2),
        retention: Retention {
            tasks: None,
            events: None,
            batch: 500,
        },
        until_idle,
    }
}

pub fn start(
    store: Arc<dyn Store>,
    executor: Arc<dyn Executor>,
    plugin: &Arc<Plugin>,
    until_idle: bool,
) -> BusHandle {
    let routing = OneRoute {
        plugin: Arc::clone(plugin),
        concurrency: PLACES,
    };
    let holder = HolderId::generate("bench");
    bus::start(
        store,
        executor,
        Arc::new(routing),
        holder,
        settings(until_idle),
    )
    .unwrap()
}

pub fn throughput() {
    let engines = Arc::new(Engines::new().unwrap());
    let (guests, io) = (sandbox::runtime(1), sandbox::runtime(2));
    let plugin = sandbox::mock(&engines, &guests);
    let alone = median(3, || io.block_on(store_alone()));
    let mut cpu_us = f64::MAX;
    let rate = pairs(
        5,
        || io.block_on(in_sql_alone()),
        || {
            let drained = drained(&plugin, &guests, &io);
            cpu_us = cpu_us.min(drained.cpu_us);
            drained.rate
        },
    );
    println!(
        "bus: claim and settle in SQL alone       {:8.0} tasks/s (batch {BATCH})",
        rate.floor
    );
    println!("bus: claim and settle, the store alone   {alone:8.0} tasks/s");
    println!(
        "bus: end to end, mock plugin             {:8.0} tasks/s",
        rate.ours
    );
    println!("bus: of both cores, a task               {cpu_us:8.0} µs");
    println!(
        "bus: ratio (aim ≥ 0.6)                   {:8.2}",
        rate.ratio
    );
    let more = sandbox::runtime(2);
    let threads = pairs(
        5,
        || drained(&plugin, &guests, &io).rate,
        || drained(&plugin, &more, &io).rate,
    );
    println!(
        "bus: end to end, 2 guest threads to 1    {:8.2}",
        threads.ratio
    );
}

/// Drains a full bus by the floor's statements; tasks a second.
async fn in_sql_alone() -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = filled(&path, TASKS).await;
    store.close().await.unwrap();
    floor::drain(&path, i64::from(BATCH)).await
}

/// Claims and settles a full bus by the store's own methods; tasks a second.
async fn store_alone() -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("bus.db"), TASKS).await;
    let holder = HolderId::generate("bench");
    let want = Want {
        key: KnownRole::BuildTest.key(),
        shard: None,
        tenant: None,
        limit: BATCH,
        reclaim_foreign_after: None,
        draw: None,
    };
    let request = ClaimRequest {
        holder: &holder,
        lease: Duration::from_secs(30),
        wants: vec![want],
        limit: BATCH,
    };
    let begun = Instant::now();
    loop {
        let claims = store.claim(&request).await.unwrap();
        if claims.is_empty() {
            break;
        }
        let ends: Vec<Settlement> = claims.iter().map(done).collect();
        let settled = store.settle(&holder, &ends).await.unwrap();
        assert!(settled.iter().all(|settled| *settled == Settled::Applied));
    }
    let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
    store.close().await.unwrap();
    rate
}

struct Drained {
    /// Tasks a second.
    rate: f64,
    /// Of one task.
    cpu_us: f64,
}

/// Drains a full bus through the whole host but its API.
fn drained(plugin: &Arc<Plugin>, guests: &Runtime, io: &Runtime) -> Drained {
    let dir = tempfile::tempdir().unwrap();
    let executor = sandbox::executor(plugin, guests, io);
    io.block_on(async {
        let store = filled(&dir.path().join("bus.db"), TASKS).await;
        let (begun, cpu) = (Instant::now(), cpu_seconds());
        drain(&store, executor, plugin).await;
        let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
        let cpu_us = (cpu_seconds() - cpu) * 1e6 / TASKS as f64;
        let depth = store.depth().await.unwrap();
        assert_eq!(depth.done as usize, TASKS, "{depth:?}");
        store.close().await.unwrap();
        Drained { rate, cpu_us }
    })
}

/// Runs a host on the bus until nothing waits.
pub async fn drain(store: &Arc<dyn Store>, executor: Arc<dyn Executor>, plugin: &Arc<Plugin>) {
    let bus = start(Arc::clone(store), executor, plugin, true);
    bus.finished().await;
}

/// What this process has used of all cores, which is steadier than its pace on
/// a machine that is shared.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

/// A plain end of an attempt, smaller than what the mock leaves.
fn done(claim: &Claim) -> Settlement {
    let next = Next::Done {
        result: serde_json::json!({ "type": "build-test", "passed": true, "tests": 12 }),
        snippet: "12 tests passed".to_owned(),
        url: None,
    };
    let attempt = AttemptRecord {
        attempt: claim.attempt,
        outcome: AttemptOutcome::Done,
        plugin: None,
        why: None,
        stage: Stage::Development,
        wait_ms: 1,
        code: None,
        blame: None,
        measured: Measured::default(),
    };
    let subject = Subject {
        id: claim.id,
        route: &claim.route,
        trace_id: &claim.trace_id,
        task_id: claim.task_id.as_deref(),
    };
    Settlement {
        fence: claim.fence(),
        events: subject.settled(&next, &attempt),
        next,
        attempt,
        artifacts: Vec::new(),
        forward: None,
    }
}

/// Tells when an attempt reaches the executor.
pub struct Watched {
    pub inner: Arc<dyn Executor>,
    pub started: mpsc::UnboundedSender<Instant>,
}

#[async_trait]
impl Executor for Watched {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        self.started.send(Instant::now()).unwrap();
        self.inner.execute(attempt, control).await
    }
}

pub fn latency() {
    let engines = Arc::new(Engines::new().unwrap());
    let (guests, io) = (sandbox::runtime(1), sandbox::runtime(2));
    let plugin = sandbox::mock(&engines, &guests);
    let dir = tempfile::tempdir().unwrap();
    let (started, mut starts) = mpsc::unbounded_channel();
    let executor = Arc::new(Watched {
        inner: sandbox::executor(&plugin, &guests, &io),
        started,
    });
    let waits = io.block_on(async {
        let store = filled(&dir.path().join("bus.db"), 0).await;
        let bus = start(Arc::clone(&store), executor, &plugin, false);
        let mut waits = Vec::with_capacity(SUBMISSIONS);
        for _ in 0..SUBMISSIONS {
            // The host is idle: the task before has settled.
            while bus.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let begun = Instant::now();
            store.enqueue(&[task()]).await.unwrap();
            bus.wake();
            waits.push(starts.recv().await.unwrap() - begun);
        }
        bus.drain();
        bus.finished().await;
        store.close().await.unwrap();
        waits
    });
    let show = |percent| percentile(waits.clone(), percent).as_secs_f64() * 1e3;
    println!(
        "latency: submit to start, idle, p50      {:8.2} ms",
        show(50)
    );
    println!(
        "latency: submit to start, p95 (aim ≤ 5)  {:8.2} ms",
        show(95)
    );
}
