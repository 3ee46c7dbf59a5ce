//! What keeps a file from serving well as a bus.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use sqlx::Row as _;

use super::{SqliteStore, Step, Trouble, schema};
use crate::finding::{Check, Finding, Severity};
use crate::store::StoreError;

const JOURNAL: Check = Check {
    id: "sqlite.journal",
    title: "journal mode",
    severity: Severity::Error,
    fix: "close the program that changed it; a host sets it to `wal` when it opens the file",
};

const SYNCHRONOUS: Check = Check {
    id: "sqlite.synchronous",
    title: "durable commits",
    severity: Severity::Error,
    fix: "report this: a host opens the file with `synchronous = FULL`",
};

const OWNER: Check = Check {
    id: "sqlite.owner",
    title: "file owner",
    severity: Severity::Error,
    fix: "run as the user who owns the file, or give the file and its directory to this user",
};

const SPACE: Check = Check {
    id: "sqlite.space",
    title: "free space",
    severity: Severity::Error,
    fix: "free space on that file system: a full one stops the bus",
};

const INTEGRITY: Check = Check {
    id: "sqlite.integrity",
    title: "integrity",
    severity: Severity::Error,
    fix: "stop every process that uses the file, copy it away, and restore a backup or recover it with `sqlite3 FILE .recover`",
};

/// Less than this does not last through an hour of tasks with full logs.
const LEAST_SPACE: u64 = 256 * 1024 * 1024;
/// `FULL`, as SQLite counts it.
const FULL: i64 = 2;

pub(super) async fn examine(store: &SqliteStore) -> Step<Vec<Finding>> {
    Ok(vec![
        journal(store).await?,
        synchronous(store).await?,
        owner(store),
        space(store),
        integrity(store).await?,
    ])
}

async fn journal(store: &SqliteStore) -> Step<Finding> {
    let mut conn = store.readers.acquire().await?;
    let row = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut *conn)
        .await?;
    let mode: String = row.try_get(0)?;
    Ok(JOURNAL.holds(mode == "wal", mode))
}

/// Of the connection that would write: it is nothing that a file keeps.
async fn synchronous(store: &SqliteStore) -> Step<Finding> {
    let mut writer = store.writers.acquire().await?;
    let row = sqlx::query("PRAGMA synchronous")
        .fetch_one(writer.conn()?)
        .await?;
    let found: i64 = row.try_get(0)?;
    Ok(SYNCHRONOUS.holds(found >= FULL, format!("synchronous = {found}")))
}

fn owner(store: &SqliteStore) -> Finding {
    let shown = store.path.display();
    match fs::metadata(&store.path) {
        Err(cause) => OWNER.bad(format!("`{shown}`: {cause}")),
        Ok(meta) => {
            let own = rustix::process::geteuid().as_raw();
            let told = format!(
                "`{shown}` belongs to user {}; this is user {own}",
                meta.uid()
            );
            // Root may write anyone's files, and leaves some that only root may.
            OWNER.holds(meta.uid() == own, told)
        }
    }
}

fn space(store: &SqliteStore) -> Finding {
    match rustix::fs::statvfs(&store.path) {
        Err(cause) => SPACE.unknown(cause.to_string()),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            SPACE.holds(free >= LEAST_SPACE, format!("{} MiB", free >> 20))
        }
    }
}

async fn integrity(store: &SqliteStore) -> Step<Finding> {
    let mut conn = store.readers.acquire().await?;
    match schema::quick_check(&mut conn).await {
        Ok(()) => Ok(INTEGRITY.pass("quick check ok")),
        Err(Trouble::Store(StoreError::Corrupt(found))) => Ok(INTEGRITY.bad(found)),
        Err(trouble) => Err(trouble),
    }
}
