//! Rules that others gave the tables that they made: columns that are too short
//! and checks that refuse what a host writes.
//!
//! Only told of, never changed. A check is tried on rows that are as a host
//! writes them; nothing is written. What cannot be told is passed over.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::shape::{AGENT_MESSAGES, BUS_EVENTS};
use crate::event::{
    EXECUTE_CANCELLED, EXECUTE_DONE, EXECUTE_ENQUEUED, EXECUTE_FAILED, EXECUTE_RETRY, LEASE_LOST,
    TASK_RESCUED,
};
use crate::ids::TraceId;
use crate::retry::RetryPolicy;
use crate::store::postgres::{PgCells, Step};

/// A rule, and the statement that does away with it.
pub(in crate::store::postgres) struct Limit {
    pub(in crate::store::postgres) rule: String,
    pub(in crate::store::postgres) remedy: String,
}

/// The text that a host writes: table, column, and the bytes that it may need,
/// none where that is any number.
const TEXTS: &[(&str, &str, Option<usize>)] = &[
    (AGENT_MESSAGES.name, "status", Some("claimed".len())),
    // With a name of 51 bytes; by default it has nine.
    (AGENT_MESSAGES.name, "claimed_by", Some(64)),
    (AGENT_MESSAGES.name, "trace_id", Some(TraceId::MAX_BYTES)),
    (AGENT_MESSAGES.name, "task_id", None),
    (AGENT_MESSAGES.name, "error", None),
    (AGENT_MESSAGES.name, "result_snippet", None),
    (AGENT_MESSAGES.name, "result_url", None),
    // `<service>_<role>_failed` is the longest.
    (BUS_EVENTS.name, "event_type", Some(136)),
    (BUS_EVENTS.name, "message_id", Some(36)),
    (BUS_EVENTS.name, "service", Some(64)),
    (BUS_EVENTS.name, "role", Some(64)),
    (BUS_EVENTS.name, "trace_id", Some(TraceId::MAX_BYTES)),
    (BUS_EVENTS.name, "tenant", None),
    (BUS_EVENTS.name, "reason", None),
];

const SHORT: &str = "
SELECT format('%I.%I', n.nspname, c.relname) AS path, quote_ident(a.attname) AS column,
  format_type(a.atttypid, a.atttypmod) AS kind
FROM jsonb_to_recordset($1) AS wanted (name text, attribute text, bytes integer)
JOIN pg_class AS c ON c.oid = to_regclass(wanted.name)
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = wanted.attribute
WHERE a.atttypid = 'varchar'::regtype AND a.atttypmod > 4
  AND (wanted.bytes IS NULL OR a.atttypmod - 4 < wanted.bytes)
ORDER BY c.relname, a.attnum";

/// The checks of one table.
const CHECKS: &str = "
SELECT format('%I.%I', n.nspname, c.relname) AS path, quote_ident(con.conname) AS name,
  pg_get_constraintdef(con.oid) AS definition, pg_get_expr(con.conbin, con.conrelid) AS condition
FROM pg_constraint AS con
JOIN pg_class AS c ON c.oid = con.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE con.contype = 'c' AND con.conrelid = to_regclass($1)
ORDER BY con.conname";

/// What stands in the way of a host, as far as it can be told.
pub(in crate::store::postgres) async fn limits(conn: &mut PgConnection) -> Step<Vec<Limit>> {
    let mut limits = short(conn).await?;
    limits.extend(broken(conn, AGENT_MESSAGES.name, &tasks()).await?);
    limits.extend(broken(conn, BUS_EVENTS.name, &events()).await?);
    Ok(limits)
}

async fn short(conn: &mut PgConnection) -> Step<Vec<Limit>> {
    let texts: Vec<Value> = TEXTS
        .iter()
        .map(|(table, column, bytes)| json!({"name": table, "attribute": column, "bytes": bytes}))
        .collect();
    let query = sqlx::query(SHORT).persistent(false);
    let rows = query.bind(Value::from(texts)).fetch_all(conn).await?;
    let limit = |row| {
        let cells = PgCells::of("pg_attribute", row);
        let (path, column) = (cells.required_text("path")?, cells.required_text("column")?);
        Ok(Limit {
            rule: format!("{path}.{column} is {}", cells.required_text("kind")?),
            remedy: format!("ALTER TABLE {path} ALTER COLUMN {column} TYPE text"),
        })
    };
    rows.iter().map(limit).collect()
}

/// A task as it waits, then what a host makes of it.
fn tasks() -> Value {
    let now = chrono::Utc::now().to_rfc3339();
    // Short, so that a short column keeps no check from being tried.
    let holder = "host:0123456789ab";
    let most = RetryPolicy::DEFAULT.max_attempts;
    json!([
        {"status": "queued", "attempts": 0, "priority": 0, "created_at": now},
        {"status": "claimed", "attempts": 1, "priority": 0, "created_at": now,
         "claimed_by": holder, "claimed_at": now},
        {"status": "claimed", "attempts": most, "priority": 0, "created_at": now,
         "claimed_by": holder, "claimed_at": now, "retry_at": now, "error": "code: what it was",
         "last_error_at": now},
        {"status": "queued", "attempts": 1, "priority": 0, "created_at": now, "retry_at": now,
         "error": "code: what it was", "last_error_at": now},
        {"status": "done", "attempts": 1, "priority": 0, "created_at": now,
         "claimed_by": holder, "claimed_at": now, "done_at": now, "result_snippet": "12 passed",
         "result": {}},
        {"status": "failed", "attempts": most, "priority": 0, "created_at": now,
         "claimed_by": holder, "claimed_at": now, "done_at": now, "retry_at": now,
         "error": "code: what it was", "last_error_at": now},
    ])
}

/// An event of which nothing is said, then those that tasks leave.
fn events() -> Value {
    let types = [
        EXECUTE_ENQUEUED,
        EXECUTE_RETRY,
        EXECUTE_FAILED,
        EXECUTE_DONE,
        EXECUTE_CANCELLED,
        LEASE_LOST,
        TASK_RESCUED,
    ];
    let event = |event_type: &str| {
        json!({
            "event_type": event_type,
            "created_at": chrono::Utc::now().to_rfc3339(),
            "trace_id": "0123456789abcdef0123456789abcdef",
            "payload": {},
        })
    };
    let mut events = vec![json!({})];
    events.extend(types.map(event));
    Value::from(events)
}

/// The checks that some row but the first breaks. What even the first one breaks
/// depends on what is not known here.
async fn broken(conn: &mut PgConnection, table: &str, rows: &Value) -> Step<Vec<Limit>> {
    let query = sqlx::query(CHECKS).persistent(false).bind(table);
    let mut limits = Vec::new();
    for check in query.fetch_all(&mut *conn).await? {
        let cells = PgCells::of("pg_constraint", &check);
        let (path, name) = (cells.required_text("path")?, cells.required_text("name")?);
        // The server's own words for what it does at every write.
        let trial = format!(
            "SELECT min(ordinality) > 1 AS broken
             FROM jsonb_populate_recordset(NULL::{path}, $1) WITH ORDINALITY AS written
             WHERE ({}) IS FALSE",
            cells.required_text("condition")?
        );
        let trial = sqlx::query(AssertSqlSafe(trial)).persistent(false);
        // One that cannot be tried alone is not told of.
        let Ok(answer) = trial.bind(rows).fetch_one(&mut *conn).await else {
            continue;
        };
        if PgCells::of("trial", &answer).flag("broken")? {
            limits.push(Limit {
                rule: format!("`{name}` {}", cells.required_text("definition")?),
                remedy: format!("ALTER TABLE {path} DROP CONSTRAINT {name}"),
            });
        }
    }
    Ok(limits)
}
