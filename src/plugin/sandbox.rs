//! Runs attempts: a fresh instance for each, on the guests' own runtime, cut off
//! when its time is up or it does not stop when asked.
//!
//! Every way in which an attempt can end is mapped to an [`AttemptEnd`] once, in
//! [`outcome`] and [`failure`]; no error of the engine leaves this module.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::Store;

use crate::artifacts::Artifacts;
use crate::artifacts::unpublished::Unpublished;
use crate::attempt::{
    Attempt, AttemptControl, AttemptEnd, AttemptReport, Blame, Executor, Measured, PluginVersion,
    Problem, StopReason, Usage,
};
use crate::plugin::bindings::cogo::executor::contract;
use crate::plugin::catalog::Catalog;
use crate::plugin::host::{State, StoreParts, TaskScope, new_store, stop_asked};
pub use crate::plugin::journal::LogTap;
use crate::plugin::journal::{Fields, Journal};
use crate::plugin::limits::TimeBudget;
use crate::plugin::load::Plugin;
use crate::plugin::outbound::{Hooks, Way};
use crate::plugin::text;
use aside::Aside;

mod aside;
pub(crate) mod failure;
mod outcome;

/// How long a guest may go on after it was asked to stop. Leaves the executor
/// the rest of its two seconds.
pub const GRACE: Duration = Duration::from_millis(1_900);

/// The runtimes of the host.
#[derive(Debug, Clone)]
pub struct Runtimes {
    /// Runs guests and nothing else.
    pub guest: Handle,
    /// Runs requests and artifacts, which guests must not hold up.
    pub io: Handle,
}

/// The executor: attempts on the plugins of a catalog.
pub struct Sandbox {
    catalog: Arc<Catalog>,
    runtimes: Runtimes,
    artifacts: Arc<dyn Artifacts>,
    grace: Duration,
    tap: Option<LogTap>,
    aside: Aside,
}

impl Sandbox {
    pub fn new(catalog: Arc<Catalog>, runtimes: Runtimes, artifacts: Arc<dyn Artifacts>) -> Self {
        Self {
            catalog,
            runtimes,
            artifacts,
            grace: GRACE,
            tap: None,
            aside: Aside::default(),
        }
    }

    /// The same with somebody who hears all logs while attempts run.
    #[must_use]
    pub fn with_log_tap(mut self, tap: LogTap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// The same with another time to stop in, for tests.
    #[must_use]
    pub const fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs an attempt on a plugin at hand, whatever the catalog says.
    pub async fn run(
        &self,
        plugin: Arc<Plugin>,
        attempt: Attempt,
        mut control: AttemptControl,
    ) -> AttemptReport {
        let start = Instant::now();
        let budget = TimeBudget::starting(start, attempt.deadline, self.grace);
        // A shadow takes none of the places that attempts wait for; whoever runs
        // it bounds how many there are.
        let permit = match attempt.shadow {
            Some(_) => None,
            None => match permit(&plugin, &mut control, budget).await {
                Ok(permit) => Some(permit),
                Err(end) => return unmeasured(end, start),
            },
        };
        let guests = match attempt.shadow {
            Some(_) => self.aside.handle().unwrap_or(&self.runtimes.guest),
            None => &self.runtimes.guest,
        };
        let run = Run {
            plugin,
            attempt,
            control,
            budget,
            grace: self.grace,
            artifacts: Arc::clone(&self.artifacts),
            io: self.runtimes.io.clone(),
            tap: self.tap.clone(),
            _permit: permit,
        };
        // Dropping the caller's future aborts the attempt. Boxed, since a task is
        // moved several times on its way to the runtime and this one is large.
        let running = Box::pin(run.run());
        let running = AbortOnDropHandle::new(guests.spawn(running));
        match running.await {
            Ok(report) => report,
            Err(cause) => unmeasured(AttemptEnd::HostFault(host_fault(cause)), start),
        }
    }
}

#[async_trait]
impl Executor for Sandbox {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        match self.catalog.by_digest(attempt.plugin.digest) {
            Some(plugin) => self.run(plugin, attempt, control).await,
            None => unmeasured(AttemptEnd::HostFault(gone(&attempt.plugin)), Instant::now()),
        }
    }
}

/// The version was unloaded between the choice and the run.
fn gone(plugin: &PluginVersion) -> Problem {
    let message = format!(
        "{} {} ({}) is not loaded any more",
        plugin.name, plugin.version, plugin.digest
    );
    Problem::new("plugin_gone", message, Blame::Host)
}

/// Waits for the plugin to have room for one more attempt.
async fn permit(
    plugin: &Plugin,
    control: &mut AttemptControl,
    budget: TimeBudget,
) -> Result<OwnedSemaphorePermit, AttemptEnd> {
    let permits = Arc::clone(&plugin.permits);
    if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
        return Ok(permit);
    }
    let busy = |message| AttemptEnd::HostFault(Problem::new("plugin_busy", message, Blame::Host));
    tokio::select! {
        permit = permits.acquire_owned() => permit.map_err(|_| busy("the plugin takes no more")),
        reason = stop_asked(Some(&mut control.stop)) => Err(AttemptEnd::Stopped(reason)),
        // It never ran, so it is given back.
        () = tokio::time::sleep_until(budget.end.into()) => {
            Err(busy("all attempts that the plugin may run at once were taken until the deadline"))
        }
    }
}

/// A host call that panicked ends its attempt and nothing else.
fn host_fault(cause: JoinError) -> Problem {
    let message = match cause.try_into_panic() {
        Ok(payload) => {
            let said = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            format!("a host call panicked: {}", text::cut(said, 500))
        }
        Err(_) => "the host is going down".to_owned(),
    };
    Problem::new("host_panic", message, Blame::Host)
}

fn unmeasured(end: AttemptEnd, start: Instant) -> AttemptReport {
    AttemptReport {
        end,
        measured: Measured {
            run: start.elapsed(),
            ..Measured::default()
        },
        artifacts: Vec::new(),
    }
}

/// One attempt on its way through a guest.
struct Run {
    plugin: Arc<Plugin>,
    attempt: Attempt,
    control: AttemptControl,
    budget: TimeBudget,
    grace: Duration,
    artifacts: Arc<dyn Artifacts>,
    io: Handle,
    tap: Option<LogTap>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// How the guest's call ended, before anybody judged it.
pub(crate) enum CallEnd {
    Returned(Result<contract::Outcome, contract::Failure>),
    Trapped(wasmtime::Error),
    /// The guest did not come back in time.
    Cut(StopReason),
}

impl Run {
    async fn run(mut self) -> AttemptReport {
        let limits = self.plugin.limits();
        let journal = Journal::new(self.budget.start, limits.log.clone());
        let journal = Arc::new(journal.tapped(self.tap.clone()));
        let mut store = self.store(Arc::clone(&journal));
        let mut busy = Duration::ZERO;
        let called = {
            let call = call(
                &self.plugin,
                &mut store,
                &self.attempt,
                &journal,
                self.budget,
            );
            let cut = cut(&mut self.control, self.budget, self.grace);
            tokio::select! {
                biased;
                called = timed(call, &mut busy) => called,
                reason = cut => CallEnd::Cut(reason),
            }
        };
        let peak = store.data().limiter().peak();
        let end = outcome::of(called, store.data(), &self.attempt.route.key);
        let task = store.data_mut().take_task();
        drop(store);
        let (usage, artifacts) = task.map_or_else(
            || (Usage::default(), Vec::new()),
            |task| (task.usage, task.staged),
        );
        let entries = journal.take();
        AttemptReport {
            end,
            measured: Measured {
                run: self.budget.start.elapsed(),
                busy,
                usage,
                peak_memory_bytes: peak as u64,
                outbound_requests: entries.requests,
                outbound_denied: entries.denied,
                spans: entries.spans,
                log: entries.log,
                log_dropped: entries.dropped,
            },
            artifacts,
        }
    }

    /// A shadow publishes nothing.
    fn artifacts(&self) -> Arc<dyn Artifacts> {
        let artifacts = Arc::clone(&self.artifacts);
        match self.attempt.shadow {
            Some(_) => Arc::new(Unpublished(artifacts)),
            None => artifacts,
        }
    }

    fn store(&self, journal: Arc<Journal>) -> Store<State> {
        let (plugin, attempt) = (&self.plugin, &self.attempt);
        let hooks = Hooks::new(Way {
            outlet: Arc::clone(&plugin.outlet),
            journal: Arc::clone(&journal),
            io: self.io.clone(),
            trace_id: attempt.trace_id.clone(),
            shadow: attempt.shadow.clone(),
        });
        let task = TaskScope {
            trace_id: attempt.trace_id.clone(),
            task_id: attempt.task_id.clone(),
            role: attempt.route.key.known_role(),
            allowance: attempt.allowance.clone(),
            stop: self.control.stop.clone(),
            progress: self.control.progress.clone(),
            artifacts: self.artifacts(),
            io: self.io.clone(),
            usage: Usage::default(),
            staged: Vec::new(),
        };
        let parts = StoreParts {
            limits: Arc::clone(plugin.limits()),
            config: Arc::clone(&plugin.config),
            hooks,
            journal,
            budget: self.budget,
            task: Some(task),
        };
        new_store(plugin.pre().engine(), parts)
    }
}

/// Makes the instance and calls it.
async fn call(
    plugin: &Plugin,
    store: &mut Store<State>,
    attempt: &Attempt,
    journal: &Journal,
    budget: TimeBudget,
) -> CallEnd {
    let span = journal.open("instantiate", Fields::new());
    let instance = plugin.pre().instantiate_async(&mut *store).await;
    journal.close(span, Fields::new());
    let instance = match instance {
        Ok(instance) => instance,
        Err(cause) => return CallEnd::Trapped(cause),
    };
    let span = journal.open("call", Fields::new());
    let message_id = attempt.fence.id.to_string();
    // A repeat by an operator is a row of its own, so the row's id is constant
    // over attempts and different for a repeat. A shadow must not join the run
    // whose result counts.
    let idempotency_key = match &attempt.shadow {
        Some(shadow) => format!("{message_id}:{}", shadow.id),
        None => message_id.clone(),
    };
    let left = budget.end.saturating_duration_since(Instant::now());
    let task = outcome::task(attempt, (&message_id, &idempotency_key), left);
    let called = instance
        .cogo_executor_executor()
        .call_execute(store, task)
        .await;
    journal.close(span, Fields::new());
    match called {
        Ok(returned) => CallEnd::Returned(returned),
        Err(cause) => CallEnd::Trapped(cause),
    }
}

/// Adds up how long a future keeps its thread. By the clock on the wall: one that
/// counts the thread's own time would be two calls of the system for each poll.
async fn timed<F: Future>(work: F, busy: &mut Duration) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        let begun = Instant::now();
        let polled = work.as_mut().poll(context);
        *busy += begun.elapsed();
        polled
    })
    .await
}

/// When and why the guest's call is dropped.
async fn cut(control: &mut AttemptControl, budget: TimeBudget, grace: Duration) -> StopReason {
    let asked = async {
        let reason = stop_asked(Some(&mut control.stop)).await;
        tokio::time::sleep(grace).await;
        reason
    };
    tokio::select! {
        reason = asked => reason,
        () = tokio::time::sleep_until(budget.end.into()) => StopReason::Deadline,
    }
}
