//! The breakers: what their paths met lately, and their state, which changes by
//! compare-and-set.

use super::enqueue::insert_events;
use super::row::{micros, to_json};
use super::{PgCells, PostgresStore, Step};
use crate::breaker::{ANSWERS, MIN_RESULTS, RealPath, STREAK, STREAK_WINDOW, UNREACHABLE, WINDOW};
use crate::ids::smoke_prefix;
use crate::store::control as rows;
use crate::store::{BreakerMove, PathEvidence};

/// An attempt on the real path that says something, of a path whose breaker was
/// closed when it began. `$1` are the codes by which a worker answers.
macro_rules! counts {
    ($attempt:literal, $breaker:literal) => {
        concat!(
            $attempt,
            ".why ->> 'path' = 'real'
    AND ",
            $attempt,
            ".claimed_at > coalesce(",
            $breaker,
            ".closed_at, '-infinity')"
        )
    };
}

/// Begins with the failures of all paths, newest first, by an index that holds
/// little else; where there are none, it ends there. `nth` and `other` are from
/// when on there were enough of them in a row, of more than one task: what came
/// since then must not hold anything else. Answers are looked for only where the
/// failures alone would be enough. What fails on purpose, in smoke tests, does not
/// count.
const SELECT: &str = concat!(
    "
WITH failure AS MATERIALIZED (
  SELECT a.plugin, m.service, m.role, b.closed_at, a.message_id, a.ended_at,
    a.code = $2 AS unreachable
  FROM executor_attempts AS a
  JOIN agent_messages AS m ON m.id = a.message_id
  LEFT JOIN executor_breakers AS b
    ON b.plugin = a.plugin AND b.route = m.service || '/' || m.role
  WHERE a.blame = 'worker'
    AND a.ended_at > now() - $3 * interval '1 microsecond'
    AND a.outcome IN ('retry', 'failed')
    AND a.code <> ALL ($1::text[])
    AND coalesce(b.state, 'closed') = 'closed'
    AND coalesce(NOT starts_with(m.trace_id, '",
    smoke_prefix!(),
    "'), TRUE)
    AND ",
    counts!("a", "b"),
    "
  ORDER BY a.ended_at DESC
  LIMIT 1000
),
placed AS (
  SELECT *,
    row_number() OVER path AS place,
    first_value(message_id) OVER path AS newest
  FROM failure
  WINDOW path AS (PARTITION BY plugin, service, role ORDER BY ended_at DESC, message_id)
),
path AS (
  SELECT plugin, service, role, closed_at,
    count(*) FILTER (WHERE ended_at > now() - $4 * interval '1 microsecond') AS failures,
    max(ended_at) FILTER (WHERE place >= $5) AS nth,
    max(ended_at) FILTER (WHERE message_id <> newest) AS other
  FROM placed
  GROUP BY plugin, service, role, closed_at
),
found AS (
  SELECT *, CASE WHEN nth IS NOT NULL AND other IS NOT NULL THEN least(nth, other) END AS since
  FROM path
)
SELECT f.plugin, f.service, f.role, f.failures,
  CASE WHEN f.failures * 2 >= $6 THEN (
    SELECT count(*)
    FROM (
      SELECT FROM executor_attempts AS a
      JOIN agent_messages AS m ON m.id = a.message_id
      WHERE a.ended_at > now() - $4 * interval '1 microsecond'
        AND a.plugin = f.plugin AND m.service = f.service AND m.role = f.role
        AND (a.outcome = 'done' OR a.code = ANY ($1::text[]))
        AND ",
    counts!("a", "f"),
    "
      LIMIT 1001
    ) AS answer
  ) ELSE 0 END AS answers,
  row_of.attempts AS streak, row_of.tasks AS streak_tasks
FROM found AS f
CROSS JOIN LATERAL (
  SELECT count(*) AS attempts, count(DISTINCT p.message_id) AS tasks
  FROM placed AS p
  WHERE p.plugin = f.plugin AND p.service = f.service AND p.role = f.role
    AND p.ended_at >= f.since
    AND NOT EXISTS (
      SELECT FROM placed AS q
      WHERE q.plugin = f.plugin AND q.service = f.service AND q.role = f.role
        AND q.ended_at >= f.since AND NOT q.unreachable
    )
    AND NOT EXISTS (
      SELECT FROM executor_attempts AS a
      JOIN agent_messages AS m ON m.id = a.message_id
      WHERE a.ended_at >= f.since
        AND a.plugin = f.plugin AND m.service = f.service AND m.role = f.role
        AND (a.outcome = 'done' OR a.code = ANY ($1::text[]))
        AND ",
    counts!("a", "f"),
    "
    )
) AS row_of"
);

const MOVE: &str = "
INSERT INTO executor_breakers AS b
  (plugin, route, revision, state, cause, failed_probes, probe_at, probe_holder, probe_until,
   closed_at, changed_at)
VALUES ($1, $2, $3 + 1, $4, $5::jsonb, $6, now() + $7 * interval '1 microsecond', $8,
  now() + $9 * interval '1 microsecond', CASE WHEN $4 = 'closed' THEN now() END, now())
ON CONFLICT (plugin, route) DO UPDATE
SET revision = excluded.revision, state = excluded.state, cause = excluded.cause,
    failed_probes = excluded.failed_probes, probe_at = excluded.probe_at,
    probe_holder = excluded.probe_holder, probe_until = excluded.probe_until,
    closed_at = coalesce(excluded.closed_at, b.closed_at), changed_at = excluded.changed_at
WHERE b.revision = $3";

const KEEP_PROBE: &str = "
UPDATE executor_breakers
SET probe_until = now() + $4 * interval '1 microsecond'
WHERE plugin = $1 AND route = $2 AND revision = $3 AND state = 'probing'";

pub(super) async fn evidence(store: &PostgresStore) -> Step<Vec<PathEvidence>> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(SELECT)
        .bind(ANSWERS.map(str::to_owned).to_vec())
        .bind(UNREACHABLE)
        .bind(micros(STREAK_WINDOW))
        .bind(micros(WINDOW))
        .bind(i64::from(STREAK))
        .bind(i64::from(MIN_RESULTS));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.extend(rows::path_evidence(&PgCells::of("executor_attempts", row))?);
    }
    Ok(found)
}

pub(super) async fn change(store: &PostgresStore, change: &BreakerMove<'_>) -> Step<bool> {
    let cells = change.cells();
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(MOVE)
        .bind(change.path.plugin.as_str())
        .bind(change.path.route.to_string())
        .bind(change.revision)
        .bind(cells.state)
        .bind(cells.cause.map(|cause| to_json(&cause)).transpose()?)
        .bind(i64::from(cells.failed_probes))
        .bind(cells.probe_in.map(micros))
        .bind(cells.holder)
        .bind(cells.probe_left.map(micros));
    let changed = query.execute(turn.conn()).await?.rows_affected() > 0;
    if changed {
        insert_events(&mut turn, change.events).await?;
    }
    turn.finish().await?;
    Ok(changed)
}

pub(super) async fn keep_probe(
    store: &PostgresStore,
    path: &RealPath,
    revision: i64,
    lease: std::time::Duration,
) -> Step<bool> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(KEEP_PROBE)
        .bind(path.plugin.as_str())
        .bind(path.route.to_string())
        .bind(revision)
        .bind(micros(lease));
    let kept = query.execute(turn.conn()).await?.rows_affected() > 0;
    turn.finish().await?;
    Ok(kept)
}
