//! One sandboxed attempt against bare wasmtime on the same component, and what
//! a second guest thread is worth.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cogo_host::artifacts::{ArtifactError, ArtifactPath, Artifacts};
use cogo_host::attempt::{
    Allowance, Attempt, AttemptControl, AttemptEnd, Fence, LeaseEpoch, StagedArtifact, StopReason,
};
use cogo_host::ids::{MessageId, TraceId};
use cogo_host::plugin::bindings::ExecutorPluginPre;
use cogo_host::plugin::bindings::cogo::executor::contract;
use cogo_host::plugin::catalog::Catalog;
use cogo_host::plugin::compile::Compiler;
use cogo_host::plugin::engine::{Allocation, Engines};
use cogo_host::plugin::load::{Loader, Plugin, Settings};
use cogo_host::plugin::sandbox::{Runtimes, Sandbox};
use cogo_host::plugin::{bundled, limits::Limits};
use cogo_host::route::{KnownRole, Route};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use wasmtime::component::{Component, Linker};

use crate::pairs;

const ATTEMPTS: u32 = 10_000;
const AT_ONCE: usize = 64;
const ROUNDS: usize = 11;
const PAYLOAD: &str = r#"{"task_id":"bench","repo":"https://example.com/r.git"}"#;

/// Artifacts that nobody stores: the benchmark's task has none.
struct NoArtifacts;

#[async_trait]
impl Artifacts for NoArtifacts {
    async fn stage(
        &self,
        _path: ArtifactPath,
        _content_type: String,
        _body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        Err(ArtifactError::NotFound)
    }

    fn url(&self, _task_id: &str, _path: &ArtifactPath) -> String {
        String::new()
    }

    async fn read(&self, _trace_id: &TraceId, _url: &str) -> Result<Bytes, ArtifactError> {
        Err(ArtifactError::NotFound)
    }
}

pub fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

/// The bundled mock, loaded as the host loads it.
pub fn mock(engines: &Arc<Engines>, guests: &Runtime) -> Arc<Plugin> {
    let candidate = bundled::candidates()
        .find(|candidate| candidate.place.contains("mock"))
        .unwrap();
    let settings = Settings {
        limits: Limits {
            concurrency: 1024,
            ..Limits::DEFAULT
        },
        ..Settings::default()
    };
    let loader = Loader::new(
        Arc::clone(engines),
        Compiler::in_process(None),
        guests.handle().clone(),
    );
    Arc::new(guests.block_on(loader.load(candidate, &settings)).unwrap())
}

pub fn executor(plugin: &Arc<Plugin>, guests: &Runtime, io: &Runtime) -> Arc<Sandbox> {
    let catalog = Arc::new(Catalog::new());
    catalog.install(Arc::clone(plugin));
    Arc::new(over(&catalog, guests.handle(), io.handle()))
}

pub fn over(catalog: &Arc<Catalog>, guests: &Handle, io: &Handle) -> Sandbox {
    let runtimes = Runtimes {
        guest: guests.clone(),
        io: io.clone(),
    };
    Sandbox::new(Arc::clone(catalog), runtimes, Arc::new(NoArtifacts))
}

pub fn compare() {
    let engines = Arc::new(Engines::new().unwrap());
    let one = runtime(1);
    let two = runtime(2);
    let io = runtime(1);
    let plugin = mock(&engines, &one);
    let bare = Bare::new(&engines);

    let attempt = pairs(
        ROUNDS,
        || bare.attempts_us(),
        || in_turn_us(&plugin, &one, &io),
    );
    println!(
        "sandbox: one attempt, bare wasmtime      {:8.1} µs",
        attempt.floor
    );
    println!(
        "sandbox: one attempt, ours               {:8.1} µs",
        attempt.ours
    );
    println!(
        "sandbox: ratio (aim ≤ 1.3)               {:8.2}",
        attempt.ratio
    );
    let threads = pairs(
        ROUNDS,
        || at_once(&plugin, &one, &io),
        || at_once(&plugin, &two, &io),
    );
    println!(
        "sandbox: 1 guest thread                  {:8.0} attempts/s",
        threads.floor
    );
    println!(
        "sandbox: 2 guest threads                 {:8.0} attempts/s",
        threads.ours
    );
    println!(
        "sandbox: ratio 2 to 1                    {:8.2}",
        threads.ratio
    );
}

/// Store, instantiate, call, drop, and nothing else.
pub struct Bare {
    pre: ExecutorPluginPre<()>,
    runtime: Runtime,
}

impl Bare {
    pub fn new(engines: &Engines) -> Self {
        let engine = engines.get(Allocation::Pooled).unwrap();
        let candidate = bundled::candidates()
            .find(|candidate| candidate.place.contains("mock"))
            .unwrap();
        let component = Component::from_binary(engine, &candidate.bytes).unwrap();
        let mut linker = Linker::<()>::new(engine);
        // The mock's default path makes no host call.
        linker.define_unknown_imports_as_traps(&component).unwrap();
        let pre = linker.instantiate_pre(&component).unwrap();
        Self {
            pre: ExecutorPluginPre::new(pre).unwrap(),
            runtime: runtime(1),
        }
    }

    fn attempts_us(&self) -> f64 {
        let pre = self.pre.clone();
        let work = async move {
            let start = Instant::now();
            for number in 0..ATTEMPTS {
                bare_attempt(&pre, number).await;
            }
            per_attempt_us(start.elapsed())
        };
        self.runtime.block_on(self.runtime.spawn(work)).unwrap()
    }

    /// One attempt for each of so many tasks, on the guests' thread.
    pub async fn run(&self, tasks: usize) {
        let pre = self.pre.clone();
        let work = async move {
            for number in 0..u32::try_from(tasks).unwrap() {
                bare_attempt(&pre, number).await;
            }
        };
        self.runtime.spawn(work).await.unwrap();
    }
}

async fn bare_attempt(pre: &ExecutorPluginPre<()>, number: u32) {
    let mut store = wasmtime::Store::new(pre.engine(), ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = pre.instantiate_async(&mut store).await.unwrap();
    let id = number.to_string();
    let task = contract::Task {
        id: &id,
        message_id: &id,
        idempotency_key: &id,
        trace_id: "bench",
        route: contract::Route {
            service: "code",
            role: "build-test",
            shard: 0,
            tenant: None,
        },
        attempt: 1,
        max_attempts: 5,
        deadline_ms: 60_000,
        payload: PAYLOAD,
        attributes: &[],
    };
    let outcome = instance
        .cogo_executor_executor()
        .call_execute(&mut store, task)
        .await
        .unwrap();
    assert!(outcome.is_ok());
}

/// One after the other, through the executor, from the guests' own thread: what
/// the host adds to an attempt, without the hop between runtimes that a busy
/// host shares among many.
fn in_turn_us(plugin: &Arc<Plugin>, guests: &Runtime, io: &Runtime) -> f64 {
    let sandbox = executor(plugin, guests, io);
    let plugin = Arc::clone(plugin);
    let tasks = tasks(&plugin);
    let work = async move {
        let mut ended = Vec::with_capacity(tasks.len());
        let start = Instant::now();
        for task in tasks {
            ended.push(attempt(&sandbox, &plugin, task).await);
        }
        per_attempt_us(start.elapsed())
    };
    guests.block_on(guests.spawn(work)).unwrap()
}

/// Many at a time, as the bus does.
fn at_once(plugin: &Arc<Plugin>, guests: &Runtime, io: &Runtime) -> f64 {
    let sandbox = executor(plugin, guests, io);
    let tasks = tasks(plugin);
    let start = Instant::now();
    io.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for task in tasks {
            if running.len() >= AT_ONCE {
                running.join_next().await.unwrap().unwrap();
            }
            let (sandbox, plugin) = (Arc::clone(&sandbox), Arc::clone(plugin));
            running.spawn(async move { attempt(&sandbox, &plugin, task).await });
        }
        running.join_all().await;
    });
    f64::from(ATTEMPTS) / start.elapsed().as_secs_f64()
}

/// What is left of it is the claimer's, to be dropped after the clock was read.
async fn attempt(sandbox: &Sandbox, plugin: &Arc<Plugin>, task: Task) -> Stop {
    let Task {
        attempt,
        control,
        stop,
    } = task;
    let report = sandbox.run(Arc::clone(plugin), attempt, control).await;
    assert!(
        matches!(report.end, AttemptEnd::Completed(_)),
        "{:?}",
        report.end
    );
    stop
}

/// Who may ask an attempt to stop.
type Stop = watch::Sender<Option<StopReason>>;

/// What whoever claims hands to the sandbox.
struct Task {
    attempt: Attempt,
    control: AttemptControl,
    stop: Stop,
}

/// Made before the clock runs: it is the claimer's work, not the sandbox's.
fn tasks(plugin: &Plugin) -> Vec<Task> {
    (0..ATTEMPTS).map(|_| task(plugin)).collect()
}

fn task(plugin: &Plugin) -> Task {
    let (stop, stopped) = watch::channel(None);
    let (progress, _) = watch::channel(None);
    let control = AttemptControl {
        stop: stopped,
        progress,
    };
    let id = MessageId::generate();
    let attempt = Attempt {
        fence: Fence {
            id,
            epoch: LeaseEpoch(1),
        },
        task_id: "bench".to_owned(),
        trace_id: TraceId::generate(),
        route: Route::of(KnownRole::BuildTest.key()),
        number: 1,
        max_attempts: 5,
        payload: PAYLOAD.into(),
        plugin: plugin.version(),
        deadline: Duration::from_secs(60),
        allowance: Allowance::default(),
        shadow: None,
    };
    Task {
        attempt,
        control,
        stop,
    }
}

fn per_attempt_us(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6 / f64::from(ATTEMPTS)
}
