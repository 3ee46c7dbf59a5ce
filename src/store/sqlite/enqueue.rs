//! Putting tasks on the bus, and writing events.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::sqlite::SqliteConnection;

use super::row::Cells;
use super::{Batch, SqliteStore, Step, modifier};
use crate::attempt::Fence;
use crate::event::{EventPayload, NewEvent};
use crate::ids::MessageId;
use crate::store::{StoreError, audit};
use crate::task::{Enqueued, NewTask};

/// Ours begin at epoch 0, which tells them from rows of other programs.
const INSERT_TASKS: &str = "
INSERT INTO agent_messages
  (id, service, role, shard, tenant, payload, trace_id, task_id,
   priority, max_attempts, unique_key, lease_epoch, retry_at)
SELECT
  value ->> 'id', value ->> 'service', value ->> 'role', value ->> 'shard', value ->> 'tenant',
  value -> 'payload', value ->> 'trace_id', value ->> 'task_id',
  value ->> 'priority', value ->> 'max_attempts', value ->> 'unique_key', 0,
  strftime('%Y-%m-%dT%H:%M:%fZ', 'now', value ->> 'delay')
FROM jsonb_each(?1)
WHERE TRUE
-- The id, or the unique key among tasks that have not ended.
ON CONFLICT DO NOTHING
RETURNING id";

const FIND_EXISTING: &str = "
SELECT value ->> 'id' AS wanted,
  coalesce(
    (SELECT m.id FROM agent_messages AS m WHERE m.id = value ->> 'id'),
    (SELECT m.id FROM agent_messages AS m INDEXED BY agent_messages_unique
     WHERE m.unique_key = value ->> 'unique_key' AND m.unique_key IS NOT NULL
       AND m.status IN ('queued', 'claimed'))
  ) AS id
FROM jsonb_each(?1)";

pub(super) const INSERT_EVENTS: &str = "
INSERT INTO bus_events
  (event_type, message_id, service, role, shard, tenant, trace_id, reason, payload)
SELECT
  value ->> 'event_type', value ->> 'message_id', value ->> 'service', value ->> 'role',
  value ->> 'shard', value ->> 'tenant', value ->> 'trace_id', value ->> 'reason',
  value -> 'payload'
FROM jsonb_each(?1)";

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
    /// Absent where it is due at once, by its creation.
    delay: Option<String>,
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
            delay: (!task.delay.is_zero()).then(|| modifier(task.delay)),
        }
    }
}

pub(super) async fn enqueue(store: &SqliteStore, tasks: &[NewTask]) -> Step<Vec<Enqueued>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let cells: Vec<TaskCells<'_>> = tasks.iter().map(TaskCells::of).collect();
    let batch = serde_json::to_string(&cells)?;
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let rows = sqlx::query(INSERT_TASKS)
        .bind(batch)
        .fetch_all(writer.conn()?)
        .await?;
    let mut inserted = HashSet::with_capacity(rows.len());
    for row in &rows {
        inserted.insert(Cells::of("agent_messages", row).parsed::<MessageId>("id")?);
    }
    // Of two equal ids in one batch, the first is the new one.
    let is_new: Vec<bool> = tasks.iter().map(|t| inserted.remove(&t.id)).collect();
    let fresh = tasks.iter().zip(&is_new).filter(|(_, new)| **new);
    let events: Vec<NewEvent> = fresh.map(|(task, _)| audit::enqueued(task)).collect();
    insert_events(writer.conn()?, &events).await?;
    let known = cells.iter().zip(&is_new).filter(|(_, new)| !**new);
    let known: Vec<&TaskCells<'_>> = known.map(|(cells, _)| cells).collect();
    let existing = find_existing(writer.conn()?, &known).await?;
    writer.commit().await?;
    let outcome = |(task, new): (&NewTask, &bool)| match (new, existing.get(&task.id)) {
        (true, _) => Ok(Enqueued::New(task.id)),
        (false, Some(id)) => Ok(Enqueued::Existing(*id)),
        (false, None) => Err(StoreError::Refused(format!(
            "task {} was not inserted",
            task.id
        ))),
    };
    let outcomes: Result<Vec<_>, _> = tasks.iter().zip(&is_new).map(outcome).collect();
    Ok(outcomes?)
}

/// Puts one task on the bus within the caller's transaction, with its event.
pub(super) async fn insert_task(conn: &mut SqliteConnection, task: &NewTask) -> Step<()> {
    let batch = Batch::of(&[TaskCells::of(task)])?;
    batch.execute(conn, INSERT_TASKS).await?;
    insert_events(conn, [&audit::enqueued(task)]).await
}

async fn find_existing(
    conn: &mut SqliteConnection,
    known: &[&TaskCells<'_>],
) -> Step<HashMap<MessageId, MessageId>> {
    let mut existing = HashMap::with_capacity(known.len());
    if known.is_empty() {
        return Ok(existing);
    }
    let keys: Vec<Value> = known
        .iter()
        .map(|cells| serde_json::json!({ "id": cells.id, "unique_key": cells.unique_key }))
        .collect();
    let rows = sqlx::query(FIND_EXISTING)
        .bind(serde_json::to_string(&keys)?)
        .fetch_all(conn)
        .await?;
    for row in &rows {
        let cells = Cells::of("agent_messages", row);
        existing.insert(cells.parsed("wanted")?, cells.parsed("id")?);
    }
    Ok(existing)
}

pub(super) async fn record(store: &SqliteStore, events: &[NewEvent]) -> Step<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    insert_events(writer.conn()?, events).await?;
    writer.commit().await
}

#[derive(Serialize)]
struct EventCells<'a> {
    event_type: &'a str,
    message_id: Option<MessageId>,
    service: Option<&'a str>,
    role: Option<&'a str>,
    shard: Option<i32>,
    tenant: Option<&'a str>,
    trace_id: &'a str,
    reason: Option<&'a str>,
    payload: &'a EventPayload,
}

/// Writes events within the caller's transaction.
pub(super) async fn insert_events<'e>(
    conn: &mut SqliteConnection,
    events: impl IntoIterator<Item = &'e NewEvent>,
) -> Step<()> {
    event_batch(events)?.execute(conn, INSERT_EVENTS).await
}

/// Events as [`INSERT_EVENTS`] takes them.
pub(super) fn event_batch<'e>(events: impl IntoIterator<Item = &'e NewEvent>) -> Step<Batch> {
    let cells: Vec<EventCells<'_>> = events.into_iter().map(EventCells::of).collect();
    Batch::of(&cells)
}

impl<'a> EventCells<'a> {
    fn of(event: &'a NewEvent) -> Self {
        let route = event.route.as_ref();
        Self {
            event_type: &event.event_type,
            message_id: event.message_id,
            service: route.map(|r| r.key.service()),
            role: route.map(|r| r.key.role()),
            shard: route.map(|r| r.shard),
            tenant: route.and_then(|r| r.tenant.as_deref()),
            trace_id: event.trace_id.as_str(),
            reason: event.reason.as_deref(),
            payload: &event.payload,
        }
    }
}

/// A fence as an element of a batch.
#[derive(Serialize)]
pub(super) struct FenceCells {
    pub(super) id: MessageId,
    pub(super) epoch: i64,
}

impl From<&Fence> for FenceCells {
    fn from(fence: &Fence) -> Self {
        Self {
            id: fence.id,
            epoch: fence.epoch.0,
        }
    }
}
