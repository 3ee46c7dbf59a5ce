//! How the head of a row is read, and the adoption of rows that other programs
//! put on the bus.

use serde::Serialize;

use super::Step;
use super::connection::Turn;
use super::row::to_json;
use crate::event::NewEvent;
use crate::ids::{MessageId, TraceId};
use crate::store::head::Head;

/// The columns of a [`Head`]. Payloads over the limit have no labels.
macro_rules! head_columns {
    () => {
        "m.id, m.status, m.service, m.role, m.shard::bigint AS shard, m.tenant,
  m.task_id, m.trace_id, m.lease_epoch, m.claimed_by, m.attempts::bigint AS attempts,
  m.max_attempts::bigint AS max_attempts,
  m.cancel_requested_at IS NOT NULL AS cancel_requested,
  CASE WHEN m.lease_epoch IS NULL AND octet_length(m.payload::text) <= 1048576
    THEN m.payload::text END AS payload"
    };
}
pub(super) use head_columns;

const LABEL: &str = "
UPDATE agent_messages AS m
SET trace_id = label.trace_id,
    task_id = label.task_id,
    -- Known from now on, whatever becomes of it.
    lease_epoch = coalesce(m.lease_epoch, 0)
FROM json_to_recordset($1::json) AS label (id uuid, trace_id text, task_id text)
WHERE m.id = label.id";

/// The labels that a row goes by, as an element of a batch.
#[derive(Serialize)]
pub(super) struct LabelCells {
    pub(super) id: MessageId,
    pub(super) trace_id: TraceId,
    pub(super) task_id: Option<String>,
}

/// Writes labels within the caller's transaction.
pub(super) async fn write_labels(turn: &mut Turn, labels: &[LabelCells]) -> Step<()> {
    if !labels.is_empty() {
        let query = turn.query(LABEL).bind(to_json(labels)?);
        query.execute(turn.conn()).await?;
    }
    Ok(())
}

/// Adopts those of `heads` that need it, in the caller's transaction; the
/// events of that, to be written before any other of these tasks.
pub(super) async fn adopt_heads(turn: &mut Turn, heads: &mut [Head]) -> Step<Vec<NewEvent>> {
    let (mut labels, mut events) = (Vec::new(), Vec::new());
    for head in heads {
        let Some(adoption) = head.take_adoption() else {
            continue;
        };
        labels.push(LabelCells {
            id: head.id,
            trace_id: head.trace_id.clone(),
            task_id: head.task_id.clone(),
        });
        events.extend(adoption.event);
    }
    write_labels(turn, &labels).await?;
    Ok(events)
}
