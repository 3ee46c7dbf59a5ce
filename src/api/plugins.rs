//! `/api/plugins`: the executors that this host has, and the way back to those
//! it had.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Extension, Path, RawQuery, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Actor;
use super::body::Json;
use super::controls::reason;
use super::error::ApiError;
use super::facts::{DirectoryView, PluginView};
use super::published::{PublishOrder, PublishRefused, PublishView};
use super::query::{Params, shortened};
use crate::control::Reason;
use crate::ids::{Digest, PluginName, TraceId};
use crate::plugin::catalog::{DigestPrefix, RollbackError};

/// What operators may do to plugins. The composition root implements it.
#[async_trait]
pub trait PluginOperator: Send + Sync + 'static {
    /// Puts an earlier version back into service, here at once and on every other
    /// host within a second, and has that recorded.
    ///
    /// # Errors
    /// [`RollbackError`] when there is no such version.
    async fn roll_back(&self, order: RollbackOrder) -> Result<RollbackView, RollbackError>;

    /// Checks a component as if it were to serve here, and puts it on the bus for
    /// every host.
    ///
    /// # Errors
    /// [`PublishRefused`] when it does not load, or its version is taken.
    async fn publish(&self, order: PublishOrder) -> Result<PublishView, PublishRefused>;
}

/// An operator's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackOrder {
    pub plugin: PluginName,
    /// The latest version that was not rolled back, where it is absent.
    pub to: Option<DigestPrefix>,
    pub actor: String,
    pub reason: Option<Reason>,
}

/// What a rollback changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackView {
    pub plugin: PluginName,
    /// Absent where the plugin had been removed.
    pub from: Option<VersionView>,
    pub to: VersionView,
    /// Whether the bus says so to every host; else this one alone went back.
    pub everywhere: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Of the `plugin_rolled_back` event.
    pub trace_id: Option<TraceId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    pub version: String,
    pub digest: Digest,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Plugins {
    pub(super) plugins: Vec<PluginView>,
    /// Absent where none is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<DirectoryView>,
}

impl Plugins {
    pub(super) fn of(shared: &Shared) -> Self {
        Self {
            plugins: shared.api.facts.plugins(),
            directory: shared.api.facts.plugins_directory(),
        }
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<axum::Json<Plugins>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(axum::Json(Plugins::of(&shared)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    to: Option<String>,
    reason: Option<String>,
}

pub(super) async fn roll_back(
    State(shared): State<Arc<Shared>>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    RawQuery(query): RawQuery,
    Json(body): Json<Rollback>,
) -> Result<axum::Json<RollbackView>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let Path(name) = path.map_err(|error| ApiError::NoPlugin(error.body_text()))?;
    // What can be no plugin's name is no plugin.
    let plugin = name
        .parse()
        .map_err(|_| ApiError::NoPlugin(shortened(&name)))?;
    let to = body.to.as_deref().map(str::parse).transpose();
    let order = RollbackOrder {
        plugin,
        to: to?,
        actor: actor.as_str().to_owned(),
        reason: reason(body.reason.as_deref())?,
    };
    Ok(axum::Json(shared.api.plugins.roll_back(order).await?))
}
