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
    let policy = shared.policy();
    let judging = shared.judging(shared.requires_real(), &policy);
    match TraceView::read(shared.store(), &trace, &judging).await? {
        Some(view) => Ok(Json(view)),
        None => Err(ApiError::NoTrace(trace)),
    }
}
