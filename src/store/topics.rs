//! The calls of [`Store`](super::Store) that either database answers in the same
//! way: by the module of that topic, with its errors named.
//!
//! A macro since `async_trait` wants the whole implementation in one block, and
//! the topics are modules, which no type can hold.

/// Implements the store with the topics of the modules that the caller has; `own`
/// are the calls that it answers in a way of its own.
macro_rules! store_by_topics {
    ($store:ident { $($own:tt)* }) => {
        #[async_trait]
        impl Store for $store {
            $($own)*

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

            async fn mend(&self, limit: u32) -> Result<u64> {
                self.named(mend::mend(self, limit)).await
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
        }
    };
}
pub(super) use store_by_topics;
