//! Putting tasks on the bus, and writing events.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::PgCells;
use super::columns::columns;
use super::connection::Turn;
use super::row::{clean, micros, storable, to_json};
use super::{PostgresStore, Step};
use crate::event::NewEvent;
use crate::ids::MessageId;
use crate::store::{StoreError, audit};
use crate::task::{Enqueued, NewTask};

/// The events of a batch in their order, from parameters as [`EventColumns`]
/// binds them.
macro_rules! event_rows {
    ($($parameter:literal),+) => {
        event_rows!(@ $($parameter,)+)
    };
    (@ $step:literal, $place:literal, $type:literal, $id:literal, $service:literal, $role:literal,
       $shard:literal, $tenant:literal, $trace:literal, $reason:literal, $payload:literal,) => {
        concat!(
            "(SELECT unnest(", $step, "::integer[]) AS step, unnest(", $place, "::integer[]) AS place,
      unnest(", $type, "::text[]) AS event_type, unnest(", $id, "::uuid[]) AS message_id,
      unnest(", $service, "::text[]) AS service, unnest(", $role, "::text[]) AS role,
      unnest(", $shard, "::integer[]) AS shard, unnest(", $tenant, "::text[]) AS tenant,
      unnest(", $trace, "::text[]) AS trace_id, unnest(", $reason, "::text[]) AS reason,
      unnest(", $payload, "::text[]) AS payload
    ) AS event"
        )
    };
}
pub(super) use event_rows;

/// The columns of a task within a JSON batch.
macro_rules! task_columns {
    () => {
        "id uuid, service text, role text, shard integer, tenant text, payload jsonb,
    trace_id text, task_id text, priority integer, max_attempts integer, unique_key text,
    delay bigint"
    };
}
pub(super) use task_columns;

/// Notifies once of what was inserted, and only if somebody waits and nobody else
/// is about to: commits that notify queue for one lock of the server. Whoever is
/// told of the other's tasks looks a second time for these. A single task is for
/// a single host, so that one is named: the rest would claim in vain, and in the
/// way of its claim.
macro_rules! hint {
    ($inserted:literal) => {
        concat!(
            "SELECT CASE WHEN pg_try_advisory_xact_lock(hashtextextended('cogo_bus', 0)) THEN
    pg_notify('cogo_bus',
      CASE WHEN (SELECT count(*) FROM ",
            $inserted,
            ") = 1 THEN waiter.holder ELSE '' END)
  END
  FROM (
    SELECT holder FROM executor_waiters WHERE until > now() ORDER BY random() LIMIT 1
  ) AS waiter
  WHERE EXISTS (SELECT FROM ",
            $inserted,
            ")"
        )
    };
}
pub(super) use hint;

/// Ours begin at epoch 0, which tells them from rows of other programs.
///
/// Asked whether it is true, a membership is looked up; left as a condition, it is
/// a join, and of those the session allows nested loops alone.
const INSERT_TASKS: &str = concat!(
    "
WITH task AS MATERIALIZED (
  SELECT * FROM json_to_recordset($1::json) AS task (",
    task_columns!(),
    ", event_type text, reason text, event text)
),
inserted AS (
  INSERT INTO agent_messages
    (id, created_at, service, role, shard, tenant, payload, status, trace_id, task_id,
     priority, max_attempts, unique_key, lease_epoch, retry_at)
  SELECT id, now(), service, role, shard, tenant, payload, 'queued', trace_id, task_id,
    priority, max_attempts, unique_key, 0, now() + delay * interval '1 microsecond'
  FROM task
  -- The id, or the unique key among tasks that have not ended.
  ON CONFLICT DO NOTHING
  RETURNING id
),
event AS (
  INSERT INTO bus_events
    (created_at, event_type, message_id, service, role, shard, tenant, trace_id, reason, payload)
  SELECT now(), event_type, id, service, role, shard, tenant, trace_id, reason, event::jsonb
  FROM task
  WHERE (id IN (SELECT id FROM inserted)) IS TRUE
),
hint AS (
  ",
    hint!("inserted"),
    "
)
SELECT inserted.id
FROM inserted
LEFT JOIN hint ON TRUE"
);

const FIND_EXISTING: &str = "
SELECT wanted.id AS wanted,
  coalesce(
    (SELECT m.id FROM agent_messages AS m WHERE m.id = wanted.id),
    (SELECT m.id FROM agent_messages AS m
     WHERE m.unique_key = wanted.unique_key AND m.unique_key IS NOT NULL
       AND m.status IN ('queued', 'claimed'))
  ) AS id
FROM json_to_recordset($1::json) AS wanted (id uuid, unique_key text)";

const INSERT_EVENTS: &str = concat!(
    "
INSERT INTO bus_events
  (created_at, event_type, message_id, service, role, shard, tenant, trace_id, reason, payload)
SELECT now(), event_type, message_id, service, role, shard, tenant, trace_id, reason,
  payload::jsonb
FROM ",
    event_rows!(
        "$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11"
    ),
    "
ORDER BY step"
);

/// How often a key may slip away between finding it taken and reading by whom.
const KEY_RACES: u32 = 5;

/// A task as an element of a batch.
#[derive(Serialize)]
pub(super) struct TaskCells<'a> {
    id: MessageId,
    service: &'a str,
    role: &'a str,
    shard: i32,
    tenant: Option<&'a str>,
    payload: &'a Value,
    trace_id: &'a str,
    task_id: Option<&'a str>,
    priority: i32,
    max_attempts: Option<u32>,
    unique_key: Option<&'a str>,
    /// In microseconds; absent where it is due at once, by its creation.
    delay: Option<i64>,
}

impl<'a> TaskCells<'a> {
    pub(super) fn of(task: &'a NewTask) -> Self {
        Self {
            id: task.id,
            service: task.route.key.service(),
            role: task.route.key.role(),
            shard: task.route.shard,
            tenant: task.route.tenant.as_deref(),
            payload: &task.payload,
            trace_id: task.trace_id.as_str(),
            task_id: task.task_id.as_deref(),
            priority: task.priority,
            max_attempts: task.max_attempts,
            unique_key: task.unique_key.as_deref(),
            delay: (!task.delay.is_zero()).then(|| micros(task.delay)),
        }
    }
}

/// A new task with the event of that, whose route and trace are the task's.
#[derive(Serialize)]
struct EnqueuedCells<'a> {
    #[serde(flatten)]
    task: TaskCells<'a>,
    event_type: &'a str,
    reason: Option<&'a str>,
    event: Cow<'a, str>,
}

impl<'a> EnqueuedCells<'a> {
    fn of(task: &'a NewTask, event: &'a NewEvent) -> Step<Self> {
        Ok(Self {
            task: TaskCells::of(task),
            event_type: &event.event_type,
            reason: event.reason.as_deref(),
            event: storable(event.payload.as_str())?,
        })
    }
}

pub(super) async fn enqueue(store: &PostgresStore, tasks: &[NewTask]) -> Step<Vec<Enqueued>> {
    // Of two equal ids in one batch, the first is the new one.
    let mut seen = HashSet::with_capacity(tasks.len());
    let mut open: Vec<&NewTask> = tasks.iter().filter(|t| seen.insert(t.id)).collect();
    let mut found: HashMap<MessageId, Enqueued> = HashMap::with_capacity(open.len());
    for _ in 0..KEY_RACES {
        if open.is_empty() {
            break;
        }
        for id in insert(store, &open).await? {
            found.insert(id, Enqueued::New(id));
        }
        open.retain(|task| !found.contains_key(&task.id));
        for (wanted, id) in find_existing(store, &open).await? {
            found.insert(wanted, Enqueued::Existing(id));
        }
        open.retain(|task| !found.contains_key(&task.id));
    }
    let mut first = HashSet::with_capacity(tasks.len());
    let answers = tasks.iter().map(|task| match found.get(&task.id) {
        Some(Enqueued::New(id)) if !first.insert(*id) => Ok(Enqueued::Existing(*id)),
        Some(answer) => Ok(*answer),
        None => Err(StoreError::Unavailable(format!(
            "the unique key of task {} changes hands again and again",
            task.id
        ))),
    });
    Ok(answers.collect::<Result<_, _>>()?)
}

async fn insert(store: &PostgresStore, tasks: &[&NewTask]) -> Step<Vec<MessageId>> {
    let mut turn = store.connections.turn().await?;
    let ids = insert_tasks(&mut turn, tasks).await?;
    turn.finish().await?;
    Ok(ids)
}

/// Puts tasks on the bus within the caller's turn, with their events; those that
/// are new.
pub(super) async fn insert_tasks(turn: &mut Turn, tasks: &[&NewTask]) -> Step<Vec<MessageId>> {
    let events: Vec<NewEvent> = tasks.iter().map(|task| audit::enqueued(task)).collect();
    let cells = tasks.iter().zip(&events);
    let cells: Vec<EnqueuedCells<'_>> = cells
        .map(|(task, event)| EnqueuedCells::of(task, event))
        .collect::<Step<_>>()?;
    let query = turn.query(INSERT_TASKS).bind(to_json(&cells)?);
    let rows = query.fetch_all(turn.conn()).await?;
    let ids = rows
        .iter()
        .map(|row| PgCells::of("agent_messages", row).id("id"));
    ids.collect()
}

async fn find_existing(
    store: &PostgresStore,
    open: &[&NewTask],
) -> Step<Vec<(MessageId, MessageId)>> {
    let mut existing = Vec::with_capacity(open.len());
    if open.is_empty() {
        return Ok(existing);
    }
    let keys: Vec<Value> = open
        .iter()
        .map(|task| serde_json::json!({ "id": task.id, "unique_key": task.unique_key }))
        .collect();
    let mut turn = store.connections.turn().await?;
    let query = turn.query(FIND_EXISTING).bind(to_json(&keys)?);
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        if sqlx::Row::try_get::<Option<uuid::Uuid>, _>(row, "id")?.is_some() {
            existing.push((cells.id("wanted")?, cells.id("id")?));
        }
    }
    Ok(existing)
}

pub(super) async fn record(store: &PostgresStore, events: &[NewEvent]) -> Step<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut turn = store.connections.turn().await?;
    insert_events(&mut turn, events).await?;
    turn.finish().await
}

columns! {
    struct EventCells;
    /// The events of a statement, as [`event_rows`] reads them.
    struct EventColumns {
        /// Its own place in the order.
        step: i32,
        /// Where its cause stands in the batch.
        place: i32,
        event_type: Cow<'a, str>,
        message_id: Option<Uuid>,
        service: Option<Cow<'a, str>>,
        role: Option<Cow<'a, str>>,
        shard: Option<i32>,
        tenant: Option<Cow<'a, str>>,
        trace_id: Cow<'a, str>,
        reason: Option<Cow<'a, str>>,
        payload: Cow<'a, str>,
    }
}

impl<'a> EventColumns<'a> {
    pub(super) fn of(events: impl IntoIterator<Item = &'a NewEvent>) -> Step<Self> {
        let mut columns = Self::default();
        for (place, event) in (0..).zip(events) {
            columns.push(place, event)?;
        }
        Ok(columns)
    }

    pub(super) fn push(&mut self, place: i32, event: &'a NewEvent) -> Step<()> {
        let route = event.route.as_ref();
        self.push_row(EventCells {
            step: i32::try_from(self.step.len()).unwrap_or(i32::MAX),
            place,
            event_type: clean(&*event.event_type),
            message_id: event.message_id.map(|id| id.0),
            service: route.map(|r| clean(r.key.service())),
            role: route.map(|r| clean(r.key.role())),
            shard: route.map(|r| r.shard),
            tenant: route.and_then(|r| r.tenant.as_deref()).map(clean),
            trace_id: clean(event.trace_id.as_str()),
            reason: event.reason.as_deref().map(clean),
            payload: storable(event.payload.as_str())?,
        });
        Ok(())
    }

    const fn is_empty(&self) -> bool {
        self.event_type.is_empty()
    }
}

/// Writes events within the caller's turn.
pub(super) async fn insert_events<'e>(
    turn: &mut Turn,
    events: impl IntoIterator<Item = &'e NewEvent>,
) -> Step<()> {
    let columns = EventColumns::of(events)?;
    if !columns.is_empty() {
        let query = columns.bind(turn.query(INSERT_EVENTS));
        query.execute(turn.conn()).await?;
    }
    Ok(())
}
