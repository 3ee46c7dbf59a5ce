//! The bus in a Postgres database, for many hosts, on tables that may be there
//! already.
//!
//! **Invariant:** the database's clock decides (`now()`); durations are bound,
//! instants never are. A call costs a fixed number of statements whatever the
//! size of its batch, and locks rows in the order of their ids or skips those
//! that are locked, so that two calls never wait for each other in a circle.
//! Text that Postgres cannot hold (U+0000) is replaced at this border.
//!
//! Shown by the conformance suite, `tests/it/store.rs`, and by
//! `tests/it/postgres.rs`.

mod breaker;
mod cancel;
mod claim;
mod columns;
mod connection;
mod control;
mod enqueue;
mod evidence;
mod examine;
mod head;
mod hint;
mod hosts;
mod mend;
mod parts;
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
mod stuck;
mod tls;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tokio::sync::OnceCell;
use url::Url;

use self::claim::lanes::Lanes;
use self::connection::Connections;
use self::hint::Hints;
use self::schema::Inherited;
use self::stuck::Stuck;
use super::cells::{Cells, Step, Trouble};
use super::topics::store_by_topics;
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

type PgCells<'r> = Cells<'r, sqlx::postgres::PgRow>;

/// Beyond the server's own limits on a statement, the connection is taken for
/// dead: a network that swallows packets gives no error for minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The bus in a Postgres database.
pub struct PostgresStore {
    connections: Connections,
    /// Host and database, for messages.
    place: String,
    hints: Hints,
    inherited: OnceCell<Inherited>,
    /// The last claim met rows of other programs that it had to adopt.
    adopting: AtomicBool,
    lanes: Mutex<Lanes>,
    stuck: Stuck,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, without migrating.
    ///
    /// `?pgbouncer=true`, or port 6543, says that the URL leads through a
    /// pooler of transactions: nothing is prepared then, and hints do not come.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Missing`] where the server
    /// has no such database, [`StoreError::Denied`] for a user that it does not
    /// let in, [`StoreError::Refused`] for options that
    /// it does not take, [`StoreError::Insecure`] where TLS is asked for and not
    /// to be had, [`StoreError::Newer`] for the schema of a later build.
    /// Each names host and database, none the password.
    pub async fn open(url: &Url) -> Result<Self> {
        let (options, pooled) = connection::options(url)?;
        let place = connection::place(&options);
        let store = Self {
            hints: Hints::new(options.clone(), pooled),
            connections: Connections::new(options, pooled),
            place,
            inherited: OnceCell::new(),
            adopting: AtomicBool::new(false),
            lanes: Mutex::default(),
            stuck: Stuck::default(),
        };
        store
            .named(async {
                let mut conn = store.connections.probe().await?;
                sqlx::raw_sql("BEGIN").execute(&mut conn).await?;
                let found = schema::version(&mut conn).await?;
                sqlx::raw_sql("COMMIT").execute(&mut conn).await?;
                schema::refuse_newer(found, &store.place)?;
                Ok(sqlx::Connection::close(conn).await?)
            })
            .await?;
        Ok(store)
    }

    /// Trusts a look at all lanes for so long, five seconds at most, instead of
    /// for as long as its cost suggests; zero looks before each claim.
    pub fn trust_looks_for(&self, trusted: Duration) {
        self.lanes.lock().trust_for(trusted);
    }

    /// Whether this connection leads through a pooler of transactions.
    pub const fn is_pooled(&self) -> bool {
        self.connections.is_pooled()
    }

    /// Gives every error of `work` the name of the database, and an end to it.
    async fn named<T>(&self, work: impl Future<Output = Step<T>>) -> Result<T> {
        match tokio::time::timeout(ANSWER_TIMEOUT, work).await {
            Ok(done) => done.map_err(|trouble| self.name(trouble)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "{}: no answer within {} s",
                self.place,
                ANSWER_TIMEOUT.as_secs()
            ))),
        }
    }

    fn name(&self, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Store(StoreError::Unavailable(problem)) => {
                StoreError::Unavailable(format!("{}: {problem}", self.place))
            }
            Trouble::Store(StoreError::Refused(problem)) => {
                StoreError::Refused(format!("{}: {problem}", self.place))
            }
            Trouble::Store(error) => error,
            Trouble::Sql(cause) => sorted(&cause, &self.place),
        }
    }
}

/// Sorts an error by what can be done about it.
/// Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
fn sorted(cause: &sqlx::Error, place: &str) -> StoreError {
    if let Some(refusal) = tls::refusal(cause, place) {
        return refusal;
    }
    let problem = format!("{place}: {cause}");
    let sqlx::Error::Database(database) = cause else {
        return match cause {
            sqlx::Error::Configuration(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_) => StoreError::Refused(problem),
            _ => StoreError::Unavailable(problem),
        };
    };
    let code = database.code().unwrap_or_default();
    match (code.get(..2).unwrap_or_default(), code.as_ref()) {
        // disk_full
        (_, "53100") => StoreError::Full(problem),
        // connection exceptions, insufficient resources
        ("08" | "53", _)
        // serialization_failure, deadlock_detected
        | (_, "40001" | "40P01")
        // lock_not_available, query_canceled
        | (_, "55P03" | "57014")
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle session ends
        | (_, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04")
        // io_error
        | (_, "58030") => StoreError::Unavailable(problem),
        // read_only_sql_transaction
        (_, "25006") => StoreError::ReadOnly(problem),
        // data_corrupted, index_corrupted
        (_, "XX001" | "XX002") => StoreError::Corrupt(problem),
        // invalid_catalog_name
        (_, "3D000") => StoreError::Missing(problem),
        // undefined_table, undefined_column
        (_, "42P01" | "42703") => StoreError::NotMigrated,
        // invalid authorization, insufficient_privilege
        ("28", _) | (_, "42501") => StoreError::Denied(problem),
        // It ends the session: about that, not about a statement. Poolers that
        // have no server to give say so with any code.
        _ if is_fatal(database.as_ref()) => StoreError::Unavailable(problem),
        _ => StoreError::Refused(problem),
    }
}

fn is_fatal(error: &dyn DatabaseError) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|e| matches!(e.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

store_by_topics!(PostgresStore {
    async fn migrate(&self, dry_run: bool) -> Result<Migration> {
        // Building indexes may take hours.
        let done = schema::migrate(self, dry_run).await;
        done.map_err(|trouble| self.name(trouble))
    }

    async fn open_to_supabase(&self, dry_run: bool) -> Result<Vec<String>> {
        let done = schema::open_to_supabase(self, dry_run).await;
        done.map_err(|trouble| self.name(trouble))
    }

    async fn next_due(&self, wants: &[Want]) -> Result<Option<Duration>> {
        self.named(claim::lanes::next_due(self, wants)).await
    }

    async fn unanswered(&self, holder: &HolderId, known: &[Fence]) -> Result<Vec<Claim>> {
        self.named(claim::unanswered(self, holder, known)).await
    }

    async fn hint(&self, holder: &HolderId) {
        hint::wait(self, holder).await;
    }

    async fn close(&self) -> Result<()> {
        self.hints.close();
        self.connections.close().await;
        Ok(())
    }
});
