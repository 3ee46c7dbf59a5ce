//! Everything that the API may answer instead of what was asked, in one shape:
//! `{ "error": { "code", "message", "hint"? } }`.
//!
//! **Invariant:** what a database or a file system said is logged here, once,
//! and never sent.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::body::BodyError;
use super::controls::RouteRefused;
use super::guard::Denied;
use super::published::{PublishRefused, RetractRefused};
use super::query::QueryError;
use super::rollouts::RolloutRefused;
use super::shadows::ShadowRefused;
use crate::artifacts::ArtifactError;
use crate::ids::{Digest, MessageId, TraceId};
use crate::intake::{IntakeError, RepeatError};
use crate::payload::PayloadError;
use crate::pipeline::State;
use crate::plugin::catalog::{InvalidDigestPrefix, RollbackError};
use crate::store::StoreError;
use crate::task::Status;

/// Seconds after which a database that is away is worth another try.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("there is nothing at `{0}`")]
    UnknownPath(String),
    #[error("`{path}` does not answer {method}")]
    MethodNotAllowed { method: String, path: String },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{0}")]
    Id(String),
    #[error("there is no task {0}")]
    NoTask(MessageId),
    #[error("the bus knows nothing of trace `{0}`")]
    NoTrace(TraceId),
    #[error("there is no such artifact")]
    NoArtifact,
    #[error("there is no plugin `{0}`")]
    NoPlugin(String),
    #[error(transparent)]
    RollbackOrder(#[from] InvalidDigestPrefix),
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    #[error(transparent)]
    Publish(#[from] PublishRefused),
    #[error(transparent)]
    Retract(#[from] RetractRefused),
    #[error(transparent)]
    Route(#[from] RouteRefused),
    #[error(transparent)]
    Rollout(#[from] RolloutRefused),
    #[error(transparent)]
    Shadow(#[from] ShadowRefused),
    #[error("there is no approval `{0}`")]
    NoApproval(String),
    #[error("approval `{0}` is over already")]
    ApprovalOver(String),
    #[error("there is no pipeline of task `{0}`")]
    NoRun(String),
    #[error("there is a pipeline of task `{0}` with another order")]
    RunDiffers(String),
    #[error("the pipeline of task `{0}` has not ended yet")]
    RunGoesOn(String),
    #[error("the pipeline of task `{task_id}` has ended already: it is `{}`", state.as_str())]
    RunEnded { task_id: String, state: State },
    #[error("the artifact is gone: {0}")]
    ArtifactGone(String),
    #[error("the artifact is damaged: {0}")]
    ArtifactChanged(String),
    #[error("the range lies outside of the {bytes} bytes there are")]
    RangeUnsatisfiable { bytes: u64 },
    #[error("task {id} has ended already: it is {}", status.as_str())]
    TaskEnded { id: MessageId, status: Status },
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Repeat(#[from] RepeatError),
    #[error("too many clients follow the events")]
    TooManyStreams,
    #[error("{}", told(.0))]
    Store(#[from] StoreError),
    #[error("artifacts are unavailable")]
    ArtifactsUnavailable(String),
}

/// A store's failure without what only its operator should see.
const fn told(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "the database is unavailable",
        StoreError::Insecure { .. } => "the database cannot be reached securely",
        StoreError::Full(_) => "the database has no space left",
        StoreError::Newer { .. } => "the database has a newer schema than this host knows",
        StoreError::NotMigrated => "the database has no schema yet",
        StoreError::Missing(_) => "the database is gone",
        StoreError::Denied(_) => "the database does not let this host",
        StoreError::ReadOnly(_) => "the database cannot be written",
        StoreError::Corrupt(_) => "the database is damaged",
        StoreError::Inconsistent { .. } => "a row on the bus cannot be read",
        StoreError::Refused(_) => "the database refused a statement",
    }
}

/// The versions that there are.
fn choices(known: &[Digest]) -> String {
    if known.is_empty() {
        return "no other version of it is kept".to_owned();
    }
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    format!("there are: {}", known.join(", "))
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::InvalidPath(_) | ArtifactError::NotFound => Self::NoArtifact,
            ArtifactError::Gone { .. } => Self::ArtifactGone(error.to_string()),
            ArtifactError::Changed { .. } => Self::ArtifactChanged(error.to_string()),
            ArtifactError::TooLarge { .. } | ArtifactError::Unavailable(_) => {
                Self::ArtifactsUnavailable(error.to_string())
            }
        }
    }
}

impl ApiError {
    pub(super) fn id(error: impl Display) -> Self {
        Self::Id(error.to_string())
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath(_)
            | Self::NoTask(_)
            | Self::NoTrace(_)
            | Self::NoArtifact
            | Self::NoPlugin(_)
            | Self::NoApproval(_)
            | Self::NoRun(_)
            | Self::Rollback(RollbackError::NoPlugin(_) | RollbackError::NoVersion { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::Route(refused) => refused.status(),
            Self::Rollout(refused) => refused.status(),
            Self::Shadow(refused) => refused.status(),
            Self::Publish(refused) => refused.status(),
            Self::Retract(refused) => refused.status(),
            Self::ApprovalOver(_) | Self::RunDiffers(_) | Self::RunEnded { .. } => {
                StatusCode::CONFLICT
            }
            Self::ArtifactGone(_) => StatusCode::GONE,
            Self::ArtifactChanged(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RollbackOrder(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Rollback(
                RollbackError::NothingBefore(_)
                | RollbackError::Ambiguous { .. }
                | RollbackError::Serves { .. },
            ) => StatusCode::CONFLICT,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied(denied) => denied.status(),
            Self::Query(_) | Self::Id(_) => StatusCode::BAD_REQUEST,
            Self::Body(error) => error.status(),
            Self::RangeUnsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TaskEnded { .. } | Self::Repeat(RepeatError::NotEnded(_)) => StatusCode::CONFLICT,
            Self::Intake(IntakeError::Payload(PayloadError::TooLarge { .. })) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Intake(_) | Self::Repeat(RepeatError::Unusable { .. }) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TooManyStreams
            | Self::RunGoesOn(_)
            | Self::ArtifactsUnavailable(_)
            | Self::Store(StoreError::Unavailable(_) | StoreError::Full(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Store(
                StoreError::Insecure { .. }
                | StoreError::Newer { .. }
                | StoreError::NotMigrated
                | StoreError::Missing(_)
                | StoreError::Denied(_)
                | StoreError::ReadOnly(_)
                | StoreError::Corrupt(_)
                | StoreError::Inconsistent { .. }
                | StoreError::Refused(_),
            ) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable and machine-readable.
    const fn code(&self) -> &'static str {
        match self {
            Self::UnknownPath(_) => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Denied(denied) => denied.code(),
            Self::Query(error) => error.code(),
            Self::Body(error) => error.code(),
            Self::Id(_) => "id_invalid",
            Self::NoTask(_) => "task_not_found",
            Self::NoTrace(_) => "trace_not_found",
            Self::NoArtifact => "artifact_not_found",
            Self::NoPlugin(_) | Self::Rollback(RollbackError::NoPlugin(_)) => "plugin_not_found",
            Self::RollbackOrder(_) => "digest_invalid",
            Self::Rollback(RollbackError::NothingBefore(_)) => "no_previous_version",
            Self::Rollback(RollbackError::NoVersion { .. }) => "version_not_found",
            Self::Rollback(RollbackError::Ambiguous { .. }) => "digest_ambiguous",
            Self::Rollback(RollbackError::Serves { .. }) => "version_serves",
            Self::Route(refused) => refused.code(),
            Self::Rollout(refused) => refused.code(),
            Self::Shadow(refused) => refused.code(),
            Self::Publish(refused) => refused.code(),
            Self::Retract(refused) => refused.code(),
            Self::NoApproval(_) => "approval_not_found",
            Self::ApprovalOver(_) => "approval_over",
            Self::NoRun(_) => "pipeline_not_found",
            Self::RunDiffers(_) => "pipeline_differs",
            Self::RunGoesOn(_) => "pipeline_running",
            Self::RunEnded { .. } => "pipeline_ended",
            Self::ArtifactGone(_) => "artifact_gone",
            Self::ArtifactChanged(_) => "artifact_changed",
            Self::RangeUnsatisfiable { .. } => "range_unsatisfiable",
            Self::TaskEnded { .. } => "task_ended",
            Self::Intake(error) => error.code(),
            Self::Repeat(RepeatError::NotEnded(_)) => "task_not_ended",
            Self::Repeat(RepeatError::Unusable { .. }) => "task_unusable",
            Self::TooManyStreams => "too_many_streams",
            Self::ArtifactsUnavailable(_) => "artifacts_unavailable",
            Self::Store(error) => match error {
                StoreError::Unavailable(_) => "database_unavailable",
                StoreError::Insecure { .. } => "database_insecure",
                StoreError::Full(_) => "database_full",
                StoreError::Newer { .. } | StoreError::NotMigrated => "database_schema",
                StoreError::Missing(_) => "database_missing",
                StoreError::Denied(_) => "database_denied",
                StoreError::ReadOnly(_) => "database_read_only",
                StoreError::Corrupt(_) => "database_corrupt",
                StoreError::Inconsistent { .. } => "row_inconsistent",
                StoreError::Refused(_) => "database_refused",
            },
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownPath(_) => "`GET /` lists what there is",
            Self::Denied(denied) => denied.hint()?,
            Self::Query(error) => return error.hint(),
            Self::Body(error) => error.hint()?,
            Self::Id(_) => "`GET /api/tasks?task_id=LABEL` finds tasks by their label",
            Self::Intake(IntakeError::NobodyHandles { .. }) => {
                "`GET /api/plugins` shows what each plugin handles, and why one did not load"
            }
            Self::NoPlugin(_) | Self::Rollback(RollbackError::NoPlugin(_)) => {
                "`GET /api/plugins` lists the plugins"
            }
            Self::Rollback(
                RollbackError::NoVersion { known, .. } | RollbackError::Ambiguous { known, .. },
            ) => return Some(choices(known)),
            Self::Rollback(RollbackError::NothingBefore(_)) => {
                "versions are kept from the moment they are replaced; put the right file into the plugins directory"
            }
            Self::Route(refused) => return refused.hint(),
            Self::Rollout(refused) => return refused.hint(),
            Self::Shadow(refused) => return refused.hint(),
            Self::Publish(refused) => return Some(refused.hint()),
            Self::Retract(refused) => refused.hint(),
            Self::NoApproval(_) | Self::ApprovalOver(_) => {
                "`GET /api/approvals` lists them; those in force have time left"
            }
            Self::NoRun(_) => "`GET /api/pipeline/codeBuildTest` lists them",
            Self::RunDiffers(_) => "give the new order a `taskId` of its own",
            Self::RunGoesOn(_) => "the same request again goes on waiting",
            Self::RunEnded { .. } => "`GET /api/pipeline/codeBuildTest/TASK` shows how",
            Self::TaskEnded { .. } => "`POST /api/tasks/ID/retry` repeats it as a new task",
            Self::Repeat(RepeatError::NotEnded(_)) => "`POST /api/tasks/ID/cancel` ends it",
            Self::Store(error) => error.hint(),
            Self::MethodNotAllowed { .. }
            | Self::RollbackOrder(_)
            | Self::Rollback(RollbackError::Serves { .. })
            | Self::NoTask(_)
            | Self::NoTrace(_)
            | Self::NoArtifact
            | Self::ArtifactGone(_)
            | Self::ArtifactChanged(_)
            | Self::RangeUnsatisfiable { .. }
            | Self::Intake(_)
            | Self::Repeat(RepeatError::Unusable { .. })
            | Self::TooManyStreams
            | Self::ArtifactsUnavailable(_) => return None,
        };
        Some(hint.to_owned())
    }

    /// What is not sent is logged.
    fn log(&self) {
        match self {
            Self::Store(error) => {
                tracing::error!(code = self.code(), "the API cannot answer: {error}");
            }
            Self::ArtifactsUnavailable(cause)
            | Self::ArtifactGone(cause)
            | Self::ArtifactChanged(cause) => {
                tracing::error!(code = self.code(), "the API cannot answer: {cause}");
            }
            _ => {}
        }
    }

    fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Denied(Denied::TokenMissing | Denied::WrongToken) => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"cogo-host\""),
            )),
            Self::Denied(Denied::TooManyFailures { left }) => {
                Some((header::RETRY_AFTER, HeaderValue::from(left.as_secs() + 1)))
            }
            Self::RangeUnsatisfiable { bytes } => {
                let value = HeaderValue::try_from(format!("bytes */{bytes}")).ok()?;
                Some((header::CONTENT_RANGE, value))
            }
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, RETRY_AFTER))
            }
            _ => None,
        }
    }
}

/// The one shape of every error.
#[derive(Serialize, JsonSchema)]
pub(super) struct ErrorAnswer {
    error: ErrorView,
}

/// What an answer tells of an error, for whoever gives it another shape.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ErrorView {
    /// Stable and machine-readable.
    code: &'static str,
    message: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let told = Told {
            code: self.code(),
            message: self.to_string(),
            hint: self.hint(),
        };
        let error = ErrorView {
            code: told.code,
            message: told.message.clone(),
            hint: told.hint.clone(),
        };
        let mut response = (self.status(), Json(ErrorAnswer { error })).into_response();
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(told);
        response
    }
}
