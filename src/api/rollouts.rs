//! `/api/rollouts`: rolling a plugin version out, looking at how that goes, and
//! steering it.

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
use super::path::Named;
use super::query::{Params, shortened};
use crate::control::{Decider, InvalidReason};
use crate::ids::{Digest, PluginName};
use crate::millis::millis;
use crate::plugin::catalog::DigestPrefix;
use crate::rollout::{Change, INTERVALS, IllegalChange, InvalidSteps, RolloutRow, Share, Steps};
use crate::route::RouteKey;
use crate::selection::RolloutId;
use crate::steering::{NotSteered, RolloutView, steer};
use crate::store::{NewRollout, StartedRollout, StoreError};

pub(super) const ROLLOUTS_DEFAULT: u32 = 50;
const ROLLOUTS_MAX: u32 = 500;

/// Which version is to be rolled out where.
#[derive(Debug, Clone)]
pub struct Candidacy {
    pub route: RouteKey,
    pub plugin: PluginName,
    pub digest: DigestPrefix,
}

impl Candidacy {
    /// From `NAME@sha256:DIGEST`, or its first digits.
    pub(super) fn parse(route: RouteKey, candidate: &str) -> Result<Self, RolloutRefused> {
        let invalid = || RolloutRefused::Candidate(shortened(candidate));
        let (plugin, digest) = candidate.split_once('@').ok_or_else(invalid)?;
        Ok(Self {
            route,
            plugin: plugin.parse().map_err(|_| invalid())?,
            digest: digest.parse().map_err(|_| invalid())?,
        })
    }
}

/// The versions of a rollout, by their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub candidate: Digest,
    pub stable: Option<Digest>,
}

/// Why a rollout is refused.
#[derive(Debug, thiserror::Error)]
pub enum RolloutRefused {
    #[error(transparent)]
    Route(#[from] RouteRefused),
    #[error("`{plugin}` runs no task of `{route}`")]
    NotOnRoute {
        route: RouteKey,
        plugin: PluginName,
        known: Vec<PluginName>,
    },
    #[error("this host has no candidate {digest} of `{plugin}`")]
    UnknownCandidate {
        plugin: PluginName,
        digest: String,
        known: Vec<Digest>,
    },
    #[error("`{digest}` begins the digests of several candidates of `{plugin}`")]
    Ambiguous {
        plugin: PluginName,
        digest: String,
        known: Vec<Digest>,
    },
    #[error("{digest} is what `{plugin}` serves as already")]
    Serves { plugin: PluginName, digest: Digest },
    #[error(
        "`{plugin}` serves as real, and the gates would count its candidate {digest} as mock: it is no bundled version, and no configuration of this host says what `{plugin}` is"
    )]
    CountsAsMock { plugin: PluginName, digest: Digest },
    #[error("the candidate could not run: {0}")]
    Unrunnable(String),
    #[error("rollout {} is under way on `{}`, of `{}`", .0.id, .0.route, .0.plugin)]
    Busy(Box<RolloutRow>),
    #[error(transparent)]
    Steps(#[from] InvalidSteps),
    #[error("a step would last {given_ms} ms; expected 1 second to 7 days")]
    Interval { given_ms: u64 },
    #[error("`{0}` does not name a version: expected NAME@sha256:DIGEST, or its first digits")]
    Candidate(String),
    #[error("there is no rollout `{0}`")]
    Unknown(RolloutId),
    #[error("rollout {id}: {refused}")]
    Illegal {
        id: RolloutId,
        refused: IllegalChange,
    },
    #[error("rollout {0} changes all the time; try again")]
    Changing(RolloutId),
}

impl RolloutRefused {
    /// # Errors
    /// Where it was the database that did not do as it was asked.
    pub fn of(not_steered: NotSteered) -> Result<Self, StoreError> {
        Ok(match not_steered {
            NotSteered::Unknown(id) => Self::Unknown(id),
            NotSteered::Illegal { id, refused } => Self::Illegal { id, refused },
            NotSteered::Busy(id) => Self::Changing(id),
            NotSteered::Store(error) => return Err(error),
        })
    }

    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Route(refused) => refused.status(),
            Self::UnknownCandidate { .. } | Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::NotOnRoute { .. }
            | Self::Ambiguous { .. }
            | Self::Serves { .. }
            | Self::CountsAsMock { .. }
            | Self::Unrunnable(_)
            | Self::Busy(_)
            | Self::Illegal { .. }
            | Self::Changing(_) => StatusCode::CONFLICT,
            Self::Steps(_) | Self::Interval { .. } | Self::Candidate(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }

    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Route(refused) => refused.code(),
            Self::NotOnRoute { .. } => "plugin_not_on_route",
            Self::UnknownCandidate { .. } => "candidate_unknown",
            Self::Ambiguous { .. } => "candidate_ambiguous",
            Self::Serves { .. } => "candidate_serves",
            Self::CountsAsMock { .. } => "candidate_counts_as_mock",
            Self::Unrunnable(_) => "plugin_not_configured",
            Self::Busy(_) => "rollout_running",
            Self::Steps(_) => "steps_invalid",
            Self::Interval { .. } => "interval_invalid",
            Self::Candidate(_) => "candidate_invalid",
            Self::Unknown(_) => "rollout_not_found",
            Self::Illegal { .. } => "rollout_not_possible",
            Self::Changing(_) => "rollout_changing",
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        fn listed<T: ToString>(known: &[T], none: &str) -> String {
            if known.is_empty() {
                return none.to_owned();
            }
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            format!("there are: {}", known.join(", "))
        }
        Some(match self {
            Self::Route(refused) => return refused.hint(),
            Self::NotOnRoute { known, .. } => listed(known, "the route has no plugin"),
            Self::UnknownCandidate { known, .. } => listed(
                known,
                "put its file into COGO_PLUGINS_DIR of every host, or publish it; `cogo-host plugin list` shows what is ready",
            ),
            Self::Ambiguous { known, .. } => listed(known, "name more digits"),
            Self::Serves { .. } => {
                "`cogo-host plugin list` shows what serves and what could".to_owned()
            }
            Self::CountsAsMock { plugin, .. } => format!(
                "set `kind = \"real\"` under `[plugin.{plugin}]` in cogo.toml of every host, or `kind = \"mock\"` if nothing of it is to count as real, and restart them"
            ),
            Self::Unrunnable(_) => {
                "set what is missing in the environment or in cogo.toml of every host, and restart them"
                    .to_owned()
            }
            Self::Busy(row) => format!(
                "`cogo-host rollout status {0} -w` follows it, `cogo-host rollout abort {0}` ends it",
                row.id
            ),
            Self::Steps(_) => "rising percents, such as `5,25,50,100`".to_owned(),
            Self::Unknown(_) => "`cogo-host rollout list` shows all".to_owned(),
            Self::Illegal { id, .. } => {
                format!("`cogo-host rollout status {id}` shows how it stands")
            }
            Self::Interval { .. } | Self::Candidate(_) | Self::Changing(_) => return None,
        })
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Rollouts {
    /// Newest first.
    pub(super) rollouts: Vec<RolloutRow>,
}

impl Rollouts {
    pub(super) async fn read(shared: &Shared, limit: u32) -> Result<Self, ApiError> {
        let rollouts = shared.store().rollouts(limit).await?;
        Ok(Self { rollouts })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Answer<Rollouts>, ApiError> {
    let params = Params::read(query.as_deref(), &["limit"])?;
    let limit = params.limit(ROLLOUTS_DEFAULT, ROLLOUTS_MAX)?;
    Ok(Answer(Rollouts::read(&shared, limit).await?))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Named(id): Named<RolloutId>,
    RawQuery(query): RawQuery,
) -> Result<Answer<RolloutView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Answer(view(&shared, id).await?))
}

/// A rollout and how it is doing, by this host's thresholds.
pub(super) async fn view(shared: &Shared, id: RolloutId) -> Result<RolloutView, ApiError> {
    let row = shared.store().rollout(&id).await?;
    let row = row.ok_or(RolloutRefused::Unknown(id))?;
    Ok(RolloutView::read(shared.store(), row, &shared.api.thresholds).await?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    route: RouteKey,
    /// `NAME@sha256:DIGEST`, or its first digits.
    candidate: String,
    /// Percents, rising.
    steps: Vec<u8>,
    interval_ms: u64,
    reason: String,
}

pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Json(order): Json<Start>,
) -> Result<(StatusCode, Answer<RolloutRow>), ApiError> {
    Params::read(query.as_deref(), &[])?;
    let reason = reason(Some(&order.reason))?.ok_or(RouteRefused::Reason(InvalidReason::Empty))?;
    let steps = steps(order.steps)?;
    let (shortest, longest) = INTERVALS;
    if !(millis(shortest)..=millis(longest)).contains(&order.interval_ms) {
        let given_ms = order.interval_ms;
        return Err(RolloutRefused::Interval { given_ms }.into());
    }
    let candidacy = Candidacy::parse(order.route, &order.candidate)?;
    let versions = shared.api.routes.check_rollout(&candidacy)?;
    let new = NewRollout {
        route: candidacy.route,
        plugin: candidacy.plugin,
        candidate: versions.candidate,
        stable: versions.stable,
        steps,
        interval: Duration::from_millis(order.interval_ms),
        by: Decider::Named(actor.as_str().to_owned()),
        reason: Some(reason),
    };
    let row = match shared.store().start_rollout(&new).await? {
        StartedRollout::Now(row) => row,
        StartedRollout::Busy(row) => return Err(RolloutRefused::Busy(Box::new(row)).into()),
    };
    tracing::info!(
        route = %row.route, actor = actor.as_str(), rollout = %row.id, plugin.digest = %row.candidate,
        "{} rolls {} out on {}", actor.as_str(), row.plugin, row.route
    );
    shared.api.routes.follow().await;
    Ok((StatusCode::CREATED, Answer(row)))
}

fn steps(percents: Vec<u8>) -> Result<Steps, RolloutRefused> {
    let shares = percents.into_iter().map(Share::try_from);
    let shares = shares.collect::<Result<Vec<_>, _>>()?;
    Ok(shares.try_into()?)
}

/// What can be done to a rollout.
pub(super) const ACTIONS: &[&str] = &["abort", "pause", "promote", "resume"];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Steer {
    reason: Option<String>,
}

pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    Json(order): Json<Steer>,
) -> Result<Answer<RolloutRow>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path((id, action)) = path.map_err(|error| ApiError::UnknownPath(error.body_text()))?;
    let change = match action.as_str() {
        "promote" => Change::Promote,
        "pause" => Change::Pause,
        "resume" => Change::Resume,
        "abort" => Change::Abort,
        _ => {
            let path = format!("/api/rollouts/{id}/{action}");
            return Err(ApiError::UnknownPath(shortened(&path)));
        }
    };
    let id = parsed(&id)?;
    let decision = decision(&actor, order.reason.as_deref())?;
    let row = match steer(shared.store(), &id, &change, &decision).await {
        Ok(row) => row,
        Err(not_steered) => return Err(RolloutRefused::of(not_steered)?.into()),
    };
    tracing::info!(
        route = %row.route, actor = actor.as_str(), rollout = %row.id,
        "{}: {action} of rollout {id}", actor.as_str()
    );
    shared.api.routes.follow().await;
    Ok(Answer(row))
}

fn parsed(id: &str) -> Result<RolloutId, ApiError> {
    id.parse()
        .map_err(|_| ApiError::UnknownPath(format!("/api/rollouts/{}", shortened(id))))
}
