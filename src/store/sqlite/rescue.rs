//! Sweeps: leases that ran out, and waiting tasks whose time to live did.
//!
//! Each sweep is one transaction over one page, oldest first, so that a page of
//! rows that cannot be helped never hides the rest.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnection;

use super::cancel::{Found, adopt_found, head_columns};
use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step, execute_batch, int};
use crate::attempt::AttemptOutcome;
use crate::event::{LastAttempt, NewEvent};
use crate::ids::MessageId;
use crate::store::{Rescued, Want, audit};
use crate::task::Status;

/// Whose lease has run out, ours or not.
macro_rules! run_out {
    () => {
        "m.status = 'claimed' AND m.lease_expires_at IS NOT NULL
  AND m.lease_expires_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}

/// Whether the holder is a host, by the form of its name. A foreign worker that
/// takes a row from a host writes its own name and knows nothing of the lease.
macro_rules! held_by_a_host {
    () => {
        "(m.claimed_by IS NULL OR m.claimed_by GLOB
    '*:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]')"
    };
}

const ANY_RUN_OUT: &str = concat!(
    "
SELECT 1
FROM agent_messages AS m INDEXED BY agent_messages_lease
WHERE ",
    run_out!(),
    "
LIMIT 1"
);

/// What is left of the lease of a host that a foreign worker took the row from:
/// the claim is that worker's, and a claim without a lease is left alone.
const DISOWN: &str = concat!(
    "
UPDATE agent_messages AS m
SET lease_expires_at = NULL
WHERE ",
    run_out!(),
    " AND NOT ",
    held_by_a_host!()
);

const LIST_VACANT: &str = concat!(
    "
SELECT ",
    head_columns!(),
    ",
  (SELECT count(*) FROM executor_attempts AS a
   WHERE a.message_id = m.id AND a.outcome = 'lost') AS deaths
FROM agent_messages AS m INDEXED BY agent_messages_lease
WHERE ",
    run_out!(),
    " AND ",
    held_by_a_host!(),
    "
  -- A route that somebody changed into none would fill the page for ever.
  AND length(m.service) BETWEEN 1 AND 64 AND m.service NOT GLOB '*[^-A-Za-z0-9._]*'
  AND length(m.role) BETWEEN 1 AND 64 AND m.role NOT GLOB '*[^-A-Za-z0-9._]*'
ORDER BY m.lease_expires_at
LIMIT ?1"
);

/// The attempt row that the vanished holder could not write. It ended when its
/// lease did.
const INSERT_LOST: &str = "
INSERT INTO executor_attempts
  (message_id, lease_epoch, attempt, host, claimed_at, wait_ms, run_ms, outcome, code, blame)
SELECT
  m.id, m.lease_epoch, m.attempts, coalesce(m.claimed_by, ''), m.claimed_at,
  max(0, CAST(round((julianday(coalesce(m.claimed_at, m.created_at))
    - julianday(coalesce(m.retry_at, m.created_at))) * 86400000.0) AS INTEGER)),
  max(0, CAST(round((julianday(m.lease_expires_at)
    - julianday(coalesce(m.claimed_at, m.created_at))) * 86400000.0) AS INTEGER)),
  ?2, ?3, 'host'
FROM jsonb_each(?1) AS vacant
CROSS JOIN agent_messages AS m ON m.rowid = vacant.value ->> 'row'
WHERE TRUE
ON CONFLICT DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at";

/// The epoch goes up, so that the vanished holder cannot write any more even
/// where nobody claims the row again.
const TAKE_BACK: &str = "
UPDATE agent_messages AS m
SET status = next.value ->> 'status',
    lease_epoch = m.lease_epoch + 1,
    lease_expires_at = NULL,
    claimed_by = CASE WHEN next.value ->> 'status' <> 'queued' THEN m.claimed_by END,
    claimed_at = CASE WHEN next.value ->> 'status' <> 'queued' THEN m.claimed_at END,
    done_at = CASE WHEN next.value ->> 'status' <> 'queued'
      THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END,
    retry_at = CASE WHEN next.value ->> 'status' = 'queued'
      THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') ELSE m.retry_at END,
    error = next.value ->> 'error',
    last_error_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
FROM jsonb_each(?1) AS next
WHERE m.rowid = next.value ->> 'row'";

const LIST_EXPIRED: &str = concat!(
    "
SELECT ",
    head_columns!(),
    "
FROM agent_messages AS m INDEXED BY agent_messages_expiry
WHERE m.status = 'queued' AND instr(m.payload, '\"__assignment\"') > 0
  AND CASE
    WHEN json_valid(m.payload) AND m.created_at GLOB '[0-9]*'
      AND json_type(m.payload, '$.__assignment.ttl_ms') = 'integer'
    THEN julianday(m.created_at) * 86400000.0
      + json_extract(m.payload, '$.__assignment.ttl_ms')
  END <= julianday('now') * 86400000.0
  -- One that is negative is none: the claim refuses the payload.
  AND CASE
    WHEN json_valid(m.payload) THEN json_extract(m.payload, '$.__assignment.ttl_ms')
  END >= 0
  AND EXISTS (
    SELECT 1 FROM jsonb_each(?1) AS want
    WHERE want.value ->> 'service' = m.service AND want.value ->> 'role' = m.role
      AND (want.value ->> 'shard' IS NULL OR want.value ->> 'shard' = m.shard)
      AND (want.value ->> 'tenant' IS NULL OR want.value ->> 'tenant' = m.tenant)
  )
LIMIT ?2"
);

const FAIL_WAITING: &str = "
UPDATE agent_messages
SET status = 'failed',
    error = ?2,
    done_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
    last_error_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE rowid IN (SELECT value FROM json_each(?1)) AND status = 'queued'";

#[derive(Serialize)]
struct TakeBackCells {
    row: i64,
    status: Status,
    error: Cow<'static, str>,
}

pub(super) async fn rescue(
    store: &SqliteStore,
    limit: u32,
    default_max_attempts: u32,
) -> Step<Vec<Rescued>> {
    if !any_run_out(store).await? {
        return Ok(Vec::new());
    }
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    sqlx::query(DISOWN).execute(&mut *conn).await?;
    let (mut found, deaths) = list_vacant(conn, limit).await?;
    let mut events = adopt_found(conn, &mut found).await?;
    let mut cells = Vec::with_capacity(found.len());
    let mut rescued = Vec::with_capacity(found.len());
    for Found { row, head } in &found {
        let deaths = deaths.get(&head.id).copied().unwrap_or(0);
        let taken = head.take_back(deaths, default_max_attempts);
        events.extend(taken.events);
        cells.push(TakeBackCells {
            row: *row,
            status: taken.rescued.status,
            error: taken.error,
        });
        rescued.push(taken.rescued);
    }
    take_back(conn, &cells, &events).await?;
    writer.commit().await?;
    Ok(rescued)
}

/// A glance that does not make writers wait.
async fn any_run_out(store: &SqliteStore) -> Step<bool> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(ANY_RUN_OUT).fetch_optional(&mut *conn).await?;
    Ok(row.is_some())
}

async fn list_vacant(
    conn: &mut SqliteConnection,
    limit: u32,
) -> Step<(Vec<Found>, HashMap<MessageId, u32>)> {
    let rows = sqlx::query(LIST_VACANT).bind(limit).fetch_all(conn).await?;
    let mut vacant = Vec::with_capacity(rows.len());
    let mut deaths = HashMap::with_capacity(rows.len());
    for row in &rows {
        let cells = Cells::of("agent_messages", row);
        let found = Found::read(&cells)?;
        deaths.insert(found.head.id, cells.count32("deaths")?);
        vacant.push(found);
    }
    Ok((vacant, deaths))
}

async fn take_back(
    conn: &mut SqliteConnection,
    cells: &[TakeBackCells],
    events: &[NewEvent],
) -> Step<()> {
    sqlx::query(INSERT_LOST)
        .bind(serde_json::to_string(cells)?)
        .bind(AttemptOutcome::Lost.as_str())
        .bind(audit::LEASE_EXPIRED)
        .execute(&mut *conn)
        .await?;
    execute_batch(conn, TAKE_BACK, cells).await?;
    insert_events(conn, events).await
}

pub(super) async fn expire(
    store: &SqliteStore,
    wants: &[Want],
    limit: u32,
) -> Step<Vec<MessageId>> {
    let wanted = serde_json::to_string(&want_cells(wants))?;
    if list_expired(&mut *store.readers.acquire().await?, &wanted, 1)
        .await?
        .is_empty()
    {
        return Ok(Vec::new());
    }
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    let mut expired = list_expired(conn, &wanted, limit).await?;
    let mut events = adopt_found(conn, &mut expired).await?;
    let problem = audit::expired();
    for found in &expired {
        events.append(&mut found.head.subject().failed(&problem, LastAttempt::Never));
    }
    let rows: Vec<i64> = expired.iter().map(|found| found.row).collect();
    sqlx::query(FAIL_WAITING)
        .bind(serde_json::to_string(&rows)?)
        .bind(audit::error_text(&problem))
        .execute(&mut *conn)
        .await?;
    insert_events(conn, &events).await?;
    writer.commit().await?;
    Ok(expired.iter().map(|found| found.head.id).collect())
}

fn want_cells(wants: &[Want]) -> Vec<Value> {
    let cells = wants.iter().map(|want| {
        json!({
            "service": want.key.service(),
            "role": want.key.role(),
            "shard": want.shard,
            "tenant": want.tenant,
        })
    });
    cells.collect()
}

async fn list_expired(conn: &mut SqliteConnection, wanted: &str, limit: u32) -> Step<Vec<Found>> {
    let rows = sqlx::query(LIST_EXPIRED)
        .bind(wanted)
        .bind(int(u64::from(limit)))
        .fetch_all(conn)
        .await?;
    let found = rows
        .iter()
        .map(|row| Found::read(&Cells::of("agent_messages", row)));
    found.collect()
}
