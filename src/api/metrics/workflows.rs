//! `/api/metrics/workflows/codeBuildTest`: how the runs of the last while went.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::{MINUTES, minutes};
use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::query::Params;
use crate::pipeline::WORKFLOW;
use crate::store::RunFigures;

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct Figures {
    workflow: &'static str,
    since_min: u32,
    #[serde(flatten)]
    figures: RunFigures,
}

pub(in crate::api) async fn code_build_test(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Figures>, ApiError> {
    let params = Params::read(query.as_deref(), &["since_min"])?;
    let since_min = params.number("since_min", MINUTES)?;
    let since_min = since_min.unwrap_or(shared.api.window_min);
    Ok(Json(Figures {
        workflow: WORKFLOW,
        since_min,
        figures: shared.store().run_figures(minutes(since_min)).await?,
    }))
}
