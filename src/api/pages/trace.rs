//! `/ui/traces/{trace}`: one trace from end to end, in time.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use chrono::Utc;

use super::action::Command;
use super::events::EventLine;
use super::form::asking;
use super::frame::{Frame, Section};
use super::gate::GateShown;
use super::shown::part;
use super::tasks::TaskLine;
use super::waterfall::Waterfall;
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::events::newest;
use crate::api::metrics::trace::read;
use crate::api::path::Id;
use crate::api::query::Params;
use crate::ids::TraceId;

/// More events than one reads; the API has all.
const EVENTS: usize = 300;
/// More tasks than one reads; the API has all.
const TASKS: usize = 100;

#[derive(Template)]
#[template(path = "trace.html", config = "src/api/pages/askama.toml")]
struct TracePage {
    frame: Frame,
    trace: String,
    w3c: String,
    gate: GateShown,
    waterfall: Waterfall,
    tasks: Vec<TaskLine>,
    events: Vec<EventLine>,
    /// There is more than is shown.
    truncated: bool,
    /// All events of the trace.
    events_href: String,
    json: String,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Id(trace): Id<TraceId>,
    RawQuery(query): RawQuery,
) -> Answer {
    Params::read(query.as_deref(), &[])?;
    let after = newest(&shared).await?;
    let view = read(&shared, trace).await?;
    let trace = view.trace_id.as_str();
    let json = format!("/api/metrics/trace/{}", part(trace));
    let gate = asking("/api/workflows/gate", [("trace", Some(trace.to_owned()))]);
    let page = TracePage {
        frame: Frame::new(&shared, Section::Elsewhere, format!("Trace {trace}"))
            .after(after)
            .path(json.clone())
            .path(gate)
            .command(Command::new("trace").about(trace))
            .command(Command::new("gate").option("--trace", trace)),
        trace: trace.to_owned(),
        w3c: view.w3c_trace_id.clone(),
        gate: GateShown::of(&view.gate),
        waterfall: Waterfall::of(&view, Utc::now()),
        tasks: view
            .tasks
            .iter()
            .take(TASKS)
            .map(|task| TaskLine::of(&task.task))
            .collect(),
        events: view.events.iter().take(EVENTS).map(EventLine::of).collect(),
        truncated: view.truncated || view.events.len() > EVENTS || view.tasks.len() > TASKS,
        events_href: asking("/ui/events", [("trace", Some(trace.to_owned()))]),
        json,
    };
    Ok(rendered(StatusCode::OK, &page))
}
