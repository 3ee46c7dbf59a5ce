//! The acceptance checklist of the real path: what a smoke test looks at, and
//! what each line says of what was seen.
//!
//! A smoke test puts two build-tests on the bus of a running host, each with a
//! trace that [`TraceId::generate_smoke`] made: one that is to pass, and one
//! whose sources nobody can fetch, so that it is retried and fails for good.
//! Windows of a gate, rollouts and breakers leave such traces out; the gates
//! over these two traces count them.
//!
//! Pure: what was seen goes in, the lines come out. A line that cannot be checked
//! is inconclusive, never passed.
//!
//! [`TraceId::generate_smoke`]: crate::ids::TraceId::generate_smoke

use serde::{Deserialize, Serialize};

use crate::api::{ExecutorNow, RouteView};
use crate::attempt::{AttemptOutcome, Kind};
use crate::codes;
use crate::event::{self, EXECUTE_DONE, EXECUTE_ENQUEUED, Event, RoleStep, role_event};
use crate::gate::Verdict;
use crate::route::RouteKey;
use crate::selection::{HoldReason, Path, Why};
use crate::task::{Status, TaskRow};
use crate::trace::{AttemptView, TaskView};

/// Attempts of a task of the test: one to fail, and one to fail for good.
pub const ATTEMPTS: u32 = 2;

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Stable, for scripts.
    pub name: &'static str,
    /// What it asks for.
    pub wanted: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What mends it, where it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    name: &'static str,
    wanted: &'static str,
}

const fn ask(name: &'static str, wanted: &'static str) -> Ask {
    Ask { name, wanted }
}

pub const REAL_PATH: Ask = ask("real_path_enabled", "tasks of the route get the real path");
pub const SUCCESS: Ask = ask("success", "a build-test passes on the real path");
pub const SUCCESS_EVENTS: Ask = ask("success_events", "its events are recorded");
pub const RETRY: Ask = ask("retry", "an attempt that fails is retried, and recorded");
pub const FAILURE: Ask = ask(
    "failure",
    "used up, the task fails for good, and is recorded",
);
pub const TRACE_IDS: Ask = ask("trace_ids", "every event carries its task's trace_id");
pub const GATE: Ask = ask("gate", "the gate passes over the trace of the success");
pub const GATE_REFUSES: Ask = ask(
    "gate_refuses",
    "the gate fails over the trace of the failure",
);

/// What is asked once the tasks are on the bus.
pub const OF_TASKS: [Ask; 7] = [
    SUCCESS,
    SUCCESS_EVENTS,
    RETRY,
    FAILURE,
    TRACE_IDS,
    GATE,
    GATE_REFUSES,
];

impl Ask {
    fn passes(self, found: impl Into<String>) -> Line {
        self.line(Verdict::Pass, found, None)
    }

    fn fails(self, found: impl Into<String>, fix: impl Into<String>) -> Line {
        self.line(Verdict::Fail, found, Some(fix.into()))
    }

    /// It could not be looked at.
    pub fn open(self, found: impl Into<String>, fix: impl Into<String>) -> Line {
        self.line(Verdict::Inconclusive, found, Some(fix.into()))
    }

    fn line(self, verdict: Verdict, found: impl Into<String>, fix: Option<String>) -> Line {
        Line {
            name: self.name,
            wanted: self.wanted,
            verdict,
            found: found.into(),
            fix,
        }
    }
}

/// What the lines come to: one that fails decides, and all must pass.
pub fn verdict(lines: &[Line]) -> Verdict {
    let any = |verdict| lines.iter().any(|line| line.verdict == verdict);
    match (any(Verdict::Fail), any(Verdict::Inconclusive)) {
        (true, _) => Verdict::Fail,
        (false, true) => Verdict::Inconclusive,
        (false, false) if lines.is_empty() => Verdict::Inconclusive,
        (false, false) => Verdict::Pass,
    }
}

/// A task of the test, as the API shows it, and its events by its id.
#[derive(Debug, Clone)]
pub struct Seen {
    pub task: TaskView,
    pub events: Vec<Event>,
}

/// What the API says of a gate.
#[derive(Debug, Clone, Deserialize)]
pub struct GateSeen {
    pub verdict: Verdict,
    pub checks: Vec<CheckSeen>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct CheckSeen {
    pub name: String,
    pub verdict: Verdict,
    #[serde(default)]
    pub value: Option<f64>,
    #[serde(default)]
    pub threshold: f64,
    #[serde(default)]
    pub note: Option<String>,
}

impl CheckSeen {
    fn told(&self) -> String {
        let value = self
            .value
            .map_or_else(|| "no data".to_owned(), |value| value.to_string());
        let note = self.note.as_deref().unwrap_or_default();
        format!("{} is {value}, limit {} {note}", self.name, self.threshold)
            .trim_end()
            .to_owned()
    }
}

/// Whether a task of the route would get the real path now.
pub fn real_path(key: &RouteKey, routes: &[RouteView]) -> Line {
    let Some(route) = routes.iter().find(|route| route.route == *key) else {
        return REAL_PATH.fails(
            format!("this host does not serve {key}"),
            format!("add [route.\"{key}\"] to cogo.toml with `real` and `mock`, or ask another host with --host"),
        );
    };
    match &route.now {
        ExecutorNow::Runs { executor, why } => {
            let told = format!("{key} runs on {} {}", executor.name, executor.version);
            match (why, executor.kind) {
                (why, Kind::Real) if why.path == Path::Real && !why.fallback => {
                    REAL_PATH.passes(format!("{told}, which is real"))
                }
                (why, Kind::Mock) if why.path == Path::Real => REAL_PATH.fails(
                    format!("{told}, which counts as a mock"),
                    format!(
                        "if it does the work, say so: `kind = \"real\"` under [plugin.{}]",
                        executor.name
                    ),
                ),
                (why, _) => not_real(key, route, &told, why),
            }
        }
        ExecutorNow::Held { reason } => held(key, *reason),
        ExecutorNow::Missing { problem } => REAL_PATH.fails(
            format!("nothing can run a task of {key}: {problem}"),
            "`cogo-host plugin list` shows what was loaded, and what was refused",
        ),
    }
}

fn not_real(key: &RouteKey, route: &RouteView, told: &str, why: &Why) -> Line {
    if why.fallback {
        let breaker = route.decided.breaker.as_ref();
        let outage = breaker.and_then(|breaker| breaker.state.outage());
        let cause = outage.map_or_else(
            || "the real path is taken for down".to_owned(),
            |outage| format!("the real path is down: {}", outage.cause),
        );
        return REAL_PATH.fails(
            format!("{told} in place of the real executor; {cause}"),
            "bring the worker at COGO_WORKER_URL back; the route follows by itself",
        );
    }
    let by = route.decided.flag.as_ref().map_or_else(
        || "the configuration leaves the real path off".to_owned(),
        |flag| match &flag.reason {
            Some(reason) => format!("{} turned its flag off: {reason}", flag.actor),
            None => format!("{} turned its flag off", flag.actor),
        },
    );
    REAL_PATH.fails(
        format!("{told}, not on the real path; {by}"),
        format!("`cogo-host flag set {key} on`, or ENABLE_COGO_WORKER=true for the host"),
    )
}

fn held(key: &RouteKey, reason: HoldReason) -> Line {
    let (why, fix) = match reason {
        HoldReason::Paused => (
            "somebody paused it",
            format!("`cogo-host route resume {key}`"),
        ),
        HoldReason::FlagOff => (
            "its flag is off, and production runs no mock",
            format!("`cogo-host flag set {key} on`"),
        ),
        HoldReason::BreakerOpen => (
            "its real path is down",
            "bring the worker at COGO_WORKER_URL back; the route follows by itself".to_owned(),
        ),
    };
    REAL_PATH.fails(format!("{key} is held: {why}"), fix)
}

/// The lines of the task that is to pass.
pub fn success(key: &RouteKey, seen: &Seen) -> [Line; 2] {
    let done = role_event(key, RoleStep::Done);
    let events = recorded(
        SUCCESS_EVENTS,
        seen,
        &[EXECUTE_ENQUEUED, EXECUTE_DONE, &done],
    );
    [passed(seen), events]
}

fn passed(seen: &Seen) -> Line {
    let task = &seen.task.task;
    if !task.status.is_terminal() {
        return unended(SUCCESS, task);
    }
    let Some(last) = seen.task.attempts.last() else {
        return SUCCESS.fails(
            format!("{}, without an attempt", ended(task)),
            "`cogo-host task show` tells more",
        );
    };
    if task.status == Status::Failed {
        let fix = fix_of(
            last,
            "look at the worker's log, or name other sources with --repo",
        );
        return SUCCESS.fails(format!("{}: {}", ended(task), problem(task, last)), fix);
    }
    if last.kind.as_deref() != Some("real") {
        let plugin = last.plugin.as_deref().unwrap_or("nobody knows what");
        return SUCCESS.fails(
            format!("{plugin} ran it, which is not the real executor"),
            "the route changed meanwhile: run the smoke test again",
        );
    }
    let result = task.result.as_ref();
    let said = |field: &str| result.and_then(|result| result.get(field));
    if said("passed").and_then(serde_json::Value::as_bool) != Some(true) {
        let snippet = task.result_snippet.as_deref().unwrap_or("no report");
        return SUCCESS.fails(
            format!("the worker ran it, and its tests did not pass: {snippet}"),
            "name sources whose tests pass with --repo",
        );
    }
    SUCCESS.passes(format!(
        "{} by {} in {} ms",
        task.result_snippet.as_deref().unwrap_or("done"),
        last.plugin.as_deref().unwrap_or("the real executor"),
        last.run_ms
    ))
}

/// The lines of the task that is to be retried and to fail.
pub fn failure(key: &RouteKey, seen: &Seen) -> [Line; 2] {
    [retried(key, seen), failed(key, seen)]
}

const OTHER_SOURCES: &str =
    "name sources that this worker may ask for and cannot get with --failing-repo";

fn retried(key: &RouteKey, seen: &Seen) -> Line {
    let task = &seen.task.task;
    let Some(first) = seen.task.attempts.first() else {
        return match task.status.is_terminal() {
            false => unended(RETRY, task),
            true => RETRY.fails(ended(task), "`cogo-host task show` tells more"),
        };
    };
    let retried = AttemptOutcome::Retry.as_str();
    if first.outcome != retried {
        let found = match task.status {
            Status::Done => "it could be built, so that nothing was retried".to_owned(),
            _ => format!("its first attempt ended it: {}", problem(task, first)),
        };
        return RETRY.fails(found, OTHER_SOURCES);
    }
    let own = role_event(key, RoleStep::Retry);
    let line = recorded(RETRY, seen, &[event::EXECUTE_RETRY, &own]);
    if line.verdict != Verdict::Pass {
        return line;
    }
    let mut retries = seen
        .events
        .iter()
        .filter(|event| event.event_type == event::EXECUTE_RETRY);
    let delay = retries.find_map(|event| event.payload.get("delay_ms")?.as_u64());
    match delay {
        Some(delay) => RETRY.passes(format!(
            "after {}, tried again {delay} ms later",
            first.code.as_deref().unwrap_or("a failure")
        )),
        None => RETRY.fails(
            "the event does not tell when the next attempt was due",
            REPORT,
        ),
    }
}

fn failed(key: &RouteKey, seen: &Seen) -> Line {
    let task = &seen.task.task;
    match task.status {
        Status::Queued | Status::Claimed => return unended(FAILURE, task),
        Status::Done => {
            return FAILURE.fails("it could be built, so that nothing failed", OTHER_SOURCES);
        }
        Status::Failed => {}
    }
    if task.attempts != ATTEMPTS {
        return FAILURE.fails(
            format!("{} instead of {ATTEMPTS}", ended(task)),
            OTHER_SOURCES,
        );
    }
    let own = role_event(key, RoleStep::Failed);
    let line = recorded(FAILURE, seen, &[event::EXECUTE_FAILED, &own]);
    match (line.verdict, seen.task.attempts.last()) {
        (Verdict::Pass, Some(last)) => {
            FAILURE.passes(format!("{}: {}", ended(task), problem(task, last)))
        }
        _ => line,
    }
}

const REPORT: &str = "this is a fault of the host: report it with the trace";

/// Whether each of these events was recorded once.
fn recorded(asked: Ask, seen: &Seen, wanted: &[&str]) -> Line {
    if !seen.task.task.status.is_terminal() {
        return unended(asked, &seen.task.task);
    }
    let count = |name: &str| {
        let events = seen.events.iter();
        events.filter(|event| event.event_type == name).count()
    };
    let mut wrong = wanted.iter().filter(|name| count(name) != 1);
    match wrong.next() {
        None => asked.passes(wanted.join(", ")),
        Some(name) if seen.task.task.status == Status::Failed && asked == SUCCESS_EVENTS => asked
            .fails(
                format!("no {name}, as the task failed"),
                "see the line `success`",
            ),
        Some(name) => asked.fails(
            format!("{name} was recorded {} times, not once", count(name)),
            REPORT,
        ),
    }
}

/// Whether every event of the tasks carries its task's trace.
pub fn trace_ids(seen: &[&Seen]) -> Line {
    let mut n = 0;
    for seen in seen {
        let trace = seen.task.task.trace_id.as_deref();
        for event in &seen.events {
            if event.trace_id.is_none() || event.trace_id.as_deref() != trace {
                let found = event.trace_id.as_deref().unwrap_or("none");
                return TRACE_IDS.fails(
                    format!("{} (event {}) carries {found}", event.event_type, event.id),
                    REPORT,
                );
            }
            n += 1;
        }
    }
    match n {
        0 => TRACE_IDS.open("there is no event", REPORT),
        n => TRACE_IDS.passes(format!("{n} of {n} events")),
    }
}

/// Whether the gate over the trace of the success passes.
pub fn gate(seen: &GateSeen) -> Line {
    if seen.verdict == Verdict::Pass {
        let names: Vec<&str> = seen.checks.iter().map(|check| &*check.name).collect();
        return GATE.passes(names.join(", "));
    }
    let checks = seen.checks.iter();
    let told: Vec<String> = checks
        .filter(|check| check.verdict != Verdict::Pass)
        .map(CheckSeen::told)
        .collect();
    let slow = seen
        .checks
        .iter()
        .any(|check| check.name == "wait_p90" && check.verdict == Verdict::Fail);
    let fix = match slow {
        true => {
            "the host is too busy for its limit of waiting: raise its concurrency, or run more hosts"
        }
        false => "mend what the lines above name",
    };
    match seen.verdict {
        Verdict::Inconclusive => GATE.open(told.join("; "), fix),
        Verdict::Pass | Verdict::Fail => GATE.fails(told.join("; "), fix),
    }
}

/// Whether the gate over the trace of the failure fails, by the failure.
pub fn gate_refuses(seen: &GateSeen) -> Line {
    let rate = seen.checks.iter().find(|c| c.name == "failure_rate");
    match (seen.verdict, rate) {
        (Verdict::Fail, Some(rate)) if rate.verdict == Verdict::Fail => {
            GATE_REFUSES.passes(rate.told())
        }
        (Verdict::Inconclusive, _) => {
            GATE_REFUSES.open("the gate cannot tell yet", "see the line `failure`")
        }
        (verdict, _) => GATE_REFUSES.fails(
            format!("the gate says {verdict}, and the failure did not tip it"),
            "see the line `failure`; a limit FAIL_RATE_MAX of 1 lets every failure pass",
        ),
    }
}

fn unended(asked: Ask, task: &TaskRow) -> Line {
    asked.open(
        format!("the task is `{}` still", task.status.as_str()),
        "it is cancelled now; give it longer with --timeout, `cogo-host doctor` examines host and worker",
    )
}

fn ended(task: &TaskRow) -> String {
    let n = task.attempts;
    let s = if n == 1 { "" } else { "s" };
    format!("{} after {n} attempt{s}", task.status.as_str())
}

/// Why it failed, with the words of the last that is known.
fn problem(task: &TaskRow, attempt: &AttemptView) -> String {
    let code = attempt.code.as_deref().unwrap_or("no code");
    match task.error.as_deref() {
        Some(error) if error.starts_with(code) => error.to_owned(),
        Some(error) => format!("{code}: {error}"),
        None => code.to_owned(),
    }
}

/// What mends the problem of an attempt, where that is known.
fn fix_of(attempt: &AttemptView, or: &str) -> String {
    let known = attempt.code.as_deref().and_then(codes::find);
    known.map_or_else(|| or.to_owned(), |(_, entry)| entry.fix.to_owned())
}

#[cfg(test)]
mod tests;
