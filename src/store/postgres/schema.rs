//! The schema on Postgres, and how a database gets to it, empty or with tables
//! that other programs already use.
//!
//! **Invariant:** what exists is only added to. No lock that keeps others from
//! reading or writing is waited for longer than [`LOCK_PATIENCE`], nor while
//! another table's is held: each table has a transaction of its own. Indexes on
//! tables that exist are built beside their users. Row-level security, grants,
//! publications and replica identity of a table that we did not make are never
//! touched. Run again, it does what is left to do, which is nothing at the end.

mod catalog;
mod limits;
mod plan;
mod shape;
mod supabase;

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use self::catalog::Catalog;
use self::limits::Limit;
pub(super) use self::limits::limits;
pub(super) use self::shape::{has_ttl, lacks, table_names, ttl_ends};
use super::{PostgresStore, Step, Trouble};
use crate::store::{Migration, StoreError};

/// "cogo-host" as a number, for the advisory lock of migrations.
const MIGRATION_LOCK: i64 = 0x636f_676f_686f_7374;
/// How long a migration waits for one that another host runs.
const OTHER_PATIENCE: Duration = Duration::from_secs(300);
const OTHER_POLL: Duration = Duration::from_millis(200);
/// Everybody queues behind a lock that is waited for, so: briefly, and again.
const LOCK_PATIENCE: &str = "SET LOCAL lock_timeout = '1s'";
const LOCK_TRIES: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_millis(500);

const FIND_VERSION: &str = "SELECT to_regclass('cogo_host_schema') IS NOT NULL AS known";
const READ_VERSION: &str = "SELECT coalesce(max(version), 0) AS version FROM cogo_host_schema";

/// An index takes as long as it takes; none of its locks keeps anybody out.
const PATIENT: &str = "SET statement_timeout = 0; SET lock_timeout = 0";

/// In what the tables of this database differ from those that we make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited {
    /// The column that readers of events follow by.
    pub(super) number: &'static str,
    /// Whether every event has one.
    pub(super) numbered: bool,
    /// `message_id` of events is a UUID rather than text.
    pub(super) uuid: bool,
    /// A task cannot be deleted while an event names it.
    pub(super) bound: bool,
    /// Tasks may lack what a claim goes by, and an index knows those that do.
    pub(super) lacking: bool,
}

const READ_INHERITED: &str = "
SELECT
  coalesce(bool_or(attname = 'id' AND format_type(atttypid, NULL)
    IN ('bigint', 'integer', 'smallint')), false) AS by_id,
  coalesce(bool_or(attname = 'id' AND attnotnull), false) AS id_required,
  coalesce(bool_or(attname = 'message_id' AND atttypid = 'uuid'::regtype), false) AS uuid,
  EXISTS (
    SELECT FROM pg_constraint
    WHERE contype = 'f' AND conrelid = to_regclass('bus_events')
      AND confrelid = to_regclass('agent_messages') AND confdeltype IN ('a', 'r')
  ) AS bound,
  EXISTS (
    SELECT FROM pg_index
    WHERE indexrelid = to_regclass($1) AND indisvalid
  ) AS lacking
FROM pg_attribute
WHERE attrelid = to_regclass('bus_events') AND attnum > 0 AND NOT attisdropped";

/// The version of the schema; 0 where there is none.
pub(super) async fn version(conn: &mut PgConnection) -> Step<i64> {
    let row = sqlx::query(FIND_VERSION)
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    if !row.try_get::<bool, _>("known")? {
        return Ok(0);
    }
    let row = sqlx::query(READ_VERSION)
        .persistent(false)
        .fetch_one(conn)
        .await?;
    Ok(row.try_get("version")?)
}

pub(super) fn refuse_newer(found: i64, place: &str) -> Result<(), StoreError> {
    if found > shape::VERSION {
        return Err(StoreError::Newer {
            database: place.to_owned(),
            found,
            known: shape::VERSION,
        });
    }
    Ok(())
}

pub(super) async fn check(store: &PostgresStore) -> Step<()> {
    let mut turn = store.connections.transaction().await?;
    let found = version(turn.conn()).await?;
    turn.finish().await?;
    refuse_newer(found, &store.place)?;
    if found < shape::VERSION {
        return Err(StoreError::NotMigrated.into());
    }
    Ok(())
}

/// The statements of what this build's schema still lacks, advice left out.
pub(super) async fn missing(conn: &mut PgConnection) -> Step<Vec<String>> {
    let catalog = Catalog::read(conn).await?;
    let steps = plan::plan(&catalog, shape::VERSION)?;
    let missing = steps.iter().filter(|step| !step.is_advice());
    Ok(missing.map(|step| step.sql().to_owned()).collect())
}

pub(super) async fn inherited(store: &PostgresStore) -> Step<Inherited> {
    let inherited = store.inherited.get_or_try_init(|| async {
        let mut turn = store.connections.turn().await?;
        let query = turn.query(READ_INHERITED).bind(shape::LACKING);
        let row = query.fetch_one(turn.conn()).await?;
        turn.finish().await?;
        let by_id: bool = row.try_get("by_id")?;
        Ok::<_, Trouble>(Inherited {
            number: match by_id {
                true => "id",
                false => shape::EVENT_SEQ,
            },
            numbered: by_id && row.try_get("id_required")?,
            uuid: row.try_get("uuid")?,
            bound: row.try_get("bound")?,
            lacking: row.try_get("lacking")?,
        })
    });
    inherited.await.copied()
}

pub(super) async fn migrate(store: &PostgresStore, dry_run: bool) -> Step<Migration> {
    // A connection of its own: it is set otherwise, and holds a lock of the
    // session, which a pooler of transactions would give to somebody else.
    let mut conn = store.connections.probe().await?;
    if dry_run {
        // Together, for a pooler that may go on with another server.
        sqlx::raw_sql("BEGIN").execute(&mut conn).await?;
        let (migration, _) = prepare(&mut conn, &store.place).await?;
        sqlx::raw_sql("COMMIT").execute(&mut conn).await?;
        warn_limits(&mut conn).await?;
        conn.close().await?;
        return Ok(migration);
    }
    if store.connections.is_pooled() {
        let problem = "a transaction pooler cannot hold a migration's lock: migrate over a direct \
                       or a session connection (port 5432)";
        return Err(StoreError::Refused(problem.to_owned()).into());
    }
    lock(&mut conn).await?;
    let (mut migration, steps) = prepare(&mut conn, &store.place).await?;
    run(&mut conn, &steps).await?;
    warn_limits(&mut conn).await?;
    // Closing the session releases the lock.
    conn.close().await?;
    let run = steps.iter().filter(|step| !step.is_advice());
    migration.statements = run.map(|step| step.sql().to_owned()).collect();
    Ok(migration)
}

/// Grants and publication for Supabase; the statements run, or to run.
pub(super) async fn open_to_supabase(store: &PostgresStore, dry_run: bool) -> Step<Vec<String>> {
    let mut conn = store.connections.probe().await?;
    sqlx::raw_sql("BEGIN").execute(&mut conn).await?;
    let statements = supabase::missing(&mut conn).await?;
    sqlx::raw_sql("COMMIT").execute(&mut conn).await?;
    if !dry_run && !statements.is_empty() {
        let script = format!("BEGIN; {LOCK_PATIENCE}; {}; COMMIT", statements.join(";\n"));
        run_patiently(&mut conn, &script).await?;
    }
    conn.close().await?;
    Ok(statements)
}

/// What is to be done, from what the catalog says.
async fn prepare(conn: &mut PgConnection, place: &str) -> Step<(Migration, Vec<plan::Step>)> {
    let from = version(conn).await?;
    refuse_newer(from, place)?;
    let catalog = Catalog::read(conn).await?;
    warn_guarded(&catalog);
    let steps = plan::plan(&catalog, from)?;
    let migration = Migration {
        from,
        to: shape::VERSION,
        statements: steps.iter().map(|step| step.sql().to_owned()).collect(),
    };
    Ok((migration, steps))
}

/// Rows that a policy hides are simply not there for us.
fn warn_guarded(catalog: &Catalog) {
    let mut guarded: Vec<&str> = catalog
        .relations
        .iter()
        .filter(|(_, relation)| relation.guarded)
        .map(|(name, _)| name.as_str())
        .collect();
    guarded.sort_unstable();
    for table in guarded {
        tracing::warn!(
            table,
            user = catalog.user,
            "row-level security of `{table}` applies to `{}`: rows that its policies hide will not be seen",
            catalog.user
        );
    }
}

async fn warn_limits(conn: &mut PgConnection) -> Step<()> {
    for Limit { rule, remedy } in limits(conn).await? {
        tracing::warn!(
            "{rule} refuses what a host writes, and what is refused stops its route; \
             let it through: `{remedy}`"
        );
    }
    Ok(())
}

/// Waits for its turn without holding a snapshot open, which the other host's
/// index would wait for.
async fn lock(conn: &mut PgConnection) -> Step<()> {
    let begun = std::time::Instant::now();
    loop {
        let row = sqlx::query("SELECT pg_try_advisory_lock($1) AS locked")
            .bind(MIGRATION_LOCK)
            .fetch_one(&mut *conn)
            .await?;
        if row.try_get("locked")? {
            return Ok(());
        }
        if begun.elapsed() > OTHER_PATIENCE {
            let problem = "another host is still migrating this database";
            return Err(StoreError::Unavailable(problem.to_owned()).into());
        }
        tokio::time::sleep(OTHER_POLL).await;
    }
}

async fn run(conn: &mut PgConnection, steps: &[plan::Step]) -> Step<()> {
    let together: Vec<(&str, &str)> = steps
        .iter()
        .filter_map(|step| match step {
            plan::Step::Together(table, sql) => Some((*table, sql.as_str())),
            _ => None,
        })
        .collect();
    for of_table in together.chunk_by(|one, next| one.0 == next.0) {
        let statements: Vec<&str> = of_table.iter().map(|(_, sql)| *sql).collect();
        let script = format!("BEGIN; {LOCK_PATIENCE}; {}; COMMIT", statements.join(";\n"));
        run_patiently(conn, &script).await?;
    }
    sqlx::raw_sql(PATIENT).execute(&mut *conn).await?;
    for step in steps {
        if let plan::Step::Alone(sql) = step {
            tracing::info!(sql, "migrating");
            sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok(())
}

/// Tries again while others keep the lock.
async fn run_patiently(conn: &mut PgConnection, script: &str) -> Step<()> {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    const DEADLOCK: &str = "40P01";
    let mut tries = 0;
    loop {
        let done = sqlx::raw_sql(AssertSqlSafe(script.to_owned()))
            .execute(&mut *conn)
            .await;
        let Err(cause) = done else { return Ok(()) };
        let code = cause.as_database_error().and_then(|e| e.code());
        let busy = matches!(code.as_deref(), Some(LOCK_NOT_AVAILABLE | DEADLOCK));
        tries += 1;
        if !busy || tries >= LOCK_TRIES {
            return Err(cause.into());
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await?;
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}
