//! Rollouts: their state, which changes by compare-and-set, the sides of tasks,
//! and what the attempts of a step came to.

use sqlx::sqlite::SqliteConnection;

use super::control::{Deciding, promote, text};
use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step, execute_batch, int, modifier_back, shadow};
use crate::ids::{TraceId, smoke_prefix};
use crate::millis::millis;
use crate::rollout::events::{self, Grounds};
use crate::rollout::verdict::Evidence;
use crate::rollout::{RolloutRow, State};
use crate::selection::RolloutId;
use crate::store::rollout::{self as rows, Asked, SideCells};
use crate::store::{NewRollout, RolloutMove, StartedRollout};

/// A rollout in one cell.
macro_rules! rollout_json {
    () => {
        "json_object('id', id, 'route', route, 'plugin', plugin, 'candidate', candidate,
    'stable', stable, 'steps', json(steps), 'interval_ms', interval_ms, 'revision', revision,
    'state', state, 'step', step,
    'for_ms', coalesce(max(0, CAST(round((julianday('now') - julianday(step_began_at))
      * 86400000.0) AS INTEGER)), 0),
    'why', why, 'by', actor, 'started_by', started_by, 'reason', reason,
    'trace_id', trace_id, 'started_at', started_at, 'changed_at', changed_at)"
    };
}
pub(super) use rollout_json;

/// The states that lead on.
macro_rules! active {
    () => {
        "state IN ('waiting', 'step', 'held', 'paused')"
    };
}
pub(super) use active;

const SELECT_BUSY: &str = concat!(
    "
SELECT ",
    rollout_json!(),
    " AS rollout
FROM executor_rollouts
WHERE ",
    active!(),
    " AND (route = ?1 OR plugin = ?2)
LIMIT 1"
);

const SELECT_ONE: &str = concat!(
    "
SELECT ",
    rollout_json!(),
    " AS rollout
FROM executor_rollouts
WHERE id = ?1"
);

const SELECT_ALL: &str = concat!(
    "
SELECT ",
    rollout_json!(),
    " AS rollout
FROM executor_rollouts
ORDER BY started_at DESC, id
LIMIT ?1"
);

const START: &str = concat!(
    "
INSERT INTO executor_rollouts
  (id, route, plugin, candidate, stable, steps, interval_ms, revision, state, started_by, reason,
   trace_id)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 'waiting', ?8, ?9, ?10)
RETURNING ",
    rollout_json!(),
    " AS rollout"
);

/// A new step begins now; a state that stays at its step leaves its time alone.
const MOVE: &str = concat!(
    "
UPDATE executor_rollouts
SET revision = revision + 1, state = ?3, why = ?5, actor = ?6,
    step_began_at = CASE WHEN ?4 IS NULL OR ?4 IS step THEN step_began_at
      ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END,
    began_at = CASE WHEN ?4 IS NULL THEN began_at
      ELSE coalesce(began_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) END,
    step = coalesce(?4, step),
    changed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE id = ?1 AND revision = ?2
RETURNING ",
    rollout_json!(),
    " AS rollout"
);

const FIX_SIDES: &str = "
UPDATE agent_messages AS m
SET rollout_side = fixed.value ->> 'side'
FROM jsonb_each(?1) AS fixed
WHERE m.id = fixed.value ->> 'id'";

/// What counts is said by `rollout::verdict`; smoke tests do not. Each side is
/// read from an index that holds nothing but attempts of rollouts. `ran` is the
/// side that an attempt ran on, `drawn` the one that its task has.
const EVIDENCE: &str = concat!(
    "
WITH bounds AS (
  SELECT max(step_began_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?7)) AS since,
    max(iif(?4, began_at, step_began_at), strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?7))
      AS stable_since
  FROM executor_rollouts
  WHERE id = ?1
),
found AS (
  SELECT a.*, a.ended_at >= bounds.since AS present
  FROM bounds
  CROSS JOIN executor_attempts AS a INDEXED BY executor_attempts_rollout
  WHERE a.rollout_side = ?2 AND a.ended_at >= bounds.since
  UNION ALL
  SELECT a.*, a.ended_at >= bounds.since AS present
  FROM bounds
  CROSS JOIN executor_attempts AS a INDEXED BY executor_attempts_rollout
  WHERE a.rollout_side = ?3 AND a.ended_at >= bounds.stable_since
),
attempt AS MATERIALIZED (
  SELECT a.present, a.rollout_side AS ran, m.rollout_side AS drawn, a.wait_ms, a.run_ms,
    a.attempt = 1 AS first, a.outcome = 'done' AS done,
    a.outcome = 'done' OR (a.outcome IN ('retry', 'failed') AND a.blame IS NOT 'host') AS speaks,
    a.outcome = 'done' OR (a.outcome = 'failed' AND a.blame IS NOT 'host') AS ends,
    a.outcome = 'done' AND a.rollout_side = m.rollout_side
      AND json_valid(m.result) AND m.result ->> '$.type' = ?6
      AND NOT EXISTS (
        SELECT 1
        FROM executor_attempts AS other
        WHERE other.message_id = a.message_id AND other.digest <> a.digest
      ) AS held
  FROM found AS a
  CROSS JOIN agent_messages AS m ON m.id = a.message_id
  WHERE coalesce(m.trace_id NOT GLOB '",
    smoke_prefix!(),
    "*', TRUE)
),
-- Of stable, what ended before the step counts where it was asked for.
side (name, key, present) AS (VALUES ('candidate', ?2, TRUE), ('stable', ?3, FALSE)),
-- Percentiles by nearest rank: of n sorted values, number ⌈n·p⌉.
wait AS (
  SELECT ran, max(CASE WHEN rank = (n * 90 + 99) / 100 THEN wait_ms END) AS p90
  FROM (
    SELECT ran, wait_ms, row_number() OVER (PARTITION BY ran ORDER BY wait_ms) AS rank,
      count(*) OVER (PARTITION BY ran) AS n
    FROM attempt
  )
  GROUP BY ran
),
run AS (
  SELECT ran, max(CASE WHEN rank = (n * 90 + 99) / 100 THEN run_ms END) AS p90
  FROM (
    SELECT ran, run_ms, row_number() OVER (PARTITION BY ran ORDER BY run_ms) AS rank,
      count(*) OVER (PARTITION BY ran) AS n
    FROM attempt
    WHERE first AND done
  )
  GROUP BY ran
),
slow (from_ms) AS (SELECT max(p90 * ?8, p90 + ?9) FROM run WHERE ran = ?3)
SELECT side.name AS side,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.speaks) AS tried,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.speaks AND NOT a.done) AS failed,
  count(*) FILTER (WHERE a.drawn = side.key AND a.ends AND a.present >= side.present) AS ended,
  count(*) FILTER (WHERE a.drawn = side.key AND a.ends AND a.present >= side.present
    AND NOT a.done) AS ended_failed,
  count(*) FILTER (WHERE a.drawn = side.key AND a.held) AS ended_held,
  count(*) FILTER (WHERE a.ran = side.key) AS waits,
  count(*) FILTER (WHERE a.ran = side.key AND a.wait_ms > ?5) AS waits_long,
  (SELECT p90 FROM wait WHERE ran = side.key) AS wait_p90_ms,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.done) AS runs,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.done
    AND a.run_ms > (SELECT from_ms FROM slow)) AS runs_slow,
  (SELECT p90 FROM run WHERE ran = side.key) AS run_p90_ms
FROM side
LEFT JOIN attempt AS a ON TRUE
GROUP BY side.name"
);

pub(super) async fn start(store: &SqliteStore, new: &NewRollout) -> Step<StartedRollout> {
    let mut deciding = Deciding::begin(store, &new.by).await?;
    let route = new.route.to_string();
    let busy = sqlx::query(SELECT_BUSY)
        .bind(&route)
        .bind(new.plugin.as_str())
        .fetch_optional(deciding.conn()?)
        .await?;
    if let Some(row) = busy {
        let row = rows::rollout(&Cells::of("executor_rollouts", &row))?;
        deciding.already().await?;
        return Ok(StartedRollout::Busy(row));
    }
    let actor = deciding.actor.clone();
    let row = sqlx::query(START)
        .bind(RolloutId::generate().to_string())
        .bind(&route)
        .bind(new.plugin.as_str())
        .bind(new.candidate.to_string())
        .bind(new.stable.map(|digest| digest.to_string()))
        .bind(serde_json::to_string(&new.steps)?)
        .bind(int(millis(new.interval)))
        .bind(&actor)
        .bind(text(new.reason.as_ref()))
        .bind(TraceId::generate().as_str())
        .fetch_one(deciding.conn()?)
        .await?;
    let row = rows::rollout(&Cells::of("executor_rollouts", &row))?;
    deciding.decide(events::started(&row)).await?;
    Ok(StartedRollout::Now(row))
}

pub(super) async fn change(
    store: &SqliteStore,
    wanted: &RolloutMove<'_>,
) -> Step<Option<RolloutRow>> {
    let before = wanted.row;
    let mut deciding = Deciding::begin(store, &wanted.decision.by).await?;
    let actor = deciding.actor.clone();
    let Ok(to) = before.state.after(wanted.change, &before.steps, &actor) else {
        deciding.already().await?;
        return Ok(None);
    };
    let cells = rows::cells(&to);
    let row = sqlx::query(MOVE)
        .bind(before.id.as_str())
        .bind(before.revision)
        .bind(cells.state)
        .bind(cells.step)
        .bind(cells.why)
        .bind(cells.actor)
        .fetch_optional(deciding.conn()?)
        .await?;
    let Some(row) = row else {
        deciding.already().await?;
        return Ok(None);
    };
    let after = rows::rollout(&Cells::of("executor_rollouts", &row))?;
    if matches!(to, State::Promoted { .. }) {
        let event = promote(&mut deciding, &after).await?;
        insert_events(deciding.conn()?, &[event]).await?;
    }
    let grounds = Grounds {
        actor: &actor,
        reason: text(wanted.decision.reason.as_ref()),
        report: wanted.report,
    };
    let event = events::changed(before, wanted.change, &to, grounds);
    deciding.decide(event).await?;
    Ok(Some(after))
}

pub(super) async fn find(store: &SqliteStore, id: &RolloutId) -> Step<Option<RolloutRow>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(SELECT_ONE)
        .bind(id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    row.map(|row| rows::rollout(&Cells::of("executor_rollouts", &row)))
        .transpose()
}

pub(super) async fn list(store: &SqliteStore, limit: u32) -> Step<Vec<RolloutRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT_ALL)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|row| rows::rollout(&Cells::of("executor_rollouts", row)))
        .collect()
}

pub(super) async fn evidence(
    store: &SqliteStore,
    row: &RolloutRow,
    wait_max_ms: u64,
) -> Step<Evidence> {
    let asked = Asked::of(row, wait_max_ms);
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(EVIDENCE)
        .bind(&asked.id)
        .bind(&asked.candidate)
        .bind(&asked.stable)
        .bind(asked.all)
        .bind(int(asked.wait_max_ms))
        .bind(asked.report)
        .bind(modifier_back(asked.window))
        .bind(int(asked.slower))
        .bind(int(asked.slower_by_ms))
        .fetch_all(&mut *conn)
        .await?;
    let cells = rows.iter().map(|row| Cells::of("executor_attempts", row));
    Ok(Evidence {
        shadow: shadow::agreement(&mut conn, row).await?,
        ..rows::evidence(cells)?
    })
}

/// Writes the sides of tasks within the caller's transaction.
pub(super) async fn write_sides(conn: &mut SqliteConnection, sides: &[SideCells]) -> Step<()> {
    execute_batch(conn, FIX_SIDES, sides).await
}
