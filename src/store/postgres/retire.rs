//! Retention: deletes what is older than allowed, one small batch a call, so
//! that no lock is held and no vacuum kept waiting for long.

use std::time::Duration;

use super::row::micros;
use super::{PostgresStore, Step, schema};
use crate::store::Retention;

/// Children with their task. Rows that somebody else has locked are left for
/// the next batch.
macro_rules! delete_tasks {
    ($unless:literal) => {
        concat!(
            "
WITH old AS MATERIALIZED (
  SELECT id
  FROM agent_messages AS m
  WHERE status IN ('done', 'failed')
    AND coalesce(done_at, last_error_at, created_at) < now() - $1 * interval '1 microsecond'",
            $unless,
            "
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
  + (SELECT count(*) FROM shadow) + (SELECT count(*) FROM task) AS deleted"
        )
    };
}

const DELETE_TASKS: &str = delete_tasks!("");

/// Where events must have their task.
const DELETE_BARE_TASKS: &str = delete_tasks!(
    "
    AND NOT EXISTS (SELECT FROM bus_events AS e WHERE e.message_id = m.id)"
);

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

/// Events first: what others bind to tasks may keep these, and must not keep
/// events.
pub(super) async fn retire(store: &PostgresStore, retention: &Retention) -> Step<u64> {
    let events = match retention.events {
        Some(age) => delete(store, DELETE_EVENTS, age, retention.batch).await?,
        None => 0,
    };
    match retire_tasks(store, retention, events > 0).await {
        Ok(deleted) => Ok(events + deleted),
        // Told by the call that finds no more events.
        Err(_) if events > 0 => Ok(events),
        Err(trouble) => Err(trouble),
    }
}

async fn retire_tasks(
    store: &PostgresStore,
    retention: &Retention,
    events_are_left: bool,
) -> Step<u64> {
    let Some(age) = retention.tasks else {
        return Ok(0);
    };
    let runs = delete(store, DELETE_RUNS, age, retention.batch).await?;
    if !schema::inherited(store).await?.bound {
        return Ok(runs + delete(store, DELETE_TASKS, age, retention.batch).await?);
    }
    // A task stays as long as its events do. Those that stay are not looked at
    // again and again to find one that does not.
    match retention.events.map(|events| age.max(events)) {
        Some(age) if !events_are_left => {
            Ok(runs + delete(store, DELETE_BARE_TASKS, age, retention.batch).await?)
        }
        _ => Ok(runs),
    }
}

async fn delete(store: &PostgresStore, sql: &'static str, age: Duration, batch: u32) -> Step<u64> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(sql).bind(micros(age)).bind(i64::from(batch));
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    super::PgCells::of("agent_messages", &row).count("deleted")
}
