//! Rollouts: their state, which changes by compare-and-set, the sides of tasks,
//! and what the attempts of a step came to.

use super::connection::Turn;
use super::control::{Deciding, lock, promote, text};
use super::enqueue::insert_events;
use super::row::{int, micros, ms_since, to_json};
use super::{PgCells, PostgresStore, Step, shadow};
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
        concat!(
            "json_build_object('id', id, 'route', route, 'plugin', plugin, 'candidate', candidate,
    'stable', stable, 'steps', steps, 'interval_ms', interval_ms, 'revision', revision,
    'state', state, 'step', step,
    'for_ms', greatest(0, coalesce(",
            ms_since!("step_began_at"),
            ", 0)),
    'why', why, 'by', actor, 'started_by', started_by, 'reason', reason,
    'trace_id', trace_id, 'started_at', started_at, 'changed_at', changed_at)"
        )
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
    "::text AS rollout
FROM executor_rollouts
WHERE ",
    active!(),
    " AND (route = $1 OR plugin = $2)
LIMIT 1"
);

const SELECT_ONE: &str = concat!(
    "
SELECT ",
    rollout_json!(),
    "::text AS rollout
FROM executor_rollouts
WHERE id = $1"
);

const SELECT_ALL: &str = concat!(
    "
SELECT ",
    rollout_json!(),
    "::text AS rollout
FROM executor_rollouts
ORDER BY started_at DESC, id
LIMIT $1"
);

const START: &str = concat!(
    "
INSERT INTO executor_rollouts
  (id, route, plugin, candidate, stable, steps, interval_ms, revision, state, started_by, reason,
   trace_id, started_at, changed_at)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, 1, 'waiting', $8, $9, $10, now(), now())
RETURNING ",
    rollout_json!(),
    "::text AS rollout"
);

/// A new step begins now; a state that stays at its step leaves its time alone.
const MOVE: &str = concat!(
    "
UPDATE executor_rollouts
SET revision = revision + 1, state = $3, why = $5, actor = $6,
    step_began_at = CASE WHEN $4::integer IS NULL OR $4 IS NOT DISTINCT FROM step
      THEN step_began_at ELSE now() END,
    began_at = CASE WHEN $4 IS NULL THEN began_at ELSE coalesce(began_at, now()) END,
    step = coalesce($4, step),
    changed_at = now()
WHERE id = $1 AND revision = $2
RETURNING ",
    rollout_json!(),
    "::text AS rollout"
);

const FIX_SIDES: &str = "
UPDATE agent_messages AS m
SET rollout_side = fixed.side
FROM json_to_recordset($1::json) AS fixed (id uuid, side text)
WHERE m.id = fixed.id";

/// What counts is said by `rollout::verdict`; smoke tests do not. Each side is
/// read from an index that holds nothing but attempts of rollouts. `ran` is the
/// side that an attempt ran on, `drawn` the one that its task has.
const EVIDENCE: &str = concat!(
    "
WITH bounds AS (
  SELECT greatest(step_began_at, now() - $7 * interval '1 microsecond') AS since,
    greatest(CASE WHEN $4 THEN began_at ELSE step_began_at END,
      now() - $7 * interval '1 microsecond') AS stable_since
  FROM executor_rollouts
  WHERE id = $1
),
found AS (
  SELECT a.*, a.ended_at >= bounds.since AS present
  FROM bounds
  JOIN executor_attempts AS a ON a.rollout_side = $2 AND a.ended_at >= bounds.since
  UNION ALL
  SELECT a.*, a.ended_at >= bounds.since AS present
  FROM bounds
  JOIN executor_attempts AS a ON a.rollout_side = $3 AND a.ended_at >= bounds.stable_since
),
attempt AS MATERIALIZED (
  SELECT a.present, a.rollout_side AS ran, m.rollout_side AS drawn, a.wait_ms, a.run_ms,
    a.attempt = 1 AS first, a.outcome = 'done' AS done,
    a.outcome = 'done'
      OR (a.outcome IN ('retry', 'failed') AND a.blame IS DISTINCT FROM 'host') AS speaks,
    a.outcome = 'done' OR (a.outcome = 'failed' AND a.blame IS DISTINCT FROM 'host') AS ends,
    a.outcome = 'done' AND a.rollout_side = m.rollout_side AND m.result ->> 'type' = $6
      AND NOT EXISTS (
        SELECT FROM executor_attempts AS other
        WHERE other.message_id = a.message_id AND other.digest <> a.digest
      ) AS held
  FROM found AS a
  JOIN agent_messages AS m ON m.id = a.message_id
  WHERE coalesce(NOT starts_with(m.trace_id, '",
    smoke_prefix!(),
    "'), TRUE)
),
slow AS (
  SELECT percentile_disc(0.9) WITHIN GROUP (ORDER BY run_ms) AS p90
  FROM attempt
  WHERE ran = $3 AND first AND done
)
SELECT side.name AS side,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.speaks) AS tried,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.speaks AND NOT a.done) AS failed,
  count(*) FILTER (WHERE a.drawn = side.key AND a.ends AND a.present >= side.present) AS ended,
  count(*) FILTER (WHERE a.drawn = side.key AND a.ends AND a.present >= side.present
    AND NOT a.done) AS ended_failed,
  count(*) FILTER (WHERE a.drawn = side.key AND a.held) AS ended_held,
  count(*) FILTER (WHERE a.ran = side.key) AS waits,
  count(*) FILTER (WHERE a.ran = side.key AND a.wait_ms > $5) AS waits_long,
  percentile_disc(0.9) WITHIN GROUP (ORDER BY a.wait_ms)
    FILTER (WHERE a.ran = side.key) AS wait_p90_ms,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.done) AS runs,
  count(*) FILTER (WHERE a.ran = side.key AND a.first AND a.done
    AND a.run_ms > greatest(slow.p90 * $8, slow.p90 + $9)) AS runs_slow,
  percentile_disc(0.9) WITHIN GROUP (ORDER BY a.run_ms)
    FILTER (WHERE a.ran = side.key AND a.first AND a.done) AS run_p90_ms
-- Of stable, what ended before the step counts where it was asked for.
FROM (VALUES ('candidate', $2, TRUE), ('stable', $3, FALSE)) AS side (name, key, present)
CROSS JOIN slow
LEFT JOIN attempt AS a ON TRUE
GROUP BY side.name"
);

pub(super) async fn start(store: &PostgresStore, new: &NewRollout) -> Step<StartedRollout> {
    let lock = lock!("executor_rollouts");
    let mut deciding = Deciding::begin(store, lock, &new.by).await?;
    let route = new.route.to_string();
    let turn = &mut deciding.turn;
    let query = turn
        .query(SELECT_BUSY)
        .bind(&route)
        .bind(new.plugin.as_str());
    if let Some(row) = query.fetch_optional(turn.conn()).await? {
        let row = rows::rollout(&PgCells::of("executor_rollouts", &row))?;
        deciding.already().await?;
        return Ok(StartedRollout::Busy(row));
    }
    let query = turn
        .query(START)
        .bind(RolloutId::generate().to_string())
        .bind(&route)
        .bind(new.plugin.as_str())
        .bind(new.candidate.to_string())
        .bind(new.stable.map(|digest| digest.to_string()))
        .bind(to_json(&new.steps)?)
        .bind(int(millis(new.interval)))
        .bind(&deciding.actor)
        .bind(text(new.reason.as_ref()))
        .bind(TraceId::generate().as_str().to_owned());
    let row = query.fetch_one(turn.conn()).await?;
    let row = rows::rollout(&PgCells::of("executor_rollouts", &row))?;
    deciding.decide(events::started(&row)).await?;
    Ok(StartedRollout::Now(row))
}

pub(super) async fn change(
    store: &PostgresStore,
    wanted: &RolloutMove<'_>,
) -> Step<Option<RolloutRow>> {
    let before = wanted.row;
    let lock = lock!("executor_rollouts");
    let mut deciding = Deciding::begin(store, lock, &wanted.decision.by).await?;
    let actor = deciding.actor.clone();
    let Ok(to) = before.state.after(wanted.change, &before.steps, &actor) else {
        deciding.already().await?;
        return Ok(None);
    };
    let cells = rows::cells(&to);
    let turn = &mut deciding.turn;
    let query = turn
        .query(MOVE)
        .bind(before.id.as_str())
        .bind(before.revision)
        .bind(cells.state)
        .bind(
            cells
                .step
                .map(|step| i32::try_from(step).unwrap_or(i32::MAX)),
        )
        .bind(cells.why)
        .bind(cells.actor);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        deciding.already().await?;
        return Ok(None);
    };
    let after = rows::rollout(&PgCells::of("executor_rollouts", &row))?;
    if matches!(to, State::Promoted { .. }) {
        let event = promote(&mut deciding, &after).await?;
        insert_events(&mut deciding.turn, [&event]).await?;
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

pub(super) async fn find(store: &PostgresStore, id: &RolloutId) -> Step<Option<RolloutRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ONE).bind(id.as_str());
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    row.map(|row| rows::rollout(&PgCells::of("executor_rollouts", &row)))
        .transpose()
}

pub(super) async fn list(store: &PostgresStore, limit: u32) -> Step<Vec<RolloutRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT_ALL).bind(i64::from(limit));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::rollout(&PgCells::of("executor_rollouts", row)))
        .collect()
}

pub(super) async fn evidence(
    store: &PostgresStore,
    row: &RolloutRow,
    wait_max_ms: u64,
) -> Step<Evidence> {
    let asked = Asked::of(row, wait_max_ms);
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(EVIDENCE)
        .bind(&asked.id)
        .bind(&asked.candidate)
        .bind(&asked.stable)
        .bind(asked.all)
        .bind(int(asked.wait_max_ms))
        .bind(asked.report)
        .bind(micros(asked.window))
        .bind(int(asked.slower))
        .bind(int(asked.slower_by_ms));
    let rows = query.fetch_all(turn.conn()).await?;
    let shadow = shadow::agreement(&mut turn, row).await?;
    turn.finish().await?;
    let cells = rows.iter().map(|row| PgCells::of("executor_attempts", row));
    Ok(Evidence {
        shadow,
        ..rows::evidence(cells)?
    })
}

/// Writes the sides of tasks within the caller's transaction.
pub(super) async fn write_sides(turn: &mut Turn, sides: &[SideCells]) -> Step<()> {
    if sides.is_empty() {
        return Ok(());
    }
    let query = turn.query(FIX_SIDES).bind(to_json(sides)?);
    query.execute(turn.conn()).await?;
    Ok(())
}
