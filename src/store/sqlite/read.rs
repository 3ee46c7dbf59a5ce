//! Reads for people and programs. They run on connections of their own and
//! never wait for the writer.

use sqlx::{QueryBuilder, Sqlite};

use super::row::Cells;
use super::{SqliteStore, Step, modifier_back};
use crate::event::Event;
use crate::ids::MessageId;
use crate::route::Route;
use crate::store::rows;
use crate::store::{ArtifactRow, AttemptRow, Depth, EventFilter, Order, TaskFilter, Waiting, Want};
use crate::task::TaskRow;

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

const COUNT_QUEUED: &str = "
SELECT count(*) AS n
FROM agent_messages
WHERE status = 'queued' AND service = ?1 AND role = ?2
  AND (?3 IS NULL OR shard = ?3)
  AND (?4 IS NULL OR tenant = ?4)";

const WAITING: &str = "
SELECT service, role, count(*) AS queued,
  CAST(round((julianday('now') - julianday(min(coalesce(retry_at, created_at)) FILTER (
      WHERE coalesce(retry_at, created_at) <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))))
    * 86400000.0) AS INTEGER) AS oldest_due_ms
FROM agent_messages
WHERE status = 'queued'
GROUP BY service, role
ORDER BY service, role
LIMIT 100";

const SELECT_ARTIFACT: &str = "
SELECT message_id, task_id, trace_id, path, content_type, digest, bytes, created_at
FROM executor_artifacts
WHERE task_id = ?1 AND path = ?2
ORDER BY created_at DESC, rowid DESC
LIMIT 1";

/// Of tasks that have not ended, each by the partial index that knows it.
const SELECT_ROUTES: &str = "
SELECT service, role, shard, tenant FROM agent_messages
WHERE status = 'queued'
UNION
SELECT service, role, shard, tenant FROM agent_messages
WHERE status = 'claimed' AND lease_expires_at IS NOT NULL
UNION
SELECT service, role, shard, tenant FROM agent_messages
WHERE status = 'claimed' AND lease_expires_at IS NULL
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
    let task = row.map(|row| rows::task(&Cells::of("agent_messages", &row)));
    task.transpose()
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
    rows.iter()
        .map(|row| rows::task(&Cells::of("agent_messages", row)))
        .collect()
}

pub(super) async fn attempts(store: &SqliteStore, id: MessageId) -> Step<Vec<AttemptRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ATTEMPTS)
        .bind(id.to_string())
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|row| rows::attempt(&Cells::of("executor_attempts", row)))
        .collect()
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
    rows.iter()
        .map(|row| rows::event(&Cells::of("bus_events", row)))
        .collect()
}

pub(super) async fn depth(store: &SqliteStore) -> Step<Depth> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(DEPTH).fetch_one(&mut *conn).await?;
    rows::depth(&Cells::of("agent_messages", &row))
}

pub(super) async fn queued(store: &SqliteStore, want: &Want) -> Step<u64> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(COUNT_QUEUED)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(want.shard)
        .bind(want.tenant.as_deref())
        .fetch_one(&mut *conn)
        .await?;
    Cells::of("agent_messages", &row).count("n")
}

pub(super) async fn waiting(store: &SqliteStore) -> Step<Vec<Waiting>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(WAITING).fetch_all(&mut *conn).await?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in &rows {
        waiting.extend(rows::waiting(&Cells::of("agent_messages", row))?);
    }
    Ok(waiting)
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
    let artifact = row.map(|row| rows::artifact(&Cells::of("executor_artifacts", &row)));
    artifact.transpose()
}

pub(super) async fn routes(store: &SqliteStore) -> Step<Vec<Route>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ROUTES).fetch_all(&mut *conn).await?;
    let mut routes = Vec::with_capacity(rows.len());
    for row in &rows {
        // Somebody else's names may be none of ours.
        routes.extend(rows::route_opt(&Cells::of("agent_messages", row))?);
    }
    Ok(routes)
}
