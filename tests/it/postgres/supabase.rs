//! `migrate --supabase`: what a project of Supabase needs on top, and nothing
//! that it did not ask for.

use cogo_host::store::Store;
use sqlx::PgConnection;

use super::migration::{ORIGINAL, SUPABASE_DATABASE, SUPABASE_ROLES};
use crate::support::postgres::cluster::Cluster;
use crate::support::postgres::{connect, empty, execute, open, superuser, texts};
use crate::support::process::Installation;

/// A project as it is since October 2026: nothing is granted by itself.
const NO_DEFAULTS: &str = "
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
  REVOKE ALL ON TABLES FROM anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
  REVOKE ALL ON SEQUENCES FROM anon, authenticated, service_role;";

/// A project with this in its database; the URL of its owner.
async fn project(cluster: &Cluster, database: &str, existing: &str) -> String {
    cluster.create(database, "template1").await;
    let mut admin = superuser(cluster, database).await;
    execute(&mut admin, SUPABASE_DATABASE).await;
    execute(&mut admin, NO_DEFAULTS).await;
    let url = cluster.url_as("postgres", database);
    let mut owner = connect(&url).await;
    execute(&mut owner, existing).await;
    url
}

/// As PostgREST works: it logs in as one role and takes on another.
async fn acting_as(cluster: &Cluster, database: &str, role: &str) -> PgConnection {
    let mut conn = connect(&cluster.url_as("authenticator", database)).await;
    execute(&mut conn, &format!("SET ROLE {role}")).await;
    conn
}

async fn may(conn: &mut PgConnection, sql: &'static str) -> bool {
    sqlx::raw_sql(sql).execute(conn).await.is_ok()
}

#[tokio::test]
async fn the_service_role_gets_what_it_needs_and_nobody_else_anything() {
    const SUBMIT: &str = "INSERT INTO agent_messages (service, role) VALUES ('docs', 'render')";
    const EVENT: &str = "INSERT INTO bus_events (event_type) VALUES ('theirs')";
    const ATTEMPTS: &str = "SELECT * FROM executor_attempts";
    let cluster = Cluster::start();
    let mut admin = superuser(&cluster, "postgres").await;
    execute(&mut admin, SUPABASE_ROLES).await;
    for (database, existing) in [("fresh", ""), ("existing", ORIGINAL)] {
        let url = project(&cluster, database, existing).await;
        let store = open(&url).await;
        store.migrate(false).await.unwrap();
        let mut service = acting_as(&cluster, database, "service_role").await;
        assert!(!may(&mut service, SUBMIT).await, "granted without asking");
        // As a project's own defaults, or a mistaken script, leave it.
        let mut owner = connect(&url).await;
        execute(
            &mut owner,
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO anon",
        )
        .await;
        execute(
            &mut owner,
            "REVOKE ALL ON agent_messages, bus_events FROM anon",
        )
        .await;

        let dry = store.open_to_supabase(true).await.unwrap();
        assert!(
            !may(&mut service, SUBMIT).await,
            "a dry run changed something"
        );
        let run = store.open_to_supabase(false).await.unwrap();
        assert_eq!(run, dry);
        for sql in [SUBMIT, EVENT, ATTEMPTS] {
            assert!(may(&mut service, sql).await, "{database}: {sql}");
        }
        assert!(!may(&mut service, "DELETE FROM agent_messages").await);
        for role in ["anon", "authenticated"] {
            let mut other = acting_as(&cluster, database, role).await;
            assert!(!may(&mut other, ATTEMPTS).await, "{database}: {role}");
            assert!(!may(&mut other, SUBMIT).await, "{database}: {role}");
        }
        // Whatever tables there are: to be read, but for what is the hosts' alone.
        let closed = "SELECT relname FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
              AND NOT has_table_privilege('service_role', oid, 'SELECT')
            ORDER BY 1";
        let closed = texts(&mut owner, closed).await;
        let theirs = ["cogo_host_schema", "executor_waiters"].map(|t| Some(t.to_owned()));
        assert_eq!(closed, theirs);
        let leaks =
            "SELECT tablename FROM pg_tables, unnest(ARRAY['anon', 'authenticated']) AS role
            WHERE schemaname = 'public' AND has_table_privilege(role, tablename,
              'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')";
        let leaks = texts(&mut owner, leaks).await;
        assert!(leaks.is_empty(), "{leaks:?}");
        let published = "SELECT tablename FROM pg_publication_tables
            WHERE pubname = 'supabase_realtime'";
        let published = texts(&mut owner, published).await;
        assert_eq!(published, [Some("agent_messages".to_owned())]);
        let again = store.open_to_supabase(false).await.unwrap();
        assert!(again.is_empty(), "{again:?}");
    }
}

#[tokio::test]
async fn a_table_that_publishing_would_break_is_not_published() {
    let cluster = Cluster::start();
    let mut admin = superuser(&cluster, "postgres").await;
    execute(&mut admin, SUPABASE_ROLES).await;
    let unkeyed = ORIGINAL.replacen("id uuid PRIMARY KEY", "id uuid NOT NULL", 1);
    let url = project(&cluster, "unkeyed", &unkeyed).await;
    let store = open(&url).await;
    store.migrate(false).await.unwrap();
    let error = store.open_to_supabase(false).await.unwrap_err();
    assert!(error.to_string().contains("no primary key"), "{error}");
    let mut owner = connect(&url).await;
    execute(&mut owner, "UPDATE agent_messages SET colour = 'green'").await;
}

#[tokio::test]
async fn elsewhere_it_is_refused_before_anything_is_changed() {
    let url = empty().await;
    let here = Installation::new().with("DATABASE_URL", &url);
    let finished = here.run(&["migrate", "--supabase"]).expect(2);
    for part in ["database_not_supabase", "`service_role`"] {
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
    let mut conn = connect(&url).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(texts(&mut conn, tables).await, [Some("0".to_owned())]);
    let here = Installation::new();
    let finished = here.run(&["migrate", "--supabase"]).expect(2);
    assert!(finished.stderr.contains("SQLite"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_dry_run_prints_all_of_it() {
    let cluster = Cluster::start();
    let mut admin = superuser(&cluster, "postgres").await;
    execute(&mut admin, SUPABASE_ROLES).await;
    let url = project(&cluster, "dry", "").await;
    let here = Installation::new().with("DATABASE_URL", &url);
    let printed = here
        .run(&["migrate", "--supabase", "--dry-run"])
        .expect(0)
        .stdout;
    for part in [
        "CREATE TABLE public.agent_messages",
        "GRANT SELECT, INSERT, UPDATE ON TABLE public.agent_messages TO service_role",
        "ALTER PUBLICATION supabase_realtime ADD TABLE public.agent_messages",
    ] {
        assert!(printed.contains(part), "`{part}` is not in: {printed}");
    }
}
