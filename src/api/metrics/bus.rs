//! `/api/metrics/bus`: events, and how long tasks wait.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::{MINUTES, minutes};
use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::query::{Params, QueryError};
use crate::event::Event;
use crate::store::{EventFilter, Latency, Order};
use crate::trace::cut;

pub(in crate::api) const EVENTS_DEFAULT: u32 = 100;
pub(in crate::api) const EVENTS_MAX: u32 = 1_000;

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct Events {
    /// The newest ones that match, oldest of them first.
    pub(in crate::api) events: Vec<Event>,
    /// There are older ones that match.
    pub(in crate::api) truncated: bool,
}

/// What a listing may be narrowed by.
pub(in crate::api) const FILTERS: &[&str] = &["trace", "task", "type", "since_min", "limit"];

/// Which events a listing shows.
pub(in crate::api) fn filter(params: &Params) -> Result<EventFilter, QueryError> {
    Ok(EventFilter {
        trace_id: params.text("trace")?.map(str::to_owned),
        event_type: params.text("type")?.map(str::to_owned),
        message_id: params.parsed("task")?,
        since: params.number("since_min", MINUTES)?.map(minutes),
        limit: params.limit(EVENTS_DEFAULT, EVENTS_MAX)?,
        order: Order::NewestFirst,
        ..EventFilter::default()
    })
}

impl Events {
    /// The newest of a filter, oldest of them first.
    pub(in crate::api) async fn read(
        shared: &Shared,
        filter: &EventFilter,
    ) -> Result<Self, ApiError> {
        let limit = filter.limit;
        let one_more = EventFilter {
            limit: limit + 1,
            ..filter.clone()
        };
        let (mut events, truncated) = cut(shared.store().events(&one_more).await?, limit);
        events.reverse();
        Ok(Self { events, truncated })
    }
}

pub(in crate::api) async fn events(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Events>, ApiError> {
    let params = Params::read(query.as_deref(), FILTERS)?;
    Ok(Json(Events::read(&shared, &filter(&params)?).await?))
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
