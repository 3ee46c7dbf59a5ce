//! The bus as the rest of the host sees it: one trait in domain words, whatever
//! database is below.
//!
//! **Invariant:** `sqlx` appears only here and below. Every state change, its
//! attempt row, its events and its artifacts are one transaction. Instants are
//! the database's; durations cross this border, never clocks. A write after a
//! claim is conditional on `status = 'claimed'`, the lease epoch and the holder.

mod audit;
mod cells;
mod control;
mod error;
mod head;
mod host;
mod lease;
mod next_row;
mod pipelines;
mod postgres;
mod rollout;
mod rows;
mod settlement;
mod shadow;
mod sqlite;
mod topics;
mod turns;
mod url;
mod view;

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

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
use crate::task::{Claim, Enqueued, NewTask, TaskRow};

pub use self::audit::CANCEL_REQUESTED;
pub use self::control::{BreakerMove, Component, NewApproval, NewPublished, PathEvidence};
pub use self::error::{Result, StoreError};
pub use self::host::{HOST_PATIENCE, HostBeat, HostRow};
pub use self::lease::{Cancelled, ClaimRequest, Renewal, Rescued, Want};
pub use self::pipelines::{RunCancelled, RunFigures, RunMove, Started};
pub use self::postgres::PostgresStore;
pub use self::rollout::{NewRollout, RolloutMove, StartedRollout};
pub use self::settlement::{Settled, Settlement};
pub use self::shadow::{EndedShadow, NewShadow, ShadowRunFilter, StartedShadow};
pub use self::sqlite::owner::{Owner, OwnerLock, OwnershipError, read_owner};
pub use self::sqlite::{OpenMode, SqliteStore};
pub use self::url::{BusUrl, InvalidBusUrl, open};
pub use self::view::{
    ArtifactRow, AttemptRow, Depth, EventFilter, Latency, Order, TaskFilter, Waiting,
};

/// What retention may delete, in one small batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Ended tasks, their attempts and artifacts older than this.
    pub tasks: Option<Duration>,
    /// Events older than this.
    pub events: Option<Duration>,
    /// At most this many rows of each table.
    pub batch: u32,
}

/// What a migration did or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Migration {
    pub from: i64,
    pub to: i64,
    /// The statements, in order.
    pub statements: Vec<String>,
}

/// The bus.
///
/// Every method may fail with [`StoreError::Unavailable`]; none leaves half of
/// what it does behind.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Brings the schema up to this build's version.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later build migrated it.
    async fn migrate(&self, dry_run: bool) -> Result<Migration>;

    /// Grants and publishes what Supabase needs on top of the schema; the
    /// statements. Run again, it does nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where this is no database of Supabase.
    async fn open_to_supabase(&self, dry_run: bool) -> Result<Vec<String>>;

    /// Fails with what is wrong when the schema is not the one this build knows.
    async fn check_schema(&self) -> Result<()>;

    /// A round trip.
    async fn ping(&self) -> Result<()>;

    /// Puts tasks on the bus, each with its `execute_enqueued` event.
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>>;

    /// Claims due tasks, highest priority first; within one, the tenants of a
    /// route take turns, and each gives those due longest. Adds one to
    /// `attempts` and `lease_epoch`. A row that somebody else put on the
    /// bus gets what it lacks (trace id, task id) and its `execute_enqueued`. A
    /// row that meets a rollout draws its side, which stays.
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Vec<Claim>>;

    /// Extends leases by `lease` from now, in the order of `fences`.
    async fn renew(
        &self,
        holder: &HolderId,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Renewal>>;

    /// The claims of `holder` that are not `known` to it, since their answer was
    /// lost on the way, to be given back: without payloads. An embedded database
    /// loses none.
    async fn unanswered(&self, holder: &HolderId, known: &[Fence]) -> Result<Vec<Claim>> {
        let _ = (holder, known);
        Ok(Vec::new())
    }

    /// The tasks held by `holder` whose cancellation was asked for.
    async fn cancel_requests(&self, holder: &HolderId) -> Result<Vec<Fence>>;

    /// Writes the ends of attempts in one transaction, in the order given. Each
    /// stands for itself: one that lost its lease does not hinder the others.
    async fn settle(&self, holder: &HolderId, settlements: &[Settlement]) -> Result<Vec<Settled>>;

    /// Takes back up to `limit` expired leases, oldest first: queued again, or
    /// failed where the task was cancelled, has used its attempts, or took
    /// [`crate::task::POISON_DEATHS`] hosts with it. Writes the attempt row
    /// (`lost`) that the vanished holder could not. `default_max_attempts` is
    /// for rows that name none.
    async fn rescue(&self, limit: u32, default_max_attempts: u32) -> Result<Vec<Rescued>>;

    /// Fails up to `limit` waiting tasks of these routes whose `ttl_ms` has
    /// passed. Rows of other routes are somebody else's business.
    async fn expire(&self, wants: &[Want], limit: u32) -> Result<Vec<MessageId>>;

    /// Gives up to `limit` rows of other programs what a claim goes by and they
    /// lack; the number of rows. Only tables that others made can hold such rows.
    async fn mend(&self, limit: u32) -> Result<u64>;

    /// How long until the next waiting task of these routes is due; zero if one
    /// is, `None` if none waits.
    async fn next_due(&self, wants: &[Want]) -> Result<Option<Duration>>;

    /// Asks to cancel a task; `None` if there is no such task.
    async fn cancel(&self, id: MessageId, actor: &str) -> Result<Option<Cancelled>>;

    /// Everything that was decided about routes, in one cheap read.
    async fn controls(&self) -> Result<Controls>;

    /// Sets the flag of a route, or with `None` leaves it to configuration and
    /// stage again.
    async fn set_flag(
        &self,
        route: &RouteKey,
        to: Option<bool>,
        decision: &Decision,
    ) -> Result<Decided>;

    /// Decides which version of a plugin serves on every host. Of several who
    /// decide at once, the last has its way.
    async fn set_serving(&self, order: &ServingOrder, decision: &Decision) -> Result<Decided>;

    /// Keeps a plugin version for every host. What is published is never changed:
    /// the same bytes again change nothing but a retraction, other bytes under
    /// the same name and version are refused.
    async fn publish(&self, version: &NewPublished<'_>) -> Result<Published>;

    /// Has no host fetch a version any more. Its bytes stay.
    async fn retract(&self, digest: Digest, decision: &Decision) -> Result<Retracted>;

    /// The versions that there ever were, latest first.
    async fn published(&self, limit: u32) -> Result<Vec<PublishedRow>>;

    /// The bytes of a version that was published, whether it was retracted or not.
    async fn component(&self, digest: Digest) -> Result<Option<Component>>;

    /// Lets the tasks of a route wait, on every host.
    async fn pause(&self, route: &RouteKey, decision: &Decision) -> Result<Decided>;

    /// Takes a pause back.
    async fn resume(&self, route: &RouteKey, decision: &Decision) -> Result<Decided>;

    /// Lets the mock stand in for the real executor of a route, for a while.
    async fn approve(&self, approval: &NewApproval) -> Result<ApprovalRow>;

    /// Ends an approval before its time.
    async fn revoke(&self, id: &ApprovalId, decision: &Decision) -> Result<Revoked>;

    /// The approvals that there ever were, newest first.
    async fn approvals(&self, limit: u32) -> Result<Vec<ApprovalRow>>;

    /// What the real paths with closed breakers met lately, of those that met
    /// failures at all: [`crate::breaker`] says what counts.
    async fn path_evidence(&self) -> Result<Vec<PathEvidence>>;

    /// Changes a breaker, with its events; `false` where somebody else changed
    /// it before.
    async fn move_breaker(&self, change: &BreakerMove<'_>) -> Result<bool>;

    /// Shows that a probe is still under way, for `lease` from now; `false` once
    /// it is no more.
    async fn keep_probe(&self, path: &RealPath, revision: i64, lease: Duration) -> Result<bool>;

    /// Begins a run of the pipeline, with the task of its first stage; where
    /// there is one of that name, nothing is written.
    async fn start_run(&self, run: &NewRun) -> Result<Started>;

    /// Changes a run, with all that belongs to it; `false` where somebody else
    /// changed it before, or it has ended.
    async fn move_run(&self, change: &RunMove<'_>) -> Result<bool>;

    /// Open runs of which the next step can be taken, those that wait longest
    /// first.
    async fn due_runs(&self, limit: u32) -> Result<Vec<Run>>;

    /// The run of that name.
    async fn run(&self, task_id: &str) -> Result<Option<Run>>;

    /// Runs, newest first.
    async fn runs(&self, limit: u32) -> Result<Vec<Run>>;

    /// Asks to end a run; `None` if there is no such run.
    async fn cancel_run(&self, task_id: &str, actor: &str) -> Result<Option<RunCancelled>>;

    /// How the runs went that ended within `since`.
    async fn run_figures(&self, since: Duration) -> Result<RunFigures>;

    /// Asks for a rollout, with its event, unless one is under way on the route
    /// or of the plugin.
    async fn start_rollout(&self, rollout: &NewRollout) -> Result<StartedRollout>;

    /// Changes a rollout, with its event; `None` where somebody else changed it
    /// before, or its state does not know the change. A promotion says on the bus
    /// that the candidate serves, in the same transaction.
    async fn move_rollout(&self, change: &RolloutMove<'_>) -> Result<Option<RolloutRow>>;

    async fn rollout(&self, id: &RolloutId) -> Result<Option<RolloutRow>>;

    /// The rollouts that there ever were, newest first.
    async fn rollouts(&self, limit: u32) -> Result<Vec<RolloutRow>>;

    /// What the attempts of a rollout came to in its present step:
    /// [`crate::rollout::verdict`] says what counts. A wait over `wait_max_ms` is
    /// long.
    async fn rollout_evidence(
        &self,
        rollout: &RolloutRow,
        wait_max_ms: u64,
    ) -> Result<verdict::Evidence>;

    /// Orders a shadow, with its event, unless one watches the route already.
    async fn start_shadow(&self, shadow: &NewShadow) -> Result<StartedShadow>;

    /// Ends a shadow, with its event.
    async fn end_shadow(&self, id: &ShadowId, decision: &Decision) -> Result<EndedShadow>;

    async fn shadow(&self, id: &ShadowId) -> Result<Option<ShadowRow>>;

    /// The shadows that there ever were, newest first.
    async fn shadows(&self, limit: u32) -> Result<Vec<ShadowRow>>;

    /// Writes what a task came to in a shadow, with the event of a difference;
    /// `false` where that was written before, or the task is gone.
    async fn record_shadow(&self, run: &ShadowRun) -> Result<bool>;

    /// Counts tasks that shadows did not run since nothing was spare.
    async fn count_dropped(&self, counts: &[(ShadowId, u64)]) -> Result<()>;

    /// Runs of one task, oldest first, or of one shadow, newest first.
    async fn shadow_runs(&self, filter: &ShadowRunFilter) -> Result<Vec<ShadowRunRow>>;

    /// What the latest runs of a shadow came to, of one route or all.
    async fn shadow_tally(&self, id: &ShadowId, route: Option<&RouteKey>) -> Result<Tally>;

    /// Writes events that accompany no state change of a task.
    async fn record(&self, events: &[NewEvent]) -> Result<()>;

    /// Deletes one batch of what is older than allowed; the number of rows.
    async fn retire(&self, retention: &Retention) -> Result<u64>;

    /// Shows this host process on the bus, and forgets those that have been
    /// silent for a day.
    async fn beat(&self, host: &HostBeat<'_>) -> Result<()>;

    /// Removes this host process from those that show themselves.
    async fn leave(&self, holder: &HolderId) -> Result<()>;

    /// The host processes that show themselves, by name.
    async fn hosts(&self) -> Result<Vec<HostRow>>;

    /// The live hosts that could not run a plugin version at once.
    async fn hosts_lacking(&self, digest: Digest) -> Result<Vec<HostRow>> {
        let mut hosts = self.hosts().await?;
        hosts.retain(|host| host.is_live() && !host.digests.contains(&digest));
        Ok(hosts)
    }

    async fn task(&self, id: MessageId) -> Result<Option<TaskRow>>;

    /// Newest first, without payloads.
    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>>;

    /// All attempts of a task, first to last.
    async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>>;

    async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>>;

    async fn evidence(&self, scope: &Scope) -> Result<Evidence>;

    /// Waits of the attempts that ended within `since`, of one route or all.
    async fn latency(
        &self,
        service: Option<&str>,
        role: Option<&str>,
        since: Duration,
    ) -> Result<Latency>;

    async fn depth(&self) -> Result<Depth>;

    /// How many tasks of a route wait, due or not.
    async fn queued(&self, want: &Want) -> Result<u64>;

    /// The routes on which tasks wait, the first hundred by name.
    async fn waiting(&self) -> Result<Vec<Waiting>>;

    /// The newest published artifact of that task label and path.
    async fn artifact(&self, task_id: &str, path: &str) -> Result<Option<ArtifactRow>>;

    /// The routes of tasks that have not ended; for messages about routes that
    /// nobody serves.
    async fn routes(&self) -> Result<Vec<Route>>;

    /// Examines the database: what keeps the bus from working, or working well.
    /// Changes nothing.
    async fn examine(&self) -> Result<Vec<Finding>>;

    /// Waits until a task may have become due, for hosts that have nothing to
    /// do. A hint only: it may come for nothing and may fail to come, so that
    /// polling must go on beside it. Never comes back where the database gives
    /// no hints.
    async fn hint(&self, _holder: &HolderId) {
        std::future::pending().await
    }

    /// Makes everything durable and lets go of the database. Later calls fail
    /// as [`StoreError::Unavailable`].
    async fn close(&self) -> Result<()>;
}
