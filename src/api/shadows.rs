//! `/api/shadows`: having a version run tasks beside what serves, and looking at
//! what that came to.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Extension, RawQuery, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::controls::{RouteRefused, decision, reason};
use super::error::ApiError;
use super::path::Named;
use super::query::Params;
use super::rollouts::{Candidacy, RolloutRefused};
use crate::attempt::SideEffects;
use crate::control::{Decider, InvalidReason};
use crate::ids::ShadowId;
use crate::rollout::Share;
use crate::route::RouteKey;
use crate::shadow::ShadowRow;
use crate::steering::ShadowView;
use crate::store::{EndedShadow, NewShadow, StartedShadow};

pub(super) const SHADOWS_DEFAULT: u32 = 50;
const SHADOWS_MAX: u32 = 500;

/// Why a shadow is not begun, ended or shown.
#[derive(Debug, thiserror::Error)]
pub enum ShadowRefused {
    /// What speaks against the candidate in a rollout does here.
    #[error(transparent)]
    Candidate(#[from] RolloutRefused),
    #[error("`{0}` is no share: expected whole percents from 1 to 100")]
    Share(u8),
    #[error("shadow {} watches `{}` already, with `{}`", .0.id, .0.route, .0.plugin)]
    Busy(Box<ShadowRow>),
    #[error("there is no shadow `{0}`")]
    Unknown(ShadowId),
    #[error("shadow {0} has ended already")]
    Over(ShadowId),
}

impl ShadowRefused {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Candidate(refused) => refused.status(),
            Self::Share(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy(_) | Self::Over(_) => StatusCode::CONFLICT,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
        }
    }

    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Candidate(refused) => refused.code(),
            Self::Share(_) => "share_invalid",
            Self::Busy(_) => "shadow_running",
            Self::Unknown(_) => "shadow_not_found",
            Self::Over(_) => "shadow_over",
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Candidate(refused) => refused.hint(),
            Self::Share(_) => None,
            Self::Busy(row) => Some(format!(
                "`cogo-host shadow report {0}` shows what it found, `cogo-host shadow stop {0}` ends it",
                row.id
            )),
            Self::Unknown(_) | Self::Over(_) => {
                Some("`cogo-host shadow list` shows all".to_owned())
            }
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Shadows {
    /// Newest first.
    pub(super) shadows: Vec<ShadowRow>,
}

impl Shadows {
    pub(super) async fn read(shared: &Shared, limit: u32) -> Result<Self, ApiError> {
        let shadows = shared.store().shadows(limit).await?;
        Ok(Self { shadows })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Shadows>, ApiError> {
    let params = Params::read(query.as_deref(), &["limit"])?;
    let limit = params.limit(SHADOWS_DEFAULT, SHADOWS_MAX)?;
    Ok(Answer(Shadows::read(&shared, limit).await?))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Named(id): Named<ShadowId>,
    RawQuery(query): RawQuery,
) -> Result<Answer<ShadowView>, ApiError> {
    let params = Params::read(query.as_deref(), &["route"])?;
    let route: Option<RouteKey> = params.parsed("route")?;
    let thresholds = &shared.api.thresholds;
    let view = ShadowView::read(shared.store(), &id, route, thresholds).await?;
    Ok(Answer(view.ok_or(ShadowRefused::Unknown(id))?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    route: RouteKey,
    /// `NAME@sha256:DIGEST`, or its first digits.
    candidate: String,
    /// In percent.
    share: u8,
    side_effects: SideEffects,
    reason: String,
}

pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(order): Json<Start>,
) -> Result<(StatusCode, Answer<ShadowRow>), ApiError> {
    Params::read(query.as_deref(), &[])?;
    let reason = reason(Some(&order.reason))?.ok_or(RouteRefused::Reason(InvalidReason::Empty))?;
    let share = Share::try_from(order.share).map_err(|_| ShadowRefused::Share(order.share))?;
    let candidacy = Candidacy::parse(order.route, &order.candidate)?;
    let candidate = shared.api.routes.check_shadow(&candidacy)?;
    let new = NewShadow {
        route: candidacy.route,
        plugin: candidacy.plugin,
        candidate,
        share,
        side_effects: order.side_effects,
        by: Decider::Named(actor.as_str().to_owned()),
        reason: Some(reason),
    };
    let row = match shared.store().start_shadow(&new).await? {
        StartedShadow::Now(row) => row,
        StartedShadow::Busy(row) => return Err(ShadowRefused::Busy(Box::new(row)).into()),
    };
    tracing::info!(
        route = %row.route, actor = actor.as_str(), shadow = %row.id, plugin.digest = %row.candidate,
        "{} has {} shadow {}", actor.as_str(), row.plugin, row.route
    );
    shared.api.routes.follow().await;
    Ok((StatusCode::CREATED, Answer(row)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    reason: Option<String>,
}

pub(super) async fn stop(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<ShadowId>,
    RawQuery(query): RawQuery,
    Json(order): Json<Stop>,
) -> Result<Answer<ShadowRow>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let decision = decision(&actor, order.reason.as_deref())?;
    let row = match shared.store().end_shadow(&id, &decision).await? {
        EndedShadow::Now(row) => row,
        EndedShadow::Over(_) => return Err(ShadowRefused::Over(id).into()),
        EndedShadow::Unknown => return Err(ShadowRefused::Unknown(id).into()),
    };
    tracing::info!(
        route = %row.route, actor = actor.as_str(), shadow = %id,
        "{} ends shadow {id}", actor.as_str()
    );
    shared.api.routes.follow().await;
    Ok(Answer(row))
}
