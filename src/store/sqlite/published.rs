//! The plugin versions that every host is to have.

use sqlx::Row as _;

use super::control::Deciding;
use super::row::Cells;
use super::{SqliteStore, Step};
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
LIMIT ?1"
);

const TAKEN: &str = "
SELECT digest FROM executor_published
WHERE name = ?1 AND version = ?2 AND digest <> ?3";

/// A version that was retracted comes back.
const PUBLISH: &str = concat!(
    "
INSERT INTO executor_published
  (digest, name, version, bytes, signature, actor, reason, component)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (digest) DO UPDATE
SET signature = coalesce(excluded.signature, signature), actor = excluded.actor,
    reason = excluded.reason, published_at = excluded.published_at,
    retracted_at = NULL, retracted_by = NULL
WHERE retracted_at IS NOT NULL OR signature IS NULL AND excluded.signature IS NOT NULL
RETURNING ",
    columns!()
);

const RETRACT: &str = "
UPDATE executor_published
SET retracted_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), retracted_by = ?2
WHERE digest = ?1 AND retracted_at IS NULL
RETURNING name";

const EXISTS: &str = "SELECT digest FROM executor_published WHERE digest = ?1";

const SERVES: &str = "SELECT plugin FROM executor_serving WHERE digest = ?1";

const COMPONENT: &str = "SELECT component, signature FROM executor_published WHERE digest = ?1";

pub(super) async fn publish(store: &SqliteStore, new: &NewPublished<'_>) -> Step<Published> {
    let mut deciding = Deciding::begin(store, &new.decision.by).await?;
    let digest = new.digest.to_string();
    let taken = sqlx::query(TAKEN)
        .bind(new.name.as_str())
        .bind(new.version)
        .bind(&digest)
        .fetch_optional(deciding.conn()?)
        .await?;
    if let Some(row) = taken {
        let by = Cells::of("executor_published", &row).parsed("digest")?;
        deciding.already().await?;
        return Ok(Published::Taken { by });
    }
    let actor = deciding.actor.clone();
    let row = sqlx::query(PUBLISH)
        .bind(&digest)
        .bind(new.name.as_str())
        .bind(new.version)
        .bind(i64::try_from(new.bytes.len()).unwrap_or(i64::MAX))
        .bind(new.signature)
        .bind(&actor)
        .bind(new.decision.reason.as_ref().map(Reason::as_str))
        .bind(new.bytes)
        .fetch_optional(deciding.conn()?)
        .await?;
    let Some(row) = row else {
        deciding.already().await?;
        return Ok(Published::Already);
    };
    let row = rows::published(&Cells::of("executor_published", &row))?;
    let event = control::published(&row);
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Published::Now { trace_id })
}

pub(super) async fn retract(
    store: &SqliteStore,
    digest: Digest,
    decision: &Decision,
) -> Step<Retracted> {
    let mut deciding = Deciding::begin(store, &decision.by).await?;
    let (actor, text) = (deciding.actor.clone(), digest.to_string());
    let serves = sqlx::query(SERVES)
        .bind(&text)
        .fetch_optional(deciding.conn()?)
        .await?;
    if serves.is_some() {
        deciding.already().await?;
        return Ok(Retracted::Serves);
    }
    let row = sqlx::query(RETRACT)
        .bind(&text)
        .bind(&actor)
        .fetch_optional(deciding.conn()?)
        .await?;
    let Some(row) = row else {
        let exists = sqlx::query(EXISTS)
            .bind(&text)
            .fetch_optional(deciding.conn()?)
            .await?;
        deciding.already().await?;
        return Ok(match exists {
            Some(_) => Retracted::Already,
            None => Retracted::Unknown,
        });
    };
    let name = Cells::of("executor_published", &row).required_text("name")?;
    let event = control::retracted(&name, digest, &actor, decision.reason.as_ref());
    let trace_id = event.trace_id.clone();
    deciding.decide(event).await?;
    Ok(Retracted::Now { trace_id })
}

pub(super) async fn published(store: &SqliteStore, limit: u32) -> Step<Vec<PublishedRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|row| rows::published(&Cells::of("executor_published", row)))
        .collect()
}

pub(super) async fn component(store: &SqliteStore, digest: Digest) -> Step<Option<Component>> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query(COMPONENT)
        .bind(digest.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let bytes: Vec<u8> = row.try_get("component")?;
    Ok(Some(Component {
        bytes: bytes.into(),
        signature: Cells::of("executor_published", &row).text("signature")?,
    }))
}
