//! The schema on SQLite and how a file gets to it: numbered steps, each one
//! transaction, the number kept in `PRAGMA user_version`.
//!
//! Steps are append-only. Columns and tables are named as on Postgres.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};

use super::{SqliteStore, Step};
use crate::store::{Migration, StoreError};

/// The steps; the version of a file is how many of them it has seen.
const STEPS: [&str; 8] = [
    include_str!("schema/1_bus.sql"),
    include_str!("schema/2_turns.sql"),
    include_str!("schema/3_controls.sql"),
    include_str!("schema/4_pipelines.sql"),
    include_str!("schema/5_plugins.sql"),
    include_str!("schema/6_rollouts.sql"),
    include_str!("schema/7_published.sql"),
    include_str!("schema/8_shadows.sql"),
];

/// What this build knows.
#[expect(clippy::cast_possible_wrap, reason = "a handful of steps")]
const KNOWN: i64 = STEPS.len() as i64;

pub(super) async fn version(conn: &mut SqliteConnection) -> Step<i64> {
    let row = sqlx::query("PRAGMA user_version").fetch_one(conn).await?;
    Ok(row.try_get(0)?)
}

pub(super) fn refuse_newer(found: i64, path: &Path) -> Result<(), StoreError> {
    if found > KNOWN {
        return Err(StoreError::Newer {
            database: format!("`{}`", path.display()),
            found,
            known: KNOWN,
        });
    }
    Ok(())
}

pub(super) async fn check(store: &SqliteStore) -> Step<()> {
    let mut conn = store.readers.acquire().await?;
    let found = version(&mut conn).await?;
    refuse_newer(found, &store.path)?;
    if found < KNOWN {
        return Err(StoreError::NotMigrated.into());
    }
    Ok(())
}

pub(super) async fn migrate(store: &SqliteStore, dry_run: bool) -> Step<Migration> {
    let mut writer = store.writers.acquire().await?;
    writer.begin().await?;
    let from = version(writer.conn()?).await?;
    refuse_newer(from, &store.path)?;
    let missing = STEPS.iter().skip(usize::try_from(from).unwrap_or(0));
    let statements: Vec<String> = missing.clone().flat_map(|step| statements(step)).collect();
    let migration = Migration {
        from,
        to: KNOWN,
        statements,
    };
    if dry_run || from == KNOWN {
        writer.rollback().await?;
        return Ok(migration);
    }
    for step in missing {
        sqlx::raw_sql(*step).execute(writer.conn()?).await?;
    }
    // A pragma takes no parameters.
    let version = AssertSqlSafe(format!("PRAGMA user_version = {KNOWN}"));
    sqlx::query(version).execute(writer.conn()?).await?;
    writer.commit().await?;
    Ok(migration)
}

/// The statements of a step as people read them: a blank line parts them.
fn statements(step: &str) -> Vec<String> {
    let parts = step.split("\n\n").map(str::trim);
    parts
        .filter(|part| {
            part.lines()
                .any(|line| !line.trim_start().starts_with("--"))
        })
        .map(str::to_owned)
        .collect()
}

pub(super) async fn quick_check(conn: &mut SqliteConnection) -> Step<()> {
    let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(conn).await?;
    let found: String = row.try_get(0)?;
    if found == "ok" {
        Ok(())
    } else {
        Err(StoreError::Corrupt(found).into())
    }
}
