//! Loads guests and runs attempts on them, as the bus would.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cogo_host::artifacts::{ArtifactError, ArtifactPath, Artifacts, artifact_url};
use cogo_host::attempt::{
    Allowance, Attempt, AttemptControl, AttemptEnd, AttemptReport, Fence, LeaseEpoch, Problem,
    Progress, StagedArtifact, StopReason,
};
use cogo_host::ids::{Digest, MessageId, TraceId};
use cogo_host::plugin::catalog::Catalog;
use cogo_host::plugin::compile::Compiler;
use cogo_host::plugin::engine::Engines;
use cogo_host::plugin::limits::Limits;
use cogo_host::plugin::load::{Candidate, LoadError, Loader, Plugin, Settings, Source};
use cogo_host::plugin::sandbox::{Runtimes, Sandbox};
use cogo_host::route::Route;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::guest::Guest;

/// One pair of engines for all tests, as a host has.
static ENGINES: LazyLock<Arc<Engines>> = LazyLock::new(|| Arc::new(Engines::new().unwrap()));

/// The runtimes of a host, which outlive the test that uses them first.
static RUNTIMES: LazyLock<(Runtime, Runtime)> = LazyLock::new(|| {
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .unwrap()
    };
    (runtime("guest"), runtime("io"))
});

pub fn runtimes() -> Runtimes {
    Runtimes {
        guest: RUNTIMES.0.handle().clone(),
        io: RUNTIMES.1.handle().clone(),
    }
}

pub fn engines() -> Arc<Engines> {
    Arc::clone(&ENGINES)
}

pub fn loader() -> Loader {
    Loader::new(engines(), Compiler::in_process(None), runtimes().guest)
}

pub fn candidate(bytes: Vec<u8>) -> Candidate {
    Candidate {
        name: None,
        bytes: Bytes::from(bytes),
        source: Source::Directory,
        place: "guest.wasm".to_owned(),
        signer: None,
    }
}

pub async fn load_bytes(bytes: Vec<u8>) -> Result<Plugin, LoadError> {
    loader().load(candidate(bytes), &Settings::default()).await
}

/// Loads a guest, which must go well.
pub async fn load(guest: &Guest, settings: Settings) -> Arc<Plugin> {
    let loaded = loader().load(candidate(guest.component()), &settings).await;
    Arc::new(loaded.unwrap_or_else(|e| panic!("{e}\nhint: {}", e.hint())))
}

pub fn limited(limits: Limits) -> Settings {
    Settings {
        limits,
        ..Settings::default()
    }
}

/// Artifacts in memory.
#[derive(Default)]
pub struct Shelf(pub Mutex<Vec<(String, Bytes)>>);

#[async_trait]
impl Artifacts for Shelf {
    async fn stage(
        &self,
        path: ArtifactPath,
        content_type: String,
        body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        let staged = StagedArtifact {
            path: path.to_string(),
            content_type,
            digest: Digest::of(&body),
            bytes: body.len() as u64,
        };
        self.0.lock().push((path.to_string(), body));
        Ok(staged)
    }

    fn url(&self, task_id: &str, path: &ArtifactPath) -> String {
        artifact_url("http://host/artifacts", task_id, path)
    }

    async fn read(&self, _trace_id: &TraceId, url: &str) -> Result<Bytes, ArtifactError> {
        let shelf = self.0.lock();
        let found = shelf.iter().find(|(path, _)| url.ends_with(path.as_str()));
        found
            .map(|(_, body)| body.clone())
            .ok_or(ArtifactError::NotFound)
    }
}

/// An attempt, and the hands on its controls.
pub struct Bench {
    pub sandbox: Arc<Sandbox>,
    pub catalog: Arc<Catalog>,
    pub shelf: Arc<Shelf>,
}

/// How a test steers an attempt.
pub struct Controls {
    pub control: AttemptControl,
    pub stop: watch::Sender<Option<StopReason>>,
    pub progress: watch::Receiver<Option<Progress>>,
}

impl Controls {
    pub fn new() -> Self {
        let (stop, stopped) = watch::channel(None);
        let (progressed, progress) = watch::channel(None);
        Self {
            control: AttemptControl {
                stop: stopped,
                progress: progressed,
            },
            stop,
            progress,
        }
    }
}

/// How long guests may go on after they were asked to stop, in tests.
/// Ample, so that a busy machine does not cut those that do give way.
pub const GRACE: Duration = Duration::from_secs(1);

impl Bench {
    pub fn new() -> Self {
        Self::with_grace(GRACE)
    }

    pub fn with_grace(grace: Duration) -> Self {
        let catalog = Arc::new(Catalog::new());
        let shelf = Arc::new(Shelf::default());
        let artifacts = Arc::clone(&shelf) as Arc<dyn Artifacts>;
        let sandbox = Sandbox::new(Arc::clone(&catalog), runtimes(), artifacts).with_grace(grace);
        Self {
            sandbox: Arc::new(sandbox),
            catalog,
            shelf,
        }
    }

    pub async fn run(&self, plugin: &Arc<Plugin>) -> AttemptReport {
        self.run_attempt(plugin, attempt(plugin)).await
    }

    pub async fn run_attempt(&self, plugin: &Arc<Plugin>, attempt: Attempt) -> AttemptReport {
        let controls = Controls::new();
        let plugin = Arc::clone(plugin);
        self.sandbox
            .run(plugin, attempt, controls.control.clone())
            .await
    }
}

pub fn attempt(plugin: &Plugin) -> Attempt {
    Attempt {
        fence: Fence {
            id: MessageId::generate(),
            epoch: LeaseEpoch(1),
        },
        task_id: "task-1".to_owned(),
        trace_id: TraceId::generate(),
        route: Route::of("sandbox/run".parse().unwrap()),
        number: 1,
        max_attempts: 5,
        payload: r#"{"command":"ls"}"#.into(),
        plugin: plugin.version(),
        deadline: Duration::from_secs(20),
        allowance: Allowance::default(),
        shadow: None,
    }
}

/// Loads a guest with the default settings and runs one attempt.
pub async fn run(guest: &Guest) -> AttemptReport {
    run_with(guest, Settings::default()).await
}

pub async fn run_with(guest: &Guest, settings: Settings) -> AttemptReport {
    let plugin = load(guest, settings).await;
    Bench::new().run(&plugin).await
}

/// The problem of an attempt that is worth a retry.
pub fn retryable(report: &AttemptReport) -> &Problem {
    match &report.end {
        AttemptEnd::Retryable { problem, .. } => problem,
        other => panic!("expected retryable, got {other:?}"),
    }
}

pub fn permanent(report: &AttemptReport) -> &Problem {
    match &report.end {
        AttemptEnd::Permanent(problem) => problem,
        other => panic!("expected permanent, got {other:?}"),
    }
}

/// Asserts that the attempt went well.
pub fn completed(report: &AttemptReport) -> &cogo_host::report::Outcome {
    match &report.end {
        AttemptEnd::Completed(outcome) => outcome,
        other => panic!("expected completed, got {other:?}"),
    }
}
