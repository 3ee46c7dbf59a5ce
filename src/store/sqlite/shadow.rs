//! Shadows: who ordered them, and what their runs came to.

use sqlx::sqlite::SqliteConnection;

use super::control::{Deciding, text};
use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step, int, modifier_back};
use crate::control::Decision;
use crate::ids::{ShadowId, TraceId};
use crate::rollout::RolloutRow;
use crate::rollout::interval::Part;
use crate::route::RouteKey;
use crate::shadow::verdict::Tally;
use crate::shadow::{ShadowRow, ShadowRun, ShadowRunRow, events};
use crate::store::shadow::{self as rows, EVIDENCE, EVIDENCE_WINDOW, TALLIED};
use crate::store::{EndedShadow, NewShadow, ShadowRunFilter, StartedShadow};

/// A shadow in one cell.
macro_rules! shadow_json {
    () => {
        "json_object('id', id, 'route', route, 'plugin', plugin, 'candidate', candidate,
    'share', share, 'side_effects', side_effects, 'started_by', started_by, 'reason', reason,
    'trace_id', trace_id, 'started_at', started_at, 'dropped', dropped, 'ended_at', ended_at,
    'ended_by', ended_by)"
    };
}
pub(super) use shadow_json;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "
SELECT ",
            shadow_json!(),
            " AS shadow
FROM executor_shadows
",
            $rest
        )
    };
}

const SELECT_BUSY: &str = select!("WHERE route = ?1 AND ended_at IS NULL");
const SELECT_ONE: &str = select!("WHERE id = ?1");
const SELECT_ALL: &str = select!("ORDER BY started_at DESC, id LIMIT ?1");

const START: &str = concat!(
    "
INSERT INTO executor_shadows
  (id, route, plugin, candidate, share, side_effects, started_by, reason, trace_id)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
RETURNING ",
    shadow_json!(),
    " AS shadow"
);

const END: &str = concat!(
    "
UPDATE executor_shadows
SET ended_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ended_by = ?2
WHERE id = ?1 AND ended_at IS NULL
RETURNING ",
    shadow_json!(),
    " AS shadow"
);

const DROP: &str = "
UPDATE executor_shadows
SET dropped = dropped + ?2
WHERE id = ?1";

/// A task that retention took meanwhile leaves nothing behind.
const INSERT_RUN: &str = "
INSERT INTO executor_shadow_runs
  (message_id, shadow, route, digest, outcome, run_ms, stable_outcome, stable_run_ms, agrees,
   differences, run)
SELECT m.id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
FROM agent_messages AS m
WHERE m.id = ?1
ON CONFLICT (message_id, shadow) DO NOTHING";

const RUNS_OF_TASK: &str = "
SELECT run, ended_at
FROM executor_shadow_runs
WHERE message_id = ?1
ORDER BY ended_at, shadow
LIMIT ?2";

const RUNS: &str = "
SELECT run, ended_at
FROM executor_shadow_runs INDEXED BY executor_shadow_runs_shadow
WHERE shadow = ?1 AND (?2 IS NULL OR route = ?2) AND (NOT ?3 OR agrees IS FALSE)
ORDER BY ended_at DESC, message_id
LIMIT ?4";

/// Percentiles by nearest rank: of n sorted values, number ⌈n·p⌉.
const TALLY: &str = "
WITH latest AS MATERIALIZED (
  SELECT agrees, differences, outcome, run_ms, stable_outcome, stable_run_ms
  FROM executor_shadow_runs INDEXED BY executor_shadow_runs_shadow
  WHERE shadow = ?1 AND (?2 IS NULL OR route = ?2)
  ORDER BY ended_at DESC
  LIMIT ?3
),
timed AS MATERIALIZED (
  SELECT run_ms, row_number() OVER (ORDER BY run_ms) AS rank,
    stable_run_ms, row_number() OVER (ORDER BY stable_run_ms) AS stable_rank,
    count(*) OVER () AS n
  FROM latest
  WHERE outcome = 'done' AND stable_outcome = 'done'
)
SELECT (SELECT count(*) FROM latest) AS runs,
  (SELECT count(agrees) FROM latest) AS compared,
  (SELECT count(*) FROM latest WHERE agrees) AS agreed,
  (
    SELECT json_group_object(kind, n)
    FROM (
      SELECT kind.value AS kind, count(*) AS n
      FROM latest, json_each(latest.differences) AS kind
      GROUP BY kind.value
    )
  ) AS differences,
  (SELECT count(*) FROM timed) AS timed,
  (SELECT max(run_ms) FROM timed WHERE rank = (n * 50 + 99) / 100) AS p50_ms,
  (SELECT max(run_ms) FROM timed WHERE rank = (n * 90 + 99) / 100) AS p90_ms,
  (SELECT max(stable_run_ms) FROM timed WHERE stable_rank = (n * 50 + 99) / 100)
    AS stable_p50_ms,
  (SELECT max(stable_run_ms) FROM timed WHERE stable_rank = (n * 90 + 99) / 100)
    AS stable_p90_ms";

const AGREEMENT: &str = "
SELECT count(*) AS compared, count(*) FILTER (WHERE agrees) AS agreed
FROM (
  SELECT agrees
  FROM executor_shadow_runs INDEXED BY executor_shadow_runs_version
  WHERE digest = ?1 AND route = ?2 AND agrees IS NOT NULL AND shadow <> ?3
    AND ended_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)
  ORDER BY ended_at DESC
  LIMIT ?5
)";

pub(super) async fn start(store: &SqliteStore, new: &NewShadow) -> Step<StartedShadow> {
    let mut deciding = Deciding::begin(store, &new.by).await?;
    let route = new.route.to_string();
    let busy = sqlx::query(SELECT_BUSY)
        .bind(&route)
        .fetch_optional(deciding.conn()?)
        .await?;
    if let Some(row) = busy {
        let row = rows::shadow(&Cells::of("executor_shadows", &row))?;
        deciding.already().await?;
        return Ok(StartedShadow::Busy(row));
    }
    let actor = deciding.actor.clone();
    let row = sqlx::query(START)
        .bind(ShadowId::generate().to_string())
        .bind(&route)
        .bind(new.plugin.as_str())
        .bind(new.candidate.to_string())
        .bind(new.share.percent())
        .bind(new.side_effects.as_str())
        .bind(&actor)
        .bind(text(new.reason.as_ref()))
        .bind(TraceId::generate().as_str())
        .fetch_one(deciding.conn()?)
        .await?;
    let row = rows::shadow(&Cells::of("executor_shadows", &row))?;
    deciding.decide(events::started(&row)).await?;
    Ok(StartedShadow::Now(row))
}

pub(super) async fn end(
    store: &SqliteStore,
    id: &ShadowId,
    decision: &Decision,
) -> Step<EndedShadow> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let actor = deciding.actor.clone();
    let row = sqlx::query(END)
        .bind(id.as_str())
        .bind(&actor)
        .fetch_optional(deciding.conn()?)
        .await?;
    let Some(row) = row else {
        deciding.already().await?;
        let before = find(store, id).await?;
        return Ok(before.map_or(EndedShadow::Unknown, EndedShadow::Over));
    };
    let row = rows::shadow(&Cells::of("executor_shadows", &row))?;
    let event = events::ended(&row, &actor, text(decision.reason.as_ref()));
    deciding.decide(event).await?;
    Ok(EndedShadow::Now(row))
}

pub(super) async fn find(store: &SqliteStore, id: &ShadowId) -> Step<Option<ShadowRow>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(SELECT_ONE)
        .bind(id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    row.map(|row| rows::shadow(&Cells::of("executor_shadows", &row)))
        .transpose()
}

pub(super) async fn list(store: &SqliteStore, limit: u32) -> Step<Vec<ShadowRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ALL)
        .bind(limit)
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|row| rows::shadow(&Cells::of("executor_shadows", row)))
        .collect()
}

pub(super) async fn dropped(store: &SqliteStore, counts: &[(ShadowId, u64)]) -> Step<()> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    for (id, count) in counts {
        sqlx::query(DROP)
            .bind(id.as_str())
            .bind(int(*count))
            .execute(writer.conn()?)
            .await?;
    }
    writer.commit().await?;
    Ok(())
}

pub(super) async fn record(store: &SqliteStore, run: &ShadowRun) -> Step<bool> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let recorded = insert(writer.conn()?, run).await?;
    if recorded {
        insert_events(writer.conn()?, &events::difference(run)).await?;
    }
    writer.commit().await?;
    Ok(recorded)
}

async fn insert(conn: &mut SqliteConnection, run: &ShadowRun) -> Step<bool> {
    let done = sqlx::query(INSERT_RUN)
        .bind(run.message_id.to_string())
        .bind(run.shadow.as_str())
        .bind(run.route.key.to_string())
        .bind(run.candidate.digest.to_string())
        .bind(run.candidate_seen.end.as_str())
        .bind(int(run.candidate_seen.run_ms))
        .bind(run.stable_seen.end.as_str())
        .bind(int(run.stable_seen.run_ms))
        .bind(run.comparison.agrees)
        .bind(serde_json::to_string(&run.comparison.differences)?)
        .bind(serde_json::to_string(run)?)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn runs(store: &SqliteStore, filter: &ShadowRunFilter) -> Step<Vec<ShadowRunRow>> {
    let mut conn = store.readers.acquire().await?;
    let query = match &filter.task {
        Some(id) => sqlx::query(RUNS_OF_TASK)
            .bind(id.to_string())
            .bind(filter.limit),
        None => sqlx::query(RUNS)
            .bind(filter.shadow.as_ref().map(ShadowId::as_str))
            .bind(filter.route.as_ref().map(RouteKey::to_string))
            .bind(filter.differing)
            .bind(filter.limit),
    };
    let rows = query.fetch_all(&mut *conn).await?;
    rows.iter()
        .map(|row| rows::run(&Cells::of("executor_shadow_runs", row)))
        .collect()
}

pub(super) async fn tally(
    store: &SqliteStore,
    id: &ShadowId,
    route: Option<&RouteKey>,
) -> Step<Tally> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(TALLY)
        .bind(id.as_str())
        .bind(route.map(RouteKey::to_string))
        .bind(TALLIED)
        .fetch_one(&mut *conn)
        .await?;
    rows::tally(&Cells::of("executor_shadow_runs", &row))
}

/// How the shadows of a rollout's candidate agreed, on its route.
pub(super) async fn agreement(conn: &mut SqliteConnection, row: &RolloutRow) -> Step<Part> {
    let row = sqlx::query(AGREEMENT)
        .bind(row.candidate.to_string())
        .bind(row.route.to_string())
        .bind(ShadowId::compare().to_string())
        .bind(modifier_back(EVIDENCE_WINDOW))
        .bind(EVIDENCE)
        .fetch_one(conn)
        .await?;
    rows::agreement(&Cells::of("executor_shadow_runs", &row))
}
