//! Cancelling: at once while a task waits, as a durable wish while it runs.

use super::enqueue::insert_events;
use super::head::{adopt_heads, head_columns};
use super::row::clean;
use super::{PgCells, PostgresStore, Step};
use crate::attempt::Fence;
use crate::ids::{HolderId, MessageId};
use crate::store::head::Head;
use crate::store::{Cancelled, audit, rows};
use crate::task::{CANCELLED, Status};

const READ: &str = concat!(
    "
SELECT ",
    head_columns!(),
    "
FROM agent_messages AS m
WHERE m.id = $1
FOR UPDATE"
);

const FAIL_WAITING: &str = "
UPDATE agent_messages
SET status = 'failed', error = $2, done_at = now(), last_error_at = now(),
    cancel_requested_at = now()
WHERE id = $1 AND status = 'queued'";

const REQUEST: &str = "
UPDATE agent_messages
SET cancel_requested_at = now()
WHERE id = $1 AND status = 'claimed' AND cancel_requested_at IS NULL";

const LIST_REQUESTS: &str = "
SELECT id, lease_epoch
FROM agent_messages
WHERE status = 'claimed' AND cancel_requested_at IS NOT NULL AND claimed_by = $1
  AND lease_epoch IS NOT NULL";

pub(super) async fn cancel(
    store: &PostgresStore,
    id: MessageId,
    actor: &str,
) -> Step<Option<Cancelled>> {
    let actor = clean(actor);
    let mut turn = store.connections.transaction().await?;
    let query = turn.query(READ).bind(id.0);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        turn.finish().await?;
        return Ok(None);
    };
    let cells = PgCells::of("agent_messages", &row);
    let status: Status = cells.parsed("status")?;
    if status.is_terminal() {
        turn.finish().await?;
        return Ok(Some(Cancelled::Ended(status)));
    }
    let mut heads = [Head::read(&cells)?];
    let mut events = adopt_heads(&mut turn, &mut heads).await?;
    let [head] = &heads;
    let cancelled = if status == Status::Queued {
        let query = turn.query(FAIL_WAITING).bind(id.0).bind(CANCELLED);
        query.execute(turn.conn()).await?;
        events.append(&mut audit::cancelled(&head.subject(), &actor));
        Cancelled::AtOnce
    } else {
        // A foreign worker's row too: it is cancelled should it come back.
        let query = turn.query(REQUEST).bind(id.0);
        if query.execute(turn.conn()).await?.rows_affected() > 0 {
            events.push(audit::cancel_requested(&head.subject(), &actor));
        }
        Cancelled::Requested
    };
    insert_events(&mut turn, &events).await?;
    turn.finish().await?;
    Ok(Some(cancelled))
}

pub(super) async fn requests(store: &PostgresStore, holder: &HolderId) -> Step<Vec<Fence>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(LIST_REQUESTS).bind(holder.as_str());
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let fences = rows
        .iter()
        .map(|row| rows::fence(&PgCells::of("agent_messages", row)));
    fences.collect()
}
