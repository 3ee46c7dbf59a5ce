//! Retention: deletes what is older than allowed, one small batch a call, so
//! that no other writer waits long.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::row::Cells;
use super::{SqliteStore, Step, modifier_back};
use crate::store::Retention;

const LIST_TASKS: &str = "
SELECT id
FROM agent_messages INDEXED BY agent_messages_ended
WHERE status IN ('done', 'failed')
  AND coalesce(done_at, last_error_at, created_at)
    < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
ORDER BY coalesce(done_at, last_error_at, created_at)
LIMIT ?2";

/// Children first.
const DELETE_TASKS: [&str; 4] = [
    "
DELETE FROM executor_shadow_runs
WHERE message_id IN (SELECT value FROM json_each(?1))",
    "
DELETE FROM executor_artifacts
WHERE message_id IN (SELECT value FROM json_each(?1))",
    "
DELETE FROM executor_attempts
WHERE message_id IN (SELECT value FROM json_each(?1))",
    "
DELETE FROM agent_messages
WHERE id IN (SELECT value FROM json_each(?1))",
];

const DELETE_EVENTS: &str = "
DELETE FROM bus_events
WHERE id IN (
  SELECT id
  FROM bus_events
  WHERE created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
  ORDER BY created_at
  LIMIT ?2
)";

/// A run ends after its tasks, so they are as old.
const DELETE_RUNS: &str = "
DELETE FROM executor_pipelines
WHERE task_id IN (
  SELECT task_id
  FROM executor_pipelines
  WHERE ended_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
  ORDER BY ended_at
  LIMIT ?2
)";

pub(super) async fn retire(store: &SqliteStore, retention: &Retention) -> Step<u64> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    let mut deleted = 0;
    if let Some(age) = retention.tasks {
        deleted += retire_tasks(conn, age, retention.batch).await?;
        let done = sqlx::query(DELETE_RUNS)
            .bind(modifier_back(age))
            .bind(retention.batch)
            .execute(&mut *conn)
            .await?;
        deleted += done.rows_affected();
    }
    if let Some(age) = retention.events {
        let done = sqlx::query(DELETE_EVENTS)
            .bind(modifier_back(age))
            .bind(retention.batch)
            .execute(conn)
            .await?;
        deleted += done.rows_affected();
    }
    writer.commit().await?;
    Ok(deleted)
}

async fn retire_tasks(conn: &mut SqliteConnection, age: Duration, batch: u32) -> Step<u64> {
    let rows = sqlx::query(LIST_TASKS)
        .bind(modifier_back(age))
        .bind(batch)
        .fetch_all(&mut *conn)
        .await?;
    let ids = rows
        .iter()
        .map(|row| Cells::of("agent_messages", row).required_text("id"));
    let ids = serde_json::to_string(&ids.collect::<Step<Vec<String>>>()?)?;
    let mut deleted = 0;
    for sql in DELETE_TASKS {
        let done = sqlx::query(sql).bind(&ids).execute(&mut *conn).await?;
        deleted += done.rows_affected();
    }
    Ok(deleted)
}
