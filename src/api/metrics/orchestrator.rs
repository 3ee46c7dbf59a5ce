//! `/api/metrics/orchestrator/decision-quality`: how often the first routing
//! decision held, by the same rule as the gate's check.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::MINUTES;
use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::query::Params;
use crate::gate::{Check, Scope};
use crate::trace;

/// The gate's check of this name is the one shown.
const CHECK: &str = "decision_quality";

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct DecisionQuality {
    since_min: u32,
    #[serde(flatten)]
    check: Option<Check>,
}

pub(in crate::api) async fn decision_quality(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<DecisionQuality>, ApiError> {
    let params = Params::read(query.as_deref(), &["since_min"])?;
    let since_min = params.number("since_min", MINUTES)?;
    let since_min = since_min.unwrap_or(shared.api.window_min);
    let scope = Scope::Window { minutes: since_min };
    let policy = shared.policy();
    let judging = shared.judging(shared.requires_real(), &policy);
    let report = trace::judge(shared.store(), &scope, &judging).await?;
    let check = report.checks.into_iter().find(|check| check.name == CHECK);
    Ok(Json(DecisionQuality { since_min, check }))
}
