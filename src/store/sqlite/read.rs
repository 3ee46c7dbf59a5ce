//! Reads for people and programs. They run on connections of their own and
//! never wait for the writer.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};

use super::row::Cells;
use super::{SqliteStore, Step, modifier_back};
use crate::event::Event;
use crate::ids::MessageId;
use crate::route::{Route, RouteKey};
use crate::store::{ArtifactRow, AttemptRow, Depth, EventFilter, Order, TaskFilter};
use crate::task::{Status, TaskRow};

const PING: &str = "SELECT count(*) FROM sqlite_schema";

/// The columns of a [`TaskRow`] without its payload.
const SELECT_TASKS: &str = "
SELECT id, created_at, service, role, shard, tenant, task_id, trace_id, status, priority,
  attempts, max_attempts, host_faults, unique_key, claimed_by, claimed_at, lease_epoch,
  lease_expires_at, cancel_requested_at, done_at, retry_at, last_error_at, error,
  result_snippet, result_url, result, NULL AS payload
FROM agent_messages
WHERE TRUE";

const SELECT_TASK: &str = "
SELECT id, created_at, service, role, shard, tenant, task_id, trace_id, status, priority,
  attempts, max_attempts, host_faults, unique_key, claimed_by, claimed_at, lease_epoch,
  lease_expires_at, cancel_requested_at, done_at, retry_at, last_error_at, error,
  result_snippet, result_url, result, payload
FROM agent_messages
WHERE id = ?1";

const SELECT_ATTEMPTS: &str = "
SELECT message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
  claimed_at, ended_at, wait_ms, run_ms, outcome, code, blame, usage, peak_memory_bytes,
  outbound_requests, spans, log, log_dropped
FROM executor_attempts
WHERE message_id = ?1
ORDER BY lease_epoch";

const SELECT_EVENTS: &str = "
SELECT id, created_at, event_type, message_id, service, role, shard, tenant, trace_id,
  reason, payload
FROM bus_events
WHERE TRUE";

/// Each status by the partial index that knows it.
const DEPTH: &str = "
SELECT
  (SELECT count(*) FROM agent_messages WHERE status = 'queued') AS queued,
  (SELECT count(*) FROM agent_messages WHERE status = 'claimed' AND lease_expires_at IS NOT NULL)
    + (SELECT count(*) FROM agent_messages WHERE status = 'claimed' AND lease_expires_at IS NULL)
    AS claimed,
  (SELECT count(*) FROM agent_messages
   WHERE status IN ('done', 'failed') AND status = 'done') AS done,
  (SELECT count(*) FROM agent_messages
   WHERE status IN ('done', 'failed') AND status = 'failed') AS failed,
  (SELECT CAST(round((julianday('now') - julianday(min(coalesce(retry_at, created_at))))
      * 86400000.0) AS INTEGER)
   FROM agent_messages
   WHERE status = 'queued'
     AND coalesce(retry_at, created_at) <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
  ) AS oldest_due_ms";

const SELECT_ARTIFACT: &str = "
SELECT message_id, task_id, trace_id, path, content_type, digest, bytes, created_at
FROM executor_artifacts
WHERE task_id = ?1 AND path = ?2
ORDER BY created_at DESC, rowid DESC
LIMIT 1";

const SELECT_ROUTES: &str = "
SELECT DISTINCT service, role, shard, tenant
FROM agent_messages
ORDER BY service, role, shard, tenant";

pub(super) async fn ping(store: &SqliteStore) -> Step<()> {
    let mut conn = store.readers.acquire().await?;
    sqlx::query(PING).fetch_one(&mut *conn).await?;
    Ok(())
}

pub(super) async fn task(store: &SqliteStore, id: MessageId) -> Step<Option<TaskRow>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(SELECT_TASK)
        .bind(id.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    row.as_ref().map(task_row).transpose()
}

pub(super) async fn tasks(store: &SqliteStore, filter: &TaskFilter) -> Step<Vec<TaskRow>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(SELECT_TASKS);
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(route) = &filter.route {
        query
            .push(" AND service = ")
            .push_bind(route.service().to_owned());
        query
            .push(" AND role = ")
            .push_bind(route.role().to_owned());
    }
    if let Some(trace_id) = &filter.trace_id {
        query
            .push(" AND trace_id = ")
            .push_bind(trace_id.as_str().to_owned());
    }
    if let Some(task_id) = &filter.task_id {
        query.push(" AND task_id = ").push_bind(task_id.clone());
    }
    query
        .push(" ORDER BY created_at DESC, id DESC LIMIT ")
        .push_bind(filter.limit);
    let mut conn = store.readers.acquire().await?;
    let rows = query.build().fetch_all(&mut *conn).await?;
    rows.iter().map(task_row).collect()
}

fn task_row(row: &SqliteRow) -> Step<TaskRow> {
    let cells = Cells::of("agent_messages", row);
    let max_attempts = cells.int("max_attempts")?;
    Ok(TaskRow {
        id: cells.parsed("id")?,
        created_at: cells.required_instant("created_at")?,
        service: cells.required_text("service")?,
        role: cells.required_text("role")?,
        shard: cells.int32("shard")?,
        tenant: cells.text("tenant")?,
        task_id: cells.text("task_id")?,
        trace_id: cells.text("trace_id")?,
        status: cells.parsed::<Status>("status")?,
        priority: cells.int32("priority")?,
        attempts: cells.count32("attempts")?,
        max_attempts: max_attempts.map(|max| u32::try_from(max).unwrap_or(0)),
        host_faults: cells.count32("host_faults")?,
        unique_key: cells.text("unique_key")?,
        claimed_by: cells.text("claimed_by")?,
        claimed_at: cells.instant("claimed_at")?,
        lease_epoch: cells.int("lease_epoch")?.unwrap_or(0),
        lease_expires_at: cells.instant("lease_expires_at")?,
        cancel_requested_at: cells.instant("cancel_requested_at")?,
        done_at: cells.instant("done_at")?,
        retry_at: cells.instant("retry_at")?,
        last_error_at: cells.instant("last_error_at")?,
        error: cells.text("error")?,
        result_snippet: cells.text("result_snippet")?,
        result_url: cells.text("result_url")?,
        result: cells.json("result")?,
        payload: cells.json("payload")?,
    })
}

pub(super) async fn attempts(store: &SqliteStore, id: MessageId) -> Step<Vec<AttemptRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ATTEMPTS)
        .bind(id.to_string())
        .fetch_all(&mut *conn)
        .await?;
    rows.iter().map(attempt_row).collect()
}

fn attempt_row(row: &SqliteRow) -> Step<AttemptRow> {
    let cells = Cells::of("executor_attempts", row);
    Ok(AttemptRow {
        message_id: cells.parsed("message_id")?,
        lease_epoch: cells.int("lease_epoch")?.unwrap_or(0),
        attempt: cells.count32("attempt")?,
        host: cells.required_text("host")?,
        plugin: cells.text("plugin")?,
        version: cells.text("version")?,
        digest: cells.parsed_opt("digest")?,
        kind: cells.text("kind")?,
        stage: cells.text("stage")?,
        why: cells.json("why")?,
        claimed_at: cells.instant("claimed_at")?,
        ended_at: cells.required_instant("ended_at")?,
        wait_ms: cells.count("wait_ms")?,
        run_ms: cells.count("run_ms")?,
        outcome: cells.required_text("outcome")?,
        code: cells.text("code")?,
        blame: cells.text("blame")?,
        usage: cells.json("usage")?.unwrap_or_default(),
        peak_memory_bytes: cells.count("peak_memory_bytes")?,
        outbound_requests: cells.count32("outbound_requests")?,
        spans: cells.json("spans")?.unwrap_or_default(),
        log: cells.json("log")?.unwrap_or_default(),
        log_dropped: cells.count32("log_dropped")?,
    })
}

pub(super) async fn events(store: &SqliteStore, filter: &EventFilter) -> Step<Vec<Event>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(SELECT_EVENTS);
    if let Some(trace_id) = &filter.trace_id {
        query.push(" AND trace_id = ").push_bind(trace_id.clone());
    }
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if let Some(id) = filter.message_id {
        query.push(" AND message_id = ").push_bind(id.to_string());
    }
    if let Some(since) = filter.since {
        query.push(" AND created_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ");
        query.push_bind(modifier_back(since)).push(")");
    }
    if let Some(after) = filter.after_id {
        query.push(" AND id > ").push_bind(after);
    }
    query.push(match filter.order {
        Order::OldestFirst => " ORDER BY id LIMIT ",
        Order::NewestFirst => " ORDER BY id DESC LIMIT ",
    });
    query.push_bind(filter.limit);
    let mut conn = store.readers.acquire().await?;
    let rows = query.build().fetch_all(&mut *conn).await?;
    rows.iter().map(event_row).collect()
}

fn event_row(row: &SqliteRow) -> Step<Event> {
    let cells = Cells::of("bus_events", row);
    let shard = cells.int("shard")?;
    Ok(Event {
        id: cells.int("id")?.unwrap_or(0),
        created_at: cells.required_instant("created_at")?,
        event_type: cells.required_text("event_type")?,
        // Other programs write events, too; theirs may name what they like.
        message_id: cells.text("message_id")?.and_then(|text| text.parse().ok()),
        service: cells.text("service")?,
        role: cells.text("role")?,
        shard: shard.and_then(|shard| i32::try_from(shard).ok()),
        tenant: cells.text("tenant")?,
        trace_id: cells.text("trace_id")?,
        reason: cells.text("reason")?,
        payload: cells.json("payload")?.unwrap_or_default(),
    })
}

pub(super) async fn depth(store: &SqliteStore) -> Step<Depth> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(DEPTH).fetch_one(&mut *conn).await?;
    let cells = Cells::of("agent_messages", &row);
    let oldest = cells.int("oldest_due_ms")?;
    Ok(Depth {
        queued: cells.count("queued")?,
        claimed: cells.count("claimed")?,
        done: cells.count("done")?,
        failed: cells.count("failed")?,
        oldest_due_ms: oldest.map(|ms| u64::try_from(ms).unwrap_or(0)),
    })
}

pub(super) async fn artifact(
    store: &SqliteStore,
    task_id: &str,
    path: &str,
) -> Step<Option<ArtifactRow>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(SELECT_ARTIFACT)
        .bind(task_id)
        .bind(path)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let cells = Cells::of("executor_artifacts", &row);
    Ok(Some(ArtifactRow {
        message_id: cells.parsed("message_id")?,
        task_id: cells.required_text("task_id")?,
        trace_id: cells.parsed("trace_id")?,
        path: cells.required_text("path")?,
        content_type: cells.required_text("content_type")?,
        digest: cells.parsed("digest")?,
        bytes: cells.count("bytes")?,
        created_at: cells.required_instant("created_at")?,
    }))
}

pub(super) async fn routes(store: &SqliteStore) -> Step<Vec<Route>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ROUTES).fetch_all(&mut *conn).await?;
    let mut routes = Vec::with_capacity(rows.len());
    for row in &rows {
        let cells = Cells::of("agent_messages", row);
        // Somebody else's names may be none of ours.
        let key = RouteKey::new(
            &cells.required_text("service")?,
            &cells.required_text("role")?,
        );
        if let Ok(key) = key {
            routes.push(Route {
                key,
                shard: cells.int32("shard")?,
                tenant: cells.text("tenant")?,
            });
        }
    }
    Ok(routes)
}
