//! Runs of the pipeline. Each change is one transaction with its task, its
//! events and its artifact.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;

use super::enqueue::{insert_events, insert_task};
use super::row::Cells;
use super::{SqliteStore, Step, int, modifier_back};
use crate::pipeline::{NewRun, Run, State};
use crate::store::pipelines::{self as rows, RunCancelled, RunFigures, RunMove, Started};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "
SELECT p.task_id, p.trace_id, p.state, p.revision, p.request, p.actor, p.codegen_id,
  p.build_test_id, p.cancel_requested_at, p.cancelled_by, p.error, p.decision,
  p.created_at, p.updated_at, p.ended_at,
  max(0, CAST(round((julianday('now') - julianday(p.created_at)) * 86400000.0) AS INTEGER))
    AS age_ms
FROM executor_pipelines AS p
",
            $rest
        )
    };
}

const INSERT: &str = "
INSERT INTO executor_pipelines (task_id, trace_id, state, revision, request, actor, codegen_id)
VALUES (?1, ?2, 'codegen', 1, ?3, ?4, ?5)
ON CONFLICT (task_id) DO NOTHING";

const FIND: &str = select!("WHERE p.task_id = ?1");

const LIST: &str = select!("ORDER BY p.created_at DESC, p.task_id LIMIT ?1");

/// Open runs on which something can be done: the task that they wait for has
/// ended or is gone, or is to be cancelled with them and does not know it yet.
const LIST_DUE: &str = select!(
    "LEFT JOIN agent_messages AS m
  ON m.id = iif(p.state = 'codegen', p.codegen_id, p.build_test_id)
WHERE p.ended_at IS NULL
  AND (m.id IS NULL OR m.status IN ('done', 'failed')
    OR (p.cancel_requested_at IS NOT NULL AND m.cancel_requested_at IS NULL))
ORDER BY p.updated_at, p.task_id
LIMIT ?1"
);

const MOVE: &str = "
UPDATE executor_pipelines
SET state = ?3, revision = revision + 1, build_test_id = coalesce(?4, build_test_id),
    error = ?5, decision = ?6,
    updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
    ended_at = iif(?7, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), NULL)
WHERE task_id = ?1 AND revision = ?2 AND ended_at IS NULL";

/// Of no attempt, which count from 1.
const INSERT_ARTIFACT: &str = "
INSERT INTO executor_artifacts
  (message_id, lease_epoch, task_id, trace_id, path, content_type, digest, bytes)
VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT DO UPDATE SET content_type = excluded.content_type,
  digest = excluded.digest, bytes = excluded.bytes";

const CANCEL: &str = "
UPDATE executor_pipelines
SET cancel_requested_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), cancelled_by = ?2
WHERE task_id = ?1 AND ended_at IS NULL AND cancel_requested_at IS NULL";

const FIGURES: &str = "
WITH ended AS (
  SELECT state, CASE WHEN json_valid(decision) THEN decision ->> '$.verdict' END AS verdict,
    CAST(round((julianday(ended_at) - julianday(created_at)) * 86400000.0) AS INTEGER) AS ms
  FROM executor_pipelines
  WHERE ended_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
),
ranked AS (
  SELECT ms, row_number() OVER (ORDER BY ms) AS rank, count(*) OVER () AS n
  FROM ended
)
SELECT
  (SELECT count(*) FROM executor_pipelines WHERE ended_at IS NULL) AS running,
  (SELECT count(*) FROM ended WHERE verdict = 'pass') AS passed,
  (SELECT count(*) FROM ended WHERE verdict = 'fail') AS failed,
  (SELECT count(*) FROM ended WHERE verdict = 'inconclusive') AS inconclusive,
  (SELECT count(*) FROM ended WHERE state = 'cancelled') AS cancelled,
  (SELECT max(ms) FROM ranked WHERE rank = (n * 50 + 99) / 100) AS p50_ms,
  (SELECT max(ms) FROM ranked WHERE rank = (n * 90 + 99) / 100) AS p90_ms";

pub(super) async fn start(store: &SqliteStore, run: &NewRun) -> Step<Started> {
    let request = serde_json::to_string(&run.order)?;
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let inserted = sqlx::query(INSERT)
        .bind(&run.order.task_id)
        .bind(run.trace_id.as_str())
        .bind(request)
        .bind(&run.actor)
        .bind(run.codegen.id.to_string())
        .execute(writer.conn()?)
        .await?;
    let is_new = inserted.rows_affected() > 0;
    if is_new {
        insert_task(writer.conn()?, &run.codegen).await?;
        insert_events(writer.conn()?, [&run.started()]).await?;
    }
    let row = sqlx::query(FIND)
        .bind(&run.order.task_id)
        .fetch_one(writer.conn()?)
        .await?;
    let found = Box::new(read(&row)?);
    writer.commit().await?;
    Ok(match is_new {
        true => Started::New(found),
        false => Started::Existing(found),
    })
}

pub(super) async fn advance(store: &SqliteStore, change: &RunMove<'_>) -> Step<bool> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let moved = sqlx::query(MOVE)
        .bind(&change.run.task_id)
        .bind(change.run.revision)
        .bind(change.to.as_str())
        .bind(change.build_test.map(|task| task.id.to_string()))
        .bind(change.error)
        .bind(change.decision.map(ToString::to_string))
        .bind(change.to.is_terminal())
        .execute(writer.conn()?)
        .await?;
    if moved.rows_affected() == 0 {
        writer.rollback().await?;
        return Ok(false);
    }
    if let Some(task) = change.build_test {
        insert_task(writer.conn()?, task).await?;
    }
    if let Some((message_id, artifact)) = change.artifact {
        sqlx::query(INSERT_ARTIFACT)
            .bind(message_id.to_string())
            .bind(&change.run.task_id)
            .bind(change.run.trace_id.as_str())
            .bind(&artifact.path)
            .bind(&artifact.content_type)
            .bind(artifact.digest.to_string())
            .bind(int(artifact.bytes))
            .execute(writer.conn()?)
            .await?;
    }
    insert_events(writer.conn()?, change.events).await?;
    writer.commit().await?;
    Ok(true)
}

pub(super) async fn find(store: &SqliteStore, task_id: &str) -> Step<Option<Run>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(FIND)
        .bind(task_id)
        .fetch_optional(&mut *conn)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn list(store: &SqliteStore, limit: u32) -> Step<Vec<Run>> {
    all(store, LIST, limit).await
}

pub(super) async fn due(store: &SqliteStore, limit: u32) -> Step<Vec<Run>> {
    all(store, LIST_DUE, limit).await
}

async fn all(store: &SqliteStore, sql: &'static str, limit: u32) -> Step<Vec<Run>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(sql)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn cancel(
    store: &SqliteStore,
    task_id: &str,
    actor: &str,
) -> Step<Option<RunCancelled>> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    sqlx::query(CANCEL)
        .bind(task_id)
        .bind(actor)
        .execute(writer.conn()?)
        .await?;
    let row = sqlx::query(FIND)
        .bind(task_id)
        .fetch_optional(writer.conn()?)
        .await?;
    let found = row.as_ref().map(read).transpose()?;
    writer.commit().await?;
    Ok(found.map(|run| asked(run.state)))
}

/// What a wish to cancel means for a run in this state.
const fn asked(state: State) -> RunCancelled {
    match state {
        State::Codegen | State::BuildTest => RunCancelled::Requested,
        State::Done | State::Cancelled => RunCancelled::Ended(state),
    }
}

pub(super) async fn figures(store: &SqliteStore, since: Duration) -> Step<RunFigures> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(FIGURES)
        .bind(modifier_back(since))
        .fetch_one(&mut *conn)
        .await?;
    rows::figures(&Cells::of("executor_pipelines", &row))
}

fn read(row: &SqliteRow) -> Step<Run> {
    rows::run(&Cells::of("executor_pipelines", row))
}
