//! Ending attempts, and keeping their leases alive until then.
//!
//! A batch is one statement: it locks the rows that are still held, in the
//! order of their ids, and writes state, attempt, artifacts and events of
//! exactly those. What it does not answer with had lost its lease.
//!
//! The ends are sent as `jsonb`, out of which the server takes a long record in
//! half the time that it takes for `json`. Their events come beside them, since
//! a call for each end's own would cost more than all the rest.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::enqueue::{EventColumns, TaskCells, event_rows, hint, insert_events, task_columns};
use super::row::{int, micros, to_json};
use super::{PgCells, PostgresStore, Step};
use crate::attempt::{Blame, Fence, Kind, LeaseEpoch, LogLine, Span, Usage};
use crate::event::NewEvent;
use crate::ids::{Digest, HolderId, MessageId, TraceId};
use crate::millis::millis;
use crate::route::Route;
use crate::selection::Why;
use crate::store::{Renewal, Settled, Settlement, audit, rows};
use crate::task::{Next, Refund};

/// Who claimed a row and when stays with one that ended, for programs that
/// read it; what waits again belongs to nobody.
const SETTLE: &str = concat!(
    "
WITH held AS MATERIALIZED (
  SELECT ended.*, m.priority, m.claimed_at, coalesce(m.task_id, m.id::text) AS label,
    coalesce(m.trace_id, '') AS trace_id
  FROM jsonb_to_recordset($1::jsonb) AS ended (
    id uuid, epoch bigint, place integer, status text, delay bigint, refunded integer,
    host_fault integer, error text, keep_error boolean, result jsonb, snippet text, url text,
    attempt integer, plugin text, version text, digest text, kind text, stage text, why jsonb,
    wait_ms bigint, run_ms bigint, outcome text, code text, blame text, usage jsonb,
    peak_memory_bytes bigint, outbound_requests bigint, spans jsonb, log jsonb,
    log_dropped bigint, rollout_side text, artifacts jsonb, forwards jsonb)
  JOIN agent_messages AS m ON m.id = ended.id
  WHERE m.status = 'claimed' AND m.lease_epoch = ended.epoch AND m.claimed_by = $2
  ORDER BY ended.id
  FOR UPDATE OF m
),
task AS (
  UPDATE agent_messages AS m
  SET status = held.status,
      lease_expires_at = NULL,
      claimed_by = CASE WHEN held.status <> 'queued' THEN m.claimed_by END,
      claimed_at = CASE WHEN held.status <> 'queued' THEN m.claimed_at END,
      done_at = CASE WHEN held.status <> 'queued' THEN now() END,
      -- Its next claim ends a task that is to be cancelled: at once, then.
      retry_at = CASE WHEN held.status <> 'queued' THEN m.retry_at
        WHEN m.cancel_requested_at IS NOT NULL THEN now()
        ELSE now() + held.delay * interval '1 microsecond' END,
      attempts = greatest(0, m.attempts - held.refunded),
      host_faults = m.host_faults + held.host_fault,
      -- An attempt that is given back leaves the last problem in place.
      error = CASE WHEN held.keep_error THEN m.error ELSE held.error END,
      last_error_at = CASE WHEN held.error IS NOT NULL THEN now() ELSE m.last_error_at END,
      result = CASE WHEN held.status = 'done' THEN held.result ELSE m.result END,
      result_snippet = CASE WHEN held.status = 'done' THEN held.snippet
        ELSE m.result_snippet END,
      result_url = CASE WHEN held.status = 'done' THEN held.url ELSE m.result_url END
  FROM held
  WHERE m.id = held.id
),
attempt AS (
  INSERT INTO executor_attempts
    (message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
     claimed_at, ended_at, wait_ms, run_ms, outcome, code, blame, usage, peak_memory_bytes,
     outbound_requests, spans, log, log_dropped, rollout_side)
  SELECT id, epoch, attempt, $2, plugin, version, digest, kind, stage, why,
    claimed_at, now(), wait_ms, run_ms, outcome, code, blame, usage, peak_memory_bytes,
    outbound_requests, spans, log, log_dropped, rollout_side
  FROM held
  -- Only a row that was tampered with has ended an epoch before: a batch must
  -- not fail for it.
  ON CONFLICT (message_id, lease_epoch)
  DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at
),
artifact AS (
  INSERT INTO executor_artifacts
    (message_id, lease_epoch, task_id, trace_id, path, content_type, digest, bytes, created_at)
  SELECT held.id, held.epoch, held.label, held.trace_id,
    artifact.path, artifact.content_type, artifact.digest, artifact.bytes, now()
  FROM held
  CROSS JOIN LATERAL jsonb_to_recordset(held.artifacts)
    AS artifact (path text, content_type text, digest text, bytes bigint)
  ON CONFLICT (message_id, lease_epoch, path)
  DO UPDATE SET content_type = excluded.content_type, digest = excluded.digest,
    bytes = excluded.bytes
),
forwarded AS (
  INSERT INTO agent_messages
    (id, created_at, service, role, shard, tenant, payload, status, trace_id, task_id,
     priority, max_attempts, unique_key, lease_epoch, retry_at)
  SELECT task.id, now(), task.service, task.role, task.shard, task.tenant, task.payload, 'queued',
    task.trace_id, task.task_id, held.priority, task.max_attempts, task.unique_key, 0,
    now() + task.delay * interval '1 microsecond'
  FROM held
  CROSS JOIN LATERAL jsonb_to_recordset(held.forwards) AS task (",
    task_columns!(),
    ")
  ON CONFLICT DO NOTHING
  RETURNING id
),
hint AS (
  ",
    hint!(),
    " AND EXISTS (SELECT FROM forwarded)
),
event AS (
  INSERT INTO bus_events
    (created_at, event_type, message_id, service, role, shard, tenant, trace_id, reason, payload)
  SELECT now(), event.event_type, event.message_id, event.service, event.role, event.shard,
    event.tenant, event.trace_id, event.reason, event.payload::jsonb
  FROM ",
    event_rows!("$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12"),
    "
  -- No join: the planner takes the list of held rows for one row, and would
  -- walk through it for every event.
  WHERE ($3::integer[])[event.step::integer] = ANY (ARRAY(SELECT place FROM held))
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

#[derive(Serialize)]
struct EndCells<'a> {
    id: MessageId,
    epoch: i64,
    /// Where it stands in the batch.
    place: usize,
    status: &'a str,
    delay: Option<i64>,
    refunded: u32,
    host_fault: u32,
    error: Option<String>,
    keep_error: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    snippet: Option<&'a str>,
    url: Option<&'a str>,
    attempt: u32,
    plugin: Option<&'a str>,
    version: Option<&'a str>,
    digest: Option<Digest>,
    kind: Option<Kind>,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a Why>,
    wait_ms: i64,
    run_ms: i64,
    outcome: &'a str,
    code: Option<&'a str>,
    blame: Option<Blame>,
    usage: &'a Usage,
    peak_memory_bytes: i64,
    outbound_requests: u32,
    spans: &'a [Span],
    log: &'a [LogLine],
    log_dropped: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout_side: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    artifacts: Vec<ArtifactCells<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwards: Option<[TaskCells<'a>; 1]>,
}

#[derive(Serialize)]
struct ArtifactCells<'a> {
    path: &'a str,
    content_type: &'a str,
    digest: Digest,
    bytes: i64,
}

impl<'a> EndCells<'a> {
    fn of(place: usize, settlement: &'a Settlement) -> Self {
        let record = &settlement.attempt;
        let plugin = record.plugin.as_ref();
        let measured = &record.measured;
        let mut cells = Self {
            id: settlement.fence.id,
            epoch: settlement.fence.epoch.0,
            place,
            status: "queued",
            delay: None,
            refunded: 0,
            host_fault: 0,
            error: None,
            keep_error: false,
            result: None,
            snippet: None,
            url: None,
            attempt: record.attempt,
            plugin: plugin.map(|p| p.name.as_str()),
            version: plugin.map(|p| p.version.as_str()),
            digest: plugin.map(|p| p.digest),
            kind: plugin.map(|p| p.kind),
            stage: record.stage.as_str(),
            why: record.why.as_ref(),
            wait_ms: int(record.wait_ms),
            run_ms: int(millis(measured.run)),
            outcome: record.outcome.as_str(),
            code: record.code.as_deref(),
            blame: record.blame,
            usage: &measured.usage,
            peak_memory_bytes: int(measured.peak_memory_bytes),
            outbound_requests: measured.outbound_requests,
            spans: &measured.spans,
            log: &measured.log,
            log_dropped: measured.log_dropped,
            rollout_side: record.side(),
            artifacts: artifacts(settlement),
            forwards: settlement
                .forward
                .as_deref()
                .map(|task| [TaskCells::of(task)]),
        };
        cells.lead_to(&settlement.next);
        cells
    }

    /// Fills in the row's next state.
    fn lead_to(&mut self, next: &'a Next) {
        match next {
            Next::Done {
                result,
                snippet,
                url,
            } => {
                self.status = "done";
                self.result = Some(result);
                self.snippet = Some(snippet);
                self.url = url.as_deref();
            }
            Next::Queued {
                delay,
                refund,
                problem,
            } => {
                self.delay = Some(micros(*delay));
                self.refunded = u32::from(*refund != Refund::None);
                self.host_fault = u32::from(*refund == Refund::HostFault);
                self.error = problem.as_ref().map(audit::error_text);
                self.keep_error = problem.is_none();
            }
            Next::Failed { problem } => {
                self.status = "failed";
                self.error = Some(audit::error_text(problem));
            }
        }
    }
}

/// Stored twice by one attempt, the later one counts: a statement cannot write
/// a row twice.
fn artifacts(settlement: &Settlement) -> Vec<ArtifactCells<'_>> {
    let mut seen = HashSet::with_capacity(settlement.artifacts.len());
    let latest = settlement.artifacts.iter().rev();
    let mut cells: Vec<ArtifactCells<'_>> = latest
        .filter(|artifact| seen.insert(artifact.path.as_str()))
        .map(|artifact| ArtifactCells {
            path: &artifact.path,
            content_type: &artifact.content_type,
            digest: artifact.digest,
            bytes: int(artifact.bytes),
        })
        .collect();
    cells.reverse();
    cells
}

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
    let mut ends = Vec::with_capacity(settlements.len());
    // An event is written only where its end is, which stands at this place.
    let mut event_places = Vec::new();
    let mut events = EventColumns::default();
    for (place, (settlement, enqueued)) in settlements.iter().zip(&enqueued).enumerate() {
        if !seen.insert(settlement.fence) {
            continue;
        }
        ends.push(EndCells::of(place, settlement));
        // The first event of a task that is forwarded follows those of its cause.
        for event in settlement.events.iter().chain(enqueued) {
            event_places.push(i32::try_from(place).unwrap_or(i32::MAX));
            events.push(event)?;
        }
    }
    ends.sort_unstable_by_key(|end| end.id);
    let first: HashSet<usize> = ends.iter().map(|end| end.place).collect();
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(SETTLE)
        .bind(to_json(&ends)?)
        .bind(holder.as_str())
        .bind(event_places);
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
    let mut held = HashMap::with_capacity(rows.len());
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        let fence = Fence {
            id: cells.id("id")?,
            epoch: LeaseEpoch(cells.int("lease_epoch")?.unwrap_or(0)),
        };
        let renewal = match cells.flag("cancel_requested")? {
            true => Renewal::CancelRequested,
            false => Renewal::Held,
        };
        held.insert(fence, renewal);
    }
    let answers = fences
        .iter()
        .map(|fence| held.get(fence).copied().unwrap_or(Renewal::Lost));
    Ok(answers.collect())
}
