//! A bus, its executor's strings in the test's hands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::attempt::{
    Attempt, AttemptControl, AttemptEnd, AttemptReport, Blame, Executor, Kind, Measured, Problem,
    StopReason, Usage,
};
use cogo_host::breaker::Probe;
use cogo_host::bus::{self, BusHandle, BusSettings};
use cogo_host::event::Event;
use cogo_host::ids::{HolderId, MessageId, PluginName};
use cogo_host::report::{Outcome, Report};
use cogo_host::retry::RetryPolicy;
use cogo_host::routing::{
    Assigned, EndedAttempt, Hold, KnownRoute, Routing, ServedRoute, Unassigned,
};
use cogo_host::selection::{Basis, Path, Why};
use cogo_host::stage::Stage;
use cogo_host::store::{AttemptRow, EventFilter, Retention, TaskFilter};
use cogo_host::task::{Claim, NewTask, Status, TaskRow};
use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::faults::{Faults, Op};
use crate::support::bed::Bed;
use crate::support::hand::{self, DOCS, key};
use crate::support::sqlite;

/// No test waits so long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A poll or a lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(3600);

/// Waits for what should happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(PATIENCE, what).await;
    answer.expect("what the test waits for does not happen")
}

/// What a test says an executor does.
enum Act {
    Report(Box<AttemptReport>),
    Panic,
}

/// An executor that does what it is told, attempt by attempt.
pub struct Script {
    calls: mpsc::UnboundedSender<Call>,
    faults: Arc<Faults>,
}

/// An attempt that waits for the test to end it.
pub struct Call {
    pub attempt: Attempt,
    pub control: AttemptControl,
    /// How many claims had begun when the attempt did.
    pub claims: u64,
    act: oneshot::Sender<Act>,
    /// The bus let go of the attempt.
    gone: CancellationToken,
}

#[async_trait]
impl Executor for Script {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        let (act, acted) = oneshot::channel();
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let call = Call {
            attempt,
            control,
            claims: self.faults.begun(Op::Claim),
            act,
            gone,
        };
        self.calls.send(call).unwrap();
        match acted.await {
            Ok(Act::Report(report)) => *report,
            Ok(Act::Panic) => panic!("the executor panics, as it was told to"),
            // The test let go of it: an executor that never returns.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Call {
    pub fn id(&self) -> MessageId {
        self.attempt.fence.id
    }

    pub fn report(self, report: AttemptReport) {
        // The bus may have let go of it.
        let _ = self.act.send(Act::Report(Box::new(report)));
    }

    pub fn end(self, end: AttemptEnd) {
        self.spend(end, Usage::default());
    }

    pub fn spend(self, end: AttemptEnd, usage: Usage) {
        self.report(AttemptReport {
            end,
            measured: Measured {
                run: Duration::from_millis(3),
                usage,
                ..Measured::default()
            },
            artifacts: Vec::new(),
        });
    }

    pub fn done(self) {
        let end = AttemptEnd::Completed(outcome(&self.attempt, "as told"));
        self.end(end);
    }

    pub fn retry(self, code: &str) {
        self.end(AttemptEnd::Retryable {
            problem: problem(code),
            after: None,
        });
    }

    pub fn panic(self) {
        let _ = self.act.send(Act::Panic);
    }

    /// Never returns, whatever the bus asks. What is answered ends with the
    /// bus's patience.
    pub fn hang(self) -> CancellationToken {
        self.gone
    }

    /// Waits until the bus asks the attempt to end.
    pub async fn stopped(&mut self) -> StopReason {
        let stop = soon(self.control.stop.wait_for(Option::is_some)).await;
        stop.unwrap().unwrap()
    }

    /// Gives way as an executor should.
    pub async fn give_way(mut self) -> StopReason {
        let reason = self.stopped().await;
        self.end(AttemptEnd::Stopped(reason));
        reason
    }
}

pub fn problem(code: &str) -> Problem {
    Problem::new(code, "as told", Blame::Worker)
}

pub fn outcome(attempt: &Attempt, said: &str) -> Outcome {
    let known = attempt.route.key.known_role().is_some();
    let report = match known {
        true => Report::BuildTest {
            passed: true,
            tests: 1,
            failures: 0,
            duration_ms: 1,
            report_url: None,
        },
        false => Report::Custom {
            value: Map::from_iter([("said".to_owned(), json!(said))]),
        },
    };
    Outcome {
        report,
        snippet: Some(said.to_owned()),
        url: None,
        attributes: Vec::new(),
    }
}

/// Routes that a test changes while the bus runs.
pub struct Routes {
    table: Mutex<Table>,
}

struct Table {
    served: Vec<ServedRoute>,
    deadline: Duration,
    fallback: bool,
    /// Routes that are not served, though they are this host's.
    held: Vec<KnownRoute>,
    /// Every attempt probes a real path, on these terms.
    probe: Option<Probe>,
    ended: Vec<EndedAttempt>,
    /// Why no task gets an executor.
    unassigned: Option<Unassigned>,
}

pub fn served(route: &str, concurrency: u32, plugin: &str, plugin_concurrency: u32) -> ServedRoute {
    ServedRoute {
        key: key(route),
        shard: None,
        tenant: None,
        concurrency,
        plugin: plugin.parse().unwrap(),
        plugin_concurrency,
        reclaim_foreign_after: None,
        draw: None,
        only_probe: false,
    }
}

impl Routes {
    pub fn serve(&self, served: Vec<ServedRoute>) {
        self.table.lock().unwrap().served = served;
    }

    pub fn deadline(&self, deadline: Duration) {
        self.table.lock().unwrap().deadline = deadline;
    }

    pub fn fall_back(&self) {
        self.table.lock().unwrap().fallback = true;
    }

    /// Serves nothing any more, and knows what it should.
    pub fn hold(&self) {
        let mut table = self.table.lock().unwrap();
        let held = table.served.drain(..).map(|served| served.known());
        table.held = held.collect();
    }

    pub fn probe(&self, terms: Option<Probe>) {
        self.table.lock().unwrap().probe = terms;
    }

    /// What the bus said of attempts on real paths.
    pub fn ended_attempts(&self) -> Vec<EndedAttempt> {
        self.table.lock().unwrap().ended.clone()
    }

    pub fn assign_nothing(&self, why: Option<Unassigned>) {
        self.table.lock().unwrap().unassigned = why;
    }
}

impl Routing for Routes {
    fn served(&self) -> Vec<ServedRoute> {
        self.table.lock().unwrap().served.clone()
    }

    fn known(&self) -> Vec<KnownRoute> {
        let table = self.table.lock().unwrap();
        let served = table.served.iter().map(ServedRoute::known);
        served.chain(table.held.iter().cloned()).collect()
    }

    fn assign(&self, claim: &Claim, _last_attempt: bool) -> Result<Assigned, Unassigned> {
        let table = self.table.lock().unwrap();
        if let Some(why) = &table.unassigned {
            return Err(why.clone());
        }
        let route = table.served.iter().find(|s| s.key == claim.route.key);
        let name: PluginName = match route {
            Some(route) => route.plugin.clone(),
            None => "none".parse().unwrap(),
        };
        Ok(Assigned {
            plugin: hand::plugin(name.as_str(), Kind::Mock),
            why: Why {
                path: if table.probe.is_some() {
                    Path::Real
                } else {
                    Path::Mock
                },
                basis: Basis::Flag,
                fallback: table.fallback,
                probe: table.probe.is_some(),
                approval: None,
                rollout: None,
            },
            deadline: table.deadline,
            probe: table.probe,
            hold: Hold::default(),
        })
    }

    fn ended(&self, attempt: EndedAttempt) {
        self.table.lock().unwrap().ended.push(attempt);
    }
}

/// Everything that one test has.
pub struct Bench {
    pub bed: Bed,
    pub faults: Arc<Faults>,
    pub routes: Arc<Routes>,
    pub settings: BusSettings,
    script: Arc<Script>,
    calls: mpsc::UnboundedReceiver<Call>,
}

impl Bench {
    /// One route, `docs/render`, with four places.
    pub async fn new() -> Self {
        Self::on(sqlite::bed().await)
    }

    /// The same on another bus.
    pub fn on(bed: Bed) -> Self {
        let (calls_tx, calls) = mpsc::unbounded_channel();
        let table = Table {
            served: vec![served(DOCS, 4, "docs", 4)],
            deadline: LONG,
            fallback: false,
            held: Vec::new(),
            probe: None,
            ended: Vec::new(),
            unassigned: None,
        };
        let faults = Arc::new(Faults::over(Arc::clone(&bed.store)));
        Self {
            bed,
            routes: Arc::new(Routes {
                table: Mutex::new(table),
            }),
            settings: settings(),
            script: Arc::new(Script {
                calls: calls_tx,
                faults: Arc::clone(&faults),
            }),
            faults,
            calls,
        }
    }

    pub fn start(&self) -> BusHandle {
        let holder = HolderId::generate("test");
        self.bed
            .watch
            .max_attempts(self.settings.retry.max_attempts);
        bus::start(
            Arc::clone(&self.faults) as _,
            Arc::clone(&self.script) as _,
            Arc::clone(&self.routes) as _,
            holder,
            self.settings.clone(),
        )
        .unwrap()
    }

    pub async fn submit(&self, task: NewTask) -> MessageId {
        self.submit_all(vec![task]).await[0]
    }

    pub async fn submit_all(&self, tasks: Vec<NewTask>) -> Vec<MessageId> {
        let answers = self.bed.store.enqueue(&tasks).await.unwrap();
        let ids: Vec<MessageId> = answers.iter().map(|a| a.id()).collect();
        self.bed.watch.acknowledge(ids.iter().copied());
        ids
    }

    /// The next attempt that reaches the executor.
    pub async fn call(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }

    pub async fn calls(&mut self, n: usize) -> Vec<Call> {
        let mut calls = Vec::with_capacity(n);
        for _ in 0..n {
            calls.push(self.call().await);
        }
        calls
    }

    /// An attempt that has reached the executor already.
    pub fn call_now(&mut self) -> Option<Call> {
        self.calls.try_recv().ok()
    }

    /// The same, for one who answers many at once.
    pub async fn any_call(&mut self) -> Option<Call> {
        self.calls.recv().await
    }

    pub async fn row(&self, id: MessageId) -> TaskRow {
        self.bed.store.task(id).await.unwrap().unwrap()
    }

    /// Waits until the row is so.
    pub async fn until(&self, id: MessageId, is_so: impl Fn(&TaskRow) -> bool) -> TaskRow {
        let mut changed = self.faults.watch();
        soon(async {
            loop {
                let row = self.row(id).await;
                if is_so(&row) {
                    return row;
                }
                changed.changed().await.unwrap();
            }
        })
        .await
    }

    /// Waits until the task has ended, well or not.
    pub async fn ended(&self, id: MessageId) -> TaskRow {
        self.until(id, |row| row.status.is_terminal()).await
    }

    /// Waits until this holds of what the store was asked.
    pub async fn when(&self, is_so: impl Fn(&Faults) -> bool) {
        let mut changed = self.faults.watch();
        let faults = &self.faults;
        soon(changed.wait_for(|_| is_so(faults))).await.unwrap();
    }

    pub async fn events(&self, id: MessageId) -> Vec<Event> {
        let filter = EventFilter {
            message_id: Some(id),
            limit: 1000,
            ..EventFilter::default()
        };
        self.bed.store.events(&filter).await.unwrap()
    }

    pub async fn event_types(&self, id: MessageId) -> Vec<String> {
        let events = self.events(id).await.into_iter();
        events.map(|event| event.event_type).collect()
    }

    pub async fn event(&self, id: MessageId, event_type: &str) -> Event {
        let mut events = self.events(id).await.into_iter();
        events
            .find(|event| event.event_type == event_type)
            .unwrap_or_else(|| panic!("no {event_type}"))
    }

    pub async fn attempts(&self, id: MessageId) -> Vec<AttemptRow> {
        self.bed.store.attempts(id).await.unwrap()
    }

    pub async fn claimed(&self) -> usize {
        let filter = TaskFilter {
            status: Some(Status::Claimed),
            limit: 1000,
            ..TaskFilter::default()
        };
        self.bed.store.tasks(&filter).await.unwrap().len()
    }

    /// Drains the bus and checks what must hold after that.
    pub async fn stop(&self, bus: &BusHandle) {
        bus.drain();
        soon(bus.finished()).await;
        self.bed
            .watch
            .check_drained(&*self.bed.store, bus.holder())
            .await;
        self.bed.check().await;
    }
}

/// Retries at once, polls never, gives up soon.
fn settings() -> BusSettings {
    BusSettings {
        stage: Stage::Staging,
        concurrency: 8,
        lease: LONG,
        poll: LONG,
        retry: RetryPolicy {
            base: Duration::from_millis(1),
            cap: Duration::from_millis(5),
            max_attempts: 3,
        },
        drain: Duration::from_secs(10),
        stop_grace: Duration::from_millis(100),
        retention: Retention {
            tasks: None,
            events: None,
            batch: 100,
        },
        until_idle: false,
    }
}
