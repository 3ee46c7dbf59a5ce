//! `/api/tasks`: submit, list, show, cancel, repeat.

use std::slice;
use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::error::ApiError;
use super::path::Id;
use super::query::{Params, QueryError};
use crate::attempt::Progress;
use crate::ids::MessageId;
use crate::intake::{self, IntakeError, Submission};
use crate::route::RouteKey;
use crate::store::{Cancelled, StoreError, TaskFilter};
use crate::task::{Enqueued, NewTask, Status, TaskRow};
use crate::trace::{TaskView, cut};

pub(super) const TASKS_DEFAULT: u32 = 50;
pub(super) const TASKS_MAX: u32 = 500;

/// Where a task and its story are found.
#[derive(Serialize, JsonSchema)]
pub(super) struct Links {
    pub(super) task: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gate: Option<String>,
}

impl Links {
    fn of(id: MessageId, trace_id: Option<&str>) -> Self {
        let trace = trace_id.map(|trace| utf8_percent_encode(trace, NON_ALPHANUMERIC));
        Self {
            task: format!("/api/tasks/{id}"),
            trace: trace.as_ref().map(|t| format!("/api/metrics/trace/{t}")),
            gate: trace
                .as_ref()
                .map(|t| format!("/api/workflows/gate?trace={t}")),
        }
    }
}

/// What became of a submission.
#[derive(Serialize, JsonSchema)]
pub(super) struct Submitted {
    id: MessageId,
    task_id: Option<String>,
    trace_id: Option<String>,
    /// A task with the same unique key has not ended; nothing was added.
    existing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<MessageId>,
    links: Links,
}

impl IntoResponse for Submitted {
    fn into_response(self) -> Response {
        let status = if self.existing {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let location = [(header::LOCATION, self.links.task.clone())];
        (status, location, axum::Json(self)).into_response()
    }
}

pub(super) async fn submit(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(submission): Json<Submission>,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let task = submission.accept(&shared.api.facts.handled())?;
    let submitted = enqueue(&shared, task).await?;
    tracing::info!(
        message.id = %submitted.id, actor = actor.as_str(), existing = submitted.existing,
        "{} submitted task {}", actor.as_str(), submitted.id
    );
    Ok(submitted.into_response())
}

async fn enqueue(shared: &Shared, task: NewTask) -> Result<Submitted, ApiError> {
    let enqueued = shared.store().enqueue(slice::from_ref(&task)).await?;
    let Some(enqueued) = enqueued.first().copied() else {
        let problem = "it answered nothing to an insert".to_owned();
        return Err(StoreError::Refused(problem).into());
    };
    shared.api.bus.wake();
    let own = (task.task_id, Some(task.trace_id.to_string()));
    let (task_id, trace_id) = match enqueued {
        Enqueued::New(_) => own,
        Enqueued::Existing(id) => match shared.store().task(id).await? {
            Some(row) => (row.task_id, row.trace_id),
            // It ended and was retired in between.
            None => own,
        },
    };
    let id = enqueued.id();
    Ok(Submitted {
        id,
        links: Links::of(id, trace_id.as_deref()),
        task_id,
        trace_id,
        existing: matches!(enqueued, Enqueued::Existing(_)),
        repeats: task.repeats,
    })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Listing {
    /// Newest first, without payloads.
    pub(super) tasks: Vec<TaskRow>,
    /// There are older ones that match.
    pub(super) truncated: bool,
}

/// What a listing may be narrowed by.
pub(super) const FILTERS: &[&str] = &["status", "route", "trace", "task_id", "limit"];

/// Which tasks a listing shows.
pub(super) fn filter(params: &Params) -> Result<TaskFilter, QueryError> {
    Ok(TaskFilter {
        status: params.parsed::<Status>("status")?,
        route: params.parsed::<RouteKey>("route")?,
        trace_id: params.parsed("trace")?,
        task_id: params.text("task_id")?.map(str::to_owned),
        limit: params.limit(TASKS_DEFAULT, TASKS_MAX)?,
    })
}

impl Listing {
    pub(super) async fn read(shared: &Shared, filter: &TaskFilter) -> Result<Self, ApiError> {
        let limit = filter.limit;
        let one_more = TaskFilter {
            limit: limit + 1,
            ..filter.clone()
        };
        let (tasks, truncated) = cut(shared.store().tasks(&one_more).await?, limit);
        Ok(Self { tasks, truncated })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::read(query.as_deref(), FILTERS)?;
    let listing = Listing::read(&shared, &filter(&params)?).await?;
    Ok(axum::Json(listing).into_response())
}

/// One task, what was tried, and how far it is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    #[serde(flatten)]
    pub(super) view: TaskView,
    /// Of an attempt that runs on this host.
    pub(super) progress: Option<Progress>,
    pub(super) links: Links,
}

impl Shown {
    pub(super) async fn read(shared: &Shared, id: MessageId) -> Result<Self, ApiError> {
        let row = found(shared, id).await?;
        let links = Links::of(id, row.trace_id.as_deref());
        Ok(Self {
            view: TaskView::of(shared.store(), row).await?,
            progress: shared.api.bus.progress(id),
            links,
        })
    }
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<MessageId>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(axum::Json(Shown::read(&shared, id).await?).into_response())
}

async fn found(shared: &Shared, id: MessageId) -> Result<TaskRow, ApiError> {
    let row = shared.store().task(id).await?;
    row.ok_or(ApiError::NoTask(id))
}

/// What became of a wish to cancel.
#[derive(Serialize, JsonSchema)]
pub(super) struct CancelAnswer {
    id: MessageId,
    /// `at_once` where it was waiting, `requested` where its holder has yet to
    /// end it.
    cancelled: Cancelled,
    status: Status,
    links: Links,
}

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<MessageId>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let cancelled = shared.store().cancel(id, actor.as_str()).await?;
    let cancelled = cancelled.ok_or(ApiError::NoTask(id))?;
    let (code, status) = match cancelled {
        Cancelled::AtOnce => (StatusCode::OK, Status::Failed),
        Cancelled::Requested => {
            shared.api.bus.cancel_hint(id);
            (StatusCode::ACCEPTED, Status::Claimed)
        }
        Cancelled::Ended(status) => return Err(ApiError::TaskEnded { id, status }),
    };
    tracing::info!(message.id = %id, actor = actor.as_str(), "{} cancels task {id}", actor.as_str());
    let answer = CancelAnswer {
        id,
        cancelled,
        status,
        links: Links::of(id, None),
    };
    Ok((code, axum::Json(answer)).into_response())
}

/// Puts the same task on the bus once more; the old row stays.
pub(super) async fn retry(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    Id(id): Id<MessageId>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let task = intake::repeat(&found(&shared, id).await?)?;
    let served = shared.api.facts.handled();
    if !served.contains(&task.route.key) {
        let asked = task.route.key;
        return Err(IntakeError::NobodyHandles { asked, served }.into());
    }
    let submitted = enqueue(&shared, task).await?;
    tracing::info!(
        message.id = %submitted.id, actor = actor.as_str(),
        "{} repeats task {id} as {}", actor.as_str(), submitted.id
    );
    Ok(submitted.into_response())
}
