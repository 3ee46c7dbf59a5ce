//! Ending attempts, and keeping their leases alive until then.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sqlx::sqlite::SqliteConnection;

use super::enqueue::{FenceCells, INSERT_EVENTS, TaskCells, event_batch, insert_events};
use super::row::Cells;
use super::{Batch, SqliteStore, Step, int, modifier};
use crate::attempt::{Blame, Fence, Kind, LeaseEpoch, LogLine, Span, Usage};
use crate::event::NewEvent;
use crate::ids::{HolderId, MessageId, TraceId};
use crate::millis::millis;
use crate::route::Route;
use crate::selection::Why;
use crate::store::next_row::NextRow;
use crate::store::{Renewal, Settled, Settlement, audit, rows};
use crate::task::Status;

/// The fence. One row comes back, since each that crosses from SQLite's thread
/// may cost a switch.
const LIST_HELD: &str = "
SELECT json_group_array(json_array(m.id, m.lease_epoch)) AS held
FROM jsonb_each(?1) AS fence
CROSS JOIN agent_messages AS m ON m.id = fence.value ->> 'id'
WHERE m.status = 'claimed'
  AND m.lease_epoch = fence.value ->> 'epoch'
  AND m.claimed_by = ?2";

/// Which ends this same holder has written before: the commit went through and
/// its answer did not.
const LIST_WRITTEN: &str = "
SELECT json_group_array(json_array(a.message_id, a.lease_epoch)) AS held
FROM jsonb_each(?1) AS fence
CROSS JOIN executor_attempts AS a
  ON a.message_id = fence.value ->> 'id' AND a.lease_epoch = fence.value ->> 'epoch'
WHERE a.host = ?2
  -- A rescue writes in the name of the holder that it takes for lost.
  AND a.outcome <> 'lost'";

/// Comes before the task leaves `claimed`, which may clear the instant of the
/// claim.
const INSERT_ATTEMPTS: &str = "
INSERT INTO executor_attempts
  (message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
   claimed_at, wait_ms, run_ms, outcome, code, blame, usage, peak_memory_bytes,
   outbound_requests, spans, log, log_dropped, rollout_side)
SELECT
  m.id, m.lease_epoch, end.value ->> 'attempt', m.claimed_by,
  end.value ->> 'plugin', end.value ->> 'version', end.value ->> 'digest', end.value ->> 'kind',
  end.value ->> 'stage', end.value -> 'why',
  m.claimed_at, end.value ->> 'wait_ms', end.value ->> 'run_ms',
  end.value ->> 'outcome', end.value ->> 'code', end.value ->> 'blame', end.value -> 'usage',
  end.value ->> 'peak_memory_bytes', end.value ->> 'outbound_requests',
  end.value -> 'spans', end.value -> 'log', end.value ->> 'log_dropped',
  end.value ->> 'rollout_side'
FROM jsonb_each(?1) AS end
CROSS JOIN agent_messages AS m ON m.id = end.value ->> 'id'
WHERE TRUE
-- Only a row that was tampered with has ended an epoch before: a batch must not
-- fail for it.
ON CONFLICT DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at";

/// Who claimed a row and when stays with one that ended, for programs that
/// read it; what waits again belongs to nobody.
///
/// Taken apart once: each `->>` reads its element from the start again.
const UPDATE_TASKS: &str = "
WITH next AS MATERIALIZED (
  SELECT value ->> 'id' AS id, value ->> 'status' AS status, value ->> 'delay' AS delay,
    value ->> 'refunded' AS refunded, value ->> 'host_fault' AS host_fault,
    value ->> 'error' AS error, value ->> 'keep_error' AS keep_error,
    value -> 'result' AS result, value ->> 'snippet' AS snippet, value ->> 'url' AS url
  FROM jsonb_each(?1)
)
UPDATE agent_messages AS m
SET status = next.status,
    lease_expires_at = NULL,
    claimed_by = CASE WHEN next.status <> 'queued' THEN m.claimed_by END,
    claimed_at = CASE WHEN next.status <> 'queued' THEN m.claimed_at END,
    done_at = CASE WHEN next.status <> 'queued' THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END,
    retry_at = CASE WHEN next.status = 'queued'
      -- Its next claim ends a task that is to be cancelled: at once, then.
      THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now',
        iif(m.cancel_requested_at IS NULL, next.delay, '+0 seconds'))
      ELSE m.retry_at END,
    attempts = max(0, m.attempts - next.refunded),
    host_faults = m.host_faults + next.host_fault,
    -- An attempt that is given back leaves the last problem in place.
    error = CASE WHEN next.keep_error THEN m.error ELSE next.error END,
    last_error_at = CASE WHEN next.error IS NOT NULL
      THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') ELSE m.last_error_at END,
    result = CASE WHEN next.status = 'done' THEN next.result ELSE m.result END,
    result_snippet = CASE WHEN next.status = 'done' THEN next.snippet ELSE m.result_snippet END,
    result_url = CASE WHEN next.status = 'done' THEN next.url ELSE m.result_url END
FROM next
WHERE m.id = next.id";

const INSERT_ARTIFACTS: &str = "
INSERT INTO executor_artifacts
  (message_id, lease_epoch, task_id, trace_id, path, content_type, digest, bytes)
SELECT
  m.id, m.lease_epoch, coalesce(m.task_id, m.id), coalesce(m.trace_id, ''),
  artifact.value ->> 'path', artifact.value ->> 'content_type',
  artifact.value ->> 'digest', artifact.value ->> 'bytes'
FROM jsonb_each(?1) AS artifact
CROSS JOIN agent_messages AS m ON m.id = artifact.value ->> 'id'
WHERE TRUE
-- Stored twice by one attempt: the later one counts.
ON CONFLICT DO UPDATE SET content_type = excluded.content_type,
  digest = excluded.digest, bytes = excluded.bytes";

/// What a dispatcher's row leads to, as [`super::enqueue`] writes it; only its
/// priority is the row's own.
const INSERT_FORWARDS: &str = "
INSERT INTO agent_messages
  (id, service, role, shard, tenant, payload, trace_id, task_id,
   priority, max_attempts, unique_key, lease_epoch, retry_at)
SELECT
  task.value ->> 'id', task.value ->> 'service', task.value ->> 'role', task.value ->> 'shard',
  task.value ->> 'tenant', task.value -> 'payload', task.value ->> 'trace_id',
  task.value ->> 'task_id', m.priority, task.value ->> 'max_attempts',
  task.value ->> 'unique_key', 0,
  strftime('%Y-%m-%dT%H:%M:%fZ', 'now', task.value ->> 'delay')
FROM jsonb_each(?1) AS task
CROSS JOIN agent_messages AS m ON m.id = task.value ->> 'from'
WHERE TRUE
ON CONFLICT DO NOTHING";

#[derive(Serialize)]
struct ForwardCells<'a> {
    /// The dispatcher's row.
    from: MessageId,
    #[serde(flatten)]
    task: TaskCells<'a>,
}

/// What a `lease_lost` event says of a row, where the settlement does not.
const READ_SUBJECT: &str = "
SELECT id, service, role, shard, tenant, trace_id
FROM agent_messages
WHERE id = ?1";

const RENEW: &str = "
UPDATE agent_messages AS m
SET lease_expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
FROM jsonb_each(?1) AS fence
WHERE m.id = fence.value ->> 'id'
  AND m.lease_epoch = fence.value ->> 'epoch'
  AND m.status = 'claimed'
  AND m.claimed_by = ?2
  AND m.lease_expires_at IS NOT NULL
RETURNING id, lease_epoch, cancel_requested_at IS NOT NULL AS cancel_requested";

#[derive(Serialize)]
struct EndCells<'a> {
    id: MessageId,
    attempt: u32,
    plugin: Option<&'a str>,
    version: Option<&'a str>,
    digest: Option<crate::ids::Digest>,
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
}

impl<'a> EndCells<'a> {
    fn of(settlement: &'a Settlement) -> Self {
        let record = &settlement.attempt;
        let plugin = record.plugin.as_ref();
        let measured = &record.measured;
        Self {
            id: settlement.fence.id,
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
        }
    }
}

#[derive(Serialize)]
struct NextCells<'a> {
    id: MessageId,
    status: Status,
    delay: Option<String>,
    refunded: u32,
    host_fault: u32,
    error: Option<Cow<'a, str>>,
    keep_error: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    snippet: Option<&'a str>,
    url: Option<&'a str>,
}

impl<'a> NextCells<'a> {
    fn of(settlement: &'a Settlement) -> Self {
        let next = NextRow::of(&settlement.next);
        Self {
            id: settlement.fence.id,
            status: next.status,
            delay: next.delay.map(modifier),
            refunded: next.refunded.into(),
            host_fault: next.host_fault.into(),
            error: next.error,
            keep_error: next.keep_error,
            result: next.result,
            snippet: next.snippet,
            url: next.url,
        }
    }
}

#[derive(Serialize)]
struct ArtifactCells<'a> {
    id: MessageId,
    path: &'a str,
    content_type: &'a str,
    digest: crate::ids::Digest,
    bytes: i64,
}

pub(super) async fn settle(
    store: &SqliteStore,
    holder: &HolderId,
    settlements: &[Settlement],
) -> Step<Vec<Settled>> {
    if settlements.is_empty() {
        return Ok(Vec::new());
    }
    let fences = fences(settlements)?;
    let mut writes = Writes::of(settlements)?;
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    let mut held = list_fences(conn, LIST_HELD, &fences, holder).await?;
    // One fence settles once: a second end of the same claim is a lost lease.
    let (applied, refused): (Vec<_>, Vec<_>) = settlements
        .iter()
        .enumerate()
        .partition(|(_, settlement)| held.remove(&settlement.fence));
    let mut outcomes = vec![Settled::Applied; settlements.len()];
    let mut lost = Vec::new();
    if !refused.is_empty() {
        writes = Writes::of(applied.into_iter().map(|(_, settlement)| settlement))?;
        let mut written = list_fences(conn, LIST_WRITTEN, &fences, holder).await?;
        for (place, settlement) in refused {
            if !written.remove(&settlement.fence) {
                lost.push(settlement);
                if let Some(outcome) = outcomes.get_mut(place) {
                    *outcome = Settled::LeaseLost;
                }
            }
        }
    }
    writes.execute(conn).await?;
    let refused = lease_lost(conn, holder, &lost).await?;
    insert_events(conn, &refused).await?;
    writer.commit().await?;
    Ok(outcomes)
}

/// All that settlements write. Printed before the writer's turn begins, since
/// every other writer waits for its end; printed anew for the rest where some
/// turn out to be refused, which is rare.
struct Writes {
    ends: Batch,
    next: Batch,
    artifacts: Batch,
    forwards: Batch,
    events: Batch,
}

impl Writes {
    fn of<'a>(settlements: impl IntoIterator<Item = &'a Settlement>) -> Step<Self> {
        let settlements: Vec<&Settlement> = settlements.into_iter().collect();
        let ends: Vec<EndCells<'_>> = settlements.iter().map(|s| EndCells::of(s)).collect();
        let next: Vec<NextCells<'_>> = settlements.iter().map(|s| NextCells::of(s)).collect();
        let forwards = settlements.iter().filter_map(|s| {
            let task = TaskCells::of(s.forward.as_deref()?);
            let from = s.fence.id;
            Some(ForwardCells { from, task })
        });
        let forwards: Vec<ForwardCells<'_>> = forwards.collect();
        let enqueued = settlements.iter().filter_map(|s| s.forward.as_deref());
        let enqueued: Vec<NewEvent> = enqueued.map(audit::enqueued).collect();
        let events = settlements.iter().flat_map(|s| &s.events);
        Ok(Self {
            ends: Batch::of(&ends)?,
            next: Batch::of(&next)?,
            artifacts: Batch::of(&artifacts(&settlements))?,
            forwards: Batch::of(&forwards)?,
            events: event_batch(events.chain(&enqueued))?,
        })
    }

    async fn execute(self, conn: &mut SqliteConnection) -> Step<()> {
        self.ends.execute(conn, INSERT_ATTEMPTS).await?;
        self.next.execute(conn, UPDATE_TASKS).await?;
        self.artifacts.execute(conn, INSERT_ARTIFACTS).await?;
        self.forwards.execute(conn, INSERT_FORWARDS).await?;
        self.events.execute(conn, INSERT_EVENTS).await
    }
}

fn fences(settlements: &[Settlement]) -> Step<String> {
    let fences = settlements.iter().map(|s| FenceCells::from(&s.fence));
    Ok(serde_json::to_string(&fences.collect::<Vec<_>>())?)
}

/// Those of `fences` of which `sql` knows.
async fn list_fences(
    conn: &mut SqliteConnection,
    sql: &'static str,
    fences: &str,
    holder: &HolderId,
) -> Step<HashSet<Fence>> {
    let row = sqlx::query(sql)
        .bind(fences)
        .bind(holder.as_str())
        .fetch_one(conn)
        .await?;
    let held: Vec<(MessageId, LeaseEpoch)> =
        Cells::of("agent_messages", &row).json_or_default("held")?;
    Ok(held
        .into_iter()
        .map(|(id, epoch)| Fence { id, epoch })
        .collect())
}

fn artifacts<'a>(applied: &[&'a Settlement]) -> Vec<ArtifactCells<'a>> {
    let each = applied.iter().flat_map(|settlement| {
        settlement.artifacts.iter().map(|artifact| ArtifactCells {
            id: settlement.fence.id,
            path: &artifact.path,
            content_type: &artifact.content_type,
            digest: artifact.digest,
            bytes: int(artifact.bytes),
        })
    });
    each.collect()
}

/// The events of settlements that came too late.
async fn lease_lost(
    conn: &mut SqliteConnection,
    holder: &HolderId,
    lost: &[&Settlement],
) -> Step<Vec<NewEvent>> {
    let mut events = Vec::with_capacity(lost.len());
    for settlement in lost {
        let (trace_id, route) = match settlement.events.first() {
            Some(event) => (event.trace_id.clone(), event.route.clone()),
            None => read_subject(conn, settlement.fence.id).await?,
        };
        events.push(audit::lease_lost(holder, settlement, trace_id, route));
    }
    Ok(events)
}

/// The trace and the route of a row; a new trace where the row is gone.
async fn read_subject(
    conn: &mut SqliteConnection,
    id: MessageId,
) -> Step<(TraceId, Option<Route>)> {
    let row = sqlx::query(READ_SUBJECT)
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else {
        return Ok((TraceId::generate(), None));
    };
    let cells = Cells::of("agent_messages", &row);
    let trace_id = cells.text("trace_id")?.and_then(|text| text.parse().ok());
    let route = rows::route_opt(&cells)?;
    Ok((trace_id.unwrap_or_else(TraceId::generate), route))
}

pub(super) async fn renew(
    store: &SqliteStore,
    holder: &HolderId,
    fences: &[Fence],
    lease: Duration,
) -> Step<Vec<Renewal>> {
    if fences.is_empty() {
        return Ok(Vec::new());
    }
    let batch: Vec<FenceCells> = fences.iter().map(FenceCells::from).collect();
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let rows = sqlx::query(RENEW)
        .bind(serde_json::to_string(&batch)?)
        .bind(holder.as_str())
        .bind(modifier(lease))
        .fetch_all(writer.conn()?)
        .await?;
    writer.commit().await?;
    rows::renewals(&rows, fences)
}
