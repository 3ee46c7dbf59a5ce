//! Claiming due tasks, in one statement and one round trip.
//!
//! A *lane* is what the index on waiting tasks keeps together: one route, shard
//! and priority, ordered by due time. The statement finds the lanes that hold
//! anything (a few index seeks) and locks rows lane by lane, from the oldest
//! on, until it has enough; so it costs the same however much waits, is
//! delayed, or has ended. Rows that another claim has locked are skipped.
//!
//! Rows that other programs inserted are adopted in the transaction of their
//! first claim. They need a second statement, so the first one refuses to take
//! anything once it meets one, and the claim is made again as a transaction.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgRow;

use super::connection::Turn;
use super::enqueue::insert_events;
use super::head::{LabelCells, write_labels};
use super::row::{micros, ms_since};
use super::{PgCells, PostgresStore, Step};
use crate::attempt::{LeaseEpoch, Usage};
use crate::event::{NewEvent, Subject};
use crate::ids::TraceId;
use crate::payload;
use crate::store::audit::{self, ForeignLabels};
use crate::store::{ClaimRequest, Want, rows};
use crate::task::{Claim, ClaimedPayload};

/// The wants and the lanes of each that hold waiting tasks, found by hopping
/// from the head of one to the head of the next. Takes $1 to $6.
macro_rules! with_lanes {
    () => {
        "
WITH RECURSIVE want AS MATERIALIZED (
  SELECT place, service, role, tenant, room,
    coalesce(shard, -2147483648) AS first_shard, coalesce(shard, 2147483647) AS last_shard
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::bigint[])
    AS want (place, service, role, shard, tenant, room)
),
lane AS (
  SELECT want.place, want.service, want.role, want.last_shard, head.shard, head.priority
  FROM want
  CROSS JOIN LATERAL (
    SELECT coalesce(m.shard, 0) AS shard, m.priority
    FROM agent_messages AS m
    WHERE m.status = 'queued' AND m.service = want.service AND m.role = want.role
      AND coalesce(m.shard, 0) >= want.first_shard
    ORDER BY coalesce(m.shard, 0), m.priority
    LIMIT 1
  ) AS head
  WHERE head.shard <= want.last_shard
  UNION ALL
  SELECT lane.place, lane.service, lane.role, lane.last_shard, head.shard, head.priority
  FROM lane
  CROSS JOIN LATERAL (
    SELECT coalesce(m.shard, 0) AS shard, m.priority
    FROM agent_messages AS m
    WHERE m.status = 'queued' AND m.service = lane.service AND m.role = lane.role
      AND (coalesce(m.shard, 0), m.priority) > (lane.shard, lane.priority)
    ORDER BY coalesce(m.shard, 0), m.priority
    LIMIT 1
  ) AS head
  WHERE head.shard <= lane.last_shard
)"
    };
}

/// What taking a row does to it. Takes its holder and the lease.
macro_rules! take {
    ($holder:literal, $lease:literal) => {
        concat!(
            "
  UPDATE agent_messages AS m
  SET status = 'claimed',
      attempts = coalesce(m.attempts, 0) + 1,
      lease_epoch = coalesce(m.lease_epoch, 0) + 1,
      claimed_by = ",
            $holder,
            ",
      claimed_at = now(),
      lease_expires_at = now() + ",
            $lease,
            " * interval '1 microsecond'"
        )
    };
}

/// What a claim hands out. Usage is read by epoch, not by attempt: one that was
/// given back may have spent, too.
macro_rules! taken {
    () => {
        concat!(
            "
  RETURNING due.n, due.place, due.epoch, due.holder, due.claimed_ms, m.id, m.service, m.role,
    m.shard::bigint AS shard, m.tenant, m.task_id, m.trace_id, m.payload::text AS payload,
    m.attempts::bigint AS attempts, m.max_attempts::bigint AS max_attempts,
    m.host_faults::bigint AS host_faults, m.rollout_side,
    m.cancel_requested_at IS NOT NULL AS cancel_requested, ",
            ms_since!("m.created_at"),
            " AS age_ms, ",
            ms_since!("coalesce(m.retry_at, m.created_at)"),
            " AS wait_ms,
    CASE WHEN due.epoch > 0 THEN
      (SELECT json_agg(a.usage ORDER BY a.lease_epoch)::text
       FROM executor_attempts AS a WHERE a.message_id = m.id)
    END AS spent"
        )
    };
}

/// The columns of [`taken`] without payloads that are too large.
macro_rules! select_taken {
    ($bytes:literal) => {
        concat!(
            "taken.n, taken.place, taken.epoch, taken.holder, taken.claimed_ms, taken.id,
  taken.service, taken.role, taken.shard, taken.tenant, taken.task_id, taken.trace_id,
  taken.attempts, taken.max_attempts, taken.host_faults, taken.rollout_side,
  taken.cancel_requested, taken.age_ms, taken.wait_ms, taken.spent,
  octet_length(taken.payload)::bigint AS bytes,
  CASE WHEN octet_length(taken.payload) <= ",
            $bytes,
            " THEN taken.payload END AS payload"
        )
    };
}

/// The materialised list is what keeps a claim within its limit whatever plan
/// the server makes of the update.
const CLAIM: &str = concat!(
    with_lanes!(),
    ",
due AS MATERIALIZED (
  SELECT row_number() OVER () AS n, chosen.*
  FROM (
    SELECT due.*
    FROM want
    CROSS JOIN LATERAL (
      SELECT due.*
      FROM (
        SELECT DISTINCT priority
        FROM lane
        WHERE lane.place = want.place
        ORDER BY priority DESC
      ) AS step
      CROSS JOIN LATERAL (
        SELECT due.*
        FROM lane
        CROSS JOIN LATERAL (
          SELECT want.place, m.id, coalesce(m.retry_at, m.created_at) AS due,
            m.lease_epoch AS epoch, NULL::text AS holder, NULL::bigint AS claimed_ms,
            m.lease_epoch IS NULL OR m.trace_id IS NULL
              OR octet_length(m.trace_id) NOT BETWEEN 1 AND 128
              OR m.trace_id COLLATE \"C\" ~ '[^!-~]' AS adopt
          FROM agent_messages AS m
          WHERE m.status = 'queued' AND m.service = lane.service AND m.role = lane.role
            AND coalesce(m.shard, 0) = lane.shard AND m.priority = lane.priority
            AND coalesce(m.retry_at, m.created_at) <= now()
            AND (want.tenant IS NULL OR m.tenant = want.tenant)
          ORDER BY coalesce(m.retry_at, m.created_at), m.id
          LIMIT want.room
          FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE lane.place = want.place AND lane.priority = step.priority
        ORDER BY due.due, due.id
        LIMIT want.room
      ) AS due
      LIMIT want.room
    ) AS due
    LIMIT $7
  ) AS chosen
),
taken AS (",
    take!("$8", "$9"),
    "
  FROM due
  WHERE m.id = due.id AND ($10 OR NOT EXISTS (SELECT FROM due WHERE adopt))",
    taken!(),
    "
)
SELECT EXISTS (SELECT FROM due WHERE adopt) AS adopt, ",
    select_taken!("$11"),
    "
FROM (SELECT) AS always
LEFT JOIN taken ON TRUE
ORDER BY taken.n"
);

/// Claims of foreign workers that are older than the route allows.
const RECLAIM: &str = concat!(
    "
WITH due AS MATERIALIZED (
  SELECT row_number() OVER () AS n, stale.*
  FROM (
    SELECT 0::bigint AS place, m.id, m.lease_epoch AS epoch, m.claimed_by AS holder, ",
    ms_since!("coalesce(m.claimed_at, m.created_at)"),
    " AS claimed_ms
    FROM agent_messages AS m
    WHERE m.status = 'claimed' AND m.lease_expires_at IS NULL
      AND m.service = $1 AND m.role = $2
      AND coalesce(m.claimed_at, m.created_at) <= now() - $3 * interval '1 microsecond'
      AND ($4::integer IS NULL OR coalesce(m.shard, 0) = $4)
      AND ($5::text IS NULL OR m.tenant = $5)
    ORDER BY coalesce(m.claimed_at, m.created_at), m.id
    LIMIT $6
    FOR UPDATE SKIP LOCKED
  ) AS stale
),
taken AS (",
    take!("$7", "$8"),
    "
  FROM due
  WHERE m.id = due.id",
    taken!(),
    "
)
SELECT ",
    select_taken!("$9"),
    "
FROM taken
ORDER BY taken.n"
);

/// When the first task of any lane is due, in milliseconds from now.
const NEXT_DUE: &str = concat!(
    with_lanes!(),
    "
SELECT ceil(extract(epoch FROM
    min(least(greatest(first.due, '0001-01-01 UTC'), '9999-12-31 UTC')) - now()) * 1000
  )::bigint AS ms
FROM want
JOIN lane ON lane.place = want.place
CROSS JOIN LATERAL (
  SELECT coalesce(m.retry_at, m.created_at) AS due
  FROM agent_messages AS m
  WHERE m.status = 'queued' AND m.service = lane.service AND m.role = lane.role
    AND coalesce(m.shard, 0) = lane.shard AND m.priority = lane.priority
    AND (want.tenant IS NULL OR m.tenant = want.tenant)
  ORDER BY coalesce(m.retry_at, m.created_at)
  LIMIT 1
) AS first"
);

/// Postgres spaces out the JSON that it keeps; within this, a payload that its
/// producer wrote within the limit is read whatever the spaces.
const FETCHED_BYTES: i64 = 2 * payload::MAX_BYTES as i64;

/// Wants as columns.
#[derive(Default)]
struct WantColumns<'a> {
    places: Vec<i64>,
    services: Vec<&'a str>,
    roles: Vec<&'a str>,
    shards: Vec<Option<i32>>,
    tenants: Vec<Option<&'a str>>,
    rooms: Vec<i64>,
}

impl<'a> WantColumns<'a> {
    fn of(wants: &'a [Want]) -> Self {
        let mut columns = Self::default();
        for (place, want) in (0_i64..).zip(wants) {
            columns.places.push(place);
            columns.services.push(want.key.service());
            columns.roles.push(want.key.role());
            columns.shards.push(want.shard);
            columns.tenants.push(want.tenant.as_deref());
            columns.rooms.push(i64::from(want.limit));
        }
        columns
    }
}

/// Binds the six columns.
macro_rules! bind_wants {
    ($query:expr, $columns:expr) => {
        $query
            .bind($columns.places)
            .bind($columns.services)
            .bind($columns.roles)
            .bind($columns.shards)
            .bind($columns.tenants)
            .bind($columns.rooms)
    };
}

pub(super) async fn claim(store: &PostgresStore, request: &ClaimRequest<'_>) -> Step<Vec<Claim>> {
    if request.limit == 0 || request.wants.is_empty() {
        return Ok(Vec::new());
    }
    let mut candidates = claim_due(store, request).await?;
    let mut room: HashMap<usize, u32> = HashMap::new();
    for candidate in &candidates {
        *room.entry(candidate.place).or_default() += 1;
    }
    let mut left = request.limit.saturating_sub(len32(&candidates));
    for (place, want) in request.wants.iter().enumerate() {
        let taken = room.get(&place).copied().unwrap_or(0);
        let fits = want.limit.saturating_sub(taken).min(left);
        if let Some(after) = want.reclaim_foreign_after.filter(|_| fits > 0) {
            let mut reclaimed = reclaim(store, request, want, after, fits).await?;
            left = left.saturating_sub(len32(&reclaimed));
            candidates.append(&mut reclaimed);
        }
    }
    Ok(candidates.into_iter().map(|c| c.claim).collect())
}

fn len32(candidates: &[Candidate]) -> u32 {
    u32::try_from(candidates.len()).unwrap_or(u32::MAX)
}

async fn claim_due(store: &PostgresStore, request: &ClaimRequest<'_>) -> Step<Vec<Candidate>> {
    // Where there were foreign rows just now, there will be more.
    if !store.adopting.load(Ordering::Relaxed) {
        let mut turn = store.connections.turn().await?;
        let (foreign, candidates) = take_due(&mut turn, request, false).await?;
        turn.finish().await?;
        if !foreign {
            return Ok(candidates);
        }
    }
    let mut turn = store.connections.transaction().await?;
    let (foreign, mut candidates) = take_due(&mut turn, request, true).await?;
    store.adopting.store(foreign, Ordering::Relaxed);
    adopt(&mut turn, &mut candidates).await?;
    turn.finish().await?;
    Ok(candidates)
}

/// Takes what is due; whether there were rows to adopt, without which nothing
/// is taken unless `adopt`.
async fn take_due(
    turn: &mut Turn,
    request: &ClaimRequest<'_>,
    adopt: bool,
) -> Step<(bool, Vec<Candidate>)> {
    let columns = WantColumns::of(&request.wants);
    let query = bind_wants!(turn.query(CLAIM), columns)
        .bind(i64::from(request.limit))
        .bind(request.holder.as_str())
        .bind(micros(request.lease))
        .bind(adopt)
        .bind(FETCHED_BYTES);
    let rows = query.fetch_all(turn.conn()).await?;
    let mut foreign = false;
    let mut candidates = Vec::with_capacity(rows.len());
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        foreign = cells.flag("adopt")?;
        // The row that says so even where nothing was taken.
        if cells.int("n")?.is_some() {
            candidates.push(candidate(&cells)?);
        }
    }
    Ok((foreign, candidates))
}

async fn reclaim(
    store: &PostgresStore,
    request: &ClaimRequest<'_>,
    want: &Want,
    after: Duration,
    room: u32,
) -> Step<Vec<Candidate>> {
    let mut turn = store.connections.transaction().await?;
    let query = turn
        .query(RECLAIM)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(micros(after))
        .bind(want.shard)
        .bind(want.tenant.as_deref())
        .bind(i64::from(room))
        .bind(request.holder.as_str())
        .bind(micros(request.lease))
        .bind(FETCHED_BYTES);
    let rows: Vec<PgRow> = query.fetch_all(turn.conn()).await?;
    let mut candidates = Vec::with_capacity(rows.len());
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        let mut candidate = candidate(&cells)?;
        candidate.reclaimed = Some((cells.text("holder")?, cells.count("claimed_ms")?));
        candidates.push(candidate);
    }
    adopt(&mut turn, &mut candidates).await?;
    turn.finish().await?;
    Ok(candidates)
}

/// A row that was taken.
struct Candidate {
    /// Which want it answers.
    place: usize,
    claim: Claim,
    /// The epoch before this claim; none where somebody else wrote the row.
    epoch: Option<i64>,
    /// What it says of itself, where it needs a label.
    labels: Option<ForeignLabels>,
    /// The foreign worker that it is taken from, and how old that claim is.
    reclaimed: Option<(Option<String>, u64)>,
}

fn candidate(cells: &PgCells<'_>) -> Step<Candidate> {
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
    Ok(Candidate {
        place: cells.place("place")?,
        claim: Claim {
            id: cells.id("id")?,
            epoch: LeaseEpoch(epoch.unwrap_or(0).saturating_add(1)),
            route: rows::route(cells)?,
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
async fn adopt(turn: &mut Turn, candidates: &mut [Candidate]) -> Step<()> {
    let mut labels = Vec::new();
    let mut events: Vec<NewEvent> = Vec::new();
    for candidate in candidates {
        let claim = &mut candidate.claim;
        if let Some(found) = candidate.labels.take() {
            let adopted = found.adopt();
            if candidate.epoch.is_none() {
                events.push(adopted.enqueued(claim.id, &claim.route));
            }
            claim.trace_id = adopted.trace_id;
            claim.task_id = adopted.task_id;
            labels.push(LabelCells {
                id: claim.id,
                trace_id: claim.trace_id.clone(),
                task_id: claim.task_id.clone(),
            });
        }
        if let Some((holder, claimed_ms)) = &candidate.reclaimed {
            let subject = Subject {
                id: claim.id,
                route: &claim.route,
                trace_id: &claim.trace_id,
                task_id: claim.task_id.as_deref(),
            };
            events.push(audit::reclaimed(&subject, holder.as_deref(), *claimed_ms));
        }
    }
    write_labels(turn, &labels).await?;
    insert_events(turn, &events).await
}

pub(super) async fn next_due(store: &PostgresStore, wants: &[Want]) -> Step<Option<Duration>> {
    let columns = WantColumns::of(wants);
    let mut turn = store.connections.turn().await?;
    let query = bind_wants!(turn.query(NEXT_DUE), columns);
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    let ms = PgCells::of("agent_messages", &row).int("ms")?;
    Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}
