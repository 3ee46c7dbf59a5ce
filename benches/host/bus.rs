//! The bus on SQLite with durable commits: tasks a second from end to end, and
//! the time from a submission to its start on an idle host.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cogo_host::attempt::{Attempt, AttemptControl, AttemptReport, Executor};
use cogo_host::bus::{self, BusHandle, BusSettings};
use cogo_host::ids::{HolderId, MessageId, TraceId};
use cogo_host::plugin::engine::Engines;
use cogo_host::plugin::load::Plugin;
use cogo_host::retry::RetryPolicy;
use cogo_host::route::{KnownRole, Route};
use cogo_host::routing::{Assigned, Hold, Routing, ServedRoute, Unassigned};
use cogo_host::selection::{Basis, Path as ChosenPath, Why};
use cogo_host::stage::Stage;
use cogo_host::store::{OpenMode, Retention, SqliteStore, Store};
use cogo_host::task::{Claim, NewTask};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::{floor, median, percentile, sandbox};

const TASKS: usize = 20_000;
const BATCH: u32 = 100;
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
        }]
    }

    fn assign(&self, _claim: &Claim, _last_attempt: bool) -> Result<Assigned, Unassigned> {
        Ok(Assigned {
            plugin: self.plugin.version(),
            why: Why {
                path: ChosenPath::Mock,
                basis: Basis::Flag,
                fallback: false,
                approval: None,
                rollout: None,
            },
            deadline: Duration::from_secs(60),
            hold: Hold::default(),
        })
    }
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
    for _ in 0..tasks.div_ceil(500) {
        let batch: Vec<NewTask> = (0..500.min(tasks)).map(|_| task()).collect();
        store.enqueue(&batch).await.unwrap();
    }
    Arc::new(store)
}

pub fn settings(until_idle: bool) -> BusSettings {
    BusSettings {
        stage: Stage::Development,
        concurrency: BATCH,
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

fn start(
    store: Arc<dyn Store>,
    executor: Arc<dyn Executor>,
    plugin: &Arc<Plugin>,
    until_idle: bool,
) -> BusHandle {
    let routing = OneRoute {
        plugin: Arc::clone(plugin),
        concurrency: BATCH,
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
    let floor = median(3, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.db");
        io.block_on(async {
            let store = filled(&path, TASKS).await;
            store.close().await.unwrap();
            floor::drain(&path, i64::from(BATCH)).await
        })
    });
    let ours = median(3, || drained(&plugin, &guests, &io));
    println!("bus: claim and settle in SQL alone       {floor:8.0} tasks/s (batch {BATCH})");
    println!("bus: end to end, mock plugin             {ours:8.0} tasks/s");
    println!(
        "bus: ratio (aim ≥ 0.6)                   {:8.2}",
        ours / floor
    );
}

/// Drains a full bus through the whole host but its API; tasks a second.
fn drained(plugin: &Arc<Plugin>, guests: &Runtime, io: &Runtime) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let executor = sandbox::executor(plugin, guests, io);
    io.block_on(async {
        let store = filled(&dir.path().join("bus.db"), TASKS).await;
        let begun = Instant::now();
        let bus = start(Arc::clone(&store), executor, plugin, true);
        bus.finished().await;
        let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
        let depth = store.depth().await.unwrap();
        assert_eq!(depth.done as usize, TASKS, "{depth:?}");
        store.close().await.unwrap();
        rate
    })
}

/// Tells when an attempt reaches the executor.
struct Watched {
    inner: Arc<dyn Executor>,
    started: mpsc::UnboundedSender<Instant>,
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
