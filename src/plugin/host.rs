//! The `host` interface of the contract, and the data of one attempt's store.
//!
//! What a guest may learn or cause is here or in [`crate::plugin::outbound`].
//! Every answer is bounded; a guest that oversteps what its task allows is
//! trapped with a [`HostEnd`], which says how the attempt ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cogo_edits::{Edits, InvalidEdits};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{WasiCtx, WasiCtxView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView};

use crate::artifacts::{self, ArtifactError, ArtifactPath, Artifacts};
use crate::attempt::{Allowance, LogLevel, Progress, StagedArtifact, StopReason, Usage};
use crate::ids::TraceId;
use crate::plugin::bindings::cogo::executor::{contract, host};
use crate::plugin::journal::Journal;
use crate::plugin::limits::{Limits, MemoryLimiter, TimeBudget};
use crate::plugin::outbound::Hooks;
use crate::plugin::{text, wasi};
use crate::route::KnownRole;

/// The longest note of a progress, in bytes.
const NOTE_BYTES: usize = 256;
/// The longest content type of an artifact, in bytes.
const CONTENT_TYPE_BYTES: usize = 128;

/// The data of one attempt's store.
pub struct State {
    pub(crate) table: ResourceTable,
    /// Made when the guest first asks for anything of WASI's.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    hooks: Hooks,
    limiter: MemoryLimiter,
    limits: Arc<Limits>,
    pub(crate) journal: Arc<Journal>,
    config: Arc<BTreeMap<String, String>>,
    budget: TimeBudget,
    /// Absent while a plugin is only asked what it is. Boxed, since the store's
    /// data is moved about while the store is made.
    task: Option<Box<TaskScope>>,
}

/// What belongs to the task that an attempt is of.
pub(crate) struct TaskScope {
    pub(crate) trace_id: TraceId,
    pub(crate) task_id: String,
    /// Of the task's route, where the contract knows it.
    pub(crate) role: Option<KnownRole>,
    pub(crate) allowance: Allowance,
    pub(crate) stop: watch::Receiver<Option<StopReason>>,
    pub(crate) progress: watch::Sender<Option<Progress>>,
    pub(crate) artifacts: Arc<dyn Artifacts>,
    /// Where artifacts are written and requests are sent.
    pub(crate) io: Handle,
    pub(crate) usage: Usage,
    pub(crate) staged: Vec<StagedArtifact>,
}

/// A guest did what its task forbids, so the host ends the attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostEnd {
    #[error("the task's budget is spent: {0}")]
    BudgetExceeded(String),
    #[error("the plugin used the model `{used}`; the task allows only `{allowed}`")]
    ModelViolation { used: String, allowed: String },
    /// What codegen writes, the next stage applies: it is checked on its way in,
    /// whatever plugin wrote it.
    #[error("the plugin stored an `edits.json` that cannot be used: {0}")]
    InvalidEdits(InvalidEdits),
}

/// What a store is made of besides its engine.
pub(crate) struct StoreParts {
    pub(crate) limits: Arc<Limits>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) hooks: Hooks,
    pub(crate) journal: Arc<Journal>,
    pub(crate) budget: TimeBudget,
    pub(crate) task: Option<TaskScope>,
}

/// Makes the store of one attempt. The only place where stores of guests are
/// made, so that no limit can be forgotten.
pub(crate) fn new_store(engine: &Engine, parts: StoreParts) -> Store<State> {
    let StoreParts {
        limits,
        config,
        hooks,
        journal,
        budget,
        task,
    } = parts;
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(limits.outbound.header_bytes);
    let (fuel, handles) = (limits.hostcall_bytes, limits.handles);
    let state = State {
        table,
        wasi: None,
        http,
        hooks,
        limiter: MemoryLimiter::new(&limits),
        limits,
        journal,
        config,
        budget,
        task: task.map(Box::new),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(fuel);
    store.set_max_component_handles(handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| Ok(budget.tick()));
    store
}

impl State {
    pub(crate) const fn limiter(&self) -> &MemoryLimiter {
        &self.limiter
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the attempt leaves behind.
    pub(crate) fn take_task(&mut self) -> Option<Box<TaskScope>> {
        self.task.take()
    }

    /// Why the attempt should end now, asked for by the bus.
    pub(crate) fn asked_to_stop(&self) -> Option<StopReason> {
        self.task.as_ref().and_then(|task| *task.stop.borrow())
    }

    /// As [`State::asked_to_stop`], or because its time is nearly up.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.asked_to_stop()
            .or_else(|| (Instant::now() >= self.budget.notice).then_some(StopReason::Deadline))
    }
}

impl wasmtime_wasi::WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let journal = &self.journal;
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| wasi::context(journal)),
            table: &mut self.table,
        }
    }
}

impl wasmtime_wasi_http::WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl contract::Host for State {}

impl host::Host for State {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Trace => LogLevel::Trace,
            host::Level::Debug => LogLevel::Debug,
            host::Level::Info => LogLevel::Info,
            host::Level::Warn => LogLevel::Warn,
            host::Level::Error => LogLevel::Error,
        };
        self.journal.log(level, message);
        Ok(())
    }

    fn progress(&mut self, fraction: Option<f64>, note: String) -> wasmtime::Result<()> {
        if let Some(task) = &self.task {
            task.progress.send_replace(Some(Progress {
                fraction: fraction
                    .filter(|f| f.is_finite())
                    .map(|f| f.clamp(0.0, 1.0)),
                note: text::cut(text::one_line(note), NOTE_BYTES),
            }));
        }
        Ok(())
    }

    fn config(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        // A description must not depend on how an installation is configured.
        Ok(match self.task {
            Some(_) => self.config.get(&key).cloned(),
            None => None,
        })
    }

    fn report_usage(&mut self, usage: host::Usage) -> wasmtime::Result<()> {
        match &mut self.task {
            Some(task) => Ok(task.report_usage(usage)?),
            None => Ok(()),
        }
    }

    async fn store_artifact(
        &mut self,
        path: String,
        content_type: String,
        body: Vec<u8>,
    ) -> wasmtime::Result<Result<String, host::ArtifactError>> {
        let limits = self.limits.artifacts.clone();
        Ok(match &mut self.task {
            Some(task) => {
                task.check_edits(&path, &body)?;
                task.store_artifact(&limits, path, content_type, body).await
            }
            None => Err(no_task()),
        })
    }

    async fn read_artifact(
        &mut self,
        url: String,
    ) -> wasmtime::Result<Result<Vec<u8>, host::ArtifactError>> {
        Ok(match &self.task {
            Some(task) => task.read_artifact(url).await,
            None => Err(no_task()),
        })
    }

    fn stop(&mut self) -> wasmtime::Result<Option<host::StopReason>> {
        Ok(self.stop_reason().map(|reason| match reason {
            StopReason::Cancelled => host::StopReason::Cancelled,
            StopReason::Draining => host::StopReason::Draining,
            StopReason::LeaseLost => host::StopReason::LeaseLost,
            StopReason::Deadline => host::StopReason::Deadline,
        }))
    }

    fn stop_signal(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let signal = StopSignal {
            asked: self.task.as_ref().map(|task| task.stop.clone()),
            notice: self.budget.notice,
        };
        let signal = self.table.push(signal)?;
        subscribe(&mut self.table, signal)
    }
}

/// Ready once [`State::stop_reason`] has an answer.
struct StopSignal {
    asked: Option<watch::Receiver<Option<StopReason>>>,
    notice: Instant,
}

#[wasmtime_wasi::async_trait]
impl Pollable for StopSignal {
    async fn ready(&mut self) {
        let asked = stop_asked(self.asked.as_mut());
        tokio::select! {
            _ = asked => {}
            () = tokio::time::sleep_until(self.notice.into()) => {}
        }
    }
}

/// Waits for the bus to ask for the end; for ever where it never will.
pub(crate) async fn stop_asked(
    stop: Option<&mut watch::Receiver<Option<StopReason>>>,
) -> StopReason {
    if let Some(stop) = stop
        && let Ok(reason) = stop.wait_for(Option::is_some).await
        && let Some(reason) = *reason
    {
        return reason;
    }
    std::future::pending().await
}

impl TaskScope {
    fn report_usage(&mut self, usage: host::Usage) -> Result<(), HostEnd> {
        let model = usage.model.map(|m| text::cut(text::one_line(m), 128));
        let violation = match (&model, &self.allowance.model) {
            (Some(used), Some(allowed)) if used != allowed => Some(HostEnd::ModelViolation {
                used: used.clone(),
                allowed: allowed.clone(),
            }),
            _ => None,
        };
        self.usage.add(&Usage {
            cost_micro_usd: usage.cost_micro_usd,
            tokens: usage.tokens,
            model,
        });
        if let Some(violation) = violation {
            return Err(violation);
        }
        let mut spent = self.allowance.spent.clone();
        spent.add(&self.usage);
        let budget = &self.allowance.budget;
        if !spent.exceeds(budget) {
            return Ok(());
        }
        let of = |max: Option<u64>| max.map_or("any".to_owned(), |max| max.to_string());
        Err(HostEnd::BudgetExceeded(format!(
            "{} of {} micro-dollars and {} of {} tokens over all attempts",
            spent.cost_micro_usd,
            of(budget.max_cost_micro_usd),
            spent.tokens,
            of(budget.max_tokens),
        )))
    }

    fn check_edits(&self, path: &str, body: &[u8]) -> Result<(), HostEnd> {
        if self.role != Some(KnownRole::Codegen) || path != artifacts::EDITS_PATH {
            return Ok(());
        }
        match Edits::parse(body) {
            Ok(_) => Ok(()),
            // Told as any other artifact that is too large.
            Err(_) if body.len() as u64 > artifacts::MAX_BYTES => Ok(()),
            Err(error) => Err(HostEnd::InvalidEdits(error)),
        }
    }

    async fn store_artifact(
        &mut self,
        limits: &crate::plugin::limits::ArtifactLimits,
        path: String,
        content_type: String,
        body: Vec<u8>,
    ) -> Result<String, host::ArtifactError> {
        let path: ArtifactPath = path
            .parse()
            .map_err(|cause| artifact_error(ArtifactError::InvalidPath(cause)))?;
        let bytes = body.len() as u64;
        if bytes > artifacts::MAX_BYTES {
            return Err(host::ArtifactError::TooLarge(artifacts::MAX_BYTES));
        }
        let stored: u64 = self.staged.iter().map(|a| a.bytes).sum();
        if self.staged.len() >= limits.count || stored.saturating_add(bytes) > limits.bytes {
            return Err(host::ArtifactError::Unavailable(format!(
                "an attempt may store {} artifacts of {} bytes together",
                limits.count, limits.bytes
            )));
        }
        let url = self.artifacts.url(&self.task_id, &path);
        let content_type = text::cut(text::one_line(content_type), CONTENT_TYPE_BYTES);
        let artifacts = Arc::clone(&self.artifacts);
        let staging = async move { artifacts.stage(path, content_type, Bytes::from(body)).await };
        let staged = on(&self.io, staging).await.map_err(artifact_error)?;
        // The same path again replaces what was stored under it.
        self.staged.retain(|other| other.path != staged.path);
        self.staged.push(staged);
        Ok(url)
    }

    async fn read_artifact(&self, url: String) -> Result<Vec<u8>, host::ArtifactError> {
        let artifacts = Arc::clone(&self.artifacts);
        let trace_id = self.trace_id.clone();
        let reading = async move { artifacts.read(&trace_id, &url).await };
        let body = on(&self.io, reading).await.map_err(artifact_error)?;
        if body.len() as u64 > artifacts::MAX_BYTES {
            return Err(host::ArtifactError::TooLarge(artifacts::MAX_BYTES));
        }
        Ok(body.into())
    }
}

/// Runs on the runtime for input and output, so that guests that compute do not
/// hold it up; aborted when the guest's call is dropped.
async fn on<T: Send + 'static>(
    io: &Handle,
    work: impl Future<Output = Result<T, ArtifactError>> + Send + 'static,
) -> Result<T, ArtifactError> {
    match AbortOnDropHandle::new(io.spawn(work)).await {
        Ok(result) => result,
        Err(cause) => Err(ArtifactError::Unavailable(cause.to_string())),
    }
}

fn artifact_error(error: ArtifactError) -> host::ArtifactError {
    match error {
        ArtifactError::InvalidPath(cause) => host::ArtifactError::InvalidPath(cause.to_string()),
        ArtifactError::TooLarge { limit } => host::ArtifactError::TooLarge(limit),
        ArtifactError::NotFound => host::ArtifactError::NotFound,
        ArtifactError::Gone { .. } | ArtifactError::Changed { .. } => {
            host::ArtifactError::Unavailable(error.to_string())
        }
        ArtifactError::Unavailable(cause) => host::ArtifactError::Unavailable(cause),
    }
}

fn no_task() -> host::ArtifactError {
    host::ArtifactError::Unavailable("there is no task while a plugin is described".to_owned())
}
