//! Claiming due tasks, in one statement and one round trip.
//!
//! A *lane* is what the index on waiting tasks keeps together: one route, shard,
//! priority and tenant, ordered by due time. Which lanes hold anything is known
//! from a look at them all ([`lanes`]). The statement visits them in the order
//! of [`crate::store::turns`] and locks rows, from the oldest on, until it has
//! enough; so it costs the same however much waits, is delayed, or has ended.
//! Rows that another claim has locked are skipped.
//!
//! Rows that other programs inserted are adopted in the transaction of their
//! first claim. They need a second statement, so the first one refuses to take
//! anything once it meets one, and the claim is made again as a transaction.

mod candidate;
pub(super) mod lanes;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use self::candidate::{Candidate, adopt, candidate};
use self::lanes::At;
use super::connection::{Statement, Turn};
use super::rollout::write_sides;
use super::row::{micros, micros_of, ms_since, to_json};
use super::{PgCells, PostgresStore, Step, Trouble, stuck};
use crate::attempt::Fence;
use crate::ids::HolderId;
use crate::payload;
use crate::store::{ClaimRequest, Want, rollout};
use crate::task::Claim;

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
  due.n, due.place, due.since, due.epoch, due.holder, due.claimed_ms, m.id, m.service,
    m.role, m.priority::bigint AS priority, m.shard::bigint AS shard, m.tenant, m.task_id,
    m.trace_id, m.payload::text AS payload,
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
            "taken.n, taken.place, taken.since, taken.priority, taken.epoch, taken.holder,
  taken.claimed_ms, taken.id, taken.service, taken.role, taken.shard, taken.tenant, taken.task_id, taken.trace_id,
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
/// the server makes of the update. Nothing is locked beyond what is needed, as
/// stops are visited only until there is enough.
macro_rules! due {
    () => {
        concat!(
    "
WITH stop AS MATERIALIZED (
  SELECT *
  FROM json_to_recordset($1::json) AS stop (
    place bigint, service text, role text, priority bigint, tenant text, skip bigint,
    take bigint, lanes json)
),
due AS MATERIALIZED (
  SELECT row_number() OVER () AS n, chosen.*
  FROM (
    SELECT due.*
    FROM unnest($2::bigint[], $3::bigint[]) AS want (place, room)
    CROSS JOIN LATERAL (
      SELECT due.*
      FROM stop
      CROSS JOIN LATERAL (
        SELECT due.*
        FROM json_to_recordset(stop.lanes) AS lane (shard integer, since bigint)
        CROSS JOIN LATERAL (
          SELECT want.place, m.id, coalesce(m.retry_at, m.created_at) AS due, ",
    micros_of!("coalesce(m.retry_at, m.created_at)"),
    " AS since,
            m.lease_epoch AS epoch, NULL::text AS holder, NULL::bigint AS claimed_ms,
            m.lease_epoch IS NULL OR m.trace_id IS NULL
              OR octet_length(m.trace_id) NOT BETWEEN 1 AND 128
              OR m.trace_id COLLATE \"C\" ~ '[^!-~]' AS adopt
          FROM agent_messages AS m
          WHERE m.status = 'queued' AND m.service = stop.service AND m.role = stop.role
            AND coalesce(m.shard, 0) = lane.shard AND m.priority = stop.priority
            AND coalesce(m.tenant, '') = stop.tenant
            AND coalesce(m.retry_at, m.created_at)
              >= coalesce(timestamptz 'epoch' + lane.since * interval '1 microsecond', '-infinity')
            AND coalesce(m.retry_at, m.created_at) <= now()
            AND m.id <> ALL ($5::uuid[])
          ORDER BY coalesce(m.retry_at, m.created_at), m.id
          LIMIT stop.skip + stop.take
          FOR UPDATE SKIP LOCKED
        ) AS due
        ORDER BY due.due, due.id
        OFFSET stop.skip
        LIMIT stop.take
      ) AS due
      WHERE stop.place = want.place
      LIMIT want.room
    ) AS due
    LIMIT $4
  ) AS chosen
)"
        )
    };
}

const CLAIM: &str = concat!(
    due!(),
    ",
taken AS (",
    take!("$6", "$7"),
    "
  FROM due
  -- It reads the whole list before any row is taken: the list is made by rows
  -- that are locked, and one that is taken would be missing from it.
  WHERE m.id = due.id AND (SELECT $8 OR count(*) FILTER (WHERE adopt) = 0 FROM due)
  RETURNING",
    taken!(),
    "
)
SELECT EXISTS (SELECT FROM due WHERE adopt) AS adopt, ",
    select_taken!("$9"),
    "
FROM (SELECT) AS always
LEFT JOIN taken ON TRUE
ORDER BY taken.n"
);

/// What a claim would take.
const DUE: &str = concat!(due!(), "\nSELECT id FROM due ORDER BY n");

/// What a claim does to one row.
const TAKE_ONE: &str = concat!(take!("$2", "$3"), "\n  WHERE m.id = $1");

/// Claims of foreign workers that are older than the route allows.
macro_rules! stale {
    () => {
        concat!(
            "
WITH due AS MATERIALIZED (
  SELECT row_number() OVER () AS n, stale.*
  FROM (
    SELECT 0::bigint AS place, NULL::bigint AS since, m.id, m.lease_epoch AS epoch,
      m.claimed_by AS holder, ",
            ms_since!("coalesce(m.claimed_at, m.created_at)"),
            " AS claimed_ms
    FROM agent_messages AS m
    WHERE m.status = 'claimed' AND m.lease_expires_at IS NULL
      AND m.service = $1 AND m.role = $2
      AND coalesce(m.claimed_at, m.created_at) <= now() - $3 * interval '1 microsecond'
      AND ($4::integer IS NULL OR coalesce(m.shard, 0) = $4)
      AND ($5::text IS NULL OR m.tenant = $5)
      AND m.id <> ALL ($7::uuid[])
    ORDER BY coalesce(m.claimed_at, m.created_at), m.id
    LIMIT $6
    FOR UPDATE SKIP LOCKED
  ) AS stale
)"
        )
    };
}

const RECLAIM: &str = concat!(
    stale!(),
    ",
taken AS (",
    take!("$8", "$9"),
    "
  FROM due
  WHERE m.id = due.id
  RETURNING",
    taken!(),
    "
)
SELECT ",
    select_taken!("$10"),
    "
FROM taken
ORDER BY taken.n"
);

/// What a reclaim would take.
const STALE: &str = concat!(stale!(), "\nSELECT id FROM due ORDER BY n");

/// Claims that were answered to nobody. Their epoch is of the claim already.
const UNANSWERED: &str = concat!(
    "
WITH due AS MATERIALIZED (
  SELECT row_number() OVER () AS n, 0::bigint AS place, NULL::bigint AS since, m.id,
    m.lease_epoch - 1 AS epoch, NULL::text AS holder, NULL::bigint AS claimed_ms
  FROM agent_messages AS m
  WHERE m.status = 'claimed' AND m.lease_expires_at IS NOT NULL AND m.claimed_by = $3
    AND NOT EXISTS (
      SELECT FROM unnest($1::uuid[], $2::bigint[]) AS known (id, epoch)
      WHERE known.id = m.id AND known.epoch = m.lease_epoch
    )
),
taken AS (
  SELECT",
    taken!(),
    "
  FROM due
  JOIN agent_messages AS m ON m.id = due.id
)
SELECT ",
    select_taken!("0"),
    "
FROM taken
ORDER BY taken.n"
);

/// Postgres spaces out the JSON that it keeps; within this, a payload that its
/// producer wrote within the limit is read whatever the spaces.
const FETCHED_BYTES: i64 = 2 * payload::MAX_BYTES as i64;

/// A stop of a claim, as the statement reads it.
#[derive(Serialize)]
struct StopCells<'a> {
    place: usize,
    service: &'a str,
    role: &'a str,
    priority: i64,
    tenant: &'a str,
    skip: u32,
    take: u32,
    lanes: Vec<LaneCells>,
}

#[derive(Serialize)]
struct LaneCells {
    shard: i32,
    /// A hint: nothing older is known to wait there.
    since: Option<i64>,
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
    let guess = store.lanes.lock().guess(&request.wants, request.limit);
    if let Some(guess) = guess {
        let candidates = take_from(store, request, At::Last).await?;
        if !candidates.is_empty() {
            store.lanes.lock().guessed(&request.wants);
            return Ok(candidates);
        }
        lanes::look(store, &request.wants).await?;
        if store.lanes.lock().hold_no_more(&request.wants, guess) {
            return Ok(Vec::new());
        }
        return take_from(store, request, At::Known).await;
    }
    let fresh = lanes::look_again(store, &request.wants).await?;
    let candidates = take_from(store, request, At::Known).await?;
    if fresh || !candidates.is_empty() {
        return Ok(candidates);
    }
    // What is known holds nothing: before that is said, a look at everything.
    lanes::look(store, &request.wants).await?;
    take_from(store, request, At::Known).await
}

/// Takes what is due of some lanes.
async fn take_from(
    store: &PostgresStore,
    request: &ClaimRequest<'_>,
    at: At,
) -> Step<Vec<Candidate>> {
    let stops = stops(store, request, at)?;
    let Some(stops) = stops else {
        return Ok(Vec::new());
    };
    let candidates = loop {
        match take_adopting(store, request, &stops).await {
            Err(trouble) if stuck::is_of_a_row(&trouble) => {
                let mut turn = store.connections.transaction().await?;
                let due = due(store, &turn, DUE, request, &stops);
                let due = due.fetch_all(turn.conn()).await?;
                if !set_apart(store, request, turn, &due).await? {
                    return Err(trouble);
                }
            }
            taken => break taken?,
        }
    };
    let mut lanes = store.lanes.lock();
    for candidate in &candidates {
        if let Some(want) = request.wants.get(candidate.place) {
            lanes.taken(want, &candidate.lane, candidate.since);
        }
    }
    Ok(candidates)
}

/// The stops of a claim as JSON; none where no lane is known.
fn stops(store: &PostgresStore, request: &ClaimRequest<'_>, at: At) -> Step<Option<String>> {
    let lanes = store.lanes.lock();
    let mut cells = Vec::new();
    for (place, want) in request.wants.iter().enumerate() {
        let room = want.limit.min(request.limit);
        let stops = lanes.stops(place, want, room, at);
        cells.extend(stops.into_iter().map(|stop| {
            StopCells {
                place: stop.place,
                service: want.key.service(),
                role: want.key.role(),
                priority: stop.priority,
                tenant: stop.tenant,
                skip: stop.skip,
                take: stop.take,
                lanes: stop
                    .lanes
                    .iter()
                    .map(|lane| LaneCells {
                        shard: lane.shard,
                        since: lanes.since(want, lane),
                    })
                    .collect(),
            }
        }));
    }
    match cells.is_empty() {
        true => Ok(None),
        false => Ok(Some(to_json(&cells)?)),
    }
}

async fn take_adopting(
    store: &PostgresStore,
    request: &ClaimRequest<'_>,
    stops: &str,
) -> Step<Vec<Candidate>> {
    let draws = request.wants.iter().any(|want| want.draw.is_some());
    // Where there were foreign rows just now, there will be more; and sides are
    // drawn in the transaction of their claim.
    if !draws && !store.adopting.load(Ordering::Relaxed) {
        let mut turn = store.connections.turn().await?;
        let (foreign, candidates) = take_due(store, &mut turn, request, stops, false).await?;
        turn.finish().await?;
        if !foreign {
            return Ok(candidates);
        }
    }
    let mut turn = store.connections.transaction().await?;
    let (foreign, mut candidates) = take_due(store, &mut turn, request, stops, true).await?;
    store.adopting.store(foreign, Ordering::Relaxed);
    adopt(&mut turn, &mut candidates).await?;
    draw(&mut turn, request, &mut candidates).await?;
    turn.finish().await?;
    Ok(candidates)
}

/// A statement on what is due.
fn due<'q>(
    store: &PostgresStore,
    turn: &Turn,
    sql: &'static str,
    request: &ClaimRequest<'_>,
    stops: &'q str,
) -> Statement<'q> {
    let places: Vec<i64> = (0_i64..).take(request.wants.len()).collect();
    let rooms: Vec<i64> = request.wants.iter().map(|w| i64::from(w.limit)).collect();
    turn.query(sql)
        .bind(stops)
        .bind(places)
        .bind(rooms)
        .bind(i64::from(request.limit))
        .bind(store.stuck.rows(Instant::now()))
}

/// Takes what is due; whether there were rows to adopt, without which nothing
/// is taken unless `adopt`.
async fn take_due(
    store: &PostgresStore,
    turn: &mut Turn,
    request: &ClaimRequest<'_>,
    stops: &str,
    adopt: bool,
) -> Step<(bool, Vec<Candidate>)> {
    let query = due(store, turn, CLAIM, request, stops)
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
    loop {
        match reclaim_stale(store, request, want, after, room).await {
            Err(trouble) if stuck::is_of_a_row(&trouble) => {
                let mut turn = store.connections.transaction().await?;
                let stale = stale(store, &turn, STALE, want, after, room);
                let stale = stale.fetch_all(turn.conn()).await?;
                if !set_apart(store, request, turn, &stale).await? {
                    return Err(trouble);
                }
            }
            reclaimed => return reclaimed,
        }
    }
}

/// A statement on what foreign workers claimed too long ago.
fn stale<'q>(
    store: &PostgresStore,
    turn: &Turn,
    sql: &'static str,
    want: &'q Want,
    after: Duration,
    room: u32,
) -> Statement<'q> {
    turn.query(sql)
        .bind(want.key.service())
        .bind(want.key.role())
        .bind(micros(after))
        .bind(want.shard)
        .bind(want.tenant.as_deref())
        .bind(i64::from(room))
        .bind(store.stuck.rows(Instant::now()))
}

async fn reclaim_stale(
    store: &PostgresStore,
    request: &ClaimRequest<'_>,
    want: &Want,
    after: Duration,
    room: u32,
) -> Step<Vec<Candidate>> {
    let mut turn = store.connections.transaction().await?;
    let query = stale(store, &turn, RECLAIM, want, after, room)
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
    draw(&mut turn, request, &mut candidates).await?;
    turn.finish().await?;
    Ok(candidates)
}

/// Tries each row by itself, to no effect, and leaves alone those that cannot be
/// claimed; whether there are any.
async fn set_apart(
    store: &PostgresStore,
    request: &ClaimRequest<'_>,
    mut turn: Turn,
    rows: &[PgRow],
) -> Step<bool> {
    let mut found = false;
    for row in rows {
        let id: Uuid = row.try_get("id")?;
        turn.begin_part().await?;
        let tried = turn
            .query(TAKE_ONE)
            .bind(id)
            .bind(request.holder.as_str())
            .bind(micros(request.lease))
            .execute(turn.conn())
            .await;
        turn.undo_part().await?;
        match tried.map_err(Trouble::from) {
            Ok(_) => {}
            Err(trouble) if stuck::is_of_a_row(&trouble) => {
                found |= store.stuck.leave(id, Instant::now(), &trouble);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    turn.finish().await?;
    Ok(found)
}

pub(super) async fn unanswered(
    store: &PostgresStore,
    holder: &HolderId,
    known: &[Fence],
) -> Step<Vec<Claim>> {
    let ids: Vec<Uuid> = known.iter().map(|fence| fence.id.0).collect();
    let epochs: Vec<i64> = known.iter().map(|fence| fence.epoch.0).collect();
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(UNANSWERED)
        .bind(ids)
        .bind(epochs)
        .bind(holder.as_str());
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    // One that somebody made unreadable must not keep this host from claiming:
    // it waits for its lease to run out.
    let claims = rows.iter().filter_map(|row| {
        let candidate = candidate(&PgCells::of("agent_messages", row)).ok()?;
        Some(candidate.claim)
    });
    Ok(claims.collect())
}

/// Gives tasks that meet a rollout their side.
async fn draw(
    turn: &mut Turn,
    request: &ClaimRequest<'_>,
    candidates: &mut [Candidate],
) -> Step<()> {
    let claims = candidates.iter_mut().map(|candidate| &mut candidate.claim);
    let sides = rollout::fix_sides(&request.wants, claims);
    write_sides(turn, &sides).await
}
