//! `/api/pipeline/codeBuildTest`: codegen, build-test and gate as one run.
//!
//! A request waits for the run's end, and the run does not wait for the request:
//! the same order again is the same run, ended or not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json as Answer;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::error::ApiError;
use super::guard::Connection;
use super::query::{Params, shortened};
use crate::artifacts::{ArtifactPath, Artifacts as _};
use crate::pipeline::{Order, REPORT_PATH, Run, State as RunState};
use crate::runs::RunView;
use crate::store::{RunCancelled, Started};

/// How long a request waits where it does not say.
const WAIT_MS: u32 = 60_000;
const WAIT_MS_MAX: u32 = 600_000;
/// How often a waiting request looks: another host may drive the run.
const LOOK: Duration = Duration::from_millis(150);
const RUNS_DEFAULT: u32 = 50;
const RUNS_MAX: u32 = 500;

pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    connection: Option<Extension<Connection>>,
    RawQuery(query): RawQuery,
    Json(order): Json<Order>,
) -> Result<Response, ApiError> {
    let params = Params::read(query.as_deref(), &["enforce", "wait_ms"])?;
    let enforce = params.truth("enforce")?.unwrap_or(false);
    let wait = params
        .number("wait_ms", 0..=WAIT_MS_MAX)?
        .unwrap_or(WAIT_MS);
    let new = order.accept(actor.as_str(), &shared.api.facts.handled())?;
    let run = match shared.store().start_run(&new).await? {
        Started::New(run) => {
            shared.api.bus.wake();
            tracing::info!(task_id = %run.task_id, trace_id = %run.trace_id, actor = actor.as_str(),
                "{} started the pipeline of {}", actor.as_str(), run.task_id);
            *run
        }
        Started::Existing(run) if run.order == new.order => *run,
        Started::Existing(run) => return Err(ApiError::RunDiffers(shortened(&run.task_id))),
    };
    let wait = Duration::from_millis(u64::from(wait));
    let run = wait_for(&shared, run, wait, connection.as_deref()).await?;
    answer(&shared, run, enforce).await
}

/// The run once it has ended, or as it is when the time is up.
async fn wait_for(
    shared: &Shared,
    mut run: Run,
    wait: Duration,
    connection: Option<&Connection>,
) -> Result<Run, ApiError> {
    let until = Instant::now() + wait;
    while !run.state.is_terminal() && Instant::now() < until {
        let closing = async {
            match connection {
                Some(connection) => connection.closing.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = closing => break,
        }
        run = found(shared, &run.task_id).await?;
    }
    Ok(run)
}

async fn found(shared: &Shared, task_id: &str) -> Result<Run, ApiError> {
    let run = shared.store().run(task_id).await?;
    run.ok_or_else(|| ApiError::NoRun(shortened(task_id)))
}

/// A run, and where to read on.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    #[serde(flatten)]
    view: RunView,
    links: Value,
}

impl Shown {
    async fn of(shared: &Shared, run: Run) -> Result<Self, ApiError> {
        let view = RunView::of(shared.store(), run).await?;
        let path = REPORT_PATH.parse::<ArtifactPath>().ok();
        let report = path.map(|path| shared.api.artifacts.url(&view.task_id, &path));
        let links = json!({
            "trace": format!("/api/metrics/trace/{}", view.trace_id),
            "gate": format!("/api/workflows/gate?trace={}", view.trace_id),
            "report": report.filter(|_| view.state == RunState::Done),
        });
        Ok(Self { view, links })
    }
}

/// Where `enforce` asks for it, only a gate that passed is a success.
async fn answer(shared: &Shared, run: Run, enforce: bool) -> Result<Response, ApiError> {
    let ended = run.state.is_terminal();
    if enforce && !ended {
        return Err(ApiError::RunGoesOn(shortened(&run.task_id)));
    }
    let shown = Shown::of(shared, run).await?;
    if enforce && shown.view.verdict() != Some("pass") {
        let said = match (shown.view.verdict(), &shown.view.error) {
            (None, _) => "the pipeline was cancelled".to_owned(),
            (Some(verdict), Some(error)) => format!("the gate says `{verdict}`: {error}"),
            (Some(verdict), None) => format!("the gate says `{verdict}`"),
        };
        let mut body = json!(shown);
        let error = json!({
            "code": "gate_not_passed",
            "message": said,
            "hint": format!("`GET /api/metrics/trace/{}` tells the whole story", shown.view.trace_id),
        });
        if let Some(object) = body.as_object_mut() {
            object.insert("error".to_owned(), error);
        }
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Answer(body)).into_response());
    }
    let status = if ended {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Answer(shown)).into_response())
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Listing {
    /// Newest first.
    runs: Vec<Run>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Listing>, ApiError> {
    let params = Params::read(query.as_deref(), &["limit"])?;
    let limit = params.limit(RUNS_DEFAULT, RUNS_MAX)?;
    Ok(Answer(Listing {
        runs: shared.store().runs(limit).await?,
    }))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path(task_id) = path.map_err(|error| ApiError::NoRun(error.body_text()))?;
    let run = found(&shared, &task_id).await?;
    Ok(Answer(Shown::of(&shared, run).await?).into_response())
}

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path(task_id) = path.map_err(|error| ApiError::NoRun(error.body_text()))?;
    match shared.store().cancel_run(&task_id, actor.as_str()).await? {
        None => return Err(ApiError::NoRun(shortened(&task_id))),
        Some(RunCancelled::Ended(state)) => {
            let task_id = shortened(&task_id);
            return Err(ApiError::RunEnded { task_id, state });
        }
        Some(RunCancelled::Requested) => {}
    }
    shared.api.pipelines.notify_one();
    tracing::info!(
        task_id,
        actor = actor.as_str(),
        "{} cancels the pipeline of {task_id}",
        actor.as_str()
    );
    let run = found(&shared, &task_id).await?;
    Ok((StatusCode::ACCEPTED, Answer(Shown::of(&shared, run).await?)).into_response())
}
