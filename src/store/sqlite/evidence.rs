//! What gates and latency figures rest on, aggregated by the database: the
//! groups that come back are few, however many tasks there were.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::row::Cells;
use super::{SqliteStore, Step, modifier_back};
use crate::gate::{Evidence, Scope};
use crate::ids::smoke_prefix;
use crate::store::{Latency, rows};

/// The tasks of a scope: by trace, or by when they ended. What a smoke test
/// does on purpose speaks of its own trace and of nothing else.
macro_rules! in_scope {
    (trace) => {
        "m.trace_id = ?1"
    };
    (window) => {
        concat!(
            "m.status IN ('done', 'failed')
    AND coalesce(m.done_at, m.last_error_at, m.created_at)
      >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
    AND coalesce(m.trace_id NOT GLOB '",
            smoke_prefix!(),
            "*', TRUE)"
        )
    };
}

/// Attempts of anything but smoke tests, which are few and found by an index.
macro_rules! no_smoke {
    () => {
        concat!(
            "a.message_id NOT IN (
      SELECT id FROM agent_messages WHERE trace_id GLOB '",
            smoke_prefix!(),
            "*'
    )"
        )
    };
}

/// Groups of tasks that ended alike. One plugin name over all attempts says
/// that the choice held; the last attempt says what ended a task: where a group
/// has one `max`, SQLite takes bare columns from the row that holds it
/// (sqlite.org/lang_select.html, section 2.5).
macro_rules! select_ended {
    ($scope:ident) => {
        concat!(
            "
WITH ended AS (
  SELECT m.service, m.role, m.status, m.error,
    CASE WHEN json_valid(m.result) THEN m.result ->> '$.type' END AS report,
    CASE WHEN json_valid(m.result) THEN m.result ->> '$.passed' END AS passed,
    max(a.lease_epoch), a.kind AS kind, a.why ->> '$.fallback' AS fallback,
    count(DISTINCT a.plugin) AS plugins, total(a.why ->> '$.fallback') AS fallbacks
  FROM agent_messages AS m
  LEFT JOIN executor_attempts AS a ON a.message_id = m.id
  WHERE ",
            in_scope!($scope),
            "
    AND m.status IN ('done', 'failed')
  -- The order of the index over a window: no sort.
  GROUP BY coalesce(m.done_at, m.last_error_at, m.created_at), m.status, m.rowid
)
SELECT service, role, status, error = ?2 AS cancelled, report, passed, kind,
  plugins = 1 AND fallbacks = 0 AS held, coalesce(fallback, 0) AS fallback,
  count(*) AS tasks
FROM ended
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
        )
    };
}

const ENDED_TRACE: &str = select_ended!(trace);
const ENDED_WINDOW: &str = select_ended!(window);

const UNSETTLED_TRACE: &str = "
SELECT count(*) AS n
FROM agent_messages
WHERE trace_id = ?1 AND status IN ('queued', 'claimed')";

const BUILDTESTS_TRACE: &str = "
SELECT count(*) AS n
FROM bus_events
WHERE trace_id = ?1 AND event_type = 'buildtest_done'";

const BUILDTESTS_WINDOW: &str = concat!(
    "
SELECT count(*) AS n
FROM bus_events
WHERE created_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
  AND event_type = 'buildtest_done'
  AND coalesce(trace_id NOT GLOB '",
    smoke_prefix!(),
    "*', TRUE)"
);

/// Percentiles by nearest rank: of n sorted values, number ⌈n·p⌉.
macro_rules! select_waits {
    ($from:expr) => {
        concat!(
            "
WITH wait AS (
  SELECT a.wait_ms, row_number() OVER (ORDER BY a.wait_ms) AS rank, count(*) OVER () AS n
",
            $from,
            "
)
SELECT coalesce(max(n), 0) AS n,
  max(CASE WHEN rank = (n * 50 + 99) / 100 THEN wait_ms END) AS p50_ms,
  max(CASE WHEN rank = (n * 90 + 99) / 100 THEN wait_ms END) AS p90_ms
FROM wait"
        )
    };
}

const WAITS_TRACE: &str = select_waits!(
    "  FROM agent_messages AS m
  JOIN executor_attempts AS a ON a.message_id = m.id
  WHERE m.trace_id = ?1"
);

const WAITS_WINDOW: &str = select_waits!(concat!(
    "  FROM executor_attempts AS a
  WHERE a.ended_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
    AND ",
    no_smoke!()
));

const WAITS_ROUTE: &str = select_waits!(concat!(
    "  FROM executor_attempts AS a
  JOIN agent_messages AS m ON m.id = a.message_id
  WHERE a.ended_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
    AND (?2 IS NULL OR m.service = ?2)
    AND (?3 IS NULL OR m.role = ?3)
    AND ",
    no_smoke!()
));

/// The statements of one scope and what they are asked with.
struct Statements {
    ended: &'static str,
    unsettled: Option<&'static str>,
    waits: &'static str,
    buildtests: &'static str,
    scope: String,
}

impl Statements {
    fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Trace(trace_id) => Self {
                ended: ENDED_TRACE,
                unsettled: Some(UNSETTLED_TRACE),
                waits: WAITS_TRACE,
                buildtests: BUILDTESTS_TRACE,
                scope: trace_id.as_str().to_owned(),
            },
            // What still runs says nothing about what ended in a window.
            Scope::Window { minutes } => Self {
                ended: ENDED_WINDOW,
                unsettled: None,
                waits: WAITS_WINDOW,
                buildtests: BUILDTESTS_WINDOW,
                scope: modifier_back(Duration::from_secs(u64::from(*minutes) * 60)),
            },
        }
    }
}

pub(super) async fn evidence(store: &SqliteStore, scope: &Scope) -> Step<Evidence> {
    let statements = Statements::of(scope);
    // One snapshot, so that the parts fit together.
    let mut snapshot = store.readers.begin().await?;
    let evidence = gather(&mut snapshot, &statements).await?;
    snapshot.commit().await?;
    Ok(evidence)
}

async fn gather(conn: &mut SqliteConnection, statements: &Statements) -> Step<Evidence> {
    let rows = sqlx::query(statements.ended)
        .bind(&statements.scope)
        .bind(crate::task::CANCELLED)
        .fetch_all(&mut *conn)
        .await?;
    let mut ended = Vec::with_capacity(rows.len());
    for row in &rows {
        ended.extend(rows::ended(&Cells::of("agent_messages", row))?);
    }
    let unsettled = match statements.unsettled {
        Some(sql) => count(conn, sql, &statements.scope).await?,
        None => 0,
    };
    let buildtest_done = count(conn, statements.buildtests, &statements.scope).await?;
    let waits = sqlx::query(statements.waits)
        .bind(&statements.scope)
        .fetch_one(conn)
        .await?;
    let waits = rows::latency(&Cells::of("executor_attempts", &waits))?;
    Ok(Evidence {
        unsettled,
        ended,
        wait_p90_ms: waits.p90_ms,
        waits: waits.n,
        buildtest_done,
    })
}

async fn count(conn: &mut SqliteConnection, sql: &'static str, scope: &str) -> Step<u64> {
    let row = sqlx::query(sql).bind(scope).fetch_one(conn).await?;
    Cells::of("agent_messages", &row).count("n")
}

pub(super) async fn latency(
    store: &SqliteStore,
    service: Option<&str>,
    role: Option<&str>,
    since: Duration,
) -> Step<Latency> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(WAITS_ROUTE)
        .bind(modifier_back(since))
        .bind(service)
        .bind(role)
        .fetch_one(&mut *conn)
        .await?;
    rows::latency(&Cells::of("executor_attempts", &row))
}
