//! `/api/routes`: the routes of this host, what they run, and why they wait;
//! `/api/pauses`: stopping them, and letting them go on.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Extension, RawQuery, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::controls::{DecidedView, decision, followed};
use super::error::ApiError;
use super::facts::RouteView;
use super::query::Params;
use crate::control::PauseRow;
use crate::route::RouteKey;

#[derive(Serialize, JsonSchema)]
pub(super) struct Routes {
    routes: Vec<RouteView>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Routes>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Answer(Routes {
        routes: shared.api.facts.routes(),
    }))
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Pauses {
    pauses: Vec<PauseRow>,
}

pub(super) async fn pauses(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Pauses>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let controls = shared.store().controls().await?;
    Ok(Answer(Pauses {
        pauses: controls.pauses.into_values().collect(),
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetPause {
    route: RouteKey,
    paused: bool,
    reason: Option<String>,
}

pub(super) async fn set_pause(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(order): Json<SetPause>,
) -> Result<Answer<DecidedView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let SetPause {
        route,
        paused,
        reason,
    } = order;
    let decision = decision(&actor, reason.as_deref())?;
    let decided = if paused {
        shared.api.routes.check_route(&route)?;
        shared.store().pause(&route, &decision).await?
    } else {
        shared.store().resume(&route, &decision).await?
    };
    tracing::info!(
        route = %route, actor = actor.as_str(), paused,
        "{} {} route {route}", actor.as_str(), if paused { "paused" } else { "resumed" }
    );
    Ok(Answer(followed(&shared, route, decided).await))
}
