//! `/`: what there is to ask.

use axum::Json;
use axum::extract::RawQuery;
use serde_json::{Value, json};

use super::error::ApiError;
use super::query::Params;

pub(super) async fn show(RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "paths": [
            "GET /api/approvals?limit=",
            "POST /api/approvals",
            "POST /api/approvals/{id}/revoke",
            "GET /api/events?trace=&type=&after=",
            "GET /api/flags",
            "PUT /api/flags",
            "GET /api/integration/status",
            "GET /api/metrics/bus/events?trace=&task=&type=&since_min=&limit=",
            "GET /api/metrics/bus/latency?service=&role=&since_min=",
            "GET /api/metrics/orchestrator/decision-quality?since_min=",
            "GET /api/metrics/trace/{trace}",
            "GET /api/metrics/workflows/codeBuildTest?since_min=",
            "GET /api/pauses",
            "PUT /api/pauses",
            "GET /api/pipeline/codeBuildTest?limit=",
            "POST /api/pipeline/codeBuildTest?enforce=&wait_ms=",
            "GET /api/pipeline/codeBuildTest/{task}",
            "POST /api/pipeline/codeBuildTest/{task}/cancel",
            "GET /api/plugins",
            "POST /api/plugins/{name}/rollback",
            "GET /api/rollouts?limit=",
            "POST /api/rollouts",
            "GET /api/rollouts/{id}",
            "POST /api/rollouts/{id}/abort",
            "POST /api/rollouts/{id}/pause",
            "POST /api/rollouts/{id}/promote",
            "POST /api/rollouts/{id}/resume",
            "GET /api/routes",
            "GET /api/shadows?limit=",
            "POST /api/shadows",
            "GET /api/shadows/{id}?route=",
            "POST /api/shadows/{id}/stop",
            "GET /api/tasks?status=&route=&trace=&task_id=&limit=",
            "POST /api/tasks",
            "GET /api/tasks/{id}",
            "POST /api/tasks/{id}/cancel",
            "POST /api/tasks/{id}/retry",
            "GET /api/workflows/gate?trace=&window_min=&require_real=",
            "GET /artifacts/{task}/{path}",
            "GET /healthz",
            "GET /metrics",
            "GET /readyz",
        ],
    })))
}
