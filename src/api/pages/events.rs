//! `/ui/events`: the audit trail, newest first.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;

use super::action::Command;
use super::form::{asking, filled};
use super::frame::{Frame, Section};
use super::shown::{Badge, Excerpt, LongId, Tone, When, part};
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::events::newest;
pub(super) use crate::api::metrics::bus::FILTERS;
use crate::api::metrics::bus::{EVENTS_DEFAULT, EVENTS_MAX, Events, filter};
use crate::event::Event;
use crate::store::EventFilter;

/// More of an event's payload than one reads in passing, in bytes.
const PAYLOAD: usize = 2 * 1024;

#[derive(Template)]
#[template(path = "events.html", config = "src/api/pages/askama.toml")]
struct EventsPage {
    frame: Frame,
    asked: Asked,
    events: Vec<EventLine>,
    /// Where more of them are, if there are more.
    more: Option<String>,
    truncated: bool,
    narrowed: bool,
}

/// The filters as they were given.
#[derive(Default)]
struct Asked {
    trace: String,
    task: String,
    event_type: String,
    since_min: String,
}

/// An event as a line.
pub(super) struct EventLine {
    pub(super) id: i64,
    pub(super) at: When,
    pub(super) event_type: Badge,
    pub(super) route: String,
    pub(super) reason: String,
    pub(super) actor: String,
    /// The task and its page.
    pub(super) task: Option<(LongId, String)>,
    /// The trace and its page.
    pub(super) trace: Option<(String, String)>,
    pub(super) payload: Option<Excerpt>,
}

impl EventLine {
    pub(super) fn of(event: &Event) -> Self {
        let actor = event.payload.get("actor").and_then(|actor| actor.as_str());
        let has_payload = !event.payload.is_null() && event.payload != serde_json::json!({});
        Self {
            id: event.id,
            at: When::of(event.created_at),
            event_type: Badge::new(tone(&event.event_type), event.event_type.clone()),
            route: match (&event.service, &event.role) {
                (Some(service), Some(role)) => format!("{service}/{role}"),
                _ => String::new(),
            },
            reason: event.reason.clone().unwrap_or_default(),
            actor: actor.unwrap_or_default().to_owned(),
            task: event
                .message_id
                .map(|id| (LongId::of(id), format!("/ui/tasks/{id}"))),
            trace: event.trace_id.as_deref().map(trace_link),
            payload: has_payload.then(|| Excerpt::json(&event.payload, PAYLOAD)),
        }
    }
}

/// A trace and its page.
pub(super) fn trace_link(trace: &str) -> (String, String) {
    (trace.to_owned(), format!("/ui/traces/{}", part(trace)))
}

/// By what an event is called: other programs write some, too.
fn tone(event_type: &str) -> Tone {
    const BAD: [&str; 5] = [
        "_failed",
        "_rejected",
        "_violation",
        "_lost",
        "breaker_opened",
    ];
    const WARN: [&str; 7] = [
        "_retry",
        "_fallback",
        "_rescued",
        "_held",
        "_rolled_back",
        "_aborted",
        "_difference",
    ];
    const GOOD: [&str; 4] = ["_done", "_promoted", "_released", "breaker_closed"];
    let ends = |endings: &[&str]| endings.iter().any(|end| event_type.ends_with(end));
    match () {
        () if ends(&BAD) => Tone::Bad,
        () if ends(&WARN) => Tone::Warn,
        () if ends(&GOOD) => Tone::Good,
        () => Tone::Quiet,
    }
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let after = newest(&shared).await?;
    let params = filled(query.as_deref(), FILTERS)?;
    let filter = filter(&params)?;
    let given =
        |name| -> Result<String, _> { params.text(name).map(|v| v.unwrap_or_default().to_owned()) };
    let asked = Asked {
        trace: given("trace")?,
        task: given("task")?,
        event_type: given("type")?,
        since_min: given("since_min")?,
    };
    let Events { events, truncated } = Events::read(&shared, &filter).await?;
    let page = EventsPage {
        frame: frame(&shared, &asked, &filter, after),
        events: events.iter().rev().map(EventLine::of).collect(),
        more: more(&asked, &filter, truncated),
        truncated,
        narrowed: asked.fields(None).into_iter().any(|(_, v)| v.is_some()),
        asked,
    };
    Ok(rendered(StatusCode::OK, &page))
}

impl Asked {
    fn fields(&self, limit: Option<u32>) -> [(&'static str, Option<String>); 5] {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        [
            ("trace", given(&self.trace)),
            ("task", given(&self.task)),
            ("type", given(&self.event_type)),
            ("since_min", given(&self.since_min)),
            ("limit", limit.map(|limit| limit.to_string())),
        ]
    }
}

fn frame(shared: &Shared, asked: &Asked, filter: &EventFilter, after: i64) -> Frame {
    let limit = Some(filter.limit).filter(|limit| *limit != EVENTS_DEFAULT);
    let frame = Frame::new(shared, Section::Events, "Events")
        .after(after)
        .path(asking("/api/metrics/bus/events", asked.fields(limit)))
        .path("/api/events");
    match asked.trace.as_str() {
        "" => frame,
        trace => frame.command(Command::new("trace").about(trace)),
    }
}

fn more(asked: &Asked, filter: &EventFilter, truncated: bool) -> Option<String> {
    let next = [200, 500, EVENTS_MAX]
        .into_iter()
        .find(|n| *n > filter.limit);
    let next = next.filter(|_| truncated)?;
    Some(asking("/ui/events", asked.fields(Some(next))))
}
