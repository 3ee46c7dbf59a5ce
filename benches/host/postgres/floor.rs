//! The floors of the bus on Postgres, by plain SQL with the writes of the host
//! and nothing that makes them safe or useful.
//!
//! Of its rate: one connection that claims a batch, runs a bare sandbox for each
//! task, and settles the batch: the row twice, its attempt, two events. Of its
//! wait: one connection that inserts and notifies, one that listens, one that
//! claims.

use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::sandbox::Bare;

const CLAIM: &str = "
    WITH due AS MATERIALIZED (
      SELECT id FROM agent_messages
      WHERE status = 'queued' AND service = 'code' AND role = 'build-test' AND coalesce(shard, 0) = 0
        AND priority = 0 AND coalesce(tenant, '') = ''
      ORDER BY coalesce(retry_at, created_at), id
      LIMIT $1
      FOR UPDATE SKIP LOCKED
    )
    UPDATE agent_messages AS m
    SET status = 'claimed',
        attempts = attempts + 1,
        lease_epoch = coalesce(lease_epoch, 0) + 1,
        claimed_by = 'floor',
        claimed_at = now(),
        lease_expires_at = now() + interval '30 seconds'
    FROM due
    WHERE m.id = due.id
    RETURNING m.id, m.lease_epoch, m.trace_id, m.claimed_at, m.payload::text";

/// The row, its attempt and its events as the host writes them for the mock, so
/// that the bytes are the same.
const SETTLE: &str = r#"
    WITH held AS MATERIALIZED (
      SELECT m.id, m.lease_epoch, m.claimed_at, m.trace_id
      FROM unnest($1::uuid[], $2::bigint[]) AS ended (id, epoch)
      JOIN agent_messages AS m ON m.id = ended.id
      WHERE m.status = 'claimed' AND m.lease_epoch = ended.epoch AND m.claimed_by = 'floor'
      FOR UPDATE OF m
    ),
    task AS (
      UPDATE agent_messages AS m
      SET status = 'done',
          done_at = now(),
          lease_expires_at = NULL,
          result_snippet = '30 tests passed',
          result = '{"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","duration_ms":3598,"failures":0,"fallback":false,"kind":"mock","passed":true,"plugin":"mock","report_url":null,"tests":30,"type":"build-test"}'
      FROM held
      WHERE m.id = held.id
    ),
    attempt AS (
      INSERT INTO executor_attempts
        (message_id, lease_epoch, attempt, host, plugin, version, digest, kind, stage, why,
         claimed_at, ended_at, wait_ms, run_ms, outcome, usage, peak_memory_bytes,
         outbound_requests, spans, log, log_dropped)
      SELECT id, lease_epoch, 1, 'floor', 'mock', '0.1.0',
        'sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e', 'mock',
        'development', '{"path":"mock","basis":"flag","fallback":false}',
        claimed_at, now(), 322, 1, 'done',
        '{"cost_micro_usd":0,"tokens":0}', 2097152, 0,
        '[{"name":"instantiate","start_us":143,"duration_us":12},{"name":"call","start_us":156,"duration_us":14}]',
        '[]', 0
      FROM held
    )
    INSERT INTO bus_events
      (created_at, event_type, message_id, service, role, shard, trace_id, payload)
    SELECT now(), event.kind, held.id, 'code', 'build-test', 0, held.trace_id, event.payload::jsonb
    FROM held
    CROSS JOIN (VALUES
      ('execute_done', '{"attempt":1,"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","fallback":false,"kind":"mock","plugin":"mock","run_ms":0,"stage":"development","version":"0.1.0","wait_ms":322,"why":{"basis":"flag","fallback":false,"path":"mock"}}'),
      ('buildtest_done', '{"attempt":1,"result":{"digest":"sha256:4282532544b7f2d5f11d8634065dfe1efaeb5108b779fc07de17ce5e824a211e","duration_ms":3598,"failures":0,"fallback":false,"kind":"mock","passed":true,"plugin":"mock","report_url":null,"tests":30,"type":"build-test"},"task_id":"bench"}')
    ) AS event (kind, payload)"#;

const SUBMIT: &str = r#"
    WITH task AS (
      INSERT INTO agent_messages
        (id, service, role, payload, status, trace_id, task_id, lease_epoch)
      VALUES ($1, 'code', 'build-test',
        '{"repo":"https://example.com/r.git","task_id":"bench"}', 'queued', $2, 'bench', 0)
    ),
    event AS (
      INSERT INTO bus_events (event_type, message_id, service, role, shard, trace_id, payload)
      VALUES ('execute_enqueued', $1, 'code', 'build-test', 0, $2,
        '{"delay_ms":0,"priority":0,"repeats":null,"task_id":"bench","unique_key":null}')
    )
    SELECT pg_notify('cogo_bus', '')"#;

/// Somebody who submits, and somebody who waits to be told and claims.
pub struct Relay {
    producer: PgConnection,
    claims: mpsc::UnboundedReceiver<Instant>,
}

impl Relay {
    pub async fn start(url: &str) -> Self {
        let producer = PgConnection::connect(url).await.unwrap();
        let mut claimer = PgConnection::connect(url).await.unwrap();
        let mut listener = PgListener::connect(url).await.unwrap();
        listener.listen("cogo_bus").await.unwrap();
        let (claimed, claims) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while listener.recv().await.is_ok() {
                let claim = sqlx::query(CLAIM).bind(1_i64);
                let rows = claim.fetch_all(&mut claimer).await.unwrap();
                assert_eq!(rows.len(), 1);
                if claimed.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Self { producer, claims }
    }

    /// From a submission to its claim.
    pub async fn wait(&mut self) -> Duration {
        let begun = Instant::now();
        let id = Uuid::now_v7();
        sqlx::query(SUBMIT)
            .bind(id)
            .bind(id.simple().to_string())
            .execute(&mut self.producer)
            .await
            .unwrap();
        self.claims.recv().await.unwrap() - begun
    }
}

/// Drains the queued tasks of a bus; tasks a second.
pub async fn drain(url: &str, batch: i64, bare: &Bare) -> f64 {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let start = Instant::now();
    let mut tasks = 0_u32;
    loop {
        let claimed = sqlx::query(CLAIM)
            .bind(batch)
            .fetch_all(&mut conn)
            .await
            .unwrap();
        if claimed.is_empty() {
            conn.close().await.unwrap();
            return f64::from(tasks) / start.elapsed().as_secs_f64();
        }
        bare.run(claimed.len()).await;
        let ids: Vec<Uuid> = claimed.iter().map(|row| row.get("id")).collect();
        let epochs: Vec<i64> = claimed.iter().map(|row| row.get("lease_epoch")).collect();
        let settled = sqlx::query(SETTLE)
            .bind(ids)
            .bind(epochs)
            .execute(&mut conn)
            .await
            .unwrap();
        assert_eq!(settled.rows_affected(), 2 * claimed.len() as u64);
        tasks += u32::try_from(claimed.len()).unwrap();
    }
}
