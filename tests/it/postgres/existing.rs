//! Tables of before with rules of their own, and rows that nobody of ours would
//! write: what can be served is, the rest is named and harms nothing else.

use std::time::Duration;

use cogo_host::finding::State;
use cogo_host::store::{PostgresStore, Retention, Store};
use cogo_host::task::Status;
use sqlx::PgConnection;

use super::examine::{examine, state};
use super::migration::ORIGINAL;
use crate::support::hand::{DOCS, Hand, done, task, want};
use crate::support::postgres::{connect, empty, execute, open, texts};
use crate::support::process::Installation;

/// Where the tables were there before, with `more`, and are migrated now.
async fn existing(tables: &str, more: &str) -> (String, PostgresStore, PgConnection) {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, tables).await;
    execute(&mut conn, "TRUNCATE agent_messages, bus_events CASCADE").await;
    execute(&mut conn, more).await;
    let store = open(&url).await;
    store.migrate(false).await.unwrap();
    (url, store, conn)
}

async fn number(conn: &mut PgConnection, sql: &str) -> i64 {
    let texts = texts(conn, sql).await;
    texts[0].as_deref().unwrap().parse().unwrap()
}

/// Rows without what a claim goes by, the second as a bulk insert by way of
/// PostgREST leaves them.
const LACKING: &str = "
ALTER TABLE agent_messages ADD COLUMN priority integer, ALTER COLUMN service DROP NOT NULL,
  ALTER COLUMN role DROP NOT NULL;
INSERT INTO agent_messages (service, role, shard, priority, created_at) VALUES
  ('docs', 'render', 0, 0, NULL), ('docs', 'render', NULL, NULL, NULL),
  ('docs', 'render', 0, NULL, now()), ('docs', 'render', 7, NULL, now()),
  ('docs', 'render', 9, 5, now());
INSERT INTO agent_messages (service, role, status, created_at, done_at) VALUES
  ('docs', 'render', 'done', NULL, '2020-01-01'), ('docs', 'render', 'theirs', NULL, NULL)";

#[tokio::test]
async fn rows_without_an_instant_or_a_priority_are_claimed() {
    let (_, store, mut conn) = existing(ORIGINAL, LACKING).await;
    let mut mended = 0;
    loop {
        match store.mend(2).await.unwrap() {
            0 => break,
            rows => mended += rows,
        }
    }
    assert_eq!(mended, 5);
    assert_eq!(Hand::new().claim(&store, DOCS, 10).await.len(), 5);
    let next = store.next_due(&[want(DOCS)]).await.unwrap();
    assert_eq!(next, None, "something seems to wait still");
    let ended = "SELECT count(*) FROM agent_messages
        WHERE status = 'done' AND created_at = '2020-01-01'";
    assert_eq!(number(&mut conn, ended).await, 1);
    let theirs = "SELECT count(*) FROM agent_messages WHERE created_at IS NULL";
    assert_eq!(
        number(&mut conn, theirs).await,
        1,
        "a row in a state of theirs"
    );
}

#[tokio::test]
async fn a_host_runs_them() {
    let (url, store, mut conn) = existing(ORIGINAL, LACKING).await;
    store.close().await.unwrap();
    let route = "UPDATE agent_messages SET service = 'code', role = 'build-test'";
    execute(&mut conn, route).await;
    let here = Installation::new().with("DATABASE_URL", &url);
    let _host = here.host(&[]);
    let left = "SELECT count(*) FROM agent_messages WHERE status IN ('queued', 'claimed')";
    while number(&mut conn, left).await > 0 {}
}

#[tokio::test]
async fn rows_without_a_route_are_listed_and_named() {
    let (_, store, mut conn) = existing(ORIGINAL, LACKING).await;
    let before = state(&examine(&store).await, "postgres.routeless");
    assert_eq!(before.0, State::Pass, "{}", before.1);
    execute(
        &mut conn,
        "INSERT INTO agent_messages (id, service, role) VALUES
           ('00000000-0000-4000-8000-000000000001', NULL, 'render'),
           ('00000000-0000-4000-8000-000000000002', 'docs', NULL)",
    )
    .await;
    let rows = store.tasks(&crate::support::all_tasks()).await.unwrap();
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().any(|row| row.service.is_empty()));
    assert!(rows.iter().any(|row| row.role.is_empty()));
    let waiting = store.waiting().await.unwrap();
    let routes: Vec<String> = waiting.iter().map(|w| w.route.to_string()).collect();
    assert_eq!(routes, ["docs/render"]);
    store.routes().await.unwrap();
    store.depth().await.unwrap();
    let (found, detail) = state(&examine(&store).await, "postgres.routeless");
    assert_eq!(found, State::Warn);
    assert!(detail.contains("2 waiting"), "{detail}");
    assert!(
        detail.contains("00000000-0000-4000-8000-000000000001"),
        "{detail}"
    );
}

/// A task that has ended, with its events, all of an hour ago.
async fn an_old_task(store: &PostgresStore, conn: &mut PgConnection) {
    store.enqueue(&[task(DOCS)]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(store, DOCS).await;
    hand.end(store, &claim, done()).await;
    let row = store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Done);
    execute(
        conn,
        "UPDATE agent_messages SET done_at = done_at - interval '1 hour';
         UPDATE bus_events SET created_at = created_at - interval '1 hour'",
    )
    .await;
}

const TASKS: &str = "SELECT count(*) FROM agent_messages";
const EVENTS: &str = "SELECT count(*) FROM bus_events";

#[tokio::test]
async fn a_task_that_its_events_point_at_stays_as_long_as_they_do() {
    let bound = ORIGINAL.replacen(
        "message_id text",
        "message_id uuid REFERENCES agent_messages",
        1,
    );
    assert_ne!(bound, ORIGINAL);
    let (_, store, mut conn) = existing(&bound, "").await;
    an_old_task(&store, &mut conn).await;
    let minute = Some(Duration::from_secs(60));
    let tasks = Retention {
        tasks: minute,
        events: None,
        batch: 2,
    };
    while store.retire(&tasks).await.unwrap() > 0 {}
    assert_eq!(number(&mut conn, TASKS).await, 1);
    assert_eq!(number(&mut conn, EVENTS).await, 3);
    let both = Retention {
        events: minute,
        ..tasks
    };
    while store.retire(&both).await.unwrap() > 0 {}
    assert_eq!(number(&mut conn, EVENTS).await, 0);
    assert_eq!(number(&mut conn, TASKS).await, 0);
}

#[tokio::test]
async fn events_are_retired_whatever_keeps_their_tasks() {
    let theirs = "CREATE TABLE theirs (task uuid REFERENCES agent_messages)";
    let (_, store, mut conn) = existing(ORIGINAL, theirs).await;
    an_old_task(&store, &mut conn).await;
    execute(
        &mut conn,
        "INSERT INTO theirs SELECT id FROM agent_messages",
    )
    .await;
    let minute = Some(Duration::from_secs(60));
    let both = Retention {
        tasks: minute,
        events: minute,
        batch: 1,
    };
    let error = loop {
        match store.retire(&both).await {
            Ok(rows) => assert!(rows > 0, "nothing is said of the tasks"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("theirs"), "{error}");
    assert_eq!(number(&mut conn, EVENTS).await, 0);
    assert_eq!(number(&mut conn, TASKS).await, 1);
}

/// A trigger that refuses what it does not like, which a host finds out only by
/// trying.
const TRIGGER: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.colour = 'red' THEN RAISE EXCEPTION 'not the red ones'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON agent_messages
  FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION refuse()";

const COLOURED: &str = "
INSERT INTO agent_messages (service, role, colour)
  SELECT 'docs', 'render', CASE WHEN n % 3 = 0 THEN 'red' END FROM generate_series(0, 29) AS n;
INSERT INTO agent_messages (service, role) VALUES ('code', 'build-test')";

/// The same at the commit.
fn deferred() -> String {
    TRIGGER
        .replace("TRIGGER refuse BEFORE", "CONSTRAINT TRIGGER refuse AFTER")
        .replace("FOR EACH ROW", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW")
}

#[tokio::test]
async fn a_row_that_nobody_may_claim_keeps_no_other_waiting() {
    claims_all_but_the_red(TRIGGER).await;
    claims_all_but_the_red(&deferred()).await;
}

async fn claims_all_but_the_red(trigger: &str) {
    let (_, store, mut conn) = existing(ORIGINAL, COLOURED).await;
    execute(&mut conn, trigger).await;
    let hand = Hand::new();
    let mut claimed = Vec::new();
    loop {
        let claims = hand.claim(&store, DOCS, 4).await;
        match claims.is_empty() {
            true => break,
            false => claimed.extend(claims),
        }
    }
    assert_eq!(claimed.len(), 20);
    assert_eq!(hand.claim(&store, "code/build-test", 4).await.len(), 1);
    let left = "SELECT DISTINCT colour FROM agent_messages WHERE status = 'queued'";
    assert_eq!(texts(&mut conn, left).await, [Some("red".to_owned())]);
}

#[tokio::test]
async fn what_a_worker_left_and_nobody_may_claim_keeps_no_other_waiting() {
    let (_, store, mut conn) = existing(ORIGINAL, COLOURED).await;
    execute(
        &mut conn,
        "UPDATE agent_messages
         SET status = 'claimed', claimed_by = 'ts-worker-1', claimed_at = now() - interval '1 day'",
    )
    .await;
    let trigger = TRIGGER.replace("NEW.status <> OLD.status", "TRUE");
    execute(&mut conn, &trigger).await;
    let hand = Hand::new();
    let mut want = want(DOCS);
    want.reclaim_foreign_after = Some(Duration::from_secs(60));
    want.limit = 100;
    let claims = hand.claim_wants(&store, vec![want], 100).await;
    assert_eq!(claims.len(), 20);
}

#[tokio::test]
async fn a_row_that_nobody_may_take_back_or_fail_keeps_no_other_waiting() {
    takes_back_all_but_the_red(TRIGGER).await;
    takes_back_all_but_the_red(&deferred()).await;
}

async fn takes_back_all_but_the_red(trigger: &str) {
    let (url, store, mut conn) = existing(ORIGINAL, COLOURED).await;
    assert_eq!(Hand::new().claim(&store, DOCS, 100).await.len(), 30);
    let lapsed = "UPDATE agent_messages SET lease_expires_at = now() - interval '1 second'
        WHERE status = 'claimed'";
    execute(&mut conn, lapsed).await;
    execute(&mut conn, trigger).await;
    let rescued = store.rescue(200, 5).await.unwrap();
    assert_eq!(rescued.len(), 20);
    assert!(store.rescue(200, 5).await.unwrap().is_empty());
    let held = "SELECT DISTINCT colour FROM agent_messages WHERE status = 'claimed'";
    assert_eq!(texts(&mut conn, held).await, [Some("red".to_owned())]);

    execute(
        &mut conn,
        "ALTER TABLE agent_messages DISABLE TRIGGER refuse;
         UPDATE agent_messages SET status = 'queued', lease_expires_at = NULL,
           created_at = now() - interval '1 hour', payload = '{\"__assignment\": {\"ttl_ms\": 1}}'
           WHERE service = 'docs';
         ALTER TABLE agent_messages ENABLE TRIGGER refuse",
    )
    .await;
    // Of another host, which has met none of them.
    let other = open(&url).await;
    let expired = other.expire(&[want(DOCS)], 200).await.unwrap();
    assert_eq!(expired.len(), 20);
    assert!(other.expire(&[want(DOCS)], 200).await.unwrap().is_empty());
}

/// What lets everything through that the host writes, and what does not.
const RULES: &str = "
DROP VIEW waiting;
ALTER TABLE agent_messages ALTER COLUMN claimed_by TYPE varchar(20),
  ADD CONSTRAINT few CHECK (attempts <= 3),
  ADD CONSTRAINT states CHECK (status IN ('queued', 'claimed', 'done')),
  ADD CONSTRAINT held CHECK (status <> 'claimed' OR claimed_by LIKE 'ts-worker%'),
  ADD CONSTRAINT sane CHECK (attempts >= 0 AND length(claimed_by) > 0),
  ADD CONSTRAINT every_state CHECK (status IN ('queued', 'claimed', 'done', 'failed', 'theirs')),
  ADD CONSTRAINT ended CHECK (status <> 'done' OR done_at IS NOT NULL);
ALTER TABLE bus_events ADD CONSTRAINT kinds CHECK (event_type IN ('theirs', 'execute_done'))";

#[tokio::test]
async fn rules_that_the_host_would_break_are_named_and_no_others() {
    let (url, store, mut conn) = existing(ORIGINAL, "").await;
    let (before, detail) = state(&examine(&store).await, "postgres.limits");
    assert_eq!(before, State::Pass, "{detail}");
    execute(&mut conn, RULES).await;
    let (found, detail) = state(&examine(&store).await, "postgres.limits");
    assert_eq!(found, State::Warn);
    for part in [
        "`few` CHECK ((attempts <= 3))",
        "`states`",
        "`held`",
        "`kinds`",
        "claimed_by is character varying(20)",
    ] {
        assert!(detail.contains(part), "`{part}` is not in: {detail}");
    }
    for harmless in ["sane", "every_state", "ended"] {
        assert!(!detail.contains(harmless), "{detail}");
    }
    let here = Installation::new().with("DATABASE_URL", &url);
    for how in [&["migrate"][..], &["migrate", "--dry-run"]] {
        let told = here.run(how).expect(0).stderr;
        for part in [
            "ALTER TABLE public.agent_messages DROP CONSTRAINT few",
            "ALTER TABLE public.bus_events DROP CONSTRAINT kinds",
            "ALTER TABLE public.agent_messages ALTER COLUMN claimed_by TYPE text",
        ] {
            assert!(told.contains(part), "`{part}` is not in: {told}");
        }
    }
}
