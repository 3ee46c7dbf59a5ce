//! `/api/integration/status`: which executors serve which routes, and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use super::error::ApiError;
use super::facts::{FlagView, PluginView, RouteView};
use super::query::Params;
use crate::stage::Stage;
use crate::store::Depth;

#[derive(Serialize, JsonSchema)]
pub(super) struct IntegrationStatus {
    pub(super) stage: Stage,
    pub(super) version: &'static str,
    pub(super) flag: FlagView,
    pub(super) routes: Vec<RouteView>,
    pub(super) plugins: Vec<PluginView>,
    pub(super) host: HostStatus,
    pub(super) bus: Depth,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct HostStatus {
    /// As in `claimed_by`.
    pub(super) holder: String,
    pub(super) in_flight: usize,
    pub(super) draining: bool,
    pub(super) ci: bool,
    /// Real and mock run side by side for every task.
    pub(super) compare: bool,
}

impl IntegrationStatus {
    pub(super) async fn read(shared: &Shared) -> Result<Self, ApiError> {
        let bus = shared.store().depth().await?;
        let (facts, handle) = (&shared.api.facts, &shared.api.bus);
        Ok(Self {
            stage: facts.stage(),
            version: env!("CARGO_PKG_VERSION"),
            flag: facts.flag(),
            routes: facts.routes(),
            plugins: facts.plugins(),
            host: HostStatus {
                holder: handle.holder().to_string(),
                in_flight: handle.in_flight(),
                draining: handle.is_draining(),
                ci: facts.ci(),
                compare: facts.compares(),
            },
            bus,
        })
    }
}

pub(super) async fn status(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<IntegrationStatus>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Json(IntegrationStatus::read(&shared).await?))
}
