//! `/api/plugins`: the executors that this host has.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::Shared;
use super::error::ApiError;
use super::facts::PluginView;
use super::query::Params;

#[derive(Serialize)]
pub(super) struct Plugins {
    plugins: Vec<PluginView>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Plugins>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let plugins = shared.api.facts.plugins();
    Ok(Json(Plugins { plugins }))
}
