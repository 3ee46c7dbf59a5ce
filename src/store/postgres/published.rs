//! The plugin versions that every host is to have.

use sqlx::Row as _;

use super::control::{Deciding, lock};
use super::row::clean;
use super::{PgCells, PostgresStore, Step};
use crate::control::{self, Decision, Published, PublishedRow, Reason, Retracted};
use crate::ids::Digest;
use crate::store::control as rows;
use crate::store::{Component, NewPublished};

macro_rules! columns {
    () => {
        "digest, name, version, bytes, signature, actor, reason, published_at, retracted_at,
  retracted_by"
    };
}

const SELECT: &str = concat!(
    "
SELECT ",
    columns!(),
    "
FROM executor_published
ORDER BY published_at DESC, digest
LIMIT $1"
);

const TAKEN: &str = "
SELECT digest FROM executor_published
WHERE name = $1 AND version = $2 AND digest <> $3";

/// A version that was retracted comes back.
const PUBLISH: &str = concat!(
    "
INSERT INTO executor_published AS known
  (digest, name, version, bytes, signature, actor, reason, component)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (digest) DO UPDATE
SET signature = coalesce(excluded.signature, known.signature), actor = excluded.actor,
    reason = excluded.reason, published_at = now(), retracted_at = NULL, retracted_by = NULL
WHERE known.retracted_at IS NOT NULL
   OR known.signature IS NULL AND excluded.signature IS NOT NULL
RETURNING ",
    columns!()
);

const RETRACT: &str = "
UPDATE executor_published
SET retracted_at = now(), retracted_by = $2
WHERE digest = $1 AND retracted_at IS NULL
RETURNING name";

const EXISTS: &str = "SELECT digest FROM executor_published WHERE digest = $1";

const SERVES: &str = "SELECT plugin FROM executor_serving WHERE digest = $1";

const COMPONENT: &str = "SELECT component, signature FROM executor_published WHERE digest = $1";

pub(super) async fn publish(store: &PostgresStore, new: &NewPublished<'_>) -> Step<Published> {
    let lock = lock!("executor_published");
    let mut deciding = Deciding::begin(store, lock, &new.decision.by).await?;
    let (turn, digest) = (&mut deciding.turn, new.digest.to_string());
    let query = turn
        .query(TAKEN)
        .bind(new.name.as_str())
        .bind(new.version)
        .bind(&digest);
    let taken = query.fetch_optional(turn.conn()).await?;
    if let Some(row) = taken {
        let by = PgCells::of("executor_published", &row).parsed("digest")?;
        deciding.already().await?;
        return Ok(Published::Taken { by });
    }
    let query = turn
        .query(PUBLISH)
        .bind(&digest)
        .bind(new.name.as_str())
        .bind(new.version)
        .bind(i64::try_from(new.bytes.len()).unwrap_or(i64::MAX))
        .bind(new.signature.map(clean))
        .bind(&deciding.actor)
        .bind(new.decision.reason.as_ref().map(Reason::as_str))
        .bind(new.bytes);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        deciding.already().await?;
        return Ok(Published::Already);
    };
    let row = rows::published(&PgCells::of("executor_published", &row))?;
    let event = control::published(&row);
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Published::Now { trace_id })
}

pub(super) async fn retract(
    store: &PostgresStore,
    digest: Digest,
    decision: &Decision,
) -> Step<Retracted> {
    // Nobody may decide that it serves meanwhile.
    let lock = lock!("executor_serving, executor_published");
    let mut deciding = Deciding::begin(store, lock, &decision.by).await?;
    let (turn, text) = (&mut deciding.turn, digest.to_string());
    let query = turn.query(SERVES).bind(&text);
    if query.fetch_optional(turn.conn()).await?.is_some() {
        deciding.already().await?;
        return Ok(Retracted::Serves);
    }
    let query = turn.query(RETRACT).bind(&text).bind(&deciding.actor);
    let Some(row) = query.fetch_optional(turn.conn()).await? else {
        let query = turn.query(EXISTS).bind(&text);
        let exists = query.fetch_optional(turn.conn()).await?;
        deciding.already().await?;
        return Ok(match exists {
            Some(_) => Retracted::Already,
            None => Retracted::Unknown,
        });
    };
    let name = PgCells::of("executor_published", &row).required_text("name")?;
    let reason = decision.reason.as_ref();
    let event = control::retracted(&name, digest, &deciding.actor, reason);
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Retracted::Now { trace_id })
}

pub(super) async fn published(store: &PostgresStore, limit: u32) -> Step<Vec<PublishedRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT).bind(i64::from(limit));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::published(&PgCells::of("executor_published", row)))
        .collect()
}

pub(super) async fn component(store: &PostgresStore, digest: Digest) -> Step<Option<Component>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(COMPONENT).bind(digest.to_string());
    let row = query.fetch_optional(turn.conn()).await?;
    turn.finish().await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let bytes: Vec<u8> = row.try_get("component")?;
    Ok(Some(Component {
        bytes: bytes.into(),
        signature: PgCells::of("executor_published", &row).text("signature")?,
    }))
}
