//! `/api/workflows/gate`: the verdict over a trace or over the last minutes.
//!
//! The verdict is in the body; a gate that fails is an answer, not an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use super::error::ApiError;
use super::metrics::MINUTES;
use super::query::{Params, QueryError};
use crate::gate::{GateReport, Scope, Thresholds};
use crate::ids::TraceId;
use crate::trace;

#[derive(Serialize, JsonSchema)]
pub(super) struct Gate {
    scope: ShownScope,
    pub(super) require_real: bool,
    #[serde(flatten)]
    pub(super) report: GateReport,
    thresholds: Thresholds,
}

impl Gate {
    pub(super) async fn read(
        shared: &Shared,
        scope: Scope,
        require_real: bool,
    ) -> Result<Self, ApiError> {
        let policy = shared.policy();
        let judging = shared.judging(require_real, &policy);
        let report = trace::judge(shared.store(), &scope, &judging).await?;
        Ok(Self {
            scope: match scope {
                Scope::Trace(trace) => ShownScope::Trace(trace),
                Scope::Window { minutes } => ShownScope::WindowMin(minutes),
            },
            require_real,
            report,
            thresholds: shared.api.thresholds,
        })
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ShownScope {
    Trace(TraceId),
    WindowMin(u32),
}

pub(super) async fn gate(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Gate>, ApiError> {
    let params = Params::read(query.as_deref(), &["trace", "window_min", "require_real"])?;
    let scope = scope(&params, shared.api.window_min)?;
    let require_real = require_real(&params, &shared)?;
    Ok(Json(Gate::read(&shared, scope, require_real).await?))
}

fn scope(params: &Params, default_minutes: u32) -> Result<Scope, QueryError> {
    match (
        params.parsed("trace")?,
        params.number("window_min", MINUTES)?,
    ) {
        (Some(trace), None) => Ok(Scope::Trace(trace)),
        (None, minutes) => Ok(Scope::Window {
            minutes: minutes.unwrap_or(default_minutes),
        }),
        (Some(_), Some(_)) => Err(QueryError::Value {
            name: "window_min",
            problem: "a gate looks at a trace or at a window, not at both".to_owned(),
        }),
    }
}

/// A request may ask for more than the stage does, never for less.
fn require_real(params: &Params, shared: &Shared) -> Result<bool, QueryError> {
    match (params.truth("require_real")?, shared.requires_real()) {
        (Some(false), true) => Err(QueryError::Value {
            name: "require_real",
            problem: format!(
                "`false` cannot be had here: gates want real results in stage `{}`{}",
                shared.api.facts.stage(),
                if shared.api.facts.ci() {
                    " with `CI=true`"
                } else {
                    ""
                }
            ),
        }),
        (asked, needed) => Ok(asked.unwrap_or(needed)),
    }
}
