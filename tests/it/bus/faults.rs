//! A store that fails, hangs or forgets to answer where a test says so, and
//! tells what it was asked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::attempt::Fence;
use cogo_host::breaker::RealPath;
use cogo_host::control::{
    ApprovalRow, Controls, Decided, Decision, Published, PublishedRow, Retracted, Revoked,
    ServingOrder,
};
use cogo_host::event::{Event, NewEvent};
use cogo_host::finding::Finding;
use cogo_host::gate::{Evidence, Scope};
use cogo_host::ids::{Digest, HolderId, MessageId, ShadowId};
use cogo_host::pipeline::{NewRun, Run};
use cogo_host::rollout::{RolloutRow, verdict};
use cogo_host::route::{Route, RouteKey};
use cogo_host::selection::{ApprovalId, RolloutId};
use cogo_host::shadow::verdict::Tally;
use cogo_host::shadow::{ShadowRow, ShadowRun, ShadowRunRow};
use cogo_host::store::{
    ArtifactRow, AttemptRow, BreakerMove, Cancelled, ClaimRequest, Component, Depth, EndedShadow,
    EventFilter, HostBeat, HostRow, Latency, Migration, NewApproval, NewPublished, NewRollout,
    NewShadow, PathEvidence, Renewal, Rescued, Result, Retention, RolloutMove, RunCancelled,
    RunFigures, RunMove, Settled, Settlement, ShadowRunFilter, Started, StartedRollout,
    StartedShadow, Store, StoreError, TaskFilter, Waiting, Want,
};
use cogo_host::task::{Claim, Enqueued, NewTask, Next, TaskRow};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

/// What the loop calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Claim,
    Renew,
    CancelRequests,
    Settle,
    Rescue,
    Expire,
    NextDue,
    Retire,
    Controls,
    Ping,
}

/// Where a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It has no effect.
    Before,
    /// It has its effect; nobody learns of it.
    After,
}

pub struct Faults {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
    /// Counts everything that happens here, so that a test can wait for it.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    away: bool,
    blocked: HashSet<(Op, Side)>,
    /// Calls that hang before their effect, by how many had begun with them.
    held: HashSet<(Op, u64)>,
    random: Option<(StdRng, f64)>,
    refuses_nul: bool,
    /// Retention always finds more to delete.
    always_retires: bool,
    /// Rows that somebody else keeps locked.
    locked: HashSet<MessageId>,
    panics: HashSet<Op>,
    begun: HashMap<Op, u64>,
    ended: HashMap<Op, u64>,
    /// The limit in all, and each want's, of every claim.
    asked: Vec<(u32, Vec<Want>)>,
    /// What each call to settle was about.
    settles: Vec<Vec<Fence>>,
    /// How many settlements each successful commit had.
    commits: Vec<usize>,
}

impl Faults {
    pub fn over(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
        answer
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap())
    }

    /// Nothing gets through any more, or again.
    pub fn away(&self, away: bool) {
        self.change(|state| state.away = away);
    }

    /// Calls hang there until released.
    pub fn block(&self, op: Op, side: Side) {
        self.change(|state| state.blocked.insert((op, side)));
    }

    pub fn release(&self, op: Op, side: Side) {
        self.change(|state| state.blocked.remove(&(op, side)));
    }

    /// The `nth` call hangs, from 1, while others get through.
    pub fn hold(&self, op: Op, nth: u64) {
        self.change(|state| state.held.insert((op, nth)));
    }

    pub fn let_go(&self, op: Op, nth: u64) {
        self.change(|state| state.held.remove(&(op, nth)));
    }

    /// Each call of the loop fails with this probability, before or after.
    pub fn random(&self, seed: u64, probability: f64) {
        let random = StdRng::seed_from_u64(seed);
        self.change(|state| state.random = Some((random, probability)));
    }

    /// Settlements that hold a NUL are refused with their whole batch.
    pub fn refuse_nul(&self) {
        self.change(|state| state.refuses_nul = true);
    }

    /// However much retention deletes, there is more.
    pub fn always_retire(&self) {
        self.change(|state| state.always_retires = true);
    }

    /// What settles this task fails for now.
    pub fn lock(&self, id: MessageId) {
        self.change(|state| state.locked.insert(id));
    }

    pub fn unlock(&self) {
        self.change(|state| state.locked.clear());
    }

    /// The next call panics.
    pub fn panic_at(&self, op: Op) {
        self.change(|state| state.panics.insert(op));
    }

    pub fn begun(&self, op: Op) -> u64 {
        self.read(|state| state.begun.get(&op).copied().unwrap_or(0))
    }

    pub fn ended(&self, op: Op) -> u64 {
        self.read(|state| state.ended.get(&op).copied().unwrap_or(0))
    }

    pub fn asked(&self) -> Vec<(u32, Vec<Want>)> {
        self.read(|state| state.asked.clone())
    }

    pub fn settles(&self) -> Vec<Vec<Fence>> {
        self.read(|state| state.settles.clone())
    }

    pub fn commits(&self) -> Vec<usize> {
        self.read(|state| state.commits.clone())
    }

    /// Sees everything that happens from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn pass<T>(&self, op: Op, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (nth, fault, panics) = self.change(|state| {
            let begun = state.begun.entry(op).or_default();
            *begun += 1;
            (*begun, state.draw(), state.panics.remove(&op))
        });
        assert!(!panics, "the store panics, as it was told to");
        self.until(|state| !state.held.contains(&(op, nth))).await;
        self.while_blocked(op, Side::Before).await;
        let away = self.read(|state| state.away);
        let answer = if away || fault == Some(Side::Before) {
            Err(StoreError::Unavailable("away".to_owned()))
        } else {
            work.await
        };
        self.while_blocked(op, Side::After).await;
        self.change(|state| *state.ended.entry(op).or_default() += 1);
        match fault {
            Some(Side::After) => Err(StoreError::Unavailable("the answer was lost".to_owned())),
            _ => answer,
        }
    }

    async fn while_blocked(&self, op: Op, side: Side) {
        self.until(|state| !state.blocked.contains(&(op, side)))
            .await;
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        let mut changed = self.watch();
        changed.wait_for(|_| self.read(&is_so)).await.unwrap();
    }
}

impl State {
    fn draw(&mut self) -> Option<Side> {
        let (random, probability) = self.random.as_mut()?;
        if !random.random_bool(*probability) {
            return None;
        }
        Some(match random.random_bool(0.5) {
            true => Side::Before,
            false => Side::After,
        })
    }
}

fn holds_nul(settlement: &Settlement) -> bool {
    match &settlement.next {
        Next::Done { result, .. } => result.to_string().contains("\\u0000"),
        Next::Queued { problem, .. } => problem
            .as_ref()
            .is_some_and(|problem| problem.message.contains('\0')),
        Next::Failed { problem } => problem.message.contains('\0'),
    }
}

#[async_trait]
impl Store for Faults {
    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Vec<Claim>> {
        self.change(|state| state.asked.push((request.limit, request.wants.clone())));
        self.pass(Op::Claim, self.inner.claim(request)).await
    }

    async fn renew(
        &self,
        holder: &HolderId,
        fences: &[Fence],
        lease: Duration,
    ) -> Result<Vec<Renewal>> {
        self.pass(Op::Renew, self.inner.renew(holder, fences, lease))
            .await
    }

    async fn unanswered(&self, holder: &HolderId, known: &[Fence]) -> Result<Vec<Claim>> {
        self.inner.unanswered(holder, known).await
    }

    async fn cancel_requests(&self, holder: &HolderId) -> Result<Vec<Fence>> {
        self.pass(Op::CancelRequests, self.inner.cancel_requests(holder))
            .await
    }

    async fn settle(&self, holder: &HolderId, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        let fences = settlements.iter().map(|s| s.fence).collect();
        self.change(|state| state.settles.push(fences));
        let refused = self.read(|state| state.refuses_nul) && settlements.iter().any(holds_nul);
        let locked = |state: &State| {
            settlements
                .iter()
                .any(|s| state.locked.contains(&s.fence.id))
        };
        let settle = async {
            if self.read(locked) {
                return Err(StoreError::Unavailable("lock timeout".to_owned()));
            }
            if refused {
                return Err(StoreError::Refused("\\u0000 cannot be text".to_owned()));
            }
            let settled = self.inner.settle(holder, settlements).await?;
            self.change(|state| state.commits.push(settled.len()));
            Ok(settled)
        };
        self.pass(Op::Settle, settle).await
    }

    async fn rescue(&self, limit: u32, default_max_attempts: u32) -> Result<Vec<Rescued>> {
        let rescue = self.inner.rescue(limit, default_max_attempts);
        self.pass(Op::Rescue, rescue).await
    }

    async fn expire(&self, wants: &[Want], limit: u32) -> Result<Vec<MessageId>> {
        self.pass(Op::Expire, self.inner.expire(wants, limit)).await
    }

    async fn mend(&self, limit: u32) -> Result<u64> {
        self.inner.mend(limit).await
    }

    async fn next_due(&self, wants: &[Want]) -> Result<Option<Duration>> {
        self.pass(Op::NextDue, self.inner.next_due(wants)).await
    }

    async fn retire(&self, retention: &Retention) -> Result<u64> {
        let retire = async {
            let deleted = self.inner.retire(retention).await?;
            let more = self.read(|state| state.always_retires);
            Ok(if more {
                u64::from(retention.batch)
            } else {
                deleted
            })
        };
        self.pass(Op::Retire, retire).await
    }

    async fn migrate(&self, dry_run: bool) -> Result<Migration> {
        self.inner.migrate(dry_run).await
    }

    async fn check_schema(&self) -> Result<()> {
        self.inner.check_schema().await
    }

    async fn ping(&self) -> Result<()> {
        self.pass(Op::Ping, self.inner.ping()).await
    }

    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        self.inner.enqueue(tasks).await
    }

    async fn cancel(&self, id: MessageId, actor: &str) -> Result<Option<Cancelled>> {
        self.inner.cancel(id, actor).await
    }

    async fn controls(&self) -> Result<Controls> {
        self.pass(Op::Controls, self.inner.controls()).await
    }

    async fn set_flag(
        &self,
        route: &RouteKey,
        to: Option<bool>,
        decision: &Decision,
    ) -> Result<Decided> {
        self.inner.set_flag(route, to, decision).await
    }

    async fn pause(&self, route: &RouteKey, decision: &Decision) -> Result<Decided> {
        self.inner.pause(route, decision).await
    }

    async fn resume(&self, route: &RouteKey, decision: &Decision) -> Result<Decided> {
        self.inner.resume(route, decision).await
    }

    async fn approve(&self, approval: &NewApproval) -> Result<ApprovalRow> {
        self.inner.approve(approval).await
    }

    async fn revoke(&self, id: &ApprovalId, decision: &Decision) -> Result<Revoked> {
        self.inner.revoke(id, decision).await
    }

    async fn approvals(&self, limit: u32) -> Result<Vec<ApprovalRow>> {
        self.inner.approvals(limit).await
    }

    async fn path_evidence(&self) -> Result<Vec<PathEvidence>> {
        self.inner.path_evidence().await
    }

    async fn move_breaker(&self, change: &BreakerMove<'_>) -> Result<bool> {
        self.inner.move_breaker(change).await
    }

    async fn start_rollout(&self, rollout: &NewRollout) -> Result<StartedRollout> {
        self.inner.start_rollout(rollout).await
    }

    async fn move_rollout(&self, change: &RolloutMove<'_>) -> Result<Option<RolloutRow>> {
        self.inner.move_rollout(change).await
    }

    async fn rollout(&self, id: &RolloutId) -> Result<Option<RolloutRow>> {
        self.inner.rollout(id).await
    }

    async fn rollouts(&self, limit: u32) -> Result<Vec<RolloutRow>> {
        self.inner.rollouts(limit).await
    }

    async fn rollout_evidence(
        &self,
        rollout: &RolloutRow,
        wait_max_ms: u64,
    ) -> Result<verdict::Evidence> {
        self.inner.rollout_evidence(rollout, wait_max_ms).await
    }

    async fn keep_probe(&self, path: &RealPath, revision: i64, lease: Duration) -> Result<bool> {
        self.inner.keep_probe(path, revision, lease).await
    }

    async fn start_run(&self, run: &NewRun) -> Result<Started> {
        self.inner.start_run(run).await
    }

    async fn move_run(&self, change: &RunMove<'_>) -> Result<bool> {
        self.inner.move_run(change).await
    }

    async fn due_runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.inner.due_runs(limit).await
    }

    async fn run(&self, task_id: &str) -> Result<Option<Run>> {
        self.inner.run(task_id).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.inner.runs(limit).await
    }

    async fn cancel_run(&self, task_id: &str, actor: &str) -> Result<Option<RunCancelled>> {
        self.inner.cancel_run(task_id, actor).await
    }

    async fn run_figures(&self, since: Duration) -> Result<RunFigures> {
        self.inner.run_figures(since).await
    }

    async fn start_shadow(&self, new: &NewShadow) -> Result<StartedShadow> {
        self.inner.start_shadow(new).await
    }

    async fn end_shadow(&self, id: &ShadowId, decision: &Decision) -> Result<EndedShadow> {
        self.inner.end_shadow(id, decision).await
    }

    async fn shadow(&self, id: &ShadowId) -> Result<Option<ShadowRow>> {
        self.inner.shadow(id).await
    }

    async fn shadows(&self, limit: u32) -> Result<Vec<ShadowRow>> {
        self.inner.shadows(limit).await
    }

    async fn record_shadow(&self, run: &ShadowRun) -> Result<bool> {
        self.inner.record_shadow(run).await
    }

    async fn count_dropped(&self, counts: &[(ShadowId, u64)]) -> Result<()> {
        self.inner.count_dropped(counts).await
    }

    async fn shadow_runs(&self, filter: &ShadowRunFilter) -> Result<Vec<ShadowRunRow>> {
        self.inner.shadow_runs(filter).await
    }

    async fn shadow_tally(&self, id: &ShadowId, route: Option<&RouteKey>) -> Result<Tally> {
        self.inner.shadow_tally(id, route).await
    }

    async fn record(&self, events: &[NewEvent]) -> Result<()> {
        self.inner.record(events).await
    }

    async fn beat(&self, host: &HostBeat<'_>) -> Result<()> {
        self.inner.beat(host).await
    }

    async fn set_serving(&self, order: &ServingOrder, decision: &Decision) -> Result<Decided> {
        self.inner.set_serving(order, decision).await
    }

    async fn publish(&self, version: &NewPublished<'_>) -> Result<Published> {
        self.inner.publish(version).await
    }

    async fn retract(&self, digest: Digest, decision: &Decision) -> Result<Retracted> {
        self.inner.retract(digest, decision).await
    }

    async fn published(&self, limit: u32) -> Result<Vec<PublishedRow>> {
        self.inner.published(limit).await
    }

    async fn component(&self, digest: Digest) -> Result<Option<Component>> {
        self.inner.component(digest).await
    }

    async fn leave(&self, holder: &HolderId) -> Result<()> {
        self.inner.leave(holder).await
    }

    async fn hosts(&self) -> Result<Vec<HostRow>> {
        self.inner.hosts().await
    }

    async fn task(&self, id: MessageId) -> Result<Option<TaskRow>> {
        self.inner.task(id).await
    }

    async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        self.inner.tasks(filter).await
    }

    async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>> {
        self.inner.attempts(id).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        self.inner.events(filter).await
    }

    async fn evidence(&self, scope: &Scope) -> Result<Evidence> {
        self.inner.evidence(scope).await
    }

    async fn latency(
        &self,
        service: Option<&str>,
        role: Option<&str>,
        since: Duration,
    ) -> Result<Latency> {
        self.inner.latency(service, role, since).await
    }

    async fn depth(&self) -> Result<Depth> {
        self.inner.depth().await
    }

    async fn queued(&self, want: &Want) -> Result<u64> {
        self.inner.queued(want).await
    }

    async fn waiting(&self) -> Result<Vec<Waiting>> {
        self.inner.waiting().await
    }

    async fn artifact(&self, task_id: &str, path: &str) -> Result<Option<ArtifactRow>> {
        self.inner.artifact(task_id, path).await
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        self.inner.routes().await
    }

    async fn open_to_supabase(&self, dry_run: bool) -> Result<Vec<String>> {
        self.inner.open_to_supabase(dry_run).await
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.inner.examine().await
    }

    async fn hint(&self, holder: &HolderId) {
        self.inner.hint(holder).await;
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
