//! Claiming due tasks.
//!
//! A *lane* is what the index on waiting tasks keeps together: one route, shard,
//! priority and tenant, ordered by due time. A claim lists the lanes that hold
//! anything (an index seek each), visits them in the order of
//! [`crate::store::turns`], each from its oldest row on, and so costs the same
//! however much waits, is delayed, or has ended.
//!
//! Rows that other programs inserted are adopted here, in the transaction of
//! their first claim. No such row can make a claim fail: what cannot be read
//! of it is mended or left out.

mod lanes;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnection;

pub(super) use self::lanes::next_due;
use super::enqueue::insert_events;
use super::rollout::write_sides;
use super::row::Cells;
use super::{SqliteStore, Step, execute_batch, int, modifier, modifier_back};
use crate::attempt::{LeaseEpoch, Usage};
use crate::event::NewEvent;
use crate::ids::{MessageId, TraceId};
use crate::payload;
use crate::route::{Route, RouteKey};
use crate::store::audit::{self, ForeignLabels};
use crate::store::turns::{Lane, Stop};
use crate::store::{ClaimRequest, Want, rollout, rows};
use crate::task::{Claim, ClaimedPayload};

/// The oldest due tasks of one lane, from the index and as one row. The tenant
/// is made text by `||`: a `CAST` has an affinity, which the indexed expression
/// has not, and SQLite would walk through the whole lane and sort it.
const LIST_DUE: &str = "
SELECT json_group_array(json_array(due, id, row)) AS lane
FROM (
  SELECT coalesce(retry_at, created_at) AS due, id, rowid AS row
  FROM agent_messages INDEXED BY agent_messages_turn
  WHERE status = 'queued' AND service = ?1 AND role = ?2 AND shard = ?3 AND priority = ?4
    AND coalesce(tenant, '') = unhex(?5) || ''
    AND coalesce(retry_at, created_at) <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
  ORDER BY coalesce(retry_at, created_at), id
  LIMIT ?6
)";

/// Claims of foreign workers that are older than the route allows.
const LIST_RECLAIMABLE: &str = "
SELECT rowid AS row
FROM agent_messages INDEXED BY agent_messages_foreign
WHERE status = 'claimed' AND lease_expires_at IS NULL AND service = ?1 AND role = ?2
  AND coalesce(claimed_at, created_at) <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
  AND (?4 IS NULL OR shard = ?4)
  AND (?5 IS NULL OR tenant = ?5)
ORDER BY coalesce(claimed_at, created_at), id
LIMIT ?6";

/// What a claim hands out, read before it is counted.
const READ_CHOSEN: &str = "
SELECT
  chosen.key AS place, m.id, m.status, m.lease_expires_at IS NOT NULL AS leased,
  m.service, m.role, m.shard, m.tenant, m.task_id, m.trace_id,
  octet_length(m.payload) AS bytes,
  CASE WHEN octet_length(m.payload) <= ?2 THEN m.payload END AS payload,
  m.attempts, m.max_attempts, m.host_faults, m.lease_epoch, m.rollout_side, m.claimed_by,
  m.cancel_requested_at IS NOT NULL AS cancel_requested,
  CAST(round((julianday('now') - julianday(m.created_at)) * 86400000.0) AS INTEGER) AS age_ms,
  CAST(round((julianday('now') - julianday(coalesce(m.retry_at, m.created_at))) * 86400000.0)
    AS INTEGER) AS wait_ms,
  CAST(round((julianday('now') - julianday(coalesce(m.claimed_at, m.created_at))) * 86400000.0)
    AS INTEGER) AS claimed_ms
FROM json_each(?1) AS chosen
CROSS JOIN agent_messages AS m ON m.rowid = chosen.value";

const TAKE: &str = "
UPDATE agent_messages
SET status = 'claimed',
    attempts = attempts + 1,
    lease_epoch = coalesce(lease_epoch, 0) + 1,
    claimed_by = ?2,
    claimed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
    lease_expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
WHERE rowid IN (SELECT value FROM json_each(?1))";

const LABEL: &str = "
UPDATE agent_messages AS m
SET trace_id = label.value ->> 'trace_id',
    task_id = label.value ->> 'task_id',
    -- Known from now on, whatever becomes of it.
    lease_epoch = coalesce(m.lease_epoch, 0)
FROM jsonb_each(?1) AS label
WHERE m.rowid = label.value ->> 'row'";

const READ_USAGE: &str = "
SELECT message_id, usage
FROM executor_attempts
WHERE message_id IN (SELECT value FROM json_each(?1))
ORDER BY message_id, lease_epoch";

pub(super) async fn claim(store: &SqliteStore, request: &ClaimRequest<'_>) -> Step<Vec<Claim>> {
    if request.limit == 0 || request.wants.is_empty() {
        return Ok(Vec::new());
    }
    let mut writer = store.writers.acquire().await?;
    let chosen = choose(store, writer.conn()?, request).await?;
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    writer.begin().await?;
    let conn = writer.conn()?;
    let mut candidates = read_chosen(conn, &chosen).await?;
    let events = adopt(conn, &mut candidates).await?;
    add_spent(conn, &mut candidates).await?;
    let rows: Vec<i64> = candidates.iter().map(|c| c.row).collect();
    sqlx::query(TAKE)
        .bind(serde_json::to_string(&rows)?)
        .bind(request.holder.as_str())
        .bind(modifier(request.lease))
        .execute(&mut *conn)
        .await?;
    let claims = candidates.iter_mut().map(|candidate| &mut candidate.claim);
    let sides = rollout::fix_sides(&request.wants, claims);
    write_sides(conn, &sides).await?;
    insert_events(conn, &events).await?;
    writer.commit().await?;
    Ok(candidates.into_iter().map(|c| c.claim).collect())
}

/// A row to claim.
struct Chosen {
    row: i64,
    /// It is a foreign worker's that let it lie.
    reclaimed: bool,
}

/// The rows to claim: what is due, want by want, then what foreign workers left.
async fn choose(
    store: &SqliteStore,
    conn: &mut SqliteConnection,
    request: &ClaimRequest<'_>,
) -> Step<Vec<Chosen>> {
    let lanes = lanes::list(conn, &request.wants).await?;
    let mut chosen = Vec::new();
    // Two wants may cover the same row.
    let mut seen = HashSet::new();
    let mut rooms = Vec::with_capacity(request.wants.len());
    for (place, want) in request.wants.iter().enumerate() {
        let left = (request.limit as usize).saturating_sub(chosen.len());
        let mut room = left.min(want.limit as usize);
        let due = lanes.get(&place).into_iter().flatten().filter(|l| l.due);
        let due: Vec<Lane> = due.map(|lane| lane.lane.clone()).collect();
        let most = want.limit.min(request.limit);
        let stops = store.turns.lock().stops(place, want, most, &due);
        for stop in &stops {
            if room == 0 {
                break;
            }
            let rows = take_at(conn, want, stop, room, &mut seen).await?;
            if !rows.is_empty() {
                let mut turns = store.turns.lock();
                turns.served(&want.key, stop.priority, stop.tenant);
            }
            room -= rows.len();
            chosen.extend(rows.into_iter().map(|row| Chosen {
                row,
                reclaimed: false,
            }));
        }
        rooms.push(room);
    }
    for (want, room) in request.wants.iter().zip(rooms) {
        let left = (request.limit as usize).saturating_sub(chosen.len());
        let room = room.min(left);
        if let Some(after) = want.reclaim_foreign_after.filter(|_| room > 0) {
            let rows = list_reclaimable(conn, want, after, room).await?;
            let fresh = rows.into_iter().filter(|row| seen.insert(*row));
            chosen.extend(fresh.map(|row| Chosen {
                row,
                reclaimed: true,
            }));
        }
    }
    Ok(chosen)
}

/// The rows of one stop, at most `room`, that are not in `seen`.
async fn take_at(
    conn: &mut SqliteConnection,
    want: &Want,
    stop: &Stop<'_>,
    room: usize,
    seen: &mut HashSet<i64>,
) -> Step<Vec<i64>> {
    // What an earlier stop took is still waiting: it is among the seen.
    let limit = stop.take as usize + seen.len();
    let mut due = Vec::new();
    for lane in &stop.lanes {
        due.append(&mut list_due(conn, want, lane, limit).await?);
    }
    due.sort_unstable();
    let fresh = due.into_iter().filter(|due| seen.insert(due.row));
    let most = room.min(stop.take as usize);
    Ok(fresh.map(|due| due.row).take(most).collect())
}

/// In the order of the claim.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Due {
    due: String,
    id: String,
    row: i64,
}

async fn list_due(
    conn: &mut SqliteConnection,
    want: &Want,
    lane: &Lane,
    limit: usize,
) -> Step<Vec<Due>> {
    let row = sqlx::query(LIST_DUE)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(lane.shard)
        .bind(lane.priority)
        .bind(&lane.tenant)
        .bind(int(limit as u64))
        .fetch_one(conn)
        .await?;
    Cells::of("agent_messages", &row).json_or_default("lane")
}

async fn list_reclaimable(
    conn: &mut SqliteConnection,
    want: &Want,
    after: Duration,
    limit: usize,
) -> Step<Vec<i64>> {
    let rows = sqlx::query(LIST_RECLAIMABLE)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(modifier_back(after))
        .bind(want.shard)
        .bind(want.tenant.as_deref())
        .bind(int(limit as u64))
        .fetch_all(conn)
        .await?;
    let rows = rows.iter().map(|row| {
        let row = Cells::of("agent_messages", row).int("row")?;
        Ok(row.unwrap_or(0))
    });
    rows.collect()
}

/// A row that is about to be claimed.
struct Candidate {
    row: i64,
    claim: Claim,
    /// The epoch before this claim; none where somebody else wrote the row.
    epoch: Option<i64>,
    /// What it says of itself, where it needs a label.
    labels: Option<ForeignLabels>,
    /// The foreign worker that it is taken from, and how old that claim is.
    reclaimed: Option<(Option<String>, u64)>,
}

async fn read_chosen(conn: &mut SqliteConnection, chosen: &[Chosen]) -> Step<Vec<Candidate>> {
    let keys: Vec<i64> = chosen.iter().map(|c| c.row).collect();
    let rows = sqlx::query(READ_CHOSEN)
        .bind(serde_json::to_string(&keys)?)
        .bind(int(payload::MAX_BYTES as u64))
        .fetch_all(conn)
        .await?;
    let mut candidates = Vec::with_capacity(rows.len());
    for row in &rows {
        let cells = Cells::of("agent_messages", row);
        let place = usize::try_from(cells.count("place")?).unwrap_or(usize::MAX);
        let Some(chosen) = chosen.get(place) else {
            continue;
        };
        // Between choosing and reading, another process may have had it.
        let still_there = match cells.required_text("status")?.as_str() {
            "queued" => !chosen.reclaimed,
            "claimed" => chosen.reclaimed && !cells.flag("leased")?,
            _ => false,
        };
        if still_there {
            candidates.push((place, candidate(&cells, chosen)?));
        }
    }
    candidates.sort_by_key(|(place, _)| *place);
    Ok(candidates.into_iter().map(|(_, c)| c).collect())
}

fn candidate(cells: &Cells<'_>, chosen: &Chosen) -> Step<Candidate> {
    let epoch = cells.int("lease_epoch")?;
    let trace_column = cells.text("trace_id")?;
    let task_column = cells.text("task_id")?;
    let payload = match cells.text("payload")? {
        Some(text) => ClaimedPayload::Text(text),
        None => ClaimedPayload::TooLarge {
            bytes: cells.count("bytes")?,
        },
    };
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
    let max_attempts = cells.int("max_attempts")?;
    Ok(Candidate {
        row: chosen.row,
        claim: Claim {
            id: cells.parsed("id")?,
            epoch: LeaseEpoch(epoch.unwrap_or(0).saturating_add(1)),
            route: Route {
                key: RouteKey::new(
                    &cells.required_text("service")?,
                    &cells.required_text("role")?,
                )
                .map_err(|cause| cells.wrong(cause))?,
                shard: cells.int32("shard")?,
                tenant: cells.text("tenant")?,
            },
            task_id: task_column,
            trace_id: usable.unwrap_or_else(TraceId::generate),
            payload,
            attempt: cells.count32("attempts")?.saturating_add(1),
            max_attempts: max_attempts.map(|max| u32::try_from(max).unwrap_or(0)),
            host_faults: cells.count32("host_faults")?,
            age: Duration::from_millis(cells.count("age_ms")?),
            wait: Duration::from_millis(cells.count("wait_ms")?),
            side: rows::side(cells)?,
            cancel_requested: cells.flag("cancel_requested")?,
            spent: Usage::default(),
        },
        epoch,
        labels,
        reclaimed: match chosen.reclaimed {
            true => Some((cells.text("claimed_by")?, cells.count("claimed_ms")?)),
            false => None,
        },
    })
}

/// The labels that a row goes by, as an element of a batch.
#[derive(Serialize)]
pub(super) struct LabelCells {
    pub(super) row: i64,
    pub(super) trace_id: TraceId,
    pub(super) task_id: Option<String>,
}

/// Writes labels within the caller's transaction.
pub(super) async fn write_labels(conn: &mut SqliteConnection, labels: &[LabelCells]) -> Step<()> {
    execute_batch(conn, LABEL, labels).await
}

/// Gives rows of other programs what they lack; the events of that.
async fn adopt(conn: &mut SqliteConnection, candidates: &mut [Candidate]) -> Step<Vec<NewEvent>> {
    let mut labels = Vec::new();
    let mut events = Vec::new();
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
                row: candidate.row,
                trace_id: claim.trace_id.clone(),
                task_id: claim.task_id.clone(),
            });
        }
    }
    write_labels(conn, &labels).await?;
    Ok(events)
}

/// Adds up what earlier attempts spent, for tasks that had any.
async fn add_spent(conn: &mut SqliteConnection, candidates: &mut [Candidate]) -> Step<()> {
    // By epoch, not by attempt: one that was given back may have spent, too.
    let again = candidates.iter().filter(|c| c.epoch.unwrap_or(0) > 0);
    let ids: Vec<MessageId> = again.map(|c| c.claim.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(READ_USAGE)
        .bind(serde_json::to_string(&ids)?)
        .fetch_all(conn)
        .await?;
    let mut spent: HashMap<MessageId, Usage> = HashMap::new();
    for row in &rows {
        let cells = Cells::of("executor_attempts", row);
        let usage: Usage = cells.json_or_default("usage")?;
        spent
            .entry(cells.parsed("message_id")?)
            .or_default()
            .add(&usage);
    }
    for candidate in candidates {
        if let Some(usage) = spent.remove(&candidate.claim.id) {
            candidate.claim.spent = usage;
        }
    }
    Ok(())
}
