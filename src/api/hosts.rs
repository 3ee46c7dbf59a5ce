//! `/api/hosts`: the host processes that show themselves on the bus.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use super::error::ApiError;
use super::query::Params;
use crate::store::HostRow;

#[derive(Serialize, JsonSchema)]
pub(super) struct Hosts {
    /// By name.
    pub(super) hosts: Vec<HostView>,
}

/// A host process and whether it counts as one that works.
#[derive(Serialize, JsonSchema)]
pub(super) struct HostView {
    #[serde(flatten)]
    pub(super) row: HostRow,
    /// It showed itself lately.
    pub(super) live: bool,
}

impl Hosts {
    pub(super) async fn read(shared: &Shared) -> Result<Self, ApiError> {
        let rows = shared.store().hosts().await?.into_iter();
        let hosts = rows.map(|row| HostView {
            live: row.is_live(),
            row,
        });
        Ok(Self {
            hosts: hosts.collect(),
        })
    }
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Hosts>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Json(Hosts::read(&shared).await?))
}
