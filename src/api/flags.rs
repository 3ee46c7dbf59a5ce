//! `/api/flags`: whether the real executors run, route by route.

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
use super::facts::FlagView;
use super::query::Params;
use crate::control::FlagRow;
use crate::route::{Policy, RouteKey};

#[derive(Serialize, JsonSchema)]
pub(super) struct Flags {
    /// For required routes without a flag of their own.
    configured: FlagView,
    flags: Vec<RouteFlag>,
}

/// The flag of one route.
#[derive(Serialize, JsonSchema)]
struct RouteFlag {
    route: RouteKey,
    policy: Policy,
    /// As it is set on the bus; `null` leaves it to configuration and stage.
    enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<FlagRow>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Flags>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let facts = &shared.api.facts;
    let mut set = shared.store().controls().await?.flags;
    let served = facts.routes().into_iter().map(|view| {
        let set = set.remove(&view.route);
        RouteFlag {
            route: view.route,
            policy: view.policy,
            enabled: set.as_ref().map(|flag| flag.enabled),
            set,
        }
    });
    let mut flags: Vec<RouteFlag> = served.collect();
    // Of routes that other hosts serve.
    flags.extend(set.into_values().map(|flag| RouteFlag {
        route: flag.route.clone(),
        policy: facts.policy(&flag.route),
        enabled: Some(flag.enabled),
        set: Some(flag),
    }));
    Ok(Answer(Flags {
        configured: facts.flag(),
        flags,
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetFlag {
    route: RouteKey,
    /// `null` leaves it to configuration and stage again.
    #[serde(deserialize_with = "Option::deserialize")]
    enabled: Option<bool>,
    reason: Option<String>,
}

pub(super) async fn set(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(order): Json<SetFlag>,
) -> Result<Answer<DecidedView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let SetFlag {
        route,
        enabled,
        reason,
    } = order;
    let decision = decision(&actor, reason.as_deref())?;
    // What is set of a route that nobody serves any more can still be unset.
    if enabled.is_some() {
        shared.api.routes.check_flag(&route, enabled)?;
    }
    let decided = shared.store().set_flag(&route, enabled, &decision).await?;
    tracing::info!(
        route = %route, actor = actor.as_str(), enabled,
        "{} set the flag of {route}", actor.as_str()
    );
    Ok(Answer(followed(&shared, route, decided).await))
}
