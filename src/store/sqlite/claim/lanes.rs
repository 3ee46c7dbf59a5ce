//! Which lanes hold waiting tasks, and when the first of each is due.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnection;

use crate::store::Want;
use crate::store::sqlite::row::Cells;
use crate::store::sqlite::{SqliteStore, Step};
use crate::store::turns::Lane;

/// The lanes of every want that hold waiting tasks, and when the first of each
/// is due, found by hopping from the head of one to the head of the next. A
/// tenant goes by its bytes, in hexadecimal: other programs may write some that
/// are no UTF-8. Their order is the same.
pub(super) const LIST_LANES: &str = "
WITH RECURSIVE want (place, service, role, shard, tenant) AS MATERIALIZED (
  SELECT key, value ->> 'service', value ->> 'role', value ->> 'shard', value ->> 'tenant'
  FROM jsonb_each(?1)
),
lane (place, head) AS (
  SELECT place,
    (SELECT m.rowid
     FROM agent_messages AS m INDEXED BY agent_messages_turn
     WHERE m.status = 'queued' AND m.service = want.service AND m.role = want.role
     ORDER BY m.shard, m.priority, coalesce(m.tenant, ''), coalesce(m.retry_at, m.created_at)
     LIMIT 1)
  FROM want
  UNION ALL
  SELECT lane.place,
    -- Not `(shard, priority, …) > (…)`: that would walk through the whole lane.
    coalesce(
      (SELECT m.rowid
       FROM agent_messages AS m INDEXED BY agent_messages_turn
       WHERE m.status = 'queued' AND m.service = head.service AND m.role = head.role
         AND m.shard = head.shard AND m.priority = head.priority
         AND coalesce(m.tenant, '') > coalesce(head.tenant, '')
       ORDER BY coalesce(m.tenant, ''), coalesce(m.retry_at, m.created_at)
       LIMIT 1),
      (SELECT m.rowid
       FROM agent_messages AS m INDEXED BY agent_messages_turn
       WHERE m.status = 'queued' AND m.service = head.service AND m.role = head.role
         AND m.shard = head.shard AND m.priority > head.priority
       ORDER BY m.priority, coalesce(m.tenant, ''), coalesce(m.retry_at, m.created_at)
       LIMIT 1),
      (SELECT m.rowid
       FROM agent_messages AS m INDEXED BY agent_messages_turn
       WHERE m.status = 'queued' AND m.service = head.service AND m.role = head.role
         AND m.shard > head.shard
       ORDER BY m.shard, m.priority, coalesce(m.tenant, ''), coalesce(m.retry_at, m.created_at)
       LIMIT 1)
    )
  FROM lane
  JOIN agent_messages AS head ON head.rowid = lane.head
)
SELECT lane.place, head.shard, head.priority, hex(coalesce(head.tenant, '')) AS tenant,
  coalesce(head.retry_at, head.created_at) <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS due,
  CAST(round(
    (julianday(coalesce(head.retry_at, head.created_at)) - julianday('now')) * 86400000.0
  ) AS INTEGER) AS ms
FROM lane
JOIN want ON want.place = lane.place
JOIN agent_messages AS head ON head.rowid = lane.head
WHERE (want.shard IS NULL OR head.shard = want.shard)
  AND (want.tenant IS NULL OR head.tenant = want.tenant)";

/// A lane that holds waiting tasks.
pub(super) struct Waiting {
    pub(super) lane: Lane,
    pub(super) due: bool,
    /// From now until its first is due, in milliseconds.
    ms: u64,
}

/// The lanes of each want, by its place.
pub(super) async fn list(
    conn: &mut SqliteConnection,
    wants: &[Want],
) -> Step<HashMap<usize, Vec<Waiting>>> {
    let keys: Vec<Value> = wants
        .iter()
        .map(|want| {
            json!({
                "service": want.key.service(),
                "role": want.key.role(),
                "shard": want.shard,
                "tenant": want.tenant,
            })
        })
        .collect();
    let rows = sqlx::query(LIST_LANES)
        .bind(serde_json::to_string(&keys)?)
        .fetch_all(conn)
        .await?;
    let mut lanes: HashMap<usize, Vec<Waiting>> = HashMap::new();
    for row in &rows {
        let cells = Cells::of("agent_messages", row);
        let place = usize::try_from(cells.count("place")?).unwrap_or(usize::MAX);
        lanes.entry(place).or_default().push(Waiting {
            lane: Lane {
                priority: cells.int("priority")?.unwrap_or(0),
                tenant: cells.required_text("tenant")?,
                shard: cells.int32("shard")?,
            },
            due: cells.flag("due")?,
            ms: cells.count("ms")?,
        });
    }
    Ok(lanes)
}

pub(in crate::store::sqlite) async fn next_due(
    store: &SqliteStore,
    wants: &[Want],
) -> Step<Option<Duration>> {
    let mut conn = store.readers.acquire().await?;
    let lanes = list(&mut conn, wants).await?;
    let first = lanes.values().flatten().map(|lane| lane.ms).min();
    Ok(first.map(Duration::from_millis))
}
