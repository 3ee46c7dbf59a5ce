//! `/api/approvals`: letting the mock stand in for a real executor that is down,
//! for a while, and taking that back.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::controls::{RouteRefused, decision, reason};
use super::error::ApiError;
use super::query::{Params, shortened};
use crate::control::{ApprovalRow, Decider, InvalidReason, MAX_TTL, Revoked};
use crate::ids::TraceId;
use crate::millis::millis;
use crate::route::RouteKey;
use crate::selection::ApprovalId;
use crate::store::NewApproval;

pub(super) const APPROVALS_DEFAULT: u32 = 50;
const APPROVALS_MAX: u32 = 500;

#[derive(Serialize, JsonSchema)]
pub(super) struct Approvals {
    /// Newest first; those that are over have `left_ms` 0.
    pub(super) approvals: Vec<ApprovalRow>,
}

impl Approvals {
    pub(super) async fn read(shared: &Shared, limit: u32) -> Result<Self, ApiError> {
        let approvals = shared.store().approvals(limit).await?;
        Ok(Self { approvals })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Approvals>, ApiError> {
    let params = Params::read(query.as_deref(), &["limit"])?;
    let limit = params.limit(APPROVALS_DEFAULT, APPROVALS_MAX)?;
    Ok(Answer(Approvals::read(&shared, limit).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Approve {
    route: RouteKey,
    reason: String,
    ttl_ms: u64,
}

pub(super) async fn approve(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(order): Json<Approve>,
) -> Result<(StatusCode, Answer<ApprovalRow>), ApiError> {
    Params::read(query.as_deref(), &[])?;
    let reason = reason(Some(&order.reason))?.ok_or(RouteRefused::Reason(InvalidReason::Empty))?;
    if !(1_000..=millis(MAX_TTL)).contains(&order.ttl_ms) {
        let given_ms = order.ttl_ms;
        return Err(RouteRefused::Ttl { given_ms }.into());
    }
    shared.api.routes.check_fallback(&order.route)?;
    let approval = NewApproval {
        route: order.route,
        reason,
        by: Decider::Named(actor.as_str().to_owned()),
        ttl: Duration::from_millis(order.ttl_ms),
    };
    let row = shared.store().approve(&approval).await?;
    tracing::warn!(
        route = %row.route, actor = actor.as_str(), approval = %row.id,
        "{} lets the mock stand in on {} until {}", actor.as_str(), row.route, row.expires_at
    );
    shared.api.routes.follow().await;
    Ok((StatusCode::CREATED, Answer(row)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    reason: Option<String>,
}

/// An approval that was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevokedView {
    pub id: ApprovalId,
    /// Of the `fallback_revoked` event.
    pub trace_id: TraceId,
}

pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    Json(order): Json<Revoke>,
) -> Result<Answer<RevokedView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path(id) = path.map_err(|error| ApiError::NoApproval(error.body_text()))?;
    let id = ApprovalId(id);
    let decision = decision(&actor, order.reason.as_deref())?;
    let trace_id = match shared.store().revoke(&id, &decision).await? {
        Revoked::Now { trace_id } => trace_id,
        Revoked::Over => return Err(ApiError::ApprovalOver(shortened(&id.0))),
        Revoked::Unknown => return Err(ApiError::NoApproval(shortened(&id.0))),
    };
    tracing::info!(
        actor = actor.as_str(), approval = %id,
        "{} revoked approval {id}", actor.as_str()
    );
    shared.api.routes.follow().await;
    Ok(Answer(RevokedView { id, trace_id }))
}
