//! What is needed of a row to change its state outside of a claim, and the
//! adoption of rows that other programs put on the bus.

use serde::Serialize;

use super::connection::Turn;
use super::row::to_json;
use super::{PgCells, Step};
use crate::event::{NewEvent, Subject};
use crate::ids::{MessageId, TraceId};
use crate::route::Route;
use crate::store::audit::{self, ForeignLabels};
use crate::store::rows;

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

pub(super) struct Head {
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

impl Head {
    pub(super) fn read(cells: &PgCells<'_>) -> Step<Self> {
        let id = cells.id("id")?;
        let route = rows::route(cells)?;
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
                    id,
                    trace_id: adopted.trace_id.clone(),
                    task_id: adopted.task_id.clone(),
                };
                (adopted.trace_id, adopted.task_id, Some((labels, event)))
            }
        };
        Ok(Self {
            id,
            route,
            trace_id,
            task_id,
            epoch: epoch.unwrap_or(0),
            holder: cells.text("claimed_by")?,
            attempts: cells.count32("attempts")?,
            max_attempts: cells.count32_opt("max_attempts")?,
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
pub(super) async fn adopt_heads(turn: &mut Turn, heads: &mut [Head]) -> Step<Vec<NewEvent>> {
    let adoptions = heads.iter_mut().filter_map(|head| head.adoption.take());
    let (labels, events): (Vec<_>, Vec<_>) = adoptions.unzip();
    write_labels(turn, &labels).await?;
    Ok(events.into_iter().flatten().collect())
}
