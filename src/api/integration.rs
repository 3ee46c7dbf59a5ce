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
    stage: Stage,
    version: &'static str,
    flag: FlagView,
    routes: Vec<RouteView>,
    plugins: Vec<PluginView>,
    host: HostStatus,
    bus: Depth,
}

#[derive(Serialize, JsonSchema)]
struct HostStatus {
    /// As in `claimed_by`.
    holder: String,
    in_flight: usize,
    draining: bool,
    ci: bool,
    /// Real and mock run side by side for every task.
    compare: bool,
}

pub(super) async fn status(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<IntegrationStatus>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let bus = shared.store().depth().await?;
    let (facts, handle) = (&shared.api.facts, &shared.api.bus);
    Ok(Json(IntegrationStatus {
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
    }))
}
