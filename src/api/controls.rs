//! What operators decide about routes, over HTTP: what flags, pauses and
//! approvals have in common.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::error::ApiError;
use super::facts::RouteView;
use super::rollouts::{Candidacy, RolloutRefused, Versions};
use crate::control::{Decided, Decider, Decision, InvalidReason, Reason};
use crate::ids::{Digest, PluginName, TraceId};
use crate::route::RouteKey;

/// What the host says to a decision before it goes to the bus, and does after
/// it. The composition root implements it.
#[async_trait]
pub trait RouteOperator: Send + Sync + 'static {
    /// # Errors
    /// [`RouteRefused::Unknown`] where nobody here serves the route.
    fn check_route(&self, route: &RouteKey) -> Result<(), RouteRefused>;

    /// # Errors
    /// [`RouteRefused`] where the flag could not do what it says.
    fn check_flag(&self, route: &RouteKey, to: Option<bool>) -> Result<(), RouteRefused>;

    /// # Errors
    /// [`RouteRefused`] where nothing ever falls back.
    fn check_fallback(&self, route: &RouteKey) -> Result<(), RouteRefused>;

    /// The versions of a rollout, if it could be.
    ///
    /// # Errors
    /// [`RolloutRefused`] where the candidate is not to be had or could not run,
    /// or where it counts as mock and what it would replace does not.
    fn check_rollout(&self, wish: &Candidacy) -> Result<Versions, RolloutRefused>;

    /// The version that is to shadow a route: any of a plugin of the route but the
    /// one that its tasks get now.
    ///
    /// # Errors
    /// [`RolloutRefused`] where it is not to be had or could not run.
    fn check_shadow(&self, wish: &Candidacy) -> Result<Digest, RolloutRefused> {
        self.check_rollout(wish).map(|versions| versions.candidate)
    }

    /// Follows what was just decided, at once.
    async fn follow(&self);
}

/// Why a decision about a route is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteRefused {
    #[error("this host does not serve `{asked}`")]
    Unknown {
        asked: RouteKey,
        known: Vec<RouteKey>,
    },
    #[error("`{route}` has one plugin, `{plugin}`: its flag changes nothing")]
    NoChoice { route: RouteKey, plugin: PluginName },
    #[error("the flag would turn on what cannot run: route `{route}`: {problem}")]
    Unrunnable { route: RouteKey, problem: String },
    #[error("`{route}` never falls back: only a required route with a real and a mock plugin does")]
    NoFallback { route: RouteKey },
    #[error("the approval would last {given_ms} ms; expected 1 second to 7 days")]
    Ttl { given_ms: u64 },
    #[error(transparent)]
    Reason(#[from] InvalidReason),
}

impl RouteRefused {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
            Self::NoChoice { .. } | Self::Unrunnable { .. } | Self::NoFallback { .. } => {
                StatusCode::CONFLICT
            }
            Self::Ttl { .. } | Self::Reason(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "route_not_found",
            Self::NoChoice { .. } => "flag_without_effect",
            Self::Unrunnable { .. } => "plugin_not_configured",
            Self::NoFallback { .. } => "no_fallback",
            Self::Ttl { .. } => "ttl_invalid",
            Self::Reason(InvalidReason::Empty) => "reason_missing",
            Self::Reason(InvalidReason::TooLong(_)) => "reason_too_long",
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known, .. } => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                Some(format!("there are: {}", known.join(", ")))
            }
            Self::Unrunnable { .. } => Some(
                "set what is missing in the environment or in cogo.toml of every host, and restart them"
                    .to_owned(),
            ),
            Self::NoChoice { .. }
            | Self::NoFallback { .. }
            | Self::Ttl { .. }
            | Self::Reason(_) => None,
        }
    }
}

/// Who decides, and why, as a request says it.
pub(super) fn decision(actor: &Actor, reason: Option<&str>) -> Result<Decision, ApiError> {
    Ok(Decision {
        by: Decider::Named(actor.as_str().to_owned()),
        reason: self::reason(reason)?,
    })
}

/// An empty reason is none.
pub(super) fn reason(text: Option<&str>) -> Result<Option<Reason>, ApiError> {
    let text = text.filter(|text| !text.trim().is_empty());
    let reason = text.map(str::parse::<Reason>).transpose();
    Ok(reason.map_err(RouteRefused::Reason)?)
}

/// What a decision made of its route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DecidedView {
    pub route: RouteKey,
    /// Whether it was otherwise before.
    pub changed: bool,
    /// Of the event, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// The route as this host runs it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<RouteView>,
}

impl DecidedView {
    /// Without what a host would have to say.
    pub fn of(route: RouteKey, decided: Decided) -> Self {
        let trace_id = match decided {
            Decided::Changed { trace_id } => Some(trace_id),
            Decided::Already => None,
        };
        Self {
            route,
            changed: trace_id.is_some(),
            trace_id,
            now: None,
        }
    }
}

/// Follows a decision and shows what it made of the route.
pub(super) async fn followed(
    shared: &Arc<Shared>,
    route: RouteKey,
    decided: Decided,
) -> DecidedView {
    shared.api.routes.follow().await;
    let mut views = shared.api.facts.routes().into_iter();
    DecidedView {
        now: views.find(|view| view.route == route),
        ..DecidedView::of(route, decided)
    }
}
