//! A row that a claim has taken, as it is read, and what it gets where another
//! program wrote it.

use std::time::Duration;

use crate::attempt::{LeaseEpoch, Usage};
use crate::event::NewEvent;
use crate::ids::TraceId;
use crate::payload;
use crate::store::audit::{self, ForeignLabels};
use crate::store::postgres::connection::Turn;
use crate::store::postgres::enqueue::insert_events;
use crate::store::postgres::head::{LabelCells, write_labels};
use crate::store::postgres::{PgCells, Step};
use crate::store::rows;
use crate::store::turns::Lane;
use crate::task::{Claim, ClaimedPayload};

/// A row that was taken.
pub(super) struct Candidate {
    /// Which want it answers.
    pub(super) place: usize,
    pub(super) lane: Lane,
    /// When it was due, in microseconds since 1970; none where that is endless.
    pub(super) since: Option<i64>,
    pub(super) claim: Claim,
    /// The epoch before this claim; none where somebody else wrote the row.
    epoch: Option<i64>,
    /// What it says of itself, where it needs a label.
    labels: Option<ForeignLabels>,
    /// The foreign worker that it is taken from, and how old that claim is.
    pub(super) reclaimed: Option<(Option<String>, u64)>,
}

pub(super) fn candidate(cells: &PgCells<'_>) -> Step<Candidate> {
    let epoch = cells.int("epoch")?;
    let trace_column = cells.text("trace_id")?;
    let task_column = cells.text("task_id")?;
    let payload = claimed_payload(cells.text("payload")?, cells.count("bytes")?);
    let usable = trace_column.as_deref().and_then(|text| text.parse().ok());
    let labels = (epoch.is_none() || usable.is_none()).then(|| {
        let (trace_payload, task_payload) = match &payload {
            ClaimedPayload::Text(text) => audit::payload_labels(text),
            ClaimedPayload::TooLarge { .. } => (None, None),
        };
        ForeignLabels {
            trace_column,
            trace_payload,
            task_column: task_column.clone(),
            task_payload,
        }
    });
    let mut spent = Usage::default();
    for usage in cells.json_or_default::<Vec<serde_json::Value>>("spent")? {
        spent.add(&serde_json::from_value(usage).unwrap_or_default());
    }
    let route = rows::route(cells)?;
    Ok(Candidate {
        place: cells.place("place")?,
        lane: Lane {
            priority: cells.int("priority")?.unwrap_or(0),
            tenant: route.tenant.clone().unwrap_or_default(),
            shard: route.shard,
        },
        since: cells.int("since")?,
        claim: Claim {
            id: cells.id("id")?,
            epoch: LeaseEpoch(epoch.unwrap_or(0).saturating_add(1)),
            route,
            task_id: task_column,
            trace_id: usable.unwrap_or_else(TraceId::generate),
            payload,
            attempt: cells.count32("attempts")?,
            max_attempts: cells.count32_opt("max_attempts")?,
            host_faults: cells.count32("host_faults")?,
            age: Duration::from_millis(cells.count("age_ms")?),
            wait: Duration::from_millis(cells.count("wait_ms")?),
            side: rows::side(cells)?,
            cancel_requested: cells.flag("cancel_requested")?,
            spent,
        },
        epoch,
        labels,
        reclaimed: None,
    })
}

/// The payload within the limit, without the spaces that Postgres put in where
/// those alone lead over it.
fn claimed_payload(text: Option<String>, bytes: u64) -> ClaimedPayload {
    let Some(text) = text else {
        return ClaimedPayload::TooLarge { bytes };
    };
    if text.len() <= payload::MAX_BYTES {
        return ClaimedPayload::Text(text);
    }
    let compact = serde_json::from_str::<serde_json::Value>(&text).map(|value| value.to_string());
    match compact {
        Ok(compact) if compact.len() <= payload::MAX_BYTES => ClaimedPayload::Text(compact),
        _ => ClaimedPayload::TooLarge { bytes },
    }
}

/// Gives rows of other programs what they lack, and writes the events of that.
pub(super) async fn adopt(turn: &mut Turn, candidates: &mut [Candidate]) -> Step<()> {
    let mut labels = Vec::new();
    let mut events: Vec<NewEvent> = Vec::new();
    for candidate in candidates {
        let claim = &mut candidate.claim;
        let labelled = audit::adopt(
            claim,
            candidate.epoch.is_none(),
            candidate.labels.take(),
            candidate.reclaimed.as_ref(),
            &mut events,
        );
        if labelled {
            labels.push(LabelCells {
                id: claim.id,
                trace_id: claim.trace_id.clone(),
                task_id: claim.task_id.clone(),
            });
        }
    }
    write_labels(turn, &labels).await?;
    insert_events(turn, &events).await
}
