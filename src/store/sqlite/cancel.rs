//! Cancelling: at once while a task waits, as a durable wish while it runs.

use sqlx::sqlite::SqliteConnection;

use super::claim::{LabelCells, write_labels};
use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step};
use crate::attempt::Fence;
use crate::event::NewEvent;
use crate::ids::{HolderId, MessageId};
use crate::store::head::Head;
use crate::store::{Cancelled, audit, rows};
use crate::task::{CANCELLED, Status};

/// The columns of a [`Head`]. Payloads over the limit have no labels.
macro_rules! head_columns {
    () => {
        "m.rowid AS row, m.id, m.status, m.service, m.role, m.shard, m.tenant,
  m.task_id, m.trace_id, m.lease_epoch, m.claimed_by, m.attempts, m.max_attempts,
  m.cancel_requested_at IS NOT NULL AS cancel_requested,
  CASE WHEN m.lease_epoch IS NULL AND octet_length(m.payload) <= 1048576
    THEN m.payload END AS payload"
    };
}
pub(super) use head_columns;

const READ: &str = concat!(
    "
SELECT ",
    head_columns!(),
    "
FROM agent_messages AS m
WHERE m.id = ?1"
);

const FAIL_WAITING: &str = "
UPDATE agent_messages
SET status = 'failed',
    error = ?2,
    done_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
    last_error_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
    cancel_requested_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE rowid = ?1 AND status = 'queued'";

const REQUEST: &str = "
UPDATE agent_messages
SET cancel_requested_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE rowid = ?1 AND status = 'claimed' AND cancel_requested_at IS NULL";

const LIST_REQUESTS: &str = "
SELECT id, lease_epoch
FROM agent_messages INDEXED BY agent_messages_cancelling
WHERE status = 'claimed' AND cancel_requested_at IS NOT NULL AND claimed_by = ?1
  AND lease_epoch IS NOT NULL";

/// The head of a row, and where the row is.
pub(super) struct Found {
    pub(super) row: i64,
    pub(super) head: Head,
}

impl Found {
    pub(super) fn read(cells: &Cells<'_>) -> Step<Self> {
        Ok(Self {
            row: cells.int("row")?.unwrap_or(0),
            head: Head::read(cells)?,
        })
    }
}

/// Adopts those rows that need it, in the caller's transaction; the events of
/// that, to be written before any other of these tasks.
pub(super) async fn adopt_found(
    conn: &mut SqliteConnection,
    found: &mut [Found],
) -> Step<Vec<NewEvent>> {
    let (mut labels, mut events) = (Vec::new(), Vec::new());
    for Found { row, head } in found {
        let Some(adoption) = head.take_adoption() else {
            continue;
        };
        labels.push(LabelCells {
            row: *row,
            trace_id: head.trace_id.clone(),
            task_id: head.task_id.clone(),
        });
        events.extend(adoption.event);
    }
    write_labels(conn, &labels).await?;
    Ok(events)
}

pub(super) async fn cancel(
    store: &SqliteStore,
    id: MessageId,
    actor: &str,
) -> Step<Option<Cancelled>> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    let row = sqlx::query(READ)
        .bind(id.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else {
        writer.rollback().await?;
        return Ok(None);
    };
    let cells = Cells::of("agent_messages", &row);
    let status: Status = cells.parsed("status")?;
    if status.is_terminal() {
        writer.rollback().await?;
        return Ok(Some(Cancelled::Ended(status)));
    }
    let mut found = [Found::read(&cells)?];
    let mut events = adopt_found(conn, &mut found).await?;
    let [Found { row, head }] = &found;
    let cancelled = match status {
        Status::Queued => {
            sqlx::query(FAIL_WAITING)
                .bind(*row)
                .bind(CANCELLED)
                .execute(&mut *conn)
                .await?;
            events.append(&mut audit::cancelled(&head.subject(), actor));
            Cancelled::AtOnce
        }
        // A foreign worker's row too: it is cancelled should it come back.
        _ => {
            let asked = sqlx::query(REQUEST).bind(*row).execute(&mut *conn).await?;
            if asked.rows_affected() > 0 {
                events.push(audit::cancel_requested(&head.subject(), actor));
            }
            Cancelled::Requested
        }
    };
    insert_events(conn, &events).await?;
    writer.commit().await?;
    Ok(Some(cancelled))
}

pub(super) async fn requests(store: &SqliteStore, holder: &HolderId) -> Step<Vec<Fence>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(LIST_REQUESTS)
        .bind(holder.as_str())
        .fetch_all(&mut *conn)
        .await?;
    let fences = rows
        .iter()
        .map(|row| rows::fence(&Cells::of("agent_messages", row)));
    fences.collect()
}
