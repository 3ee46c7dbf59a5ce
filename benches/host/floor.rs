//! The floor of the bus: the writes of a task in SQL alone, with nothing that
//! makes them safe or useful. Claim a batch, settle a batch, each in one durable
//! transaction: the row twice, its attempt, two events.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

const CLAIM: &str = "
    UPDATE agent_messages
    SET status = 'claimed',
        attempts = attempts + 1,
        lease_epoch = coalesce(lease_epoch, 0) + 1,
        claimed_by = 'floor',
        claimed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
        lease_expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+30 seconds')
    WHERE id IN (
      SELECT id FROM agent_messages
      WHERE status = 'queued' AND service = 'code' AND role = 'build-test' AND shard = 0
        AND priority = 0 AND coalesce(tenant, '') = ''
      ORDER BY coalesce(retry_at, created_at), id
      LIMIT ?1
    )
    RETURNING id, lease_epoch, trace_id, claimed_at, payload";

/// The row, its attempt and its events as the host writes them for the mock, so
/// that the bytes are the same.
const SETTLE: &str = r#"
    UPDATE agent_messages
    SET status = 'done',
        done_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
        lease_expires_at = NULL,
        result_snippet = '30 tests passed',
        result = '{"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","duration_ms":3598,"failures":0,"fallback":false,"kind":"mock","passed":true,"plugin":"mock","report_url":null,"tests":30,"type":"build-test"}'
    FROM json_each(?1) AS j
    WHERE agent_messages.id = j.value ->> 'id'
      AND status = 'claimed' AND claimed_by = 'floor'
      AND lease_epoch = j.value ->> 'epoch'"#;

const ATTEMPT: &str = r#"
    INSERT INTO executor_attempts
      (message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
       claimed_at, wait_ms, run_ms, outcome, usage, peak_memory_bytes, spans)
    SELECT j.value ->> 'id', j.value ->> 'epoch', 1, 'floor', 'mock', '0.1.0',
           'sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e', 'mock',
           'development', '{"path":"mock","basis":"flag","fallback":false}',
           j.value ->> 'claimed_at', 322, 1, 'done',
           '{"cost_micro_usd":0,"tokens":0}', 2097152,
           '[{"name":"instantiate","start_us":143,"duration_us":12},{"name":"call","start_us":156,"duration_us":14}]'
    FROM json_each(?1) AS j"#;

const EVENTS: &str = r#"
    INSERT INTO bus_events (event_type, message_id, service, role, shard, trace_id, payload)
    SELECT kind.key, j.value ->> 'id', 'code', 'build-test', 0, j.value ->> 'trace', kind.value
    FROM json_each(?1) AS j, json_each('{
      "execute_done": {"attempt":1,"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","fallback":false,"kind":"mock","plugin":"mock","run_ms":0,"stage":"development","version":"0.1.0","wait_ms":322,"why":{"basis":"flag","fallback":false,"path":"mock"}},
      "buildtest_done": {"attempt":1,"result":{"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","duration_ms":3598,"failures":0,"fallback":false,"kind":"mock","passed":true,"plugin":"mock","report_url":null,"tests":30,"type":"build-test"},"task_id":"bench"}
    }') AS kind"#;

/// Drains the queued tasks of a bus file; tasks a second.
pub async fn drain(path: &Path, batch: i64) -> f64 {
    let mut conn = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
        .unwrap();
    let start = Instant::now();
    let mut tasks = 0_u32;
    loop {
        let claimed = claim(&mut conn, batch).await;
        if claimed.is_empty() {
            return f64::from(tasks) / start.elapsed().as_secs_f64();
        }
        tasks += u32::try_from(claimed.len()).unwrap();
        settle(&mut conn, &serde_json::Value::Array(claimed).to_string()).await;
    }
}

async fn claim(conn: &mut SqliteConnection, batch: i64) -> Vec<serde_json::Value> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let rows = sqlx::query(CLAIM)
        .bind(batch)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    rows.iter()
        .map(|row| {
            json!({
                "id": row.get::<String, _>("id"),
                "epoch": row.get::<i64, _>("lease_epoch"),
                "trace": row.get::<String, _>("trace_id"),
                "claimed_at": row.get::<String, _>("claimed_at"),
            })
        })
        .collect()
}

async fn settle(conn: &mut SqliteConnection, batch: &str) {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for statement in [SETTLE, ATTEMPT, EVENTS] {
        sqlx::query(statement)
            .bind(batch)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}
