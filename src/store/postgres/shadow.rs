//! Shadows: who ordered them, and what their runs came to.

use super::connection::Turn;
use super::control::{Deciding, lock, text};
use super::enqueue::insert_events;
use super::row::{int, micros, to_json};
use super::{PgCells, PostgresStore, Step};
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
        "json_build_object('id', id, 'route', route, 'plugin', plugin, 'candidate', candidate,
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
            "::text AS shadow
FROM executor_shadows
",
            $rest
        )
    };
}

const SELECT_BUSY: &str = select!("WHERE route = $1 AND ended_at IS NULL");
const SELECT_ONE: &str = select!("WHERE id = $1");
const SELECT_ALL: &str = select!("ORDER BY started_at DESC, id LIMIT $1");

const START: &str = concat!(
    "
INSERT INTO executor_shadows
  (id, route, plugin, candidate, share, side_effects, started_by, reason, trace_id, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now())
RETURNING ",
    shadow_json!(),
    "::text AS shadow"
);

const END: &str = concat!(
    "
UPDATE executor_shadows
SET ended_at = now(), ended_by = $2
WHERE id = $1 AND ended_at IS NULL
RETURNING ",
    shadow_json!(),
    "::text AS shadow"
);

const DROP: &str = "
UPDATE executor_shadows
SET dropped = dropped + $2
WHERE id = $1";

/// A task that retention took meanwhile leaves nothing behind.
const INSERT_RUN: &str = "
INSERT INTO executor_shadow_runs
  (message_id, shadow, route, digest, outcome, run_ms, stable_outcome, stable_run_ms, agrees,
   differences, run, ended_at)
SELECT m.id, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb, now()
FROM agent_messages AS m
WHERE m.id = $1
ON CONFLICT (message_id, shadow) DO NOTHING";

const RUNS_OF_TASK: &str = "
SELECT run::text AS run, ended_at
FROM executor_shadow_runs
WHERE message_id = $1
ORDER BY ended_at, shadow
LIMIT $2";

const RUNS: &str = "
SELECT run::text AS run, ended_at
FROM executor_shadow_runs
WHERE shadow = $1 AND ($2::text IS NULL OR route = $2) AND (NOT $3 OR agrees IS FALSE)
ORDER BY ended_at DESC, message_id
LIMIT $4";

const TALLY: &str = "
WITH latest AS MATERIALIZED (
  SELECT agrees, differences, outcome, run_ms, stable_outcome, stable_run_ms
  FROM executor_shadow_runs
  WHERE shadow = $1 AND ($2::text IS NULL OR route = $2)
  ORDER BY ended_at DESC
  LIMIT $3
),
timed AS (
  SELECT count(*) AS timed,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY run_ms) AS p50_ms,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY run_ms) AS p90_ms,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY stable_run_ms) AS stable_p50_ms,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY stable_run_ms) AS stable_p90_ms
  FROM latest
  WHERE outcome = 'done' AND stable_outcome = 'done'
)
SELECT (SELECT count(*) FROM latest) AS runs,
  (SELECT count(agrees) FROM latest) AS compared,
  (SELECT count(*) FROM latest WHERE agrees) AS agreed,
  (
    SELECT json_object_agg(kind, n)
    FROM (
      SELECT kind, count(*) AS n
      FROM latest, jsonb_array_elements_text(latest.differences) AS kind
      GROUP BY kind
    ) AS counted
  )::text AS differences,
  timed.*
FROM timed";

const AGREEMENT: &str = "
SELECT count(*) AS compared, count(*) FILTER (WHERE agrees) AS agreed
FROM (
  SELECT agrees
  FROM executor_shadow_runs
  WHERE digest = $1 AND route = $2 AND agrees IS NOT NULL AND shadow <> $3
    AND ended_at >= now() - $4 * interval '1 microsecond'
  ORDER BY ended_at DESC
  LIMIT $5
) AS latest";

pub(super) async fn start(store: &PostgresStore, new: &NewShadow) -> Step<StartedShadow> {
    let lock = lock!("executor_shadows");
    let mut deciding = Deciding::begin(store, lock, &new.by).await?;
    let route = new.route.to_string();
    let turn = &mut deciding.turn;
    let query = turn.query(SELECT_BUSY).bind(&route);
    if let Some(row) = query.fetch_optional(turn.conn()).await? {
        let row = rows::shadow(&PgCells::of("executor_shadows", &row))?;
        deciding.already().await?;
        return Ok(StartedShadow::Busy(row));
    }
    let query = turn
        .query(START)
        .bind(ShadowId::generate().to_string())
        .bind(&route)
        .bind(new.plugin.as_str())
        .bind(new.candidate.to_string())
        .bind(i32::from(new.share.percent()))
        .bind(new.side_effects.as_str())
        .bind(&deciding.actor)
        .bind(text(new.reason.as_ref()))
        .bind(TraceId::generate().as_str().to_owned());
    let row = query.fetch_one(turn.conn()).await?;
    let row = rows::shadow(&PgCells::of("executor_shadows", &row))?;
    deciding.decide(events::started(&row)).await?;
    Ok(StartedShadow::Now(row))
}

pub(super) async fn end(
    store: &PostgresStore,
    id: &ShadowId,
    decision: &Decision,
) -> Step<EndedShadow> {
    let lock = lock!("executor_shadows");
    let mut deciding = Deciding::begin(store, lock, &decision.by).await?;
    let turn = &mut deciding.turn;
    let query = turn.query(END).bind(id.as_str()).bind(&deciding.actor);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        deciding.already().await?;
        let before = find(store, id).await?;
        return Ok(before.map_or(EndedShadow::Unknown, EndedShadow::Over));
    };
    let row = rows::shadow(&PgCells::of("executor_shadows", &row))?;
    let event = events::ended(&row, &deciding.actor, text(decision.reason.as_ref()));
    deciding.decide(event).await?;
    Ok(EndedShadow::Now(row))
}

pub(super) async fn find(store: &PostgresStore, id: &ShadowId) -> Step<Option<ShadowRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ONE).bind(id.as_str());
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    row.map(|row| rows::shadow(&PgCells::of("executor_shadows", &row)))
        .transpose()
}

pub(super) async fn list(store: &PostgresStore, limit: u32) -> Step<Vec<ShadowRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ALL).bind(i64::from(limit));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::shadow(&PgCells::of("executor_shadows", row)))
        .collect()
}

pub(super) async fn dropped(store: &PostgresStore, counts: &[(ShadowId, u64)]) -> Step<()> {
    let mut turn = store.connections.transaction().await?;
    for (id, count) in counts {
        let query = turn.query(DROP).bind(id.as_str()).bind(int(*count));
        query.execute(turn.conn()).await?;
    }
    turn.finish().await
}

pub(super) async fn record(store: &PostgresStore, run: &ShadowRun) -> Step<bool> {
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(INSERT_RUN)
        .bind(run.message_id.0)
        .bind(run.shadow.as_str())
        .bind(run.route.key.to_string())
        .bind(run.candidate.digest.to_string())
        .bind(run.candidate_seen.end.as_str())
        .bind(int(run.candidate_seen.run_ms))
        .bind(run.stable_seen.end.as_str())
        .bind(int(run.stable_seen.run_ms))
        .bind(run.comparison.agrees)
        .bind(to_json(&run.comparison.differences)?)
        .bind(to_json(run)?);
    let recorded = query.execute(turn.conn()).await?.rows_affected() > 0;
    if recorded {
        insert_events(&mut turn, &events::difference(run)).await?;
    }
    turn.finish().await?;
    Ok(recorded)
}

pub(super) async fn runs(
    store: &PostgresStore,
    filter: &ShadowRunFilter,
) -> Step<Vec<ShadowRunRow>> {
    let mut turn = store.connections.turn().await?;
    let limit = i64::from(filter.limit);
    let query = match &filter.task {
        Some(id) => turn.query(RUNS_OF_TASK).bind(id.0).bind(limit),
        None => turn
            .query(RUNS)
            .bind(filter.shadow.as_ref().map(ShadowId::as_str))
            .bind(filter.route.as_ref().map(RouteKey::to_string))
            .bind(filter.differing)
            .bind(limit),
    };
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::run(&PgCells::of("executor_shadow_runs", row)))
        .collect()
}

pub(super) async fn tally(
    store: &PostgresStore,
    id: &ShadowId,
    route: Option<&RouteKey>,
) -> Step<Tally> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(TALLY)
        .bind(id.as_str())
        .bind(route.map(RouteKey::to_string))
        .bind(i64::from(TALLIED));
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    rows::tally(&PgCells::of("executor_shadow_runs", &row))
}

/// How the shadows of a rollout's candidate agreed, on its route.
pub(super) async fn agreement(turn: &mut Turn, row: &RolloutRow) -> Step<Part> {
    let query = turn
        .query(AGREEMENT)
        .bind(row.candidate.to_string())
        .bind(row.route.to_string())
        .bind(ShadowId::compare().to_string())
        .bind(micros(EVIDENCE_WINDOW))
        .bind(i64::from(EVIDENCE));
    let row = query.fetch_one(turn.conn()).await?;
    rows::agreement(&PgCells::of("executor_shadow_runs", &row))
}
