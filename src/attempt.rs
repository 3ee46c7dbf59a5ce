//! One execution of a task: what it is given, how it may end, what is kept of it.
//!
//! [`Executor`] is the seam between the bus and the sandbox: the bus knows
//! nothing of WebAssembly, the sandbox nothing of the bus. Ends are sorted by
//! who acts next, and each carries who is to blame from where it was born.

mod measured;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ids::{Digest, MessageId, PluginName, ShadowId, TraceId};
use crate::payload::Budget;
use crate::report::Outcome;
use crate::route::Route;
use crate::selection::Why;

pub use self::measured::{Denial, Measured};

/// Counts the claims of one row. Every write after the claim names it, so that
/// a holder whose lease was taken over cannot write any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseEpoch(pub i64);

/// Which claim of which row: what a write must still hold to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub id: MessageId,
    pub epoch: LeaseEpoch,
}

/// Who caused an attempt to end without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The plugin or what it was given.
    Guest,
    /// This host or its surroundings.
    Host,
    /// The service behind the plugin.
    Worker,
}

impl Blame {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
            Self::Worker => "worker",
        }
    }
}

/// Why an attempt should end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    Cancelled,
    Draining,
    LeaseLost,
    Deadline,
}

impl StopReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Draining => "draining",
            Self::LeaseLost => "lease-lost",
            Self::Deadline => "deadline",
        }
    }
}

/// What went wrong, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable and machine-readable: `worker_timeout`, `plugin_trap`, ….
    pub code: String,
    pub message: String,
    pub blame: Blame,
}

impl Problem {
    pub fn new(code: impl Into<String>, message: impl Into<String>, blame: Blame) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            blame,
        }
    }
}

/// How an attempt ended, sorted by who acts next.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnd {
    /// The report was accepted: the task is done.
    Completed(Outcome),
    /// Another attempt is worth it, not before `after` where given.
    Retryable {
        problem: Problem,
        after: Option<Duration>,
    },
    /// No further attempt would help: the task fails now.
    Permanent(Problem),
    /// The attempt gave way, or was made to. No verdict on the task.
    Stopped(StopReason),
    /// The host could not do its part; the attempt is given back.
    HostFault(Problem),
}

/// What an attempt spent, as its plugin reported it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub cost_micro_usd: u64,
    pub tokens: u64,
    /// The model named last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
}

impl Usage {
    /// Adds what was just spent; saturates rather than wrapping a hostile sum.
    pub fn add(&mut self, spent: &Self) {
        self.cost_micro_usd = self.cost_micro_usd.saturating_add(spent.cost_micro_usd);
        self.tokens = self.tokens.saturating_add(spent.tokens);
        if spent.model.is_some() {
            self.model.clone_from(&spent.model);
        }
    }

    /// Whether this is more than the budget allows.
    pub fn exceeds(&self, budget: &Budget) -> bool {
        budget
            .max_cost_micro_usd
            .is_some_and(|max| self.cost_micro_usd > max)
            || budget.max_tokens.is_some_and(|max| self.tokens > max)
    }
}

/// The exact plugin version that an attempt runs on, from claim to settlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginVersion {
    pub name: PluginName,
    pub version: String,
    pub digest: Digest,
    pub kind: Kind,
}

/// Whether a plugin does the work or only simulates it. What counts is the
/// operator's word or the digest of a bundled plugin, never the plugin's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Real,
    Mock,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Mock => "mock",
        }
    }
}

/// One attempt as it is handed to an [`Executor`].
#[derive(Debug, Clone)]
pub struct Attempt {
    pub fence: Fence,
    /// The producer's label, or the message id where there is none.
    pub task_id: String,
    pub trace_id: TraceId,
    pub route: Route,
    /// Counted from 1.
    pub number: u32,
    pub max_attempts: u32,
    pub payload: Arc<str>,
    pub plugin: PluginVersion,
    /// How long it may run, measured from the hand-over.
    pub deadline: Duration,
    pub allowance: Allowance,
    /// Set where this runs in a shadow: what it comes to is compared, and is
    /// nobody's result.
    pub shadow: Option<InShadow>,
}

/// On what terms an attempt runs beside the one whose result counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InShadow {
    pub id: ShadowId,
    pub side_effects: SideEffects,
}

/// What a shadow may do to the world. It never publishes artifacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SideEffects {
    /// It may read (`GET`, `HEAD`) where its plugin may; other requests are
    /// refused.
    Refuse,
    /// It may do what its plugin may, with an idempotency key of its own.
    Allow,
}

impl SideEffects {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
        }
    }
}

/// What the task's assignment still allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowance {
    pub budget: Budget,
    /// What earlier attempts of the task spent.
    pub spent: Usage,
    /// The only model that may be used.
    pub model: Option<String>,
}

/// How the bus steers a running attempt.
#[derive(Debug, Clone)]
pub struct AttemptControl {
    /// Becomes a reason once the attempt should end; it never goes back.
    pub stop: watch::Receiver<Option<StopReason>>,
    /// The latest progress, for people who watch.
    pub progress: watch::Sender<Option<Progress>>,
}

/// What a plugin says of its progress.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: Option<f64>,
    pub note: String,
}

/// How an attempt ended and what was measured of it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptReport {
    pub end: AttemptEnd,
    pub measured: Measured,
    pub artifacts: Vec<StagedArtifact>,
}

/// A stretch of an attempt: instantiation, the call, an outbound request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    pub name: Cow<'static, str>,
    /// From the hand-over of the attempt.
    pub start_us: u64,
    pub duration_us: u64,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub fields: std::collections::BTreeMap<String, String>,
}

/// One line that the plugin logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// From the hand-over of the attempt.
    pub at_us: u64,
    pub level: LogLevel,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// An artifact whose bytes are stored and which becomes visible when the
/// attempt settles, or never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedArtifact {
    /// Relative, checked, with `/` between its parts.
    pub path: String,
    pub content_type: String,
    pub digest: Digest,
    pub bytes: u64,
}

/// Runs attempts. The bus holds one and never learns how it works.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end. Never fails: whatever happens, panics of
    /// host calls included, is an [`AttemptEnd`]. Once `control.stop` holds a
    /// reason, it returns within two seconds.
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport;
}

/// How an attempt that is over is remembered, key (message id, lease epoch).
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    pub attempt: u32,
    /// Absent where the task failed before an executor was chosen.
    pub plugin: Option<PluginVersion>,
    pub stage: crate::stage::Stage,
    /// Why this executor was chosen.
    pub why: Option<Why>,
    pub wait_ms: u64,
    pub outcome: AttemptOutcome,
    pub code: Option<String>,
    pub blame: Option<Blame>,
    pub measured: Measured,
}

impl AttemptRecord {
    /// The side that it ran on, as the bus keeps it; none without a rollout.
    pub fn side(&self) -> Option<String> {
        let side = self.why.as_ref().and_then(Why::side);
        side.map(|side| side.to_string())
    }
}

/// The outcome column of an attempt row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptOutcome {
    Done,
    Retry,
    Failed,
    Cancelled,
    /// Given back when the host drained.
    Drained,
    /// Given back since the host was at fault.
    HostFault,
    /// It probed a real path that is still down; given back.
    Probe,
    /// The holder vanished; its lease expired.
    Lost,
}

impl AttemptOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Drained => "drained",
            Self::HostFault => "host-fault",
            Self::Probe => "probe",
            Self::Lost => "lost",
        }
    }
}
