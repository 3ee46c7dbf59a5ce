//! Sweeps: leases that ran out, and waiting tasks whose time to live did.
//!
//! Each sweep is one transaction over one page, oldest first, so that a page of
//! rows that cannot be helped never hides the rest. Rows that another host
//! sweeps are skipped. Where the database refuses a page, each row is changed by
//! itself, and the one that is refused is left alone ([`stuck`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::slice::ChunksMut;
use std::time::Instant;

use serde::Serialize;

use super::connection::Turn;
use super::enqueue::insert_events;
use super::head::{adopt_heads, head_columns};
use super::row::to_json;
use super::schema::{has_ttl, ttl_ends};
use super::{PgCells, PostgresStore, Step, stuck};
use crate::attempt::AttemptOutcome;
use crate::event::LastAttempt;
use crate::ids::MessageId;
use crate::store::head::Head;
use crate::store::{Rescued, Want, audit};
use crate::task::Status;

/// Whose lease has run out, ours or not.
macro_rules! run_out {
    () => {
        "m.status = 'claimed' AND m.lease_expires_at IS NOT NULL
  AND m.lease_expires_at < now()"
    };
}

/// Whether the holder is a host, by the form of its name. A foreign worker that
/// takes a row from a host writes its own name and knows nothing of the lease.
macro_rules! held_by_a_host {
    () => {
        "(m.claimed_by IS NULL OR m.claimed_by COLLATE \"C\" ~ ':[0-9a-f]{12}$')"
    };
}

/// A route that somebody changed into none would fill the page for ever.
macro_rules! vacant {
    () => {
        concat!(
            run_out!(),
            " AND ",
            held_by_a_host!(),
            "
  AND length(m.service) BETWEEN 1 AND 64 AND m.service COLLATE \"C\" !~ '[^A-Za-z0-9._-]'
  AND length(m.role) BETWEEN 1 AND 64 AND m.role COLLATE \"C\" !~ '[^A-Za-z0-9._-]'"
        )
    };
}

const ANY_RUN_OUT: &str = concat!(
    "
SELECT EXISTS (
  SELECT FROM agent_messages AS m
  WHERE ",
    run_out!(),
    "
) AS any"
);

/// What is left of the lease of a host that a foreign worker took the row from:
/// the claim is that worker's, and a claim without a lease is left alone.
const DISOWN: &str = concat!(
    "
UPDATE agent_messages AS m
SET lease_expires_at = NULL
WHERE ",
    run_out!(),
    " AND NOT ",
    held_by_a_host!()
);

const LIST_VACANT: &str = concat!(
    "
SELECT ",
    head_columns!(),
    ",
  (SELECT count(*) FROM executor_attempts AS a
   WHERE a.message_id = m.id AND a.outcome = 'lost') AS deaths
FROM agent_messages AS m
WHERE ",
    vacant!(),
    " AND m.id <> ALL ($2::uuid[])
ORDER BY m.lease_expires_at
LIMIT $1
FOR UPDATE OF m SKIP LOCKED"
);

/// The attempt rows that the vanished holders could not write, and the rows'
/// next state. Each ended when its lease did. The epoch goes up, so that the
/// vanished holder cannot write any more even where nobody claims the row again.
const TAKE_BACK: &str = "
WITH next AS MATERIALIZED (
  SELECT * FROM json_to_recordset($1::json) AS next (id uuid, status text, error text)
),
attempt AS (
  INSERT INTO executor_attempts
    (message_id, lease_epoch, attempt, host, claimed_at, ended_at, wait_ms, run_ms,
     outcome, code, blame)
  SELECT m.id, m.lease_epoch, coalesce(m.attempts, 0), coalesce(m.claimed_by, ''),
    m.claimed_at, now(),
    greatest(0, (extract(epoch FROM
      least(coalesce(m.claimed_at, m.created_at), '9999-12-31 UTC')
      - greatest(coalesce(m.retry_at, m.created_at), '0001-01-01 UTC')) * 1000)::bigint),
    greatest(0, (extract(epoch FROM
      least(m.lease_expires_at, '9999-12-31 UTC')
      - greatest(coalesce(m.claimed_at, m.created_at), '0001-01-01 UTC')) * 1000)::bigint),
    $2, $3, 'host'
  FROM next
  JOIN agent_messages AS m ON m.id = next.id
  ON CONFLICT (message_id, lease_epoch)
  DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at
)
UPDATE agent_messages AS m
SET status = next.status,
    lease_epoch = m.lease_epoch + 1,
    lease_expires_at = NULL,
    claimed_by = CASE WHEN next.status <> 'queued' THEN m.claimed_by END,
    claimed_at = CASE WHEN next.status <> 'queued' THEN m.claimed_at END,
    done_at = CASE WHEN next.status <> 'queued' THEN now() END,
    retry_at = CASE WHEN next.status = 'queued' THEN now() ELSE m.retry_at END,
    error = next.error,
    last_error_at = now()
FROM next
WHERE m.id = next.id";

const LIST_EXPIRED: &str = concat!(
    "
SELECT ",
    head_columns!(),
    "
FROM agent_messages AS m
WHERE m.status = 'queued' AND ",
    has_ttl!("m."),
    "
  AND ",
    ttl_ends!("m."),
    " <= now() AT TIME ZONE 'UTC'
  AND m.id <> ALL ($6::uuid[])
  AND EXISTS (
    SELECT FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[])
      AS want (service, role, shard, tenant)
    WHERE want.service = m.service AND want.role = m.role
      AND (want.shard IS NULL OR want.shard = coalesce(m.shard, 0))
      AND (want.tenant IS NULL OR want.tenant = m.tenant)
  )
ORDER BY ",
    ttl_ends!("m."),
    "
LIMIT $5
FOR UPDATE OF m SKIP LOCKED"
);

const FAIL_WAITING: &str = "
UPDATE agent_messages
SET status = 'failed', error = $2, done_at = now(), last_error_at = now()
WHERE id = ANY ($1) AND status = 'queued'";

#[derive(Serialize)]
struct TakeBackCells {
    id: MessageId,
    status: Status,
    error: Cow<'static, str>,
}

pub(super) async fn rescue(
    store: &PostgresStore,
    limit: u32,
    default_max_attempts: u32,
) -> Step<Vec<Rescued>> {
    if !any_run_out(store).await? {
        return Ok(Vec::new());
    }
    match rescue_page(store, limit, default_max_attempts, Apart::No).await {
        Err(trouble) if stuck::is_of_a_row(&trouble) => {
            rescue_page(store, limit, default_max_attempts, Apart::Yes).await
        }
        rescued => rescued,
    }
}

/// Whether each row of a page is changed by itself, since the database refuses
/// some.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    No,
    Yes,
}

impl Apart {
    fn parts(self, heads: &mut [Head]) -> ChunksMut<'_, Head> {
        heads.chunks_mut(match self {
            Self::No => heads.len().max(1),
            Self::Yes => 1,
        })
    }

    /// What changing a part came to; none for a row that is left alone.
    async fn settle<T>(
        self,
        store: &PostgresStore,
        turn: &mut Turn,
        row: MessageId,
        changed: Step<T>,
    ) -> Step<Option<T>> {
        match changed {
            Err(trouble) if self == Self::Yes && stuck::is_of_a_row(&trouble) => {
                turn.undo_part().await?;
                match store.stuck.leave(row.0, Instant::now(), &trouble) {
                    true => Ok(None),
                    false => Err(trouble),
                }
            }
            changed => changed.map(Some),
        }
    }
}

async fn rescue_page(
    store: &PostgresStore,
    limit: u32,
    default_max_attempts: u32,
    apart: Apart,
) -> Step<Vec<Rescued>> {
    let mut turn = store.connections.transaction().await?;
    let query = turn.query(DISOWN);
    query.execute(turn.conn()).await?;
    let (mut heads, deaths) = list_vacant(store, &mut turn, limit).await?;
    let mut rescued = Vec::with_capacity(heads.len());
    for part in apart.parts(&mut heads) {
        let Some(row) = part.first().map(|head| head.id) else {
            continue;
        };
        if apart == Apart::Yes {
            turn.begin_part().await?;
        }
        let taken = take_back(&mut turn, part, &deaths, default_max_attempts).await;
        let taken = apart.settle(store, &mut turn, row, taken).await?;
        rescued.extend(taken.into_iter().flatten());
    }
    turn.finish().await?;
    Ok(rescued)
}

async fn take_back(
    turn: &mut Turn,
    heads: &mut [Head],
    deaths: &HashMap<MessageId, u32>,
    default_max_attempts: u32,
) -> Step<Vec<Rescued>> {
    let mut events = adopt_heads(turn, heads).await?;
    let mut cells = Vec::with_capacity(heads.len());
    let mut rescued = Vec::with_capacity(heads.len());
    for head in heads.iter() {
        let deaths = deaths.get(&head.id).copied().unwrap_or(0);
        let taken = head.take_back(deaths, default_max_attempts);
        events.extend(taken.events);
        cells.push(TakeBackCells {
            id: head.id,
            status: taken.rescued.status,
            error: taken.error,
        });
        rescued.push(taken.rescued);
    }
    let query = turn
        .query(TAKE_BACK)
        .bind(to_json(&cells)?)
        .bind(AttemptOutcome::Lost.as_str())
        .bind(audit::LEASE_EXPIRED);
    query.execute(turn.conn()).await?;
    insert_events(turn, &events).await?;
    Ok(rescued)
}

/// A glance that locks nothing.
async fn any_run_out(store: &PostgresStore) -> Step<bool> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(ANY_RUN_OUT);
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    PgCells::of("agent_messages", &row).flag("any")
}

async fn list_vacant(
    store: &PostgresStore,
    turn: &mut Turn,
    limit: u32,
) -> Step<(Vec<Head>, HashMap<MessageId, u32>)> {
    let query = turn
        .query(LIST_VACANT)
        .bind(i64::from(limit))
        .bind(store.stuck.rows(Instant::now()));
    let rows = query.fetch_all(turn.conn()).await?;
    let mut heads = Vec::with_capacity(rows.len());
    let mut deaths = HashMap::with_capacity(rows.len());
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        let head = Head::read(&cells)?;
        deaths.insert(head.id, cells.count32("deaths")?);
        heads.push(head);
    }
    Ok((heads, deaths))
}

pub(super) async fn expire(
    store: &PostgresStore,
    wants: &[Want],
    limit: u32,
) -> Step<Vec<MessageId>> {
    match expire_page(store, wants, limit, Apart::No).await {
        Err(trouble) if stuck::is_of_a_row(&trouble) => {
            expire_page(store, wants, limit, Apart::Yes).await
        }
        expired => expired,
    }
}

async fn expire_page(
    store: &PostgresStore,
    wants: &[Want],
    limit: u32,
    apart: Apart,
) -> Step<Vec<MessageId>> {
    let mut turn = store.connections.transaction().await?;
    let mut heads = list_expired(store, &mut turn, wants, limit).await?;
    let mut expired = Vec::with_capacity(heads.len());
    for part in apart.parts(&mut heads) {
        let Some(row) = part.first().map(|head| head.id) else {
            continue;
        };
        if apart == Apart::Yes {
            turn.begin_part().await?;
        }
        let failed = fail_waiting(&mut turn, part).await;
        let failed = apart.settle(store, &mut turn, row, failed).await?;
        expired.extend(failed.into_iter().flatten());
    }
    turn.finish().await?;
    Ok(expired)
}

async fn fail_waiting(turn: &mut Turn, heads: &mut [Head]) -> Step<Vec<MessageId>> {
    let mut events = adopt_heads(turn, heads).await?;
    let problem = audit::expired();
    for head in heads.iter() {
        events.append(&mut head.subject().failed(&problem, LastAttempt::Never));
    }
    let ids: Vec<uuid::Uuid> = heads.iter().map(|head| head.id.0).collect();
    let query = turn
        .query(FAIL_WAITING)
        .bind(ids)
        .bind(audit::error_text(&problem));
    query.execute(turn.conn()).await?;
    insert_events(turn, &events).await?;
    Ok(heads.iter().map(|head| head.id).collect())
}

async fn list_expired(
    store: &PostgresStore,
    turn: &mut Turn,
    wants: &[Want],
    limit: u32,
) -> Step<Vec<Head>> {
    let services: Vec<&str> = wants.iter().map(|want| want.key.service()).collect();
    let roles: Vec<&str> = wants.iter().map(|want| want.key.role()).collect();
    let shards: Vec<Option<i32>> = wants.iter().map(|want| want.shard).collect();
    let tenants: Vec<Option<&str>> = wants.iter().map(|want| want.tenant.as_deref()).collect();
    let query = turn
        .query(LIST_EXPIRED)
        .bind(services)
        .bind(roles)
        .bind(shards)
        .bind(tenants)
        .bind(i64::from(limit))
        .bind(store.stuck.rows(Instant::now()));
    let rows = query.fetch_all(turn.conn()).await?;
    let heads = rows
        .iter()
        .map(|row| Head::read(&PgCells::of("agent_messages", row)));
    heads.collect()
}
