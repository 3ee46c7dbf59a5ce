//! The host processes that show themselves on the bus.

use super::row::{clean, ms_since};
use super::{PgCells, PostgresStore, Step};
use crate::ids::HolderId;
use crate::store::{HostBeat, HostRow, rows};

const BEAT: &str = "
WITH silent AS (
  DELETE FROM executor_hosts
  WHERE seen_at < now() - interval '1 day' AND holder <> $1
)
INSERT INTO executor_hosts (holder, name, stage, version, api, digests)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
ON CONFLICT (holder) DO UPDATE
SET stage = excluded.stage, api = excluded.api, digests = excluded.digests, seen_at = now()";

const LEAVE: &str = "
WITH waiter AS (DELETE FROM executor_waiters WHERE holder = $1)
DELETE FROM executor_hosts
WHERE holder = $1";

const SELECT: &str = concat!(
    "
SELECT holder, name, stage, version, api, started_at, seen_at, digests::text AS digests, ",
    ms_since!("seen_at"),
    " AS silent_ms
FROM executor_hosts
ORDER BY name, started_at"
);

pub(super) async fn beat(store: &PostgresStore, host: &HostBeat<'_>) -> Step<()> {
    let mut turn = store.connections.turn().await?;
    let query = turn
        .query(BEAT)
        .bind(host.holder.as_str())
        .bind(clean(host.name))
        .bind(host.stage.as_str())
        .bind(host.version)
        .bind(host.api)
        .bind(serde_json::to_string(host.digests)?);
    query.execute(turn.conn()).await?;
    turn.finish().await
}

pub(super) async fn leave(store: &PostgresStore, holder: &HolderId) -> Step<()> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(LEAVE).bind(holder.as_str());
    query.execute(turn.conn()).await?;
    turn.finish().await
}

pub(super) async fn hosts(store: &PostgresStore) -> Step<Vec<HostRow>> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query(SELECT);
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    rows.iter()
        .map(|row| rows::host(&PgCells::of("executor_hosts", row)))
        .collect()
}
