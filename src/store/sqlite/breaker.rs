//! The breakers: what their paths met lately, and their state, which changes by
//! compare-and-set.

use std::time::Duration;

use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step, modifier, modifier_back};
use crate::breaker::{ANSWERS, MIN_RESULTS, RealPath, STREAK, STREAK_WINDOW, UNREACHABLE, WINDOW};
use crate::ids::smoke_prefix;
use crate::store::control as rows;
use crate::store::{BreakerMove, PathEvidence};

/// An attempt on the real path that says something, of a path whose breaker was
/// closed when it began.
macro_rules! counts {
    ($attempt:literal, $breaker:literal) => {
        concat!(
            $attempt,
            ".why ->> '$.path' = 'real'
    AND ",
            $attempt,
            ".claimed_at > coalesce(",
            $breaker,
            ".closed_at, '')"
        )
    };
}

/// By which a worker shows that it is there: `?1` are its codes.
macro_rules! answers {
    () => {
        "(a.outcome = 'done' OR a.code IN (SELECT value FROM json_each(?1)))"
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
    a.code = ?2 AS unreachable
  FROM executor_attempts AS a INDEXED BY executor_attempts_worker
  JOIN agent_messages AS m ON m.id = a.message_id
  LEFT JOIN executor_breakers AS b
    ON b.plugin = a.plugin AND b.route = m.service || '/' || m.role
  WHERE a.blame = 'worker'
    AND a.ended_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
    AND a.outcome IN ('retry', 'failed')
    AND a.code NOT IN (SELECT value FROM json_each(?1))
    AND coalesce(b.state, 'closed') = 'closed'
    AND coalesce(m.trace_id NOT GLOB '",
    smoke_prefix!(),
    "*', TRUE)
    AND ",
    counts!("a", "b"),
    "
  ORDER BY a.ended_at DESC
  LIMIT 1000
),
placed AS MATERIALIZED (
  SELECT *,
    row_number() OVER path AS place,
    first_value(message_id) OVER path AS newest
  FROM failure
  WINDOW path AS (PARTITION BY plugin, service, role ORDER BY ended_at DESC, message_id)
),
path AS (
  SELECT plugin, service, role, closed_at,
    count(*) FILTER (WHERE ended_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)) AS failures,
    max(ended_at) FILTER (WHERE place >= ?5) AS nth,
    max(ended_at) FILTER (WHERE message_id <> newest) AS other
  FROM placed
  GROUP BY plugin, service, role, closed_at
),
found AS (
  -- Null where either is.
  SELECT *, min(nth, other) AS since
  FROM path
),
unbroken AS (
  SELECT *, since IS NOT NULL
    AND NOT EXISTS (
      SELECT 1
      FROM placed AS q
      WHERE q.plugin = f.plugin AND q.service = f.service AND q.role = f.role
        AND q.ended_at >= f.since AND NOT q.unreachable
    )
    AND NOT EXISTS (
      SELECT 1
      FROM executor_attempts AS a
      JOIN agent_messages AS m ON m.id = a.message_id
      WHERE a.ended_at >= f.since
        AND a.plugin = f.plugin AND m.service = f.service AND m.role = f.role
        AND ",
    answers!(),
    "
        AND ",
    counts!("a", "f"),
    "
    ) AS holds
  FROM found AS f
)
SELECT f.plugin, f.service, f.role, f.failures,
  CASE WHEN f.failures * 2 >= ?6 THEN (
    SELECT count(*)
    FROM (
      SELECT 1
      FROM executor_attempts AS a
      JOIN agent_messages AS m ON m.id = a.message_id
      WHERE a.ended_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)
        AND a.plugin = f.plugin AND m.service = f.service AND m.role = f.role
        AND ",
    answers!(),
    "
        AND ",
    counts!("a", "f"),
    "
      LIMIT 1001
    )
  ) ELSE 0 END AS answers,
  (SELECT count(*) FROM placed AS p
   WHERE f.holds AND p.plugin = f.plugin AND p.service = f.service AND p.role = f.role
     AND p.ended_at >= f.since) AS streak,
  (SELECT count(DISTINCT p.message_id) FROM placed AS p
   WHERE f.holds AND p.plugin = f.plugin AND p.service = f.service AND p.role = f.role
     AND p.ended_at >= f.since) AS streak_tasks
FROM unbroken AS f"
);

const MOVE: &str = "
INSERT INTO executor_breakers AS b
  (plugin, route, revision, state, cause, failed_probes, probe_at, probe_holder, probe_until,
   closed_at)
VALUES (?1, ?2, ?3 + 1, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?7), ?8,
  strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?9),
  iif(?4 = 'closed', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), NULL))
ON CONFLICT (plugin, route) DO UPDATE
SET revision = excluded.revision, state = excluded.state, cause = excluded.cause,
    failed_probes = excluded.failed_probes, probe_at = excluded.probe_at,
    probe_holder = excluded.probe_holder, probe_until = excluded.probe_until,
    closed_at = coalesce(excluded.closed_at, b.closed_at), changed_at = excluded.changed_at
WHERE b.revision = ?3";

const KEEP_PROBE: &str = "
UPDATE executor_breakers
SET probe_until = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)
WHERE plugin = ?1 AND route = ?2 AND revision = ?3 AND state = 'probing'";

pub(super) async fn evidence(store: &SqliteStore) -> Step<Vec<PathEvidence>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT)
        .bind(serde_json::to_string(&ANSWERS)?)
        .bind(UNREACHABLE)
        .bind(modifier_back(STREAK_WINDOW))
        .bind(modifier_back(WINDOW))
        .bind(STREAK)
        .bind(MIN_RESULTS)
        .fetch_all(&mut *conn)
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.extend(rows::path_evidence(&Cells::of("executor_attempts", row))?);
    }
    Ok(found)
}

pub(super) async fn change(store: &SqliteStore, change: &BreakerMove<'_>) -> Step<bool> {
    let cells = change.cells();
    let cause = cells.cause.map(|cause| serde_json::to_string(&cause));
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let done = sqlx::query(MOVE)
        .bind(change.path.plugin.as_str())
        .bind(change.path.route.to_string())
        .bind(change.revision)
        .bind(cells.state)
        .bind(cause.transpose()?)
        .bind(cells.failed_probes)
        .bind(cells.probe_in.map(modifier))
        .bind(cells.holder)
        .bind(cells.probe_left.map(modifier))
        .execute(writer.conn()?)
        .await?;
    if done.rows_affected() == 0 {
        writer.rollback().await?;
        return Ok(false);
    }
    insert_events(writer.conn()?, change.events).await?;
    writer.commit().await?;
    Ok(true)
}

pub(super) async fn keep_probe(
    store: &SqliteStore,
    path: &RealPath,
    revision: i64,
    lease: Duration,
) -> Step<bool> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let kept = sqlx::query(KEEP_PROBE)
        .bind(path.plugin.as_str())
        .bind(path.route.to_string())
        .bind(revision)
        .bind(modifier(lease))
        .execute(writer.conn()?)
        .await?;
    writer.commit().await?;
    Ok(kept.rows_affected() > 0)
}
