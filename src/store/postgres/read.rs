//! Reads for people and programs.

use sqlx::{Postgres, QueryBuilder};

use super::row::{clamped, clean, instant};
use super::schema::Inherited;
use super::{PgCells, PostgresStore, Step, parts, schema};
use crate::event::Event;
use crate::ids::MessageId;
use crate::route::Route;
use crate::store::rows;
use crate::store::{ArtifactRow, AttemptRow, Depth, EventFilter, Order, TaskFilter, Waiting, Want};
use crate::task::{Status, TaskRow};

const PING: &str = "SELECT count(*) FROM cogo_host_schema";

/// The columns of a [`TaskRow`] but its payload. Rows in a state that is none
/// of ours are somebody else's.
macro_rules! select_tasks {
    ($payload:literal) => {
        concat!(
            "
SELECT id, ",
            clamped!("created_at"),
            " AS created_at, service, role,
  shard::bigint AS shard, tenant, task_id, trace_id, status, priority::bigint AS priority,
  attempts::bigint AS attempts, max_attempts::bigint AS max_attempts,
  host_faults::bigint AS host_faults, unique_key, claimed_by, lease_epoch,
  ",
            instant!("claimed_at"),
            " AS claimed_at,
  ",
            instant!("lease_expires_at"),
            " AS lease_expires_at,
  ",
            instant!("cancel_requested_at"),
            " AS cancel_requested_at,
  ",
            instant!("done_at"),
            " AS done_at,
  ",
            instant!("retry_at"),
            " AS retry_at,
  ",
            instant!("last_error_at"),
            " AS last_error_at,
  error, result_snippet, result_url, result::text AS result, ",
            $payload,
            " AS payload
FROM agent_messages
WHERE status IN ('queued', 'claimed', 'done', 'failed')"
        )
    };
}

const SELECT_TASKS: &str = select_tasks!("NULL::text");
const SELECT_TASK: &str = concat!(select_tasks!("payload::text"), " AND id = $1");

const SELECT_ATTEMPTS: &str = "
SELECT message_id, lease_epoch, attempt::bigint AS attempt, host, plugin, version, digest, kind,
  stage, why::text AS why, claimed_at, ended_at, wait_ms, run_ms, outcome, code, blame,
  usage::text AS usage, peak_memory_bytes, outbound_requests, spans::text AS spans,
  log::text AS log, log_dropped
FROM executor_attempts
WHERE message_id = $1
ORDER BY lease_epoch";

/// The first task of every lane that waits, found by hopping from lane to lane.
macro_rules! lanes {
    () => {
        "
WITH RECURSIVE lane AS (
  (SELECT m.service, m.role, coalesce(m.shard, 0) AS shard, m.priority,
    coalesce(m.tenant, '') AS tenant, coalesce(m.retry_at, m.created_at) AS due
  FROM agent_messages AS m
  WHERE m.status = 'queued'
  ORDER BY m.service, m.role, coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''),
    coalesce(m.retry_at, m.created_at)
  LIMIT 1)
  UNION ALL
  SELECT head.*
  FROM lane
  CROSS JOIN LATERAL (
    SELECT m.service, m.role, coalesce(m.shard, 0) AS shard, m.priority,
      coalesce(m.tenant, '') AS tenant, coalesce(m.retry_at, m.created_at) AS due
    FROM agent_messages AS m
    WHERE m.status = 'queued'
      AND (m.service, m.role, coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''))
        > (lane.service, lane.role, lane.shard, lane.priority, lane.tenant)
    ORDER BY m.service, m.role, coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''),
      coalesce(m.retry_at, m.created_at)
    LIMIT 1
  ) AS head
)
"
    };
}

/// Each status by the partial index that knows it, and no further than
/// [`COUNTED`]: whoever asks every few seconds must not read a million entries
/// each time. When the oldest is due is read by hopping from lane to lane.
const DEPTH: &str = concat!(
    lanes!(),
    "SELECT
  (SELECT count(*) FROM (
    SELECT FROM agent_messages WHERE status = 'queued' LIMIT $1) AS counted) AS queued,
  (SELECT count(*) FROM agent_messages WHERE status = 'claimed' AND lease_expires_at IS NOT NULL)
    + (SELECT count(*) FROM agent_messages WHERE status = 'claimed' AND lease_expires_at IS NULL)
    AS claimed,
  (SELECT count(*) FROM (
    SELECT FROM agent_messages
    WHERE status IN ('done', 'failed') AND status = 'done' LIMIT $1) AS counted) AS done,
  (SELECT count(*) FROM (
    SELECT FROM agent_messages
    WHERE status IN ('done', 'failed') AND status = 'failed' LIMIT $1) AS counted) AS failed,
  (SELECT (extract(epoch FROM now() - greatest(min(due), '0001-01-01 UTC')) * 1000)::bigint
   FROM lane
   WHERE due <= now()
   HAVING count(*) > 0
  ) AS oldest_due_ms"
);

/// The tasks of each route, counted no further than [`COUNTED`], too.
const WAITING: &str = concat!(
    lanes!(),
    "SELECT service, role,
  (SELECT count(*) FROM (
    SELECT FROM agent_messages AS m
    WHERE m.status = 'queued' AND m.service = lane.service AND m.role = lane.role
    LIMIT $1) AS counted) AS queued,
  CASE WHEN min(due) <= now() THEN
    (extract(epoch FROM now() - greatest(min(due), '0001-01-01 UTC')) * 1000)::bigint
  END AS oldest_due_ms
FROM lane
GROUP BY service, role
ORDER BY service, role
LIMIT 100"
);

/// Beyond so many, the planner's estimate is what is known.
const COUNTED: i64 = 10_000;

/// What the planner makes of a status, from the statistics that it keeps.
const ESTIMATES: [(Status, &str); 3] = [
    (
        Status::Queued,
        "EXPLAIN (FORMAT JSON) SELECT FROM agent_messages WHERE status = 'queued'",
    ),
    (
        Status::Done,
        "EXPLAIN (FORMAT JSON) SELECT FROM agent_messages WHERE status = 'done'",
    ),
    (
        Status::Failed,
        "EXPLAIN (FORMAT JSON) SELECT FROM agent_messages WHERE status = 'failed'",
    ),
];

const COUNT_QUEUED: &str = "
SELECT count(*) AS n
FROM agent_messages
WHERE status = 'queued' AND service = $1 AND role = $2
  AND ($3::integer IS NULL OR shard = $3)
  AND ($4::text IS NULL OR tenant = $4)";

const SELECT_ARTIFACT: &str = "
SELECT message_id, task_id, trace_id, path, content_type, digest, bytes, created_at
FROM executor_artifacts
WHERE task_id = $1 AND path = $2
ORDER BY created_at DESC, message_id DESC, lease_epoch DESC
LIMIT 1";

/// Of tasks that have not ended. For messages to people, not for the loop.
const SELECT_ROUTES: &str = "
SELECT DISTINCT service, role, coalesce(shard, 0)::bigint AS shard, tenant
FROM agent_messages
WHERE status = 'queued' OR status = 'claimed'
ORDER BY service, role, shard, tenant NULLS FIRST";

pub(super) async fn ping(store: &PostgresStore) -> Step<()> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(PING);
    query.fetch_one(turn.conn()).await?;
    turn.finish().await
}

pub(super) async fn task(store: &PostgresStore, id: MessageId) -> Step<Option<TaskRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_TASK).bind(id.0);
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    let task = row.map(|row| rows::task(&PgCells::of("agent_messages", &row)));
    task.transpose()
}

pub(super) async fn tasks(store: &PostgresStore, filter: &TaskFilter) -> Step<Vec<TaskRow>> {
    const NEWEST: &str = " ORDER BY agent_messages.created_at DESC, id DESC LIMIT ";
    // The newest of each part, and of these the newest.
    let mut query: QueryBuilder<Postgres> = QueryBuilder::new(SELECT_TASKS);
    query.push(" AND id IN (SELECT id FROM (");
    for (at, part) in parts::holding(filter.status).into_iter().enumerate() {
        query.push(if at > 0 { " UNION ALL " } else { "" });
        query.push("(SELECT id, created_at FROM agent_messages WHERE ");
        query.push(part);
        narrow(&mut query, filter);
        query.push(NEWEST).push_bind(i64::from(filter.limit));
        query.push(")");
    }
    query.push(") AS agent_messages").push(NEWEST);
    query.push_bind(i64::from(filter.limit));
    query.push(") ORDER BY agent_messages.created_at DESC, id DESC");
    let mut turn = store.connections.turn().await?;
    let query = query.build().persistent(!store.is_pooled());
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::task(&PgCells::of("agent_messages", row)))
        .collect()
}

/// What a filter asks of a task, besides where it is looked for.
fn narrow(query: &mut QueryBuilder<Postgres>, filter: &TaskFilter) {
    // In words of the statement, so that the planner sees which index knows it.
    query.push(match filter.status {
        Some(status) => format!(" AND status = '{}'", status.as_str()),
        None => " AND status IN ('queued', 'claimed', 'done', 'failed')".to_owned(),
    });
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
        query
            .push(" AND task_id = ")
            .push_bind(clean(task_id).into_owned());
    }
}

pub(super) async fn attempts(store: &PostgresStore, id: MessageId) -> Step<Vec<AttemptRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ATTEMPTS).bind(id.0);
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::attempt(&PgCells::of("executor_attempts", row)))
        .collect()
}

pub(super) async fn events(store: &PostgresStore, filter: &EventFilter) -> Step<Vec<Event>> {
    let shape = schema::inherited(store).await?;
    let numbered = shape.numbered || filter.after_id.is_some();
    if !numbered && filter.order == Order::NewestFirst {
        // Events of before the migration may have no number; they are the oldest.
        let newest = read_events(store, filter, shape, true).await?;
        if newest.len() as u64 == u64::from(filter.limit) {
            return Ok(newest);
        }
    }
    read_events(store, filter, shape, numbered).await
}

/// Reads events, of those with a number only where all that count have one.
async fn read_events(
    store: &PostgresStore,
    filter: &EventFilter,
    shape: Inherited,
    numbered: bool,
) -> Step<Vec<Event>> {
    let mut query: QueryBuilder<Postgres> = QueryBuilder::new("\nSELECT ");
    query.push(shape.number).push("::bigint AS id, ");
    query.push(concat!(
        clamped!("created_at"),
        " AS created_at, event_type, message_id::text AS message_id, service, role,
  CASE WHEN shard::text ~ '^-?[0-9]{1,9}$' THEN shard::text::bigint END AS shard,
  tenant, trace_id, reason, payload::text AS payload
FROM bus_events
WHERE TRUE"
    ));
    if let Some(trace_id) = &filter.trace_id {
        query
            .push(" AND trace_id = ")
            .push_bind(clean(trace_id).into_owned());
    }
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(clean(event_type).into_owned());
    }
    if let Some(id) = filter.message_id {
        query.push(" AND message_id = ");
        match shape.uuid {
            true => query.push_bind(id.0),
            false => query.push_bind(id.to_string()),
        };
    }
    if let Some(since) = filter.since {
        query.push(" AND bus_events.created_at >= now() - interval '1 microsecond' * ");
        query.push_bind(super::row::micros(since));
    }
    if let Some(after) = filter.after_id {
        query.push(" AND ").push(shape.number).push(" > ");
        query.push_bind(after);
    }
    if numbered {
        query.push(" AND ").push(shape.number).push(" IS NOT NULL");
    }
    // What a trace, a task or a time narrows down is found by that and sorted. All
    // else is read in the order of the index on numbers until there is enough; an
    // order that also says where rows without a number go is not that one.
    let narrow = filter.trace_id.is_some() || filter.message_id.is_some() || filter.since.is_some();
    query.push(" ORDER BY bus_events.").push(shape.number);
    query.push(match (filter.order, numbered && !narrow) {
        (Order::OldestFirst, true) => " ASC LIMIT ",
        (Order::NewestFirst, true) => " DESC LIMIT ",
        (Order::OldestFirst, false) => " ASC NULLS FIRST, bus_events.created_at LIMIT ",
        (Order::NewestFirst, false) => " DESC NULLS LAST, bus_events.created_at DESC LIMIT ",
    });
    query.push_bind(i64::from(filter.limit));
    let mut turn = store.connections.turn().await?;
    let query = query.build().persistent(!store.is_pooled());
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::event(&PgCells::of("bus_events", row)))
        .collect()
}

pub(super) async fn depth(store: &PostgresStore) -> Step<Depth> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(DEPTH).bind(COUNTED);
    let row = query.fetch_one(turn.conn()).await?;
    let mut depth = rows::depth(&PgCells::of("agent_messages", &row))?;
    for (status, sql) in ESTIMATES {
        let count = match status {
            Status::Queued => &mut depth.queued,
            Status::Claimed => &mut depth.claimed,
            Status::Done => &mut depth.done,
            Status::Failed => &mut depth.failed,
        };
        if *count >= COUNTED.unsigned_abs() {
            let row = sqlx::raw_sql(sql).fetch_one(turn.conn()).await?;
            *count = estimate(&row)?.max(*count);
        }
    }
    turn.finish().await?;
    Ok(depth)
}

/// The rows that a plan expects.
fn estimate(row: &sqlx::postgres::PgRow) -> Step<u64> {
    let plan: serde_json::Value = sqlx::Row::try_get(row, 0)?;
    let rows = plan.pointer("/0/Plan/Plan Rows");
    let rows = rows.and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    // Out of range, it is the nearest that there is.
    Ok(rows as u64)
}

pub(super) async fn queued(store: &PostgresStore, want: &Want) -> Step<u64> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(COUNT_QUEUED)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(want.shard)
        .bind(want.tenant.as_deref());
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    PgCells::of("agent_messages", &row).count("n")
}

pub(super) async fn waiting(store: &PostgresStore) -> Step<Vec<Waiting>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(WAITING).bind(COUNTED);
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in &rows {
        waiting.extend(rows::waiting(&PgCells::of("agent_messages", row))?);
    }
    Ok(waiting)
}

pub(super) async fn artifact(
    store: &PostgresStore,
    task_id: &str,
    path: &str,
) -> Step<Option<ArtifactRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(SELECT_ARTIFACT)
        .bind(clean(task_id))
        .bind(clean(path));
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    let artifact = row.map(|row| rows::artifact(&PgCells::of("executor_artifacts", &row)));
    artifact.transpose()
}

pub(super) async fn routes(store: &PostgresStore) -> Step<Vec<Route>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ROUTES);
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let mut routes = Vec::with_capacity(rows.len());
    for row in &rows {
        routes.extend(rows::route_opt(&PgCells::of("agent_messages", row))?);
    }
    Ok(routes)
}
