//! The connections to one SQLite file: a single writer, and readers that never
//! wait for it.
//!
//! **Invariant:** whatever writes does so between [`Writer::begin`] and
//! [`Writer::commit`], and `BEGIN IMMEDIATE` takes the write lock at once: a
//! transaction that reads first and writes later fails without waiting. A
//! writer that did not end cleanly (an error, or a caller that went away) is
//! closed, which rolls back, and replaced by a fresh connection; so no state of
//! a half-done transaction reaches the next one.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};

use super::{OpenMode, Trouble};
use crate::store::StoreError;

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A WAL that grew under an old reader is cut back to this.
const WAL_LIMIT_BYTES: &str = "67108864";
/// Readers are for people and their dashboards, and for the loop's glances.
const READERS: u32 = 4;
/// The writer's page cache in KiB (negative, as SQLite wants it), enough for
/// the inner pages of all indexes of a large queue.
const WRITER_CACHE_KIB: &str = "-16384";
/// Rows handed over from SQLite's thread before it waits: a whole batch, since
/// each wait costs two thread switches.
const ROW_BUFFER: usize = 512;

pub(super) fn writer_options(path: &Path, mode: OpenMode) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .row_buffer_size(ROW_BUFFER)
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    match mode {
        OpenMode::ReadOnly => options.read_only(true),
        OpenMode::Create | OpenMode::Existing => options
            .create_if_missing(mode == OpenMode::Create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", WRITER_CACHE_KIB)
            .pragma("journal_size_limit", WAL_LIMIT_BYTES),
    }
}

pub(super) fn readers(path: &Path, mode: OpenMode) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(mode == OpenMode::ReadOnly)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROW_BUFFER)
        .pragma("query_only", "ON")
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A file does not go away as a server does.
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// The one connection that writes, opened again whenever it was lost.
pub(super) struct Writers {
    options: SqliteConnectOptions,
    /// Held across awaits: it is what makes the writers queue.
    slot: Mutex<Slot>,
}

enum Slot {
    Idle(SqliteConnection),
    /// To be opened by the next writer.
    Lost,
    Closed,
}

impl Writers {
    pub(super) fn new(options: SqliteConnectOptions, conn: SqliteConnection) -> Self {
        Self {
            options,
            slot: Mutex::new(Slot::Idle(conn)),
        }
    }

    /// Waits for its turn.
    pub(super) async fn acquire(&self) -> Result<Writer<'_>, Trouble> {
        let mut slot = self.slot.lock().await;
        let conn = match std::mem::replace(&mut *slot, Slot::Lost) {
            Slot::Idle(conn) => conn,
            Slot::Lost => self.options.connect().await?,
            Slot::Closed => {
                *slot = Slot::Closed;
                return Err(closed());
            }
        };
        Ok(Writer {
            slot,
            conn: Some(conn),
            clean: true,
        })
    }

    /// Moves the WAL into the file and closes the connection.
    pub(super) async fn close(&self) -> Result<(), Trouble> {
        let mut slot = self.slot.lock().await;
        let Slot::Idle(mut conn) = std::mem::replace(&mut *slot, Slot::Closed) else {
            return Ok(());
        };
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut conn)
            .await?;
        conn.close().await?;
        Ok(())
    }
}

fn closed() -> Trouble {
    StoreError::Unavailable("the store was closed".to_owned()).into()
}

/// The writer's turn. Dropped in the middle of a transaction, it rolls back.
pub(super) struct Writer<'a> {
    slot: MutexGuard<'a, Slot>,
    conn: Option<SqliteConnection>,
    clean: bool,
}

impl Writer<'_> {
    pub(super) fn conn(&mut self) -> Result<&mut SqliteConnection, Trouble> {
        self.conn.as_mut().ok_or_else(closed)
    }

    pub(super) async fn begin(&mut self) -> Result<(), Trouble> {
        self.clean = false;
        sqlx::query("BEGIN IMMEDIATE").execute(self.conn()?).await?;
        Ok(())
    }

    /// Makes the transaction durable and ends the turn.
    pub(super) async fn commit(mut self) -> Result<(), Trouble> {
        sqlx::query("COMMIT").execute(self.conn()?).await?;
        self.clean = true;
        Ok(())
    }

    /// Ends the turn without a change.
    pub(super) async fn rollback(mut self) -> Result<(), Trouble> {
        sqlx::query("ROLLBACK").execute(self.conn()?).await?;
        self.clean = true;
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| self.clean) {
            *self.slot = Slot::Idle(conn);
        }
    }
}
