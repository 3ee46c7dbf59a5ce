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
mod connection;
mod control;
mod enqueue;
mod evidence;
mod examine;
mod head;
mod hint;
mod hosts;
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
mod tls;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use url::Url;

use self::claim::lanes::Lanes;
use self::connection::Connections;
use self::hint::Hints;
use self::schema::EventShape;
use super::cells::{Cells, Step, Trouble};
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
    event_shape: OnceCell<EventShape>,
    /// The last claim met rows of other programs that it had to adopt.
    adopting: AtomicBool,
    lanes: Mutex<Lanes>,
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
    /// has no such database, [`StoreError::Refused`] for options or a user that
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
            event_shape: OnceCell::new(),
            adopting: AtomicBool::new(false),
            lanes: Mutex::default(),
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
        _ => StoreError::Refused(problem),
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self, dry_run: bool) -> Result<Migration> {
        // Building indexes may take hours.
        let done = schema::migrate(self, dry_run).await;
        done.map_err(|trouble| self.name(trouble))
    }

    async fn open_to_supabase(&self, dry_run: bool) -> Result<Vec<String>> {
        let done = schema::open_to_supabase(self, dry_run).await;
        done.map_err(|trouble| self.name(trouble))
    }

    async fn check_schema(&self) -> Result<()> {
        self.named(schema::check(self)).await
    }

    async fn ping(&self) -> Result<()> {
        self.named(read::ping(self)).await
    }

    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        self.named(enqueue::enqueue(self, tasks)).await
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Vec<Claim>> {
        self.named(claim::claim(self, request)).await
    }

    async fn renew(
        &self,
        holder: &HolderId,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Renewal>> {
        self.named(settle::renew(self, holder, fences, lease)).await
    }

    async fn cancel_requests(&self, holder: &HolderId) -> Result<Vec<Fence>> {
        self.named(cancel::requests(self, holder)).await
    }

    async fn settle(&self, holder: &HolderId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.named(settle::settle(self, holder, settlements)).await
    }

    async fn rescue(&self, limit: u32, default_max_attempts: u32) -> Result<Vec<Rescued>> {
        self.named(rescue::rescue(self, limit, default_max_attempts))
            .await
    }

    async fn expire(&self, wants: &[Want], limit: u32) -> Result<Vec<MessageId>> {
        self.named(rescue::expire(self, wants, limit)).await
    }

    async fn next_due(&self, wants: &[Want]) -> Result<Option<Duration>> {
        self.named(claim::lanes::next_due(self, wants)).await
    }

    async fn cancel(&self, id: MessageId, actor: &str) -> Result<Option<Cancelled>> {
        self.named(cancel::cancel(self, id, actor)).await
    }

    async fn controls(&self) -> Result<Controls> {
        self.named(control::controls(self)).await
    }

    async fn set_flag(
        &self,
        route: &RouteKey,
        to: Option<bool>,
        decision: &Decision,
    ) -> Result<Decided> {
        self.named(control::set_flag(self, route, to, decision))
            .await
    }

    async fn set_serving(&self, order: &ServingOrder, decision: &Decision) -> Result<Decided> {
        self.named(control::set_serving(self, order, decision))
            .await
    }

    async fn publish(&self, version: &NewPublished<'_>) -> Result<Published> {
        self.named(published::publish(self, version)).await
    }

    async fn retract(&self, digest: Digest, decision: &Decision) -> Result<Retracted> {
        self.named(published::retract(self, digest, decision)).await
    }

    async fn published(&self, limit: u32) -> Result<Vec<PublishedRow>> {
        self.named(published::published(self, limit)).await
    }

    async fn component(&self, digest: Digest) -> Result<Option<Component>> {
        self.named(published::component(self, digest)).await
    }

    async fn pause(&self, route: &RouteKey, decision: &Decision) -> Result<Decided> {
        self.named(control::pause(self, route, decision)).await
    }

    async fn resume(&self, route: &RouteKey, decision: &Decision) -> Result<Decided> {
        self.named(control::resume(self, route, decision)).await
    }

    async fn approve(&self, approval: &NewApproval) -> Result<ApprovalRow> {
        self.named(control::approve(self, approval)).await
    }

    async fn revoke(&self, id: &ApprovalId, decision: &Decision) -> Result<Revoked> {
        self.named(control::revoke(self, id, decision)).await
    }

    async fn approvals(&self, limit: u32) -> Result<Vec<ApprovalRow>> {
        self.named(control::approvals(self, limit)).await
    }

    async fn path_evidence(&self) -> Result<Vec<PathEvidence>> {
        self.named(breaker::evidence(self)).await
    }

    async fn move_breaker(&self, change: &BreakerMove<'_>) -> Result<bool> {
        self.named(breaker::change(self, change)).await
    }

    async fn keep_probe(&self, path: &RealPath, revision: i64, lease: Duration) -> Result<bool> {
        self.named(breaker::keep_probe(self, path, revision, lease))
            .await
    }

    async fn start_run(&self, run: &NewRun) -> Result<Started> {
        self.named(pipelines::start(self, run)).await
    }

    async fn move_run(&self, change: &RunMove<'_>) -> Result<bool> {
        self.named(pipelines::advance(self, change)).await
    }

    async fn due_runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.named(pipelines::due(self, limit)).await
    }

    async fn run(&self, task_id: &str) -> Result<Option<Run>> {
        self.named(pipelines::find(self, task_id)).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.named(pipelines::list(self, limit)).await
    }

    async fn cancel_run(&self, task_id: &str, actor: &str) -> Result<Option<RunCancelled>> {
        self.named(pipelines::cancel(self, task_id, actor)).await
    }

    async fn run_figures(&self, since: Duration) -> Result<RunFigures> {
        self.named(pipelines::figures(self, since)).await
    }

    async fn start_rollout(&self, new: &NewRollout) -> Result<StartedRollout> {
        self.named(rollout::start(self, new)).await
    }

    async fn move_rollout(&self, change: &RolloutMove<'_>) -> Result<Option<RolloutRow>> {
        self.named(rollout::change(self, change)).await
    }

    async fn rollout(&self, id: &RolloutId) -> Result<Option<RolloutRow>> {
        self.named(rollout::find(self, id)).await
    }

    async fn rollouts(&self, limit: u32) -> Result<Vec<RolloutRow>> {
        self.named(rollout::list(self, limit)).await
    }

    async fn rollout_evidence(
        &self,
        row: &RolloutRow,
        wait_max_ms: u64,
    ) -> Result<verdict::Evidence> {
        self.named(rollout::evidence(self, row, wait_max_ms)).await
    }

    async fn start_shadow(&self, new: &NewShadow) -> Result<StartedShadow> {
        self.named(shadow::start(self, new)).await
    }

    async fn end_shadow(&self, id: &ShadowId, decision: &Decision) -> Result<EndedShadow> {
        self.named(shadow::end(self, id, decision)).await
    }

    async fn shadow(&self, id: &ShadowId) -> Result<Option<ShadowRow>> {
        self.named(shadow::find(self, id)).await
    }

    async fn shadows(&self, limit: u32) -> Result<Vec<ShadowRow>> {
        self.named(shadow::list(self, limit)).await
    }

    async fn record_shadow(&self, run: &ShadowRun) -> Result<bool> {
        self.named(shadow::record(self, run)).await
    }

    async fn count_dropped(&self, counts: &[(ShadowId, u64)]) -> Result<()> {
        self.named(shadow::dropped(self, counts)).await
    }

    async fn shadow_runs(&self, filter: &ShadowRunFilter) -> Result<Vec<ShadowRunRow>> {
        self.named(shadow::runs(self, filter)).await
    }

    async fn shadow_tally(&self, id: &ShadowId, route: Option<&RouteKey>) -> Result<Tally> {
        self.named(shadow::tally(self, id, route)).await
    }

    async fn record(&self, events: &[NewEvent]) -> Result<()> {
        self.named(enqueue::record(self, events)).await
    }

    async fn retire(&self, retention: &Retention) -> Result<u64> {
        self.named(retire::retire(self, retention)).await
    }

    async fn beat(&self, host: &HostBeat<'_>) -> Result<()> {
        self.named(hosts::beat(self, host)).await
    }

    async fn leave(&self, holder: &HolderId) -> Result<()> {
        self.named(hosts::leave(self, holder)).await
    }

    async fn hosts(&self) -> Result<Vec<HostRow>> {
        self.named(hosts::hosts(self)).await
    }

    async fn task(&self, id: MessageId) -> Result<Option<TaskRow>> {
        self.named(read::task(self, id)).await
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        self.named(read::tasks(self, filter)).await
    }

    async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>> {
        self.named(read::attempts(self, id)).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        self.named(read::events(self, filter)).await
    }

    async fn evidence(&self, scope: &Scope) -> Result<Evidence> {
        self.named(evidence::evidence(self, scope)).await
    }

    async fn latency(
        &self,
        service: Option<&str>,
        role: Option<&str>,
        since: Duration,
    ) -> Result<Latency> {
        self.named(evidence::latency(self, service, role, since))
            .await
    }

    async fn depth(&self) -> Result<Depth> {
        self.named(read::depth(self)).await
    }

    async fn queued(&self, want: &Want) -> Result<u64> {
        self.named(read::queued(self, want)).await
    }

    async fn waiting(&self) -> Result<Vec<Waiting>> {
        self.named(read::waiting(self)).await
    }

    async fn artifact(&self, task_id: &str, path: &str) -> Result<Option<ArtifactRow>> {
        self.named(read::artifact(self, task_id, path)).await
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        self.named(read::routes(self)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.named(examine::examine(self)).await
    }

    async fn hint(&self, holder: &HolderId) {
        hint::wait(self, holder).await;
    }

    async fn close(&self) -> Result<()> {
        self.hints.close();
        self.connections.close().await;
        Ok(())
    }
}
