//! Rows that lack what a claim goes by: other programs may write null where the
//! tables are theirs, and a bulk insert by way of PostgREST does.
//!
//! **Invariant:** only what is null is filled.

use super::schema::lacks;
use super::{PostgresStore, Step, schema};

/// An instant that the row tells of is nearer to its making than now is.
const MEND: &str = concat!(
    "
WITH lacking AS MATERIALIZED (
  SELECT id
  FROM agent_messages
  WHERE (",
    lacks!(),
    ") AND status IN ('queued', 'claimed', 'done', 'failed')
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE agent_messages AS m
SET created_at = coalesce(m.created_at, m.claimed_at, m.done_at, m.last_error_at, now()),
    priority = coalesce(m.priority, 0)
FROM lacking
WHERE m.id = lacking.id"
);

pub(super) async fn mend(store: &PostgresStore, limit: u32) -> Step<u64> {
    if !schema::inherited(store).await?.lacking {
        return Ok(0);
    }
    let mut turn = store.connections.turn().await?;
    let query = turn.query(MEND).bind(i64::from(limit));
    let mended = query.execute(turn.conn()).await?.rows_affected();
    turn.finish().await?;
    Ok(mended)
}
