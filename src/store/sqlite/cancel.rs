//! Cancelling: at once while a task waits, as a durable wish while it runs.

use sqlx::sqlite::SqliteConnection;

use super::claim::{LabelCells, write_labels};
use super::enqueue::insert_events;
use super::row::Cells;
use super::{SqliteStore, Step};
use crate::attempt::{Fence, LeaseEpoch};
use crate::event::{NewEvent, Subject};
use crate::ids::{HolderId, MessageId, TraceId};
use crate::route::{Route, RouteKey};
use crate::store::Cancelled;
use crate::store::audit::{self, ForeignLabels};
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

/// What is needed of a row to change its state outside of a claim.
pub(super) struct Head {
    pub(super) row: i64,
    pub(super) id: MessageId,
    pub(super) route: Route,
    pub(super) trace_id: TraceId,
    pub(super) task_id: Option<String>,
    pub(super) epoch: i64,
    pub(super) holder: Option<String>,
    pub(super) attempts: u32,
    pub(super) max_attempts: Option<u32>,
    pub(super) cancel_requested: bool,
    /// The labels to write, and the event, of a row that nobody adopted yet.
    adoption: Option<(LabelCells, Option<NewEvent>)>,
}

impl Head {
    pub(super) fn read(cells: &Cells<'_>) -> Step<Self> {
        let row = cells.int("row")?.unwrap_or(0);
        let id = cells.parsed("id")?;
        let key = RouteKey::new(
            &cells.required_text("service")?,
            &cells.required_text("role")?,
        );
        let route = Route {
            key: key.map_err(|cause| cells.wrong(cause))?,
            shard: cells.int32("shard")?,
            tenant: cells.text("tenant")?,
        };
        let epoch = cells.int("lease_epoch")?;
        let task_column = cells.text("task_id")?;
        let trace_column = cells.text("trace_id")?;
        let usable = trace_column.as_deref().and_then(|text| text.parse().ok());
        let (trace_id, task_id, adoption) = match (epoch, usable) {
            (Some(_), Some(trace_id)) => (trace_id, task_column, None),
            (epoch, _) => {
                let payload = cells.text("payload")?.unwrap_or_default();
                let (trace_payload, task_payload) = audit::payload_labels(&payload);
                let adopted = ForeignLabels {
                    trace_column,
                    trace_payload,
                    task_column,
                    task_payload,
                }
                .adopt();
                let event = epoch.is_none().then(|| adopted.enqueued(id, &route));
                let labels = LabelCells {
                    row,
                    trace_id: adopted.trace_id.clone(),
                    task_id: adopted.task_id.clone(),
                };
                (adopted.trace_id, adopted.task_id, Some((labels, event)))
            }
        };
        let max_attempts = cells.int("max_attempts")?;
        Ok(Self {
            row,
            id,
            route,
            trace_id,
            task_id,
            epoch: epoch.unwrap_or(0),
            holder: cells.text("claimed_by")?,
            attempts: cells.count32("attempts")?,
            max_attempts: max_attempts.map(|max| u32::try_from(max).unwrap_or(0)),
            cancel_requested: cells.flag("cancel_requested")?,
            adoption,
        })
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            route: &self.route,
            trace_id: &self.trace_id,
            task_id: self.task_id.as_deref(),
        }
    }
}

/// Adopts those of `heads` that need it, in the caller's transaction; the
/// events of that, to be written before any other of these tasks.
pub(super) async fn adopt_heads(
    conn: &mut SqliteConnection,
    heads: &mut [Head],
) -> Step<Vec<NewEvent>> {
    let adoptions = heads.iter_mut().filter_map(|head| head.adoption.take());
    let (labels, events): (Vec<_>, Vec<_>) = adoptions.unzip();
    write_labels(conn, &labels).await?;
    Ok(events.into_iter().flatten().collect())
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
    let mut heads = [Head::read(&cells)?];
    let mut events = adopt_heads(conn, &mut heads).await?;
    let [head] = &heads;
    let cancelled = match status {
        Status::Queued => {
            sqlx::query(FAIL_WAITING)
                .bind(head.row)
                .bind(CANCELLED)
                .execute(&mut *conn)
                .await?;
            events.append(&mut audit::cancelled(&head.subject(), actor));
            Cancelled::AtOnce
        }
        // A foreign worker's row too: it is cancelled should it come back.
        _ => {
            let asked = sqlx::query(REQUEST)
                .bind(head.row)
                .execute(&mut *conn)
                .await?;
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
    let fences = rows.iter().map(|row| {
        let cells = Cells::of("agent_messages", row);
        Ok(Fence {
            id: cells.parsed("id")?,
            epoch: LeaseEpoch(cells.int("lease_epoch")?.unwrap_or(0)),
        })
    });
    fences.collect()
}
