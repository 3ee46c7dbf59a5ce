//! Drives the runs of the pipeline that wait for somebody to take their next
//! step.
//!
//! **Invariants.** Every host looks, and a run's revision sees to it that one of
//! them moves it; whoever dies in between is replaced by the next look. Nothing
//! is decided here: [`pipeline::next`] says what a step is.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use cogo_edits::Edits;
use serde::Deserialize as _;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::artifacts::published::PublishedArtifacts;
use crate::artifacts::{ArtifactError, Artifacts as _, EDITS_PATH};
use crate::attempt::Usage;
use crate::bus::BusHandle;
use crate::bus::outage::Outage;
use crate::config::Config;
use crate::gate::Scope;
use crate::pipeline::{self, REPORT_PATH, Run, State, Step};
use crate::stage::Stage;
use crate::store::{BusUrl, Cancelled, RunMove, Store, StoreError};
use crate::task::TaskRow;
use crate::trace::{self, Judging};

/// How often hosts look, give or take half.
const LOOK: Duration = Duration::from_millis(400);
/// How many runs are looked at in one go.
const BATCH: u32 = 100;
/// How long another host, whose disk has the edits, is given to take the step
/// that needs them.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it takes to drive runs.
pub(super) struct Pipelines {
    pub store: Arc<dyn Store>,
    pub artifacts: PublishedArtifacts,
    pub bus: BusHandle,
    pub config: Config,
    /// Somebody here began or cancelled a run.
    pub nudged: Arc<Notify>,
}

/// What became of the edits between the stages.
enum Checked {
    /// They lie there.
    Sound { url: String },
    /// They cannot be used, and why.
    Unsound(String),
    /// Nobody can tell now.
    Later(String),
}

impl Pipelines {
    /// Looks until the host ends.
    pub(super) async fn follow(self, ending: CancellationToken) {
        let mut outage = Outage::of("drive the pipelines");
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK.mul_f64(0.5 + rand::random::<f64>())) => {}
                () = self.nudged.notified() => {}
                () = ending.cancelled() => return,
            }
            // A host that claims nothing any more begins nothing, either.
            if self.bus.is_draining() {
                continue;
            }
            match self.look().await {
                Ok(()) => outage.is_over(),
                Err(error) => outage.goes_on(&error),
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        for run in self.store.due_runs(BATCH).await? {
            match self.drive(&run).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                // A run that cannot be moved is not the others' trouble.
                Err(error) => {
                    tracing::error!(task_id = %run.task_id, trace_id = %run.trace_id,
                        "the pipeline of {} does not move: {error}", run.task_id);
                }
            }
        }
        Ok(())
    }

    async fn drive(&self, run: &Run) -> Result<(), StoreError> {
        let stage = match run.waits_for() {
            Some(id) => self.store.task(id).await?,
            None => None,
        };
        match pipeline::next(run, stage.as_ref()) {
            Step::Wait => Ok(()),
            Step::CancelTask(id) => {
                let actor = run.cancelled_by.as_deref().unwrap_or("pipeline");
                if self.store.cancel(id, actor).await? == Some(Cancelled::Requested) {
                    self.bus.cancel_hint(id);
                }
                Ok(())
            }
            Step::CheckEdits => self.pass_on(run, stage.as_ref()).await,
            Step::Judge { error } => self.judge(run, stage.as_ref(), error.as_deref()).await,
            Step::Cancel => self.apply(run, State::Cancelled, &[run.cancelled()]).await,
        }
    }

    async fn apply(
        &self,
        run: &Run,
        to: State,
        events: &[crate::event::NewEvent],
    ) -> Result<(), StoreError> {
        let change = RunMove {
            run,
            to,
            build_test: None,
            error: None,
            decision: None,
            artifact: None,
            events,
        };
        self.store.move_run(&change).await.map(|_| ())
    }

    /// From codegen to the build-test, with its edits.
    async fn pass_on(&self, run: &Run, stage: Option<&TaskRow>) -> Result<(), StoreError> {
        let error = match self.check_edits(run, stage).await? {
            Checked::Sound { url } => match run.build_test_task(&url, &self.spent(run).await?) {
                Ok(task) => {
                    let change = RunMove {
                        run,
                        to: State::BuildTest,
                        build_test: Some(&task),
                        error: None,
                        decision: None,
                        artifact: None,
                        events: &[run.staged(&task)],
                    };
                    if self.store.move_run(&change).await? {
                        self.bus.wake();
                    }
                    return Ok(());
                }
                Err(error) => format!("{}: {error}", error.code()),
            },
            Checked::Unsound(error) => error,
            Checked::Later(why) => {
                tracing::warn!(task_id = %run.task_id, trace_id = %run.trace_id,
                    "the pipeline of {} waits: {why}", run.task_id);
                return Ok(());
            }
        };
        self.judge(run, stage, Some(&error)).await
    }

    /// What the attempts of codegen reported.
    async fn spent(&self, run: &Run) -> Result<Usage, StoreError> {
        let mut spent = Usage::default();
        if let Some(id) = run.codegen {
            for attempt in self.store.attempts(id).await? {
                spent.add(&Usage::deserialize(&attempt.usage).unwrap_or_default());
            }
        }
        Ok(spent)
    }

    /// The edits as the next stage's worker will find them.
    async fn check_edits(&self, run: &Run, stage: Option<&TaskRow>) -> Result<Checked, StoreError> {
        let unsound = |code: &str, why: &str| Ok(Checked::Unsound(format!("{code}: {why}")));
        let result = stage.and_then(|task| task.result.as_ref());
        let url = result.and_then(|result| result.get("edits_url")?.as_str());
        let Some(url) = url else {
            return unsound("edits_missing", "codegen reported no `edits_url`");
        };
        let row = self.store.artifact(&run.task_id, EDITS_PATH).await?;
        let Some(row) = row.filter(|row| Some(row.message_id) == run.codegen) else {
            return unsound(
                "edits_missing",
                "codegen left no `edits.json` with its task, or another task of that label did since",
            );
        };
        match self.artifacts.content(&row).await {
            Ok(body) => match Edits::parse(&body) {
                Ok(_) => Ok(match self.artifacts.signed_link(&row).await {
                    Ok(link) => Checked::Sound {
                        url: link.unwrap_or_else(|| url.to_owned()),
                    },
                    Err(error) => Checked::Later(error.to_string()),
                }),
                Err(error) => unsound(error.code(), &error.to_string()),
            },
            // It may lie on the disk of the host that ran codegen.
            Err(error @ ArtifactError::Gone { .. }) if !self.is_alone() && is_fresh(stage) => {
                Ok(Checked::Later(error.to_string()))
            }
            Err(ArtifactError::Unavailable(why)) => Ok(Checked::Later(why)),
            Err(error) => unsound(error.code(), &error.to_string()),
        }
    }

    fn is_alone(&self) -> bool {
        matches!(self.config.bus, BusUrl::Sqlite(_)) || self.artifacts.is_shared()
    }

    /// The end of a run: its verdict, its report, its events.
    async fn judge(
        &self,
        run: &Run,
        stage: Option<&TaskRow>,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        let policy = |route: &_| self.config.policy(route);
        let judging = Judging {
            thresholds: &self.config.gate.thresholds,
            require_real: self.config.stage != Stage::Development || self.config.ci,
            policy: &policy,
        };
        let scope = Scope::Trace(run.trace_id.clone());
        let verdict = trace::judge(&*self.store, &scope, &judging).await?;
        let done = match (run.state, error) {
            (State::BuildTest, None) => 2,
            (State::BuildTest, Some(_)) => 1,
            _ => 0,
        };
        let verdict = pipeline::decide(verdict, done, error);
        let build_test = stage.filter(|_| run.state == State::BuildTest);
        let report = run.report(build_test, &verdict, error);
        let Some(staged) = self.stage_report(run, &report).await else {
            return Ok(());
        };
        let owner = run.waits_for().or(run.codegen);
        let decision = json!(verdict);
        let events = run.judged(&verdict, error);
        let change = RunMove {
            run,
            to: State::Done,
            build_test: None,
            error,
            decision: Some(&decision),
            artifact: owner.map(|id| (id, &staged)),
            events: &events,
        };
        if self.store.move_run(&change).await? {
            tracing::info!(task_id = %run.task_id, trace_id = %run.trace_id,
                "the pipeline of {} ended: {}", run.task_id, verdict.verdict);
        }
        Ok(())
    }

    /// None where the report cannot be kept now; the next look tries again.
    async fn stage_report(
        &self,
        run: &Run,
        report: &serde_json::Value,
    ) -> Option<crate::attempt::StagedArtifact> {
        let path = REPORT_PATH.parse().ok()?;
        let body = format!("{report:#}\n").into();
        let staged = self
            .artifacts
            .stage(path, "application/json".to_owned(), body);
        match staged.await {
            Ok(staged) => Some(staged),
            Err(error) => {
                tracing::warn!(task_id = %run.task_id, trace_id = %run.trace_id,
                    "the report of {} cannot be kept: {error}", run.task_id);
                None
            }
        }
    }
}

/// Whether the stage ended a short while ago. The two clocks may differ; what
/// hangs on it is only for how long another host is waited for.
fn is_fresh(stage: Option<&TaskRow>) -> bool {
    let ended = stage.and_then(|task| task.done_at);
    ended.is_some_and(|at| (Utc::now() - at).to_std().is_ok_and(|age| age < PATIENCE))
}
