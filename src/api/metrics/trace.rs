//! `/api/metrics/trace/{trace}`: one trace from end to end.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};

use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::path::Id;
use crate::api::query::Params;
use crate::ids::TraceId;
use crate::trace::TraceView;

pub(in crate::api) async fn show(
    State(shared): State<Arc<Shared>>,
    Id(trace): Id<TraceId>,
    RawQuery(query): RawQuery,
) -> Result<Json<TraceView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Json(read(&shared, trace).await?))
}

/// The story of a trace, judged as gates judge here.
pub(in crate::api) async fn read(shared: &Shared, trace: TraceId) -> Result<TraceView, ApiError> {
    let policy = shared.policy();
    let judging = shared.judging(shared.requires_real(), &policy);
    let view = TraceView::read(shared.store(), &trace, &judging).await?;
    view.ok_or(ApiError::NoTrace(trace))
}
