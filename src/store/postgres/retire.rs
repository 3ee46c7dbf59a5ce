//! Retention: deletes what is older than allowed, one small batch a call, so
//! that no lock is held and no vacuum kept waiting for long.

use std::time::Duration;

use super::row::micros;
use super::{PostgresStore, Step};
use crate::store::Retention;

/// Children with their task. Rows that somebody else has locked are left for
/// the next batch.
const DELETE_TASKS: &str = "
WITH old AS MATERIALIZED (
  SELECT id
  FROM agent_messages
  WHERE status IN ('done', 'failed')
    AND coalesce(done_at, last_error_at, created_at) < now() - $1 * interval '1 microsecond'
  ORDER BY coalesce(done_at, last_error_at, created_at)
  LIMIT $2
  FOR UPDATE SKIP LOCKED
),
artifact AS (
  DELETE FROM executor_artifacts AS a USING old WHERE a.message_id = old.id RETURNING 1
),
attempt AS (
  DELETE FROM executor_attempts AS a USING old WHERE a.message_id = old.id RETURNING 1
),
shadow AS (
  DELETE FROM executor_shadow_runs AS s USING old WHERE s.message_id = old.id RETURNING 1
),
task AS (
  DELETE FROM agent_messages AS m USING old WHERE m.id = old.id RETURNING 1
)
SELECT (SELECT count(*) FROM artifact) + (SELECT count(*) FROM attempt)
  + (SELECT count(*) FROM shadow) + (SELECT count(*) FROM task) AS deleted";

/// By their place in the table: others may have made it without a number. In
/// the order in which they lie, which is that of the index.
const DELETE_EVENTS: &str = "
WITH old AS MATERIALIZED (
  SELECT ctid
  FROM bus_events
  WHERE created_at < now() - $1 * interval '1 microsecond'
  LIMIT $2
  FOR UPDATE SKIP LOCKED
),
event AS (
  DELETE FROM bus_events WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING 1
)
SELECT count(*) AS deleted FROM event";

/// A run ends after its tasks, so they are as old.
const DELETE_RUNS: &str = "
WITH old AS MATERIALIZED (
  SELECT task_id
  FROM executor_pipelines
  WHERE ended_at < now() - $1 * interval '1 microsecond'
  ORDER BY ended_at
  LIMIT $2
  FOR UPDATE SKIP LOCKED
),
run AS (
  DELETE FROM executor_pipelines AS p USING old WHERE p.task_id = old.task_id RETURNING 1
)
SELECT count(*) AS deleted FROM run";

pub(super) async fn retire(store: &PostgresStore, retention: &Retention) -> Step<u64> {
    let mut deleted = 0;
    if let Some(age) = retention.tasks {
        deleted += delete(store, DELETE_TASKS, age, retention.batch).await?;
        deleted += delete(store, DELETE_RUNS, age, retention.batch).await?;
    }
    if let Some(age) = retention.events {
        deleted += delete(store, DELETE_EVENTS, age, retention.batch).await?;
    }
    Ok(deleted)
}

async fn delete(store: &PostgresStore, sql: &'static str, age: Duration, batch: u32) -> Step<u64> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(sql).bind(micros(age)).bind(i64::from(batch));
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    super::PgCells::of("agent_messages", &row).count("deleted")
}
