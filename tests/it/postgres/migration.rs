//! From an empty database, and from tables that others made and use.

use cogo_host::store::{Store, StoreError};
use cogo_host::task::Status;

use crate::support::hand::{BUILD_TEST, DOCS, Hand, done, task};
use crate::support::postgres::cluster::Cluster;
use crate::support::postgres::{cluster, connect, empty, execute, open, superuser, texts};

/// The version of the schema that this build knows.
const KNOWN: i64 = 9;

/// As an installation made them: only the original columns, nullable where its
/// dashboard leaves them so, events numbered by nothing.
pub(super) const ORIGINAL: &str = "
CREATE TABLE agent_messages (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), created_at timestamptz DEFAULT now(),
  service text NOT NULL, role varchar NOT NULL, shard bigint, tenant text,
  payload jsonb NOT NULL DEFAULT '{}', status text DEFAULT 'queued', claimed_by text,
  claimed_at timestamptz, done_at timestamptz, error text, attempts integer,
  last_error_at timestamptz, retry_at timestamptz, result_snippet text, result_url text,
  trace_id text, colour text);
CREATE TABLE bus_events (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), created_at timestamptz DEFAULT now(),
  event_type text NOT NULL, message_id text, service text, role text, shard text,
  reason text, payload json);
CREATE VIEW waiting AS SELECT * FROM agent_messages WHERE status = 'queued';
INSERT INTO agent_messages (service, role, payload, colour)
  VALUES ('code', 'build-test', '{\"task_id\": \"old\", \"repo\": \"r\"}', 'red'),
    ('code', 'build-test', '{\"repo\": \"r\"}', 'blue');
INSERT INTO agent_messages (service, role, status, claimed_by, claimed_at)
  VALUES ('docs', 'render', 'claimed', 'ts-worker-1', now());
INSERT INTO bus_events (event_type, reason) VALUES ('theirs', 'before');
";

/// All that a migration must leave as it is.
const UNTOUCHED: &str = "
SELECT format('%s %s %s %s %s', relname, relrowsecurity, relforcerowsecurity, relreplident, relacl)
  || coalesce((SELECT string_agg(pubname, ',') FROM pg_publication_tables AS p
     WHERE p.tablename = relname), '')
  || coalesce((SELECT string_agg(polname, ',') FROM pg_policy WHERE polrelid = c.oid), '')
FROM pg_class AS c
WHERE relname IN ('agent_messages', 'bus_events') ORDER BY relname";

#[tokio::test]
async fn an_empty_database_is_brought_up_once() {
    let url = empty().await;
    let store = open(&url).await;
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::NotMigrated)
    ));
    assert!(matches!(
        store.enqueue(&[task(DOCS)]).await,
        Err(StoreError::NotMigrated)
    ));
    let dry = store.migrate(true).await.unwrap();
    assert!(dry.statements.iter().any(|s| s.contains("CREATE TABLE")));
    let mut conn = connect(&url).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(texts(&mut conn, tables).await, [Some("0".to_owned())]);

    let done = store.migrate(false).await.unwrap();
    assert_eq!((done.from, done.to), (0, KNOWN));
    assert_eq!(done.statements, dry.statements);
    store.check_schema().await.unwrap();
    let again = store.migrate(false).await.unwrap();
    assert_eq!((again.from, again.statements.len()), (KNOWN, 0));

    let open = "SELECT relname FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND NOT relrowsecurity";
    assert!(texts(&mut conn, open).await.is_empty());
}

#[tokio::test]
async fn the_schema_before_gains_what_is_new() {
    let url = crate::support::postgres::migrated().await;
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        "DROP TABLE executor_flags, executor_pauses, executor_approvals, executor_breakers,
           executor_pipelines, executor_serving, executor_published, executor_rollouts, executor_shadows,
           executor_shadow_runs;
         ALTER TABLE executor_hosts DROP COLUMN digests;
         ALTER TABLE executor_attempts DROP COLUMN rollout_side;
         DROP INDEX executor_attempts_worker;
         UPDATE cogo_host_schema SET version = 1",
    )
    .await;
    let store = open(&url).await;
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::NotMigrated)
    ));
    let done = store.migrate(false).await.unwrap();
    assert_eq!((done.from, done.to), (1, KNOWN));
    store.check_schema().await.unwrap();
    assert!(store.controls().await.unwrap().flags.is_empty());
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'executor_attempts_worker'";
    assert_eq!(texts(&mut conn, index).await, [Some("1".to_owned())]);
}

#[tokio::test]
async fn existing_tables_gain_what_they_lack_and_keep_the_rest() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, ORIGINAL).await;
    execute(
        &mut conn,
        "ALTER TABLE bus_events ENABLE ROW LEVEL SECURITY;
         CREATE POLICY everybody ON bus_events USING (true);
         GRANT SELECT ON agent_messages TO PUBLIC;
         CREATE PUBLICATION theirs FOR TABLE agent_messages;
         ALTER TABLE agent_messages REPLICA IDENTITY FULL",
    )
    .await;
    let before = texts(&mut conn, UNTOUCHED).await;
    let store = open(&url).await;
    let dry = store.migrate(true).await.unwrap();
    let advice = "-- ALTER TABLE public.agent_messages SET (autovacuum";
    assert!(dry.statements.iter().any(|s| s.contains(advice)), "{dry:?}");
    let run = store.migrate(false).await.unwrap();
    assert!(!run.statements.iter().any(|s| s.contains(advice)));
    for statement in &run.statements {
        let on_theirs = statement.contains(" ON public.agent_messages");
        assert!(
            !on_theirs || statement.contains("CONCURRENTLY"),
            "{statement}"
        );
    }
    assert_eq!(texts(&mut conn, UNTOUCHED).await, before);
    assert!(store.migrate(false).await.unwrap().statements.is_empty());
    let colours = "SELECT colour FROM waiting ORDER BY colour";
    let kept = texts(&mut conn, colours).await;
    assert_eq!(kept, [Some("blue".to_owned()), Some("red".to_owned())]);
    works_on_existing(&store).await;
}

/// Rows of before are claimed and settled as they are, events are read back.
async fn works_on_existing(store: &dyn Store) {
    let hand = Hand::new();
    let claims = hand.claim(store, BUILD_TEST, 10).await;
    assert_eq!(claims.len(), 2);
    assert!(claims.iter().any(|c| c.task_id.as_deref() == Some("old")));
    for claim in &claims {
        assert_eq!((claim.attempt, claim.epoch.0), (1, 1));
        hand.end(store, claim, done()).await;
        let row = store.task(claim.id).await.unwrap().unwrap();
        assert_eq!(row.status, Status::Done);
    }
    // A worker that knows nothing of leases keeps its claim.
    assert!(hand.claim(store, DOCS, 10).await.is_empty());
    store.enqueue(&[task(DOCS)]).await.unwrap();
    let events = store.events(&crate::support::everything()).await.unwrap();
    assert_eq!(events[0].event_type, "theirs");
    let after: Vec<_> = events[1..].iter().map(|e| e.id).collect();
    assert!(after.is_sorted() && after[0] > 0, "{after:?}");
    assert_eq!(after.len(), 2 + 4 + 1);
    let mut own = crate::support::everything();
    own.message_id = Some(claims[0].id);
    assert_eq!(store.events(&own).await.unwrap().len(), 3);
}

#[tokio::test]
async fn hosts_that_start_at_once_migrate_once() {
    let url = empty().await;
    execute(&mut connect(&url).await, ORIGINAL).await;
    let migrations = (0..4).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.migrate(false).await.unwrap() })
    });
    let mut ran = 0;
    for migration in futures::future::join_all(migrations).await {
        ran += usize::from(!migration.unwrap().statements.is_empty());
    }
    assert_eq!(ran, 1);
}

#[tokio::test]
async fn a_migration_lets_others_write_while_it_waits_for_its_lock() {
    let url = empty().await;
    let mut writer = connect(&url).await;
    execute(&mut writer, ORIGINAL).await;
    execute(
        &mut writer,
        "BEGIN; UPDATE agent_messages SET colour = 'green'",
    )
    .await;
    let migrating = {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.migrate(false).await })
    };
    let mut watcher = connect(&url).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    while texts(&mut watcher, waits).await == [Some("0".to_owned())] {}
    // Queues behind the waiting migration, which gives way.
    let insert = "INSERT INTO agent_messages (service, role) VALUES ('docs', 'render')";
    execute(&mut watcher, insert).await;
    assert!(!migrating.is_finished());
    execute(&mut writer, "COMMIT").await;
    migrating.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_migration_that_waits_for_one_table_holds_no_other() {
    let url = empty().await;
    let mut report = connect(&url).await;
    execute(&mut report, ORIGINAL).await;
    execute(&mut report, "BEGIN; SELECT count(*) FROM bus_events").await;
    let migrating = {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.migrate(false).await })
    };
    let mut writer = connect(&url).await;
    let waits = "SELECT count(*) FROM pg_locks
        WHERE NOT granted AND relation = 'bus_events'::regclass";
    while texts(&mut writer, waits).await == [Some("0".to_owned())] {}
    // Without waiting for anybody.
    execute(
        &mut writer,
        "BEGIN; LOCK TABLE agent_messages IN ROW EXCLUSIVE MODE NOWAIT;
         INSERT INTO agent_messages (service, role) VALUES ('docs', 'render'); COMMIT",
    )
    .await;
    assert!(!migrating.is_finished());
    execute(&mut report, "COMMIT").await;
    migrating.await.unwrap().unwrap();
    let again = open(&url).await.migrate(false).await.unwrap();
    assert!(again.statements.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_migration_that_broke_off_between_two_tables_goes_on() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, ORIGINAL).await;
    let store = open(&url).await;
    // A table that cannot be made: its name is taken by a type.
    execute(&mut conn, "CREATE TYPE executor_pauses AS ENUM ('taken')").await;
    store.migrate(false).await.unwrap_err();
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::NotMigrated)
    ));
    execute(&mut conn, "DROP TYPE executor_pauses").await;
    let rest = store.migrate(false).await.unwrap();
    assert_eq!((rest.from, rest.to), (0, KNOWN));
    // Its indexes are left, which are built after all the tables.
    let altered = |sql: &String| sql.starts_with("ALTER TABLE public.agent_messages");
    assert!(!rest.statements.iter().any(altered), "{rest:?}");
    store.check_schema().await.unwrap();
    assert!(store.migrate(false).await.unwrap().statements.is_empty());
    works_on_existing(&store).await;
}

#[tokio::test]
async fn a_later_schema_is_refused() {
    let url = crate::support::postgres::migrated().await;
    let store = open(&url).await;
    let sql = "INSERT INTO cogo_host_schema (version) VALUES (99)";
    execute(&mut connect(&url).await, sql).await;
    let refused = |error| {
        matches!(
            error,
            StoreError::Newer {
                found: 99,
                known: KNOWN,
                ..
            }
        )
    };
    assert!(refused(store.check_schema().await.unwrap_err()));
    assert!(refused(store.migrate(false).await.unwrap_err()));
    let url: url::Url = url.parse().unwrap();
    let error = cogo_host::store::PostgresStore::open(&url)
        .await
        .unwrap_err();
    assert!(refused(error));
}

#[tokio::test]
async fn an_index_that_broke_off_is_made_again() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, ORIGINAL).await;
    let store = open(&url).await;
    store.migrate(false).await.unwrap();
    execute(
        &mut conn,
        "UPDATE pg_index SET indisvalid = false
         WHERE indexrelid = 'cogo_messages_turn'::regclass;
         DROP INDEX cogo_messages_unclaimed_trace",
    )
    .await;
    let repaired = store.migrate(false).await.unwrap();
    let verbs: Vec<_> = repaired.statements.iter().map(|s| &s[..6]).collect();
    assert_eq!(verbs, ["DROP I", "CREATE", "CREATE"], "{repaired:?}");
    let broken = "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid";
    assert!(texts(&mut conn, broken).await.is_empty());
}

#[tokio::test]
async fn indexes_that_others_replaced_are_dropped_once_those_are_there() {
    let url = crate::support::postgres::migrated().await;
    let mut conn = connect(&url).await;
    // As earlier versions left it.
    execute(
        &mut conn,
        "DROP INDEX cogo_messages_turn, cogo_messages_unclaimed_trace;
         CREATE INDEX cogo_messages_due ON agent_messages (service) WHERE status = 'queued';
         CREATE INDEX cogo_messages_trace ON agent_messages (trace_id);
         UPDATE cogo_host_schema SET version = 1",
    )
    .await;
    let store = open(&url).await;
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::NotMigrated)
    ));
    let run = store.migrate(false).await.unwrap();
    let kinds: Vec<_> = run.statements.iter().map(|s| &s[..10]).collect();
    let (create, drop) = ("CREATE IND", "DROP INDEX");
    let wanted = [create, create, drop, drop, "INSERT INT"];
    assert_eq!(kinds, wanted, "{run:?}");
    store.check_schema().await.unwrap();
    assert!(store.migrate(false).await.unwrap().statements.is_empty());
}

#[tokio::test]
async fn tables_that_cannot_serve_are_refused_by_name() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    let tables = ORIGINAL.replacen(
        "id uuid PRIMARY KEY DEFAULT gen_random_uuid()",
        "id bigserial",
        1,
    );
    execute(&mut conn, &tables).await;
    execute(
        &mut conn,
        "ALTER TABLE bus_events DROP COLUMN event_type,
           ADD COLUMN need text NOT NULL DEFAULT '';
         ALTER TABLE bus_events ALTER COLUMN need DROP DEFAULT",
    )
    .await;
    let error = open(&url)
        .await
        .migrate(false)
        .await
        .unwrap_err()
        .to_string();
    for part in [
        "agent_messages.id is bigint; expected uuid",
        "bus_events has no `event_type`",
        "bus_events.need must be filled",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// The roles of a Supabase project, whose `postgres` is no superuser.
pub(super) const SUPABASE_ROLES: &str = "
CREATE ROLE postgres LOGIN NOSUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE somebody LOGIN;
GRANT anon, authenticated, service_role TO authenticator;
GRANT anon, authenticated, service_role TO postgres;";

/// What `supabase init` leaves in a database of before October 2026: everything
/// in `public` is granted to everybody by default.
pub(super) const SUPABASE_DATABASE: &str = "
ALTER SCHEMA public OWNER TO postgres;
CREATE PUBLICATION supabase_realtime;
ALTER PUBLICATION supabase_realtime OWNER TO postgres;
GRANT USAGE ON SCHEMA public TO postgres, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
  GRANT ALL ON TABLES TO postgres, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
  GRANT ALL ON SEQUENCES TO postgres, anon, authenticated, service_role;";

#[tokio::test]
async fn supabase_roles_get_nothing_of_ours_and_keep_what_is_theirs() {
    // Roles belong to a whole cluster.
    let cluster = Cluster::start();
    let mut admin = superuser(&cluster, "postgres").await;
    execute(&mut admin, SUPABASE_ROLES).await;
    for (database, existing) in [("fresh", false), ("existing", true)] {
        cluster.create(database, "template1").await;
        let mut admin = superuser(&cluster, database).await;
        execute(&mut admin, SUPABASE_DATABASE).await;
        let url = cluster.url_as("postgres", database);
        let mut owner = connect(&url).await;
        if existing {
            execute(&mut owner, ORIGINAL).await;
        }
        let before = texts(&mut owner, UNTOUCHED).await;
        let store = open(&url).await;
        store.migrate(false).await.unwrap();
        let granted = "SELECT DISTINCT table_name FROM information_schema.role_table_grants
            WHERE grantee IN ('anon', 'authenticated', 'PUBLIC') AND table_schema = 'public'
              AND (table_name LIKE 'executor%' OR table_name LIKE 'cogo%'
                OR table_name IN ('agent_messages', 'bus_events'))
            ORDER BY 1";
        let granted = texts(&mut owner, granted).await;
        if existing {
            assert_eq!(texts(&mut owner, UNTOUCHED).await, before);
            let theirs = ["agent_messages", "bus_events"].map(|t| Some(t.to_owned()));
            assert_eq!(granted, theirs);
            let mut anon = connect(&cluster.url_as("authenticator", database)).await;
            execute(
                &mut anon,
                "SET ROLE anon;
                 INSERT INTO bus_events (event_type) VALUES ('from the API');
                 INSERT INTO agent_messages (service, role) VALUES ('docs', 'render')",
            )
            .await;
            let claimed = Hand::new().claim(&store, DOCS, 5).await;
            assert_eq!(claimed.len(), 1);
        } else {
            assert_eq!(granted, Vec::new());
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn who_does_not_own_a_table_is_told_whose_it_is() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, ORIGINAL).await;
    let database = url.rsplit('/').next().unwrap();
    execute(
        &mut conn,
        "DO $$ BEGIN CREATE ROLE visitor LOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
         GRANT ALL ON SCHEMA public TO visitor;
         GRANT ALL ON agent_messages, bus_events TO visitor",
    )
    .await;
    let store = open(&cluster().url_as("visitor", database)).await;
    let error = store.migrate(false).await.unwrap_err().to_string();
    assert!(error.contains("belongs to `cogo`"), "{error}");
    assert!(
        error.contains("ALTER TABLE public.agent_messages"),
        "{error}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(texts(&mut conn, tables).await, [Some("2".to_owned())]);
}
