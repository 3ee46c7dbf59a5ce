//! What gates and latency figures rest on, aggregated by the database: the
//! groups that come back are few, however many tasks there were.

use std::time::Duration;

use super::connection::Turn;
use super::parts::from_parts;
use super::row::micros;
use super::{PgCells, PostgresStore, Step};
use crate::gate::{Evidence, Scope};
use crate::ids::smoke_prefix;
use crate::store::{Latency, rows};
use crate::task::CANCELLED;

/// The tasks of a scope: by trace, or by when they ended. What a smoke test
/// does on purpose speaks of its own trace and of nothing else.
macro_rules! in_scope {
    (trace) => {
        "m.trace_id = $1"
    };
    (window) => {
        concat!(
            "coalesce(m.done_at, m.last_error_at, m.created_at)
      >= now() - $1 * interval '1 microsecond'
    AND coalesce(NOT starts_with(m.trace_id, '",
            smoke_prefix!(),
            "'), TRUE)"
        )
    };
}

/// Attempts of anything but smoke tests, which are few and found by an index:
/// after the prefix, nothing sorts behind a `z`.
macro_rules! no_smoke {
    () => {
        concat!(
            "a.message_id NOT IN ",
            from_parts!(
                "id",
                concat!(
                    "trace_id >= '",
                    smoke_prefix!(),
                    "' AND trace_id < '",
                    smoke_prefix!(),
                    "z' AND starts_with(trace_id, '",
                    smoke_prefix!(),
                    "')"
                )
            )
        )
    };
}

/// Groups of tasks that ended alike. The last attempt says what ended a task;
/// one plugin name over all attempts says that the choice held.
macro_rules! select_ended {
    ($scope:ident) => {
        concat!(
            "
WITH ended AS (
  SELECT m.service, m.role, m.status, coalesce(m.error = $2, FALSE) AS cancelled,
    m.result ->> 'type' AS report,
    CASE m.result ->> 'passed' WHEN 'true' THEN 1 WHEN 'false' THEN 0 END::bigint AS passed,
    last.kind, coalesce(last.fallback = 'true', FALSE) AS fallback,
    every.plugins = 1 AND NOT every.fallback AS held
  FROM agent_messages AS m
  LEFT JOIN LATERAL (
    SELECT a.kind, a.why ->> 'fallback' AS fallback
    FROM executor_attempts AS a
    WHERE a.message_id = m.id
    ORDER BY a.lease_epoch DESC
    LIMIT 1
  ) AS last ON TRUE
  CROSS JOIN LATERAL (
    SELECT count(DISTINCT a.plugin) AS plugins,
      coalesce(bool_or(a.why ->> 'fallback' = 'true'), FALSE) AS fallback
    FROM executor_attempts AS a
    WHERE a.message_id = m.id
  ) AS every
  WHERE m.status IN ('done', 'failed') AND ",
            in_scope!($scope),
            "
)
SELECT service, role, status, cancelled, report, passed, kind, fallback, held,
  count(*) AS tasks
FROM ended
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
        )
    };
}

const ENDED_TRACE: &str = select_ended!(trace);
const ENDED_WINDOW: &str = select_ended!(window);

const UNSETTLED_TRACE: &str = concat!(
    "
SELECT count(*) AS n
FROM ",
    from_parts!("status", "trace_id = $1"),
    " AS m
WHERE status IN ('queued', 'claimed')"
);

const BUILDTESTS_TRACE: &str = "
SELECT count(*) AS n
FROM bus_events
WHERE trace_id = $1 AND event_type = 'buildtest_done'";

const BUILDTESTS_WINDOW: &str = concat!(
    "
SELECT count(*) AS n
FROM bus_events
WHERE created_at >= now() - $1 * interval '1 microsecond'
  AND event_type = 'buildtest_done'
  AND coalesce(NOT starts_with(trace_id, '",
    smoke_prefix!(),
    "'), TRUE)"
);

/// Percentiles by nearest rank, which is what `percentile_disc` takes.
macro_rules! select_waits {
    ($from:expr) => {
        concat!(
            "
SELECT count(*) AS n,
  percentile_disc(0.5) WITHIN GROUP (ORDER BY a.wait_ms) AS p50_ms,
  percentile_disc(0.9) WITHIN GROUP (ORDER BY a.wait_ms) AS p90_ms
",
            $from
        )
    };
}

const WAITS_TRACE: &str = select_waits!(concat!(
    "FROM ",
    from_parts!("id", "trace_id = $1"),
    " AS m
JOIN executor_attempts AS a ON a.message_id = m.id"
));

const WAITS_WINDOW: &str = select_waits!(concat!(
    "FROM executor_attempts AS a
WHERE a.ended_at >= now() - $1 * interval '1 microsecond'
  AND ",
    no_smoke!()
));

const WAITS_ROUTE: &str = select_waits!(concat!(
    "FROM executor_attempts AS a
JOIN agent_messages AS m ON m.id = a.message_id
WHERE a.ended_at >= now() - $1 * interval '1 microsecond'
  AND ($2::text IS NULL OR m.service = $2)
  AND ($3::text IS NULL OR m.role = $3)
  AND ",
    no_smoke!()
));

/// What a scope is asked with.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Trace(&'a str),
    /// The length of the window in microseconds.
    Window(i64),
}

macro_rules! bind_scope {
    ($query:expr, $asked:expr) => {
        match $asked {
            Asked::Trace(trace_id) => $query.bind(trace_id),
            Asked::Window(length) => $query.bind(length),
        }
    };
}

pub(super) async fn evidence(store: &PostgresStore, scope: &Scope) -> Step<Evidence> {
    let (asked, statements) = match scope {
        Scope::Trace(trace_id) => (
            Asked::Trace(trace_id.as_str()),
            (ENDED_TRACE, BUILDTESTS_TRACE, WAITS_TRACE),
        ),
        Scope::Window { minutes } => (
            Asked::Window(micros(Duration::from_secs(u64::from(*minutes) * 60))),
            (ENDED_WINDOW, BUILDTESTS_WINDOW, WAITS_WINDOW),
        ),
    };
    let (select_ended, select_buildtests, select_waits) = statements;
    // One snapshot, so that the parts fit together.
    let mut turn = store.connections.snapshot().await?;
    let query = bind_scope!(turn.query(select_ended), asked).bind(CANCELLED);
    let groups = query.fetch_all(turn.conn()).await?;
    let mut ended = Vec::with_capacity(groups.len());
    for row in &groups {
        ended.extend(rows::ended(&PgCells::of("agent_messages", row))?);
    }
    // What still runs says nothing about what ended in a window.
    let unsettled = match asked {
        Asked::Trace(_) => count(&mut turn, UNSETTLED_TRACE, asked).await?,
        Asked::Window(_) => 0,
    };
    let buildtest_done = count(&mut turn, select_buildtests, asked).await?;
    let query = bind_scope!(turn.query(select_waits), asked);
    let waits = query.fetch_one(turn.conn()).await?;
    let waits = rows::latency(&PgCells::of("executor_attempts", &waits))?;
    turn.finish().await?;
    Ok(Evidence {
        unsettled,
        ended,
        wait_p90_ms: waits.p90_ms,
        waits: waits.n,
        buildtest_done,
    })
}

async fn count(turn: &mut Turn, sql: &'static str, asked: Asked<'_>) -> Step<u64> {
    let query = bind_scope!(turn.query(sql), asked);
    let row = query.fetch_one(turn.conn()).await?;
    PgCells::of("agent_messages", &row).count("n")
}

pub(super) async fn latency(
    store: &PostgresStore,
    service: Option<&str>,
    role: Option<&str>,
    since: Duration,
) -> Step<Latency> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(WAITS_ROUTE)
        .bind(micros(since))
        .bind(service)
        .bind(role);
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    rows::latency(&PgCells::of("executor_attempts", &row))
}
