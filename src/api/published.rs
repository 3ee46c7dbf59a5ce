//! `/api/plugins/published`: the plugin versions that every host is to have.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::body::{Json, Wasm};
use super::controls::{decision, reason};
use super::error::ApiError;
use super::query::Params;
use crate::control::{PublishedRow, Reason, Retracted};
use crate::ids::{Digest, PluginName, TraceId};
use crate::plugin::load::LoadError;
use crate::store::StoreError;

/// More versions than anybody reads.
const MAX_LISTED: u32 = 1_000;

/// A component that is to be published.
#[derive(Debug, Clone)]
pub struct PublishOrder {
    pub bytes: Bytes,
    /// In minisign's format.
    pub signature: Option<String>,
    pub actor: String,
    pub reason: Option<Reason>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishView {
    pub plugin: PluginName,
    pub version: String,
    pub digest: Digest,
    pub bytes: u64,
    /// The bus did not have it before.
    pub changed: bool,
    /// Of the `plugin_published` event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
}

/// Why a component is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishRefused {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{name} {version} was published with other bytes ({by})")]
    Taken {
        name: PluginName,
        version: String,
        by: Digest,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PublishRefused {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Load(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Taken { .. } => StatusCode::CONFLICT,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Load(error) => error.code(),
            Self::Taken { .. } => "version_taken",
            Self::Store(_) => "bus_unavailable",
        }
    }

    /// What can be done about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Load(error) => error.hint(),
            Self::Taken { .. } => {
                "what is published never changes: raise the version in the plugin and build it again"
                    .to_owned()
            }
            Self::Store(error) => error.hint().to_owned(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Listed {
    pub(super) published: Vec<PublishedRow>,
}

impl Listed {
    pub(super) async fn read(shared: &Shared) -> Result<Self, ApiError> {
        let published = shared.store().published(MAX_LISTED).await?;
        Ok(Self { published })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<axum::Json<Listed>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(axum::Json(Listed::read(&shared).await?))
}

pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
    Wasm(bytes): Wasm,
) -> Result<axum::Json<PublishView>, ApiError> {
    let params = Params::read(query.as_deref(), &["reason", "signature"])?;
    let order = PublishOrder {
        bytes,
        signature: params.text("signature")?.map(str::to_owned),
        actor: actor.as_str().to_owned(),
        reason: reason(params.text("reason")?)?,
    };
    Ok(axum::Json(shared.api.plugins.publish(order).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retract {
    reason: Option<String>,
}

/// What a retraction changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetractView {
    pub digest: Digest,
    pub changed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
}

/// Why a version stays published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetractRefused {
    #[error("{0} serves on every host")]
    Serves(Digest),
    #[error("{0} was never published")]
    Unknown(Digest),
}

impl RetractRefused {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Serves(_) => StatusCode::CONFLICT,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
        }
    }

    /// Stable and machine-readable.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Serves(_) => "version_serves",
            Self::Unknown(_) => "version_not_found",
        }
    }

    /// What can be done about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Serves(_) => "roll the plugin back, or promote another version, before",
            Self::Unknown(_) => "`GET /api/plugins/published` lists the versions",
        }
    }
}

impl RetractView {
    /// # Errors
    /// [`RetractRefused`] where nothing was or could be retracted.
    pub fn of(digest: Digest, retracted: Retracted) -> Result<Self, RetractRefused> {
        let trace_id = match retracted {
            Retracted::Now { trace_id } => Some(trace_id),
            Retracted::Already => None,
            Retracted::Serves => return Err(RetractRefused::Serves(digest)),
            Retracted::Unknown => return Err(RetractRefused::Unknown(digest)),
        };
        Ok(Self {
            digest,
            changed: trace_id.is_some(),
            trace_id,
        })
    }
}

pub(super) async fn retract(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RawQuery(query): RawQuery,
    Json(body): Json<Retract>,
) -> Result<axum::Json<RetractView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path(digest) = path.map_err(|error| ApiError::id(error.body_text()))?;
    let digest: Digest = digest.parse().map_err(ApiError::id)?;
    let decision = decision(&actor, body.reason.as_deref())?;
    let retracted = shared.store().retract(digest, &decision).await?;
    shared.api.routes.follow().await;
    Ok(axum::Json(RetractView::of(digest, retracted)?))
}
