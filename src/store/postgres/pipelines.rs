//! Runs of the pipeline. Each change is one transaction with its task, its
//! events and its artifact.

use std::time::Duration;

use sqlx::postgres::PgRow;

use super::enqueue::{insert_events, insert_tasks};
use super::row::{clean, int, micros, ms_since};
use super::{PgCells, PostgresStore, Step};
use crate::pipeline::{NewRun, Run, State};
use crate::store::pipelines::{self as rows, RunCancelled, RunFigures, RunMove, Started};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "
SELECT p.task_id, p.trace_id, p.state, p.revision, p.request::text AS request, p.actor,
  p.codegen_id::text AS codegen_id, p.build_test_id::text AS build_test_id,
  p.cancel_requested_at, p.cancelled_by, p.error, p.decision::text AS decision,
  p.created_at, p.updated_at, p.ended_at, greatest(0, ",
            ms_since!("p.created_at"),
            ") AS age_ms
FROM executor_pipelines AS p
",
            $rest
        )
    };
}

const INSERT: &str = "
INSERT INTO executor_pipelines
  (task_id, trace_id, state, revision, request, actor, codegen_id, created_at, updated_at)
VALUES ($1, $2, 'codegen', 1, $3::jsonb, $4, $5, now(), now())
ON CONFLICT (task_id) DO NOTHING";

const FIND: &str = select!("WHERE p.task_id = $1");

const LIST: &str = select!("ORDER BY p.created_at DESC, p.task_id LIMIT $1");

/// Open runs on which something can be done: the task that they wait for has
/// ended or is gone, or is to be cancelled with them and does not know it yet.
const LIST_DUE: &str = select!(
    "LEFT JOIN agent_messages AS m
  ON m.id = CASE WHEN p.state = 'codegen' THEN p.codegen_id ELSE p.build_test_id END
WHERE p.ended_at IS NULL
  AND (m.id IS NULL OR m.status IN ('done', 'failed')
    OR (p.cancel_requested_at IS NOT NULL AND m.cancel_requested_at IS NULL))
ORDER BY p.updated_at, p.task_id
LIMIT $1"
);

const MOVE: &str = "
UPDATE executor_pipelines
SET state = $3, revision = revision + 1, build_test_id = coalesce($4, build_test_id),
    error = $5, decision = $6::jsonb, updated_at = now(),
    ended_at = CASE WHEN $7 THEN now() END
WHERE task_id = $1 AND revision = $2 AND ended_at IS NULL";

/// Of no attempt, which count from 1.
const INSERT_ARTIFACT: &str = "
INSERT INTO executor_artifacts
  (message_id, lease_epoch, task_id, trace_id, path, content_type, digest, bytes, created_at)
VALUES ($1, 0, $2, $3, $4, $5, $6, $7, now())
ON CONFLICT (message_id, lease_epoch, path)
DO UPDATE SET content_type = excluded.content_type, digest = excluded.digest,
  bytes = excluded.bytes";

const CANCEL: &str = "
UPDATE executor_pipelines
SET cancel_requested_at = now(), cancelled_by = $2
WHERE task_id = $1 AND ended_at IS NULL AND cancel_requested_at IS NULL";

const FIGURES: &str = "
WITH ended AS (
  SELECT state, decision ->> 'verdict' AS verdict,
    (extract(epoch FROM ended_at - created_at) * 1000)::bigint AS ms
  FROM executor_pipelines
  WHERE ended_at >= now() - $1 * interval '1 microsecond'
)
SELECT
  (SELECT count(*) FROM executor_pipelines WHERE ended_at IS NULL) AS running,
  count(*) FILTER (WHERE verdict = 'pass') AS passed,
  count(*) FILTER (WHERE verdict = 'fail') AS failed,
  count(*) FILTER (WHERE verdict = 'inconclusive') AS inconclusive,
  count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
  percentile_disc(0.5) WITHIN GROUP (ORDER BY ms) AS p50_ms,
  percentile_disc(0.9) WITHIN GROUP (ORDER BY ms) AS p90_ms
FROM ended";

pub(super) async fn start(store: &PostgresStore, run: &NewRun) -> Step<Started> {
    let task_id = clean(&run.order.task_id);
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(INSERT)
        .bind(&*task_id)
        .bind(run.trace_id.as_str())
        .bind(serde_json::to_string(&run.order)?)
        .bind(clean(&run.actor).into_owned())
        .bind(run.codegen.id.0);
    let is_new = query.execute(turn.conn()).await?.rows_affected() > 0;
    if is_new {
        insert_tasks(&mut turn, &[&run.codegen]).await?;
        insert_events(&mut turn, [&run.started()]).await?;
    }
    let query = turn.query(FIND).bind(&*task_id);
    let row = query.fetch_one(turn.conn()).await?;
    let found = Box::new(read(&row)?);
    turn.finish().await?;
    Ok(match is_new {
        true => Started::New(found),
        false => Started::Existing(found),
    })
}

pub(super) async fn advance(store: &PostgresStore, change: &RunMove<'_>) -> Step<bool> {
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(MOVE)
        .bind(&change.run.task_id)
        .bind(change.run.revision)
        .bind(change.to.as_str())
        .bind(change.build_test.map(|task| task.id.0))
        .bind(change.error.map(|error| clean(error).into_owned()))
        .bind(change.decision.map(ToString::to_string))
        .bind(change.to.is_terminal());
    if query.execute(turn.conn()).await?.rows_affected() == 0 {
        turn.finish().await?;
        return Ok(false);
    }
    if let Some(task) = change.build_test {
        insert_tasks(&mut turn, &[task]).await?;
    }
    if let Some((message_id, artifact)) = change.artifact {
        let query = turn
            .query(INSERT_ARTIFACT)
            .bind(message_id.0)
            .bind(&change.run.task_id)
            .bind(change.run.trace_id.as_str())
            .bind(&artifact.path)
            .bind(&artifact.content_type)
            .bind(artifact.digest.to_string())
            .bind(int(artifact.bytes));
        query.execute(turn.conn()).await?;
    }
    insert_events(&mut turn, change.events).await?;
    turn.finish().await?;
    Ok(true)
}

pub(super) async fn find(store: &PostgresStore, task_id: &str) -> Step<Option<Run>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(FIND).bind(clean(task_id).into_owned());
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn list(store: &PostgresStore, limit: u32) -> Step<Vec<Run>> {
    all(store, LIST, limit).await
}

pub(super) async fn due(store: &PostgresStore, limit: u32) -> Step<Vec<Run>> {
    all(store, LIST_DUE, limit).await
}

async fn all(store: &PostgresStore, sql: &'static str, limit: u32) -> Step<Vec<Run>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(sql).bind(i64::from(limit));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter().map(read).collect()
}

pub(super) async fn cancel(
    store: &PostgresStore,
    task_id: &str,
    actor: &str,
) -> Step<Option<RunCancelled>> {
    let task_id = clean(task_id);
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(CANCEL)
        .bind(&*task_id)
        .bind(clean(actor).into_owned());
    query.execute(turn.conn()).await?;
    let query = turn.query(FIND).bind(&*task_id);
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    let found = row.as_ref().map(read).transpose()?;
    Ok(found.map(|run| match run.state {
        State::Codegen | State::BuildTest => RunCancelled::Requested,
        State::Done | State::Cancelled => RunCancelled::Ended(run.state),
    }))
}

pub(super) async fn figures(store: &PostgresStore, since: Duration) -> Step<RunFigures> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(FIGURES).bind(micros(since));
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    rows::figures(&PgCells::of("executor_pipelines", &row))
}

fn read(row: &PgRow) -> Step<Run> {
    rows::run(&PgCells::of("executor_pipelines", row))
}
