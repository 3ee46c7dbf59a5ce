//! The host processes that show themselves on the bus.

use super::row::Cells;
use super::{SqliteStore, Step};
use crate::ids::HolderId;
use crate::store::{HostBeat, HostRow, rows};

const BEAT: &str = "
INSERT INTO executor_hosts (holder, name, stage, version, api, digests)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (holder) DO UPDATE
SET stage = excluded.stage,
    api = excluded.api,
    digests = excluded.digests,
    seen_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

const FORGET_SILENT: &str = "
DELETE FROM executor_hosts
WHERE seen_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 day')";

const LEAVE: &str = "DELETE FROM executor_hosts WHERE holder = ?1";

const SELECT: &str = "
SELECT holder, name, stage, version, api, started_at, seen_at, digests,
  CAST(round((julianday('now') - julianday(seen_at)) * 86400000.0) AS INTEGER) AS silent_ms
FROM executor_hosts
ORDER BY name, started_at";

pub(super) async fn beat(store: &SqliteStore, host: &HostBeat<'_>) -> Step<()> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let conn = writer.conn()?;
    sqlx::query(BEAT)
        .bind(host.holder.as_str())
        .bind(host.name)
        .bind(host.stage.as_str())
        .bind(host.version)
        .bind(host.api)
        .bind(serde_json::to_string(host.digests)?)
        .execute(&mut *conn)
        .await?;
    sqlx::query(FORGET_SILENT).execute(conn).await?;
    writer.commit().await
}

pub(super) async fn leave(store: &SqliteStore, holder: &HolderId) -> Step<()> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    sqlx::query(LEAVE)
        .bind(holder.as_str())
        .execute(writer.conn()?)
        .await?;
    writer.commit().await
}

pub(super) async fn hosts(store: &SqliteStore) -> Step<Vec<HostRow>> {
    let mut conn = store.readers.acquire().await?;
    let rows = sqlx::query(SELECT).fetch_all(&mut *conn).await?;
    rows.iter()
        .map(|row| rows::host(&Cells::of("executor_hosts", row)))
        .collect()
}
