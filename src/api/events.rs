//! `/api/events`: the audit events as they come, as server-sent events.
//!
//! A client that comes back with `Last-Event-ID` misses nothing; one that says
//! nothing hears what happens from now on. Each data line is one event as
//! `/api/metrics/bus/events` shows it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::error::ApiError;
use super::guard::Connection;
use super::query::{Params, QueryError, shortened};
use crate::event::Event;
use crate::store::{EventFilter, Order};

/// Each asks the database twice a second.
pub(super) const STREAMS_MAX: usize = 64;
const POLL: Duration = Duration::from_millis(500);
/// While the database is away.
const BACKOFF: Duration = Duration::from_secs(2);
/// Often enough for proxies that cut silent connections after half a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After which a client that lost the connection comes back.
const RECONNECT: Duration = Duration::from_secs(1);
const PAGE: u32 = 200;

pub(super) async fn follow(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::read(query.as_deref(), &["trace", "type", "after"])?;
    let place = Arc::clone(&shared.streams);
    let place = place
        .try_acquire_owned()
        .map_err(|_| ApiError::TooManyStreams)?;
    let after = match seen(&headers, &params)? {
        Some(id) => id,
        None => newest(&shared).await?,
    };
    let filter = EventFilter {
        trace_id: params.text("trace")?.map(str::to_owned),
        event_type: params.text("type")?.map(str::to_owned),
        after_id: Some(after),
        limit: PAGE,
        order: Order::OldestFirst,
        ..EventFilter::default()
    };
    let follower = Follower {
        shared,
        filter,
        read: VecDeque::new(),
        pause: Duration::ZERO,
        closing: connection.closing,
        _place: place,
    };
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(Sse::new(messages(follower))
        .keep_alive(heartbeat)
        .into_response())
}

/// The last event that the client knows of. What a browser sends by itself on
/// coming back is newer than what the page once asked for.
fn seen(headers: &HeaderMap, params: &Params) -> Result<Option<i64>, QueryError> {
    let header = headers.get("last-event-id").filter(|id| !id.is_empty());
    let text = match header {
        Some(id) => Some(id.to_str().unwrap_or("?")),
        None => params.text("after")?,
    };
    let Some(text) = text else {
        return Ok(None);
    };
    match text.parse() {
        Ok(id @ 0..) => Ok(Some(id)),
        _ => Err(QueryError::Value {
            name: "after",
            problem: format!(
                "`{}` is not the id of an event; expected a whole number (`Last-Event-ID` likewise)",
                shortened(text)
            ),
        }),
    }
}

/// The latest event there is, by its id; 0 where there is none.
pub(super) async fn newest(shared: &Shared) -> Result<i64, ApiError> {
    let filter = EventFilter {
        limit: 1,
        order: Order::NewestFirst,
        ..EventFilter::default()
    };
    let events = shared.store().events(&filter).await?;
    Ok(events.first().map_or(0, |event| event.id))
}

struct Follower {
    shared: Arc<Shared>,
    filter: EventFilter,
    /// Read and not sent yet.
    read: VecDeque<Event>,
    /// Until the next look.
    pause: Duration,
    closing: CancellationToken,
    _place: OwnedSemaphorePermit,
}

fn messages(follower: Follower) -> impl Stream<Item = Result<Message, Infallible>> + Send {
    let hello = Message::default().retry(RECONNECT).comment("following");
    let rest = stream::unfold(follower, |mut follower| async move {
        let message = follower.next().await?;
        Some((Ok(message), follower))
    });
    stream::StreamExt::chain(stream::once(async { Ok(hello) }), rest)
}

impl Follower {
    /// The next message, or `None` once the host closes.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Some(message(&event));
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                () = tokio::time::sleep(self.pause) => {}
            }
            match self.shared.store().events(&self.filter).await {
                Ok(events) => {
                    let full = events.len() == PAGE as usize;
                    self.pause = if full { Duration::ZERO } else { POLL };
                    if let Some(last) = events.last() {
                        self.filter.after_id = Some(last.id);
                    }
                    self.read.extend(events);
                }
                Err(error) => {
                    if self.pause != BACKOFF {
                        tracing::warn!(%error, "cannot read events for a client; trying again");
                    }
                    self.pause = BACKOFF;
                    return Some(Message::default().comment("the database is unavailable"));
                }
            }
        }
    }
}

fn message(event: &Event) -> Message {
    let id = event.id.to_string();
    match Message::default().id(&id).json_data(event) {
        Ok(message) => message,
        // An event is plain data; should it ever not serialise, the client
        // still learns that it was there.
        Err(error) => {
            tracing::error!(%error, "event {id} cannot be sent");
            Message::default()
                .id(id)
                .comment("an event that cannot be shown")
        }
    }
}
