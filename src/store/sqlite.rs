//! The bus in one SQLite file, for one host process: the embedded default.
//!
//! **Invariant:** the file's own clock decides, by `strftime(…, 'now')` within
//! the statement; durations are bound, instants never are. A call costs a fixed
//! number of statements whatever the size of its batch, because each is handed
//! to SQLite's thread and back: batches travel as one JSON array, taken apart by
//! `jsonb_each` (`json_each` prints every element again for every column of it).
//!
//! Shown by the conformance suite, `tests/it/store.rs`.

mod breaker;
mod cancel;
mod claim;
mod connection;
mod control;
mod enqueue;
mod evidence;
mod examine;
mod hosts;
mod mend;
pub mod owner;
mod pipelines;
mod published;
mod read;
mod rescue;
mod retire;
mod rollout;
mod row;
mod schema;
mod settle;
mod shadow;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use self::connection::Writers;
use super::cells::{Step, Trouble};
use super::topics::store_by_topics;
use super::turns::Turns;
use super::{
    ArtifactRow, AttemptRow, BreakerMove, Cancelled, ClaimRequest, Depth, EventFilter, HostBeat,
    HostRow, Latency, Migration, NewApproval, NewRollout, PathEvidence, Renewal, Rescued, Result,
    Retention, RolloutMove, StartedRollout, Store, StoreError, TaskFilter, Want,
};
use crate::attempt::Fence;
use crate::breaker::RealPath;
use crate::control::{
    ApprovalRow, Controls, Decided, Decision, Published, PublishedRow, Retracted, Revoked,
    ServingOrder,
};
use crate::event::{Event, NewEvent};
use crate::finding::Finding;
use crate::gate::{Evidence, Scope};
use crate::ids::{Digest, HolderId, MessageId, ShadowId};
use crate::pipeline::{NewRun, Run};
use crate::rollout::{RolloutRow, verdict};
use crate::route::{Route, RouteKey};
use crate::selection::{ApprovalId, RolloutId};
use crate::shadow::verdict::Tally;
use crate::shadow::{ShadowRow, ShadowRun, ShadowRunRow};
use crate::store::{
    Component, EndedShadow, NewPublished, NewShadow, RunCancelled, RunFigures, RunMove, Settled,
    Settlement, ShadowRunFilter, Started, StartedShadow, Waiting,
};
use crate::task::{Claim, Enqueued, NewTask, TaskRow};

/// Files up to this size are checked in full when they are opened, which takes
/// a fraction of a second; beyond it the check would keep a host from starting,
/// and [`SqliteStore::verify`] does it on demand.
const CHECKED_AT_OPEN_BYTES: u64 = 16 * 1024 * 1024;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Makes the file where there is none.
    Create,
    Existing,
    /// For reads beside a host that owns the file.
    ReadOnly,
}

/// The bus in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writers: Writers,
    readers: SqlitePool,
    turns: Mutex<Turns>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, without migrating it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where directory or file do not exist,
    /// [`StoreError::ReadOnly`], [`StoreError::Corrupt`] for a damaged file or
    /// one that is no database, [`StoreError::Newer`] for the schema of a later
    /// build, [`StoreError::Unavailable`] while somebody else locks it. Each
    /// names the path.
    pub async fn open(path: &Path, mode: OpenMode) -> Result<Self> {
        check_path(path, mode)?;
        let name = |trouble: Trouble| self::name(trouble, path);
        let options = connection::writer_options(path, mode);
        let mut conn = options.connect().await.map_err(|e| name(e.into()))?;
        let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
        if bytes <= CHECKED_AT_OPEN_BYTES {
            schema::quick_check(&mut conn).await.map_err(name)?;
        }
        let found = schema::version(&mut conn).await.map_err(name)?;
        schema::refuse_newer(found, path)?;
        Ok(Self {
            path: path.to_owned(),
            writers: Writers::new(options, conn),
            readers: connection::readers(path, mode),
            turns: Mutex::default(),
        })
    }

    /// Reads the whole file and checks that it hangs together; slow on a large
    /// one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] says what is wrong.
    pub async fn verify(&self) -> Result<()> {
        self.named(async {
            let mut conn = self.readers.acquire().await?;
            schema::quick_check(&mut conn).await
        })
        .await
    }

    /// Gives every error of `work` the name of the file.
    async fn named<T>(&self, work: impl Future<Output = Step<T>>) -> Result<T> {
        work.await.map_err(|trouble| name(trouble, &self.path))
    }
}

/// What SQLite itself would only call "unable to open database file".
fn check_path(path: &Path, mode: OpenMode) -> Result<()> {
    let shown = path.display();
    if path.is_dir() {
        let problem = format!("`{shown}` is a directory");
        return Err(StoreError::Missing(problem));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|p| !p.is_dir()) {
        let problem = format!("`{shown}`: directory `{}` does not exist", parent.display());
        return Err(StoreError::Missing(problem));
    }
    if mode != OpenMode::Create && !path.exists() {
        return Err(StoreError::Missing(format!("`{shown}` does not exist")));
    }
    let read_only = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().readonly());
    if mode != OpenMode::ReadOnly && read_only {
        let problem = format!("`{shown}` is marked read-only");
        return Err(StoreError::ReadOnly(problem));
    }
    Ok(())
}

/// Gives an error the name of the file, sorted by what can be done about it.
fn name(trouble: Trouble, path: &Path) -> StoreError {
    let cause = match trouble {
        Trouble::Store(error) => return error,
        Trouble::Sql(cause) => cause,
    };
    let problem = format!("`{}`: {cause}", path.display());
    let sqlx::Error::Database(database) = &cause else {
        return match cause {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => {
                StoreError::Refused(problem)
            }
            _ => StoreError::Unavailable(problem),
        };
    };
    let extended: i32 = database.code().and_then(|c| c.parse().ok()).unwrap_or(0);
    // The low byte is the primary code. Source: sqlite.org/rescode.html.
    match extended & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, CANTOPEN, PROTOCOL
        5 | 6 | 7 | 9 | 10 | 14 | 15 => StoreError::Unavailable(problem),
        8 => StoreError::ReadOnly(problem),
        11 | 26 => StoreError::Corrupt(problem),
        13 => StoreError::Full(problem),
        _ => StoreError::Refused(problem),
    }
}

/// Rows for one statement, printed as JSON.
struct Batch(Option<String>);

impl Batch {
    fn of<T: serde::Serialize>(rows: &[T]) -> Step<Self> {
        Ok(Self(match rows {
            [] => None,
            rows => Some(serde_json::to_string(rows)?),
        }))
    }

    /// Runs a statement that takes the batch and gives nothing back.
    async fn execute(self, conn: &mut SqliteConnection, sql: &'static str) -> Step<()> {
        if let Some(rows) = self.0 {
            sqlx::query(sql).bind(rows).execute(conn).await?;
        }
        Ok(())
    }
}

async fn execute_batch<T: serde::Serialize>(
    conn: &mut SqliteConnection,
    sql: &'static str,
    rows: &[T],
) -> Step<()> {
    Batch::of(rows)?.execute(conn, sql).await
}

/// A duration as a modifier of SQLite's date functions, to the millisecond.
/// Capped at a hundred years, beyond which they would answer NULL.
fn modifier(duration: Duration) -> String {
    const CAP: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    format!("{:+.3} seconds", duration.min(CAP).as_secs_f64())
}

/// The same, into the past.
fn modifier_back(duration: Duration) -> String {
    modifier(duration).replacen('+', "-", 1)
}

/// What SQLite's 64-bit integers can hold of a count.
fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

store_by_topics!(SqliteStore {
    async fn migrate(&self, dry_run: bool) -> Result<Migration> {
        self.named(schema::migrate(self, dry_run)).await
    }

    async fn open_to_supabase(&self, _dry_run: bool) -> Result<Vec<String>> {
        let problem = "Supabase is Postgres, and this bus is a SQLite file";
        Err(StoreError::Refused(problem.to_owned()))
    }

    async fn next_due(&self, wants: &[Want]) -> Result<Option<Duration>> {
        self.named(claim::next_due(self, wants)).await
    }

    async fn close(&self) -> Result<()> {
        self.named(async {
            self.readers.close().await;
            self.writers.close().await
        })
        .await
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TraceId;

    #[test]
    fn durations_become_modifiers_within_what_sqlite_can_count() {
        assert_eq!(modifier(Duration::from_millis(1)), "+0.001 seconds");
        assert_eq!(modifier_back(Duration::from_secs(60)), "-60.000 seconds");
        assert_eq!(modifier(Duration::MAX), "+3153600000.000 seconds");
    }

    fn task() -> NewTask {
        NewTask {
            id: MessageId::generate(),
            route: Route::of("docs/render".parse().unwrap()),
            task_id: None,
            trace_id: TraceId::generate(),
            payload: serde_json::json!({ "text": "x".repeat(5000) }),
            priority: 0,
            max_attempts: None,
            unique_key: None,
            delay: Duration::ZERO,
            repeats: None,
        }
    }

    /// A store whose file may have so many pages: SQLite answers to that as it
    /// does to a full disk.
    async fn limited(path: &Path, pages: &'static str) -> SqliteStore {
        let options = connection::writer_options(path, OpenMode::Create);
        let options = options.pragma("max_page_count", pages);
        let conn = options.connect().await.unwrap();
        SqliteStore {
            path: path.to_owned(),
            writers: Writers::new(options, conn),
            readers: connection::readers(path, OpenMode::Create),
            turns: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_survived() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.db");
        let store = limited(&path, "100").await;
        store.migrate(false).await.unwrap();
        let mut accepted = 0;
        let error = loop {
            match store.enqueue(&[task(), task(), task()]).await {
                Ok(answers) => accepted += answers.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(error.is_transient());
        assert!(error.to_string().contains("bus.db"), "{error}");
        // All or nothing; reads go on, and smaller writes may.
        assert_eq!(store.depth().await.unwrap().queued, accepted);
        let again = store.enqueue(&[task(), task(), task()]).await;
        assert!(matches!(again, Err(StoreError::Full(_))), "{again:?}");
        store.close().await.unwrap();
        let store = limited(&path, "10000").await;
        store.enqueue(&[task()]).await.unwrap();
        assert_eq!(store.depth().await.unwrap().queued, accepted + 1);
    }
}
