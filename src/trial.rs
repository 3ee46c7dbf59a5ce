//! Trials: single attempts of a plugin at hand, without a bus, a database or a
//! configuration.
//!
//! The sandbox, its limits and the checks of payload and report are the host's
//! own, so what holds in a trial holds in production. What surrounds them is
//! made up and always the same: ids, artifacts in memory, and, where a task
//! brings rules, an HTTP mock in place of the network. A trial never writes a
//! file and never reaches the bus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::artifacts::Artifacts;
use crate::attempt::{
    Allowance, Attempt, AttemptControl, AttemptEnd, AttemptReport, Blame, Fence, LeaseEpoch,
    Measured, Problem, Progress, StopReason,
};
use crate::ids::{MessageId, TraceId};
use crate::payload::Payload;
use crate::plugin::load::{Candidate, LoadError, Loader, Plugin, Settings};
use crate::plugin::outbound::{GrantsFrom, Wire};
use crate::plugin::sandbox::{LogTap, Runtimes, Sandbox};
use crate::route::{Route, RouteKey};

pub mod conformance;
pub mod golden;
mod limits;
mod observed;
mod shelf;
mod task;

pub use limits::{InvalidLimits, LimitsProfile, TrialLimits};
pub use observed::{Observed, ObservedArtifact, ObservedProblem, OutcomeName};
pub use task::{Given, InvalidTask, Stop, TrialTask};

use shelf::Shelf;

/// Every trial is of the same row of the bus, so that it can be repeated.
const ROW: Uuid = Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001);
/// The trace where the task names none.
const TRACE: &str = "00000000000000000000000000000001";

/// Runs trials. Make one and share it.
pub struct Trials {
    loader: Loader,
    runtimes: Runtimes,
    tap: Option<LogTap>,
}

/// What the operator would have configured.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub config: BTreeMap<String, String>,
    /// Grants as configuration spells them.
    pub allow: Vec<String>,
    pub limits: TrialLimits,
    pub wire: Wire,
}

/// How a trial is steered and watched.
#[derive(Debug, Default)]
pub struct Steering {
    /// Asks for the end, besides what the task itself plans.
    pub stop: Option<watch::Receiver<Option<StopReason>>>,
    pub progress: Option<watch::Sender<Option<Progress>>>,
}

/// What came of a trial.
#[derive(Debug, Clone)]
pub struct Trial {
    pub observed: Observed,
    pub measured: Measured,
    /// From the hand-over to the last word.
    pub took: Duration,
}

/// Why there was no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the plugin handles {}; say which route the task is for", list(.0))]
    RouteOpen(Vec<RouteKey>),
    #[error("the plugin handles {}, not `{route}`", list(.handles))]
    RouteForeign {
        route: RouteKey,
        handles: Vec<RouteKey>,
    },
    #[error("the trial broke off: {0}")]
    Broken(String),
}

fn list(routes: &[RouteKey]) -> String {
    let routes: Vec<String> = routes.iter().map(|r| format!("`{r}`")).collect();
    routes.join(", ")
}

impl TrialError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Load(error) => error.code(),
            Self::RouteOpen(_) => "route_missing",
            Self::RouteForeign { .. } => "route_unknown",
            Self::Broken(_) => "internal",
        }
    }

    /// What can be done about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Load(error) => error.hint(),
            Self::RouteOpen(routes) => {
                let example = routes.first().map(ToString::to_string).unwrap_or_default();
                format!("set \"route\": \"{example}\" in the task, or give --route {example}")
            }
            Self::RouteForeign { .. } => {
                "correct the route, or add it to `handles` in the plugin's descriptor".to_owned()
            }
            Self::Broken(_) => "this is a bug of the host".to_owned(),
        }
    }
}

impl Trials {
    pub const fn new(loader: Loader, runtimes: Runtimes) -> Self {
        Self {
            loader,
            runtimes,
            tap: None,
        }
    }

    /// The same with somebody who hears all logs while trials run.
    #[must_use]
    pub fn with_log_tap(mut self, tap: LogTap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Loads a component with what the operator would have set for it.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub async fn load(&self, candidate: Candidate, setup: &Setup) -> Result<Plugin, LoadError> {
        let settings = Settings {
            config: setup.config.clone(),
            allow: setup.allow.clone(),
            limits: setup.limits.limits.clone(),
            wire: setup.wire.clone(),
            grants_from: GrantsFrom::CommandLine,
            ..Settings::default()
        };
        self.loader.load(candidate, &settings).await
    }

    /// Runs one attempt of a task on a component.
    ///
    /// # Errors
    /// When the component does not load, or the task is for a route that it
    /// does not handle. However the attempt itself ends is no error.
    pub async fn run(
        &self,
        candidate: Candidate,
        setup: &Setup,
        task: &TrialTask,
        steering: Steering,
    ) -> Result<Trial, TrialError> {
        let plugin = Arc::new(self.load(candidate, setup).await?);
        let route = route_of(&plugin, task.route.clone())?;
        match payload(task, &route) {
            // The host fails such a task before a plugin sees it.
            Err(problem) => Ok(Trial::refused(problem)),
            Ok(payload) => {
                let attempt = attempt(&plugin, task, route, Some(&payload), setup);
                Ok(self.hand_over(plugin, attempt, setup, task, steering).await)
            }
        }
    }

    /// As [`Trials::run`], with a payload that no host would let through.
    ///
    /// # Errors
    /// As [`Trials::run`].
    pub(crate) async fn run_unchecked(
        &self,
        candidate: Candidate,
        setup: &Setup,
        task: &TrialTask,
    ) -> Result<Trial, TrialError> {
        let plugin = Arc::new(self.load(candidate, setup).await?);
        let route = route_of(&plugin, task.route.clone())?;
        let attempt = attempt(&plugin, task, route, None, setup);
        let steering = Steering::default();
        Ok(self.hand_over(plugin, attempt, setup, task, steering).await)
    }

    async fn hand_over(
        &self,
        plugin: Arc<Plugin>,
        attempt: Attempt,
        setup: &Setup,
        task: &TrialTask,
        steering: Steering,
    ) -> Trial {
        let shelf = Arc::new(Shelf::new(task.artifacts.clone()));
        let start = Instant::now();
        let report = self
            .attempt(plugin, attempt, &shelf, task.stop, steering)
            .await;
        Trial {
            took: start.elapsed(),
            observed: Observed::of(&report, &shelf, &setup.wire),
            measured: report.measured,
        }
    }

    /// Hands an attempt to the sandbox, and stops it as planned.
    async fn attempt(
        &self,
        plugin: Arc<Plugin>,
        attempt: Attempt,
        shelf: &Arc<Shelf>,
        plan: Option<Stop>,
        steering: Steering,
    ) -> AttemptReport {
        let artifacts = Arc::clone(shelf) as Arc<dyn Artifacts>;
        let mut sandbox = Sandbox::new(Arc::default(), self.runtimes.clone(), artifacts);
        if let Some(tap) = &self.tap {
            sandbox = sandbox.with_log_tap(Arc::clone(tap));
        }
        let (ask, stop) = watch::channel(None);
        let progress = steering.progress.unwrap_or_else(|| watch::channel(None).0);
        let control = AttemptControl { stop, progress };
        let running = sandbox.run(plugin, attempt, control);
        let stopping = async {
            let asked = steering.stop;
            let reason = tokio::select! {
                reason = planned(plan) => reason,
                reason = asked_for(asked) => reason,
            };
            ask.send_replace(Some(reason));
            std::future::pending().await
        };
        tokio::select! {
            report = running => report,
            never = stopping => never,
        }
    }
}

async fn planned(plan: Option<Stop>) -> StopReason {
    match plan {
        Some(stop) => {
            tokio::time::sleep(stop.after).await;
            stop.reason
        }
        None => std::future::pending().await,
    }
}

async fn asked_for(stop: Option<watch::Receiver<Option<StopReason>>>) -> StopReason {
    if let Some(mut stop) = stop
        && let Ok(reason) = stop.wait_for(Option::is_some).await
        && let Some(reason) = *reason
    {
        return reason;
    }
    std::future::pending().await
}

fn route_of(plugin: &Plugin, wanted: Option<RouteKey>) -> Result<RouteKey, TrialError> {
    let handles = &plugin.descriptor().handles;
    match (wanted, handles.as_slice()) {
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(TrialError::RouteOpen(handles.clone())),
        (Some(route), handles) if handles.contains(&route) => Ok(route),
        (Some(route), handles) => Err(TrialError::RouteForeign {
            route,
            handles: handles.to_vec(),
        }),
    }
}

fn payload(task: &TrialTask, route: &RouteKey) -> Result<Payload, Problem> {
    Payload::parse(task.payload.clone(), route)
        .map_err(|cause| Problem::new(cause.code(), cause.to_string(), Blame::Guest))
}

impl Trial {
    fn refused(problem: Problem) -> Self {
        let report = AttemptReport {
            end: AttemptEnd::Permanent(problem),
            measured: Measured::default(),
            artifacts: Vec::new(),
        };
        let nothing = Shelf::new(BTreeMap::new());
        Self {
            observed: Observed::of(&report, &nothing, &Wire::Network),
            measured: report.measured,
            took: Duration::ZERO,
        }
    }
}

fn trace_id(task: &TrialTask) -> TraceId {
    let known = task.trace_id.clone().or_else(|| TRACE.parse().ok());
    known.unwrap_or_else(TraceId::generate)
}

fn attempt(
    plugin: &Plugin,
    task: &TrialTask,
    route: RouteKey,
    payload: Option<&Payload>,
    setup: &Setup,
) -> Attempt {
    let assignment = payload.and_then(|payload| payload.assignment.clone());
    let assignment = assignment.unwrap_or_default();
    let label = payload.and_then(|payload| payload.task_id.clone());
    let deadline = task.deadline.unwrap_or(setup.limits.limits.deadline);
    Attempt {
        fence: Fence {
            id: MessageId(ROW),
            epoch: LeaseEpoch(1),
        },
        task_id: task
            .task_id
            .clone()
            .or(label)
            .unwrap_or_else(|| "task-1".to_owned()),
        trace_id: trace_id(task),
        route: Route {
            key: route,
            shard: task.shard,
            tenant: task.tenant.clone(),
        },
        number: task.attempt,
        max_attempts: task.max_attempts,
        payload: task.payload.as_str().into(),
        plugin: plugin.version(),
        deadline: assignment.ttl.map_or(deadline, |ttl| ttl.min(deadline)),
        allowance: Allowance {
            budget: assignment.budget,
            model: assignment.model,
            ..Allowance::default()
        },
        shadow: None,
    }
}
