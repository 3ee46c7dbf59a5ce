//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use super::facts::ReadinessCheck;

/// A database that takes longer to answer nothing is as good as away.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize, JsonSchema)]
pub(super) struct Liveness {
    ok: bool,
}

pub(super) async fn live() -> Json<Liveness> {
    Json(Liveness { ok: true })
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) checks: Vec<ReadinessCheck>,
}

impl Readiness {
    pub(super) async fn check(shared: &Shared) -> Self {
        let mut checks = vec![database(shared).await, plugins(shared), draining(shared)];
        checks.extend(shared.api.facts.readiness());
        let ready = checks.iter().all(|check| check.ok);
        Self { ready, checks }
    }
}

pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness::check(&shared).await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

fn check(name: &str, ok: bool, detail: impl Into<String>) -> ReadinessCheck {
    ReadinessCheck {
        name: name.to_owned(),
        ok,
        detail: detail.into(),
    }
}

async fn database(shared: &Shared) -> ReadinessCheck {
    let asked = async {
        shared.store().ping().await?;
        shared.store().check_schema().await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => check("database", true, "answers, and its schema is current"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database does not do");
            check("database", false, error.hint())
        }
        Err(_) => check("database", false, "it does not answer within 2 seconds"),
    }
}

fn plugins(shared: &Shared) -> ReadinessCheck {
    let plugins = shared.api.facts.plugins();
    let serving = plugins.iter().filter(|p| p.serving.is_some()).count();
    let detail = format!("{serving} of {} serve", plugins.len());
    check("plugins", serving > 0, detail)
}

fn draining(shared: &Shared) -> ReadinessCheck {
    match shared.api.bus.is_draining() {
        false => check("claiming", true, "tasks are claimed"),
        true => check("claiming", false, "the host is draining"),
    }
}
