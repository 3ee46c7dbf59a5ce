//! Ending attempts, and keeping their leases alive until then.
//!
//! A batch is one statement: it writes the next state of the rows that are still
//! held, in the order of their ids, as renewals lock them, and attempt,
//! artifacts and events of exactly those. What it does not answer with had lost
//! its lease.
//!
//! Ends and events are sent as columns. What few ends leave, artifacts and
//! forwarded tasks, comes beside them, since a call for each end's own would
//! cost more than all the rest.

mod ends;

use std::collections::HashSet;
use std::time::Duration;

use self::ends::{EndColumns, end_rows};
use super::enqueue::{EventColumns, event_rows, hint, insert_events, task_columns};
use super::row::{micros, to_json};
use super::{PgCells, PostgresStore, Step};
use crate::attempt::Fence;
use crate::event::NewEvent;
use crate::ids::{HolderId, TraceId};
use crate::route::Route;
use crate::store::{Renewal, Settled, Settlement, audit, rows};

/// Who claimed a row and when stays with one that ended, for programs that
/// read it; what waits again belongs to nobody.
const SETTLE: &str = concat!(
    "
WITH held AS (
  UPDATE agent_messages AS m
  SET status = ended.status,
      lease_expires_at = NULL,
      claimed_by = CASE WHEN ended.status <> 'queued' THEN m.claimed_by END,
      claimed_at = CASE WHEN ended.status <> 'queued' THEN m.claimed_at END,
      done_at = CASE WHEN ended.status <> 'queued' THEN now() END,
      -- Its next claim ends a task that is to be cancelled: at once, then.
      retry_at = CASE WHEN ended.status <> 'queued' THEN m.retry_at
        WHEN m.cancel_requested_at IS NOT NULL THEN now()
        ELSE now() + ended.delay * interval '1 microsecond' END,
      attempts = greatest(0, m.attempts - ended.refunded),
      host_faults = m.host_faults + ended.host_fault,
      -- An attempt that is given back leaves the last problem in place.
      error = CASE WHEN ended.keep_error THEN m.error ELSE ended.error END,
      last_error_at = CASE WHEN ended.error IS NOT NULL THEN now() ELSE m.last_error_at END,
      result = CASE WHEN ended.status = 'done' THEN ended.result::jsonb ELSE m.result END,
      result_snippet = CASE WHEN ended.status = 'done' THEN ended.snippet
        ELSE m.result_snippet END,
      result_url = CASE WHEN ended.status = 'done' THEN ended.url ELSE m.result_url END
  FROM ",
    end_rows!(),
    "
  WHERE m.id = ended.id
    AND m.status = 'claimed' AND m.lease_epoch = ended.epoch AND m.claimed_by = $32
  RETURNING ended.*,
    CASE WHEN m.claimed_at IS NOT NULL THEN m.claimed_at
    -- As it was before this statement.
    ELSE (SELECT was.claimed_at FROM agent_messages AS was WHERE was.id = m.id) END AS claimed_at
),
attempt AS (
  INSERT INTO executor_attempts
    (message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
     claimed_at, ended_at, wait_ms, run_ms, outcome, code, blame, usage, peak_memory_bytes,
     outbound_requests, spans, log, log_dropped, rollout_side)
  SELECT id, epoch, attempt, $32, plugin, version, digest, kind, stage, why::jsonb,
    claimed_at, now(), wait_ms, run_ms, outcome, code, blame, usage::jsonb, peak_memory_bytes,
    outbound_requests, spans::jsonb, log::jsonb, log_dropped, rollout_side
  FROM held
  -- Only a row that was tampered with has ended an epoch before: a batch must
  -- not fail for it.
  ON CONFLICT (message_id, lease_epoch)
  DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at
),
artifact AS (
  INSERT INTO executor_artifacts
    (message_id, lease_epoch, task_id, trace_id, path, content_type, digest, bytes, created_at)
  SELECT artifact.message_id, artifact.lease_epoch, coalesce(m.task_id, m.id::text),
    coalesce(m.trace_id, ''), artifact.path, artifact.content_type, artifact.digest,
    artifact.bytes, now()
  FROM json_to_recordset($33::json) AS artifact (
    place integer, message_id uuid, lease_epoch bigint, path text, content_type text, digest text,
    bytes bigint)
  JOIN agent_messages AS m ON m.id = artifact.message_id
  WHERE artifact.place = ANY (ARRAY(SELECT place FROM held))
  ON CONFLICT (message_id, lease_epoch, path)
  DO UPDATE SET content_type = excluded.content_type, digest = excluded.digest,
    bytes = excluded.bytes
),
forwarded AS (
  INSERT INTO agent_messages
    (id, created_at, service, role, shard, tenant, payload, status, trace_id, task_id,
     priority, max_attempts, unique_key, lease_epoch, retry_at)
  SELECT task.id, now(), task.service, task.role, task.shard, task.tenant, task.payload, 'queued',
    task.trace_id, task.task_id, m.priority, task.max_attempts, task.unique_key, 0,
    now() + task.delay * interval '1 microsecond'
  FROM json_to_recordset($34::json) AS task (place integer, source uuid, ",
    task_columns!(),
    ")
  JOIN agent_messages AS m ON m.id = task.source
  WHERE task.place = ANY (ARRAY(SELECT place FROM held))
  ON CONFLICT DO NOTHING
  RETURNING id
),
hint AS (
  ",
    hint!("forwarded"),
    "
),
event AS (
  INSERT INTO bus_events
    (created_at, event_type, message_id, service, role, shard, tenant, trace_id, reason, payload)
  SELECT now(), event.event_type, event.message_id, event.service, event.role, event.shard,
    event.tenant, event.trace_id, event.reason, event.payload::jsonb
  FROM ",
    event_rows!(
        "$35", "$36", "$37", "$38", "$39", "$40", "$41", "$42", "$43", "$44", "$45"
    ),
    "
  -- Most often all are held. No join: the planner takes the list of held rows
  -- for one row, and would walk through it for every event.
  WHERE (SELECT count(*) = cardinality($1::integer[]) FROM held)
    OR event.place = ANY (ARRAY(SELECT place FROM held))
  ORDER BY event.step
)
SELECT held.place::bigint AS place
FROM held
LEFT JOIN hint ON TRUE"
);

/// Which of these ends this same holder has written before: the commit went
/// through and its answer did not. The subject is for the events of the rest.
const READ_REFUSED: &str = "
SELECT refused.place, m.service, m.role, m.shard::bigint AS shard, m.tenant, m.trace_id,
  EXISTS (
    SELECT FROM executor_attempts AS a
    WHERE a.message_id = refused.id AND a.lease_epoch = refused.epoch AND a.host = $4
      -- A rescue writes in the name of the holder that it takes for lost.
      AND a.outcome <> 'lost'
  ) AS written
FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS refused (place, id, epoch)
LEFT JOIN agent_messages AS m ON m.id = refused.id";

const RENEW: &str = "
WITH held AS MATERIALIZED (
  SELECT m.id
  FROM unnest($1::uuid[], $2::bigint[]) AS fence (id, epoch)
  JOIN agent_messages AS m ON m.id = fence.id
  WHERE m.lease_epoch = fence.epoch AND m.status = 'claimed' AND m.claimed_by = $3
    AND m.lease_expires_at IS NOT NULL
  ORDER BY m.id
  FOR UPDATE OF m
)
UPDATE agent_messages AS m
SET lease_expires_at = now() + $4 * interval '1 microsecond'
FROM held
WHERE m.id = held.id
RETURNING m.id, m.lease_epoch, m.cancel_requested_at IS NOT NULL AS cancel_requested";

pub(super) async fn settle(
    store: &PostgresStore,
    holder: &HolderId,
    settlements: &[Settlement],
) -> Step<Vec<Settled>> {
    if settlements.is_empty() {
        return Ok(Vec::new());
    }
    // One fence settles once: a second end of the same claim is a lost lease.
    let mut seen = HashSet::with_capacity(settlements.len());
    let enqueued: Vec<Option<NewEvent>> = settlements
        .iter()
        .map(|settlement| settlement.forward.as_deref().map(audit::enqueued))
        .collect();
    let mut written = Vec::with_capacity(settlements.len());
    let mut artifacts = Vec::new();
    let mut forwards = Vec::new();
    // An event is written only where its end is, which stands at its place.
    let mut events = EventColumns::default();
    let mut first = HashSet::with_capacity(settlements.len());
    for (at, (settlement, enqueued)) in settlements.iter().zip(&enqueued).enumerate() {
        if !seen.insert(settlement.fence) {
            continue;
        }
        first.insert(at);
        let place = i32::try_from(at).unwrap_or(i32::MAX);
        written.push((place, settlement));
        artifacts.extend(ends::artifacts(place, settlement));
        forwards.extend(ends::forward(place, settlement));
        // The first event of a task that is forwarded follows those of its cause.
        for event in settlement.events.iter().chain(enqueued) {
            events.push(place, event)?;
        }
    }
    // Rows are written in this order, by which renewals lock them.
    written.sort_unstable_by_key(|(_, settlement)| settlement.fence.id);
    let mut ends = EndColumns::default();
    for (place, settlement) in written {
        ends.push(place, settlement)?;
    }
    let mut turn = store.connections.turn().await?;
    let query = ends
        .bind(turn.query(SETTLE))
        .bind(holder.as_str())
        .bind(to_json(&artifacts)?)
        .bind(to_json(&forwards)?);
    let rows = events.bind(query).fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let mut outcomes = vec![Settled::LeaseLost; settlements.len()];
    for row in &rows {
        let place = PgCells::of("agent_messages", row).place("place")?;
        if let Some(outcome) = outcomes.get_mut(place) {
            *outcome = Settled::Applied;
        }
    }
    if outcomes.contains(&Settled::LeaseLost) {
        refuse(store, holder, settlements, &first, &mut outcomes).await?;
    }
    Ok(outcomes)
}

/// Tells lost leases from ends that were written already, and writes the events
/// of the former.
async fn refuse(
    store: &PostgresStore,
    holder: &HolderId,
    settlements: &[Settlement],
    first: &HashSet<usize>,
    outcomes: &mut [Settled],
) -> Step<()> {
    let mut places = Vec::new();
    let mut ids = Vec::new();
    let mut epochs = Vec::new();
    let all = settlements.iter().zip(&*outcomes).enumerate();
    for (place, (settlement, _)) in all.filter(|(_, (_, o))| **o == Settled::LeaseLost) {
        places.push(i64::try_from(place).unwrap_or(i64::MAX));
        ids.push(settlement.fence.id.0);
        epochs.push(settlement.fence.epoch.0);
    }
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(READ_REFUSED)
        .bind(places)
        .bind(ids)
        .bind(epochs)
        .bind(holder.as_str());
    let rows = query.fetch_all(turn.conn()).await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        let place = cells.place("place")?;
        let (Some(settlement), Some(outcome)) = (settlements.get(place), outcomes.get_mut(place))
        else {
            continue;
        };
        if first.contains(&place) && cells.flag("written")? {
            *outcome = Settled::Applied;
        } else {
            events.push(lease_lost(&cells, holder, settlement)?);
        }
    }
    insert_events(&mut turn, &events).await?;
    turn.finish().await
}

/// Trace and route are the settlement's own, else the row's; a new trace where
/// the row is gone.
fn lease_lost(cells: &PgCells<'_>, holder: &HolderId, settlement: &Settlement) -> Step<NewEvent> {
    let (trace_id, route): (Option<TraceId>, Option<Route>) = match settlement.events.first() {
        Some(event) => (Some(event.trace_id.clone()), event.route.clone()),
        None => {
            let trace_id = cells.text("trace_id")?.and_then(|text| text.parse().ok());
            let known = cells.text("service")?.is_some();
            let route = if known { rows::route_opt(cells)? } else { None };
            (trace_id, route)
        }
    };
    let trace_id = trace_id.unwrap_or_else(TraceId::generate);
    Ok(audit::lease_lost(holder, settlement, trace_id, route))
}

pub(super) async fn renew(
    store: &PostgresStore,
    holder: &HolderId,
    fences: &[Fence],
    lease: Duration,
) -> Step<Vec<Renewal>> {
    if fences.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<uuid::Uuid> = fences.iter().map(|fence| fence.id.0).collect();
    let epochs: Vec<i64> = fences.iter().map(|fence| fence.epoch.0).collect();
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(RENEW)
        .bind(ids)
        .bind(epochs)
        .bind(holder.as_str())
        .bind(micros(lease));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows::renewals(&rows, fences)
}
