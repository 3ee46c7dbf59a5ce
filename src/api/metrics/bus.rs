//! `/api/metrics/bus`: events, and how long tasks wait.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::{MINUTES, minutes};
use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::query::Params;
use crate::event::Event;
use crate::store::{EventFilter, Latency, Order};
use crate::trace::cut;

const EVENTS_DEFAULT: u32 = 100;
const EVENTS_MAX: u32 = 1_000;

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct Events {
    /// The newest ones that match, oldest of them first.
    events: Vec<Event>,
    /// There are older ones that match.
    truncated: bool,
}

pub(in crate::api) async fn events(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Events>, ApiError> {
    let known = &["trace", "task", "type", "since_min", "limit"];
    let params = Params::read(query.as_deref(), known)?;
    let limit = params.limit(EVENTS_DEFAULT, EVENTS_MAX)?;
    let filter = EventFilter {
        trace_id: params.text("trace")?.map(str::to_owned),
        event_type: params.text("type")?.map(str::to_owned),
        message_id: params.parsed("task")?,
        since: params.number("since_min", MINUTES)?.map(minutes),
        limit: limit + 1,
        order: Order::NewestFirst,
        ..EventFilter::default()
    };
    let (mut events, truncated) = cut(shared.store().events(&filter).await?, limit);
    events.reverse();
    Ok(Json(Events { events, truncated }))
}

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct Waits {
    service: Option<String>,
    role: Option<String>,
    since_min: u32,
    #[serde(flatten)]
    latency: Latency,
}

/// Waits of attempts, from when the task was due to its claim.
pub(in crate::api) async fn latency(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Waits>, ApiError> {
    let params = Params::read(query.as_deref(), &["service", "role", "since_min"])?;
    let (service, role) = (params.text("service")?, params.text("role")?);
    let since_min = params.number("since_min", MINUTES)?;
    let since_min = since_min.unwrap_or(shared.api.window_min);
    let store = shared.store();
    let latency = store.latency(service, role, minutes(since_min)).await?;
    Ok(Json(Waits {
        service: service.map(str::to_owned),
        role: role.map(str::to_owned),
        since_min,
        latency,
    }))
}
