//! What every executor must do, whatever it is for: a battery of attempts that
//! no producer would make and some plugin will meet.
//!
//! It judges by how attempts end and never by how long a fast one takes; what
//! it asks of time is only that a plugin gave way before the host had to cut it
//! off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Observed, OutcomeName, Setup, Stop, TrialTask, Trials};
use crate::attempt::StopReason;
use crate::plugin::load::{Candidate, Descriptor};
use crate::plugin::outbound::{HttpMock, Wire};
use crate::plugin::sandbox::GRACE;
use crate::plugin::world::Outline;
use crate::route::RouteKey;

/// A check and what it found.
#[derive(Debug, Clone)]
pub struct Checked {
    pub check: Check,
    /// Why it does not hold; nothing where it does.
    pub failure: Option<String>,
    /// What the check could not show, though nothing speaks against it.
    pub open: Option<String>,
}

/// What is asked of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Describe,
    Exports,
    BadPayload,
    HostileTask,
    HostileAnswer,
    NoConfig,
    Deadline,
    Cancel,
}

impl Check {
    pub const ALL: [Self; 8] = [
        Self::Describe,
        Self::Exports,
        Self::BadPayload,
        Self::HostileTask,
        Self::HostileAnswer,
        Self::NoConfig,
        Self::Deadline,
        Self::Cancel,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe-deterministic",
            Self::Exports => "exports-the-world-only",
            Self::BadPayload => "bad-payload-permanent",
            Self::HostileTask => "hostile-task-no-trap",
            Self::HostileAnswer => "hostile-answer-no-trap",
            Self::NoConfig => "no-config-no-trap",
            Self::Deadline => "deadline-obeyed",
            Self::Cancel => "cancel-noticed",
        }
    }

    /// What it wants, for people.
    pub const fn wants(self) -> &'static str {
        match self {
            Self::Describe => "`describe` answers the same in every instance",
            Self::Exports => "it exports the interfaces of the world and nothing else",
            Self::BadPayload => {
                "a payload that is no JSON object is a permanent failure: it would fail in every attempt"
            }
            Self::HostileTask => "no payload, id or tenant makes it trap",
            Self::HostileAnswer => "no answer to its requests makes it trap",
            Self::NoConfig => "without its configuration it fails instead of trapping",
            Self::Deadline => {
                "it gives way when its time is nearly up, before the host cuts it off"
            }
            Self::Cancel => "it gives way when it is asked to stop, before the host cuts it off",
        }
    }
}

/// How long an attempt of the battery may run.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many tasks of a route meet each answer; more show nothing new.
const MOST_SAMPLES: usize = 4;
/// When it is asked to stop.
const STOP_AFTER: Duration = Duration::from_millis(100);
/// Payloads that no plugin can mean anything with. None that breaks off: the
/// host lets no such text through.
const NO_OBJECTS: [&str; 4] = ["", "[]", "null", "\"text\""];

/// Checks a component on everything in [`Check::ALL`].
pub struct Battery<'a> {
    pub trials: &'a Trials,
    pub candidate: &'a Candidate,
    /// Tasks that it works with, and what is around them. Where there is none for
    /// a route, the least that the contract allows is tried.
    pub samples: Vec<(&'a TrialTask, Setup)>,
}

impl Battery<'_> {
    /// Runs one check.
    pub async fn run(&self, check: Check) -> Checked {
        let mut open = None;
        let failure = match check {
            Check::Describe => self.describe().await.err(),
            Check::Exports => self.exports().err(),
            Check::BadPayload => self.bad_payload().await.err(),
            Check::HostileTask => self.hostile_task().await.err(),
            Check::HostileAnswer => self.hostile_answer().await.err(),
            Check::NoConfig => self.no_config().await.err(),
            Check::Deadline | Check::Cancel => {
                let stop_after = (check == Check::Cancel).then_some(STOP_AFTER);
                let found = self.gives_way(stop_after).await;
                found.map(|found| open = found).err()
            }
        };
        Checked {
            check,
            failure,
            open,
        }
    }

    async fn descriptor(&self) -> Result<Descriptor, String> {
        let setup = Setup::default();
        let loaded = self.trials.load(self.candidate.clone(), &setup).await;
        loaded
            .map(|plugin| plugin.descriptor().clone())
            .map_err(|error| error.to_string())
    }

    async fn describe(&self) -> Result<(), String> {
        let (first, second) = (self.descriptor().await?, self.descriptor().await?);
        match first == second {
            true => Ok(()),
            false => Err(format!("it said {first:?} and then {second:?}")),
        }
    }

    fn exports(&self) -> Result<(), String> {
        let outline = Outline::read(&self.candidate.bytes).map_err(|cause| cause.to_string())?;
        let foreign = outline.foreign_exports();
        match foreign.is_empty() {
            true => Ok(()),
            false => Err(format!("it also exports {}", foreign.join(", "))),
        }
    }

    async fn routes(&self) -> Result<Vec<RouteKey>, String> {
        Ok(self.descriptor().await?.handles)
    }

    /// The samples for a route; never none.
    fn samples(&self, route: &RouteKey) -> Vec<(TrialTask, Setup)> {
        let of_route = |task: &TrialTask| task.route.as_ref().is_none_or(|r| r == route);
        let samples = self.samples.iter().filter(|(task, _)| of_route(task));
        let mut samples: Vec<(TrialTask, Setup)> = samples
            .map(|(task, setup)| ((*task).clone(), setup.clone()))
            .collect();
        if samples.is_empty() {
            let setup = self.samples.first().map(|(_, setup)| setup.clone());
            samples.push((
                TrialTask::of(&sample_payload(route)),
                setup.unwrap_or_default(),
            ));
        }
        for (task, _) in &mut samples {
            task.route = Some(route.clone());
            task.deadline = Some(DEADLINE);
            task.stop = None;
        }
        samples
    }

    /// The first sample for a route, whose requests meet these rules.
    fn sample(&self, route: &RouteKey, rules: &Value) -> (TrialTask, Setup) {
        let mut samples = self.samples(route);
        let (task, setup) = samples.swap_remove(0);
        (task, with_rules(setup, rules))
    }

    async fn attempt(
        &self,
        setup: &Setup,
        task: &TrialTask,
    ) -> Result<(Observed, Duration), String> {
        let tried = self
            .trials
            .run_unchecked(self.candidate.clone(), setup, task);
        let trial = tried.await.map_err(|error| error.to_string())?;
        Ok((trial.observed, trial.took))
    }

    async fn bad_payload(&self) -> Result<(), String> {
        for route in self.routes().await? {
            let (sample, setup) = self.sample(&route, &json!([]));
            for payload in NO_OBJECTS {
                let task = TrialTask {
                    payload: payload.to_owned(),
                    ..sample.clone()
                };
                let (observed, _) = self.attempt(&setup, &task).await?;
                if observed.outcome != OutcomeName::Permanent {
                    return Err(format!(
                        "on {route}, the payload `{payload}` was {}",
                        ended(&observed)
                    ));
                }
            }
        }
        Ok(())
    }

    async fn hostile_task(&self) -> Result<(), String> {
        for route in self.routes().await? {
            let (sample, setup) = self.sample(&route, &json!([]));
            for (what, payload) in hostile_payloads() {
                let task = TrialTask {
                    payload,
                    task_id: Some("\u{202e}../\u{0}<b>'\"".to_owned()),
                    tenant: Some("x".repeat(10_000)),
                    attempt: u32::MAX,
                    max_attempts: u32::MAX,
                    shard: i32::MIN,
                    ..sample.clone()
                };
                let (observed, _) = self.attempt(&setup, &task).await?;
                no_trap(&observed, || format!("on {route}, {what}"))?;
            }
        }
        Ok(())
    }

    async fn hostile_answer(&self) -> Result<(), String> {
        for route in self.routes().await? {
            for (task, setup) in self.samples(&route).into_iter().take(MOST_SAMPLES) {
                for (what, answer) in hostile_answers() {
                    let mut rule = json!({ "url": { "$any": "string" } });
                    merge(&mut rule, answer);
                    let setup = with_rules(setup.clone(), &json!([rule]));
                    let (observed, _) = self.attempt(&setup, &task).await?;
                    no_trap(&observed, || format!("on {route}, {what}"))?;
                    if observed.requests.is_empty() {
                        // It asks nobody: other answers would not reach it either.
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn no_config(&self) -> Result<(), String> {
        for route in self.routes().await? {
            for (task, setup) in self.samples(&route).into_iter().take(MOST_SAMPLES) {
                let setup = Setup {
                    config: BTreeMap::new(),
                    ..with_rules(setup, &json!([]))
                };
                let (observed, _) = self.attempt(&setup, &task).await?;
                no_trap(&observed, || format!("on {route}"))?;
            }
        }
        Ok(())
    }

    /// Whether it ends by itself while everything it calls is slow; where no task
    /// kept it busy for that long, what would have to.
    async fn gives_way(&self, stop_after: Option<Duration>) -> Result<Option<String>, String> {
        let never = json!([{
            "url": { "$any": "string" },
            "delay_ms": 3_600_000,
            "fail": "response-timeout",
        }]);
        // When it is told, and when it would be cut off.
        let (told, end) = match stop_after {
            Some(after) => (after, after + GRACE),
            None => (DEADLINE * 3 / 4, DEADLINE),
        };
        let mut idle = Vec::new();
        for route in self.routes().await? {
            let mut busy = false;
            for (mut task, setup) in self.samples(&route) {
                task.deadline = Some(if stop_after.is_some() { 4 * end } else { end });
                task.stop = stop_after.map(|after| Stop {
                    after,
                    reason: StopReason::Cancelled,
                });
                let (observed, took) = self.attempt(&with_rules(setup, &never), &task).await?;
                if took >= end {
                    return Err(format!(
                        "on {route}, the host had to cut it off: wait with the stop signal, or ask `host.stop` in every long loop"
                    ));
                }
                no_trap(&observed, || format!("on {route}"))?;
                busy = took >= told;
                if busy {
                    break;
                }
            }
            if !busy {
                idle.push(format!("`{route}`"));
            }
        }
        Ok((!idle.is_empty()).then(|| {
            format!(
                "no golden task keeps it waiting on {}: one that calls a server would show it",
                idle.join(", ")
            )
        }))
    }
}

/// A setup whose requests meet these rules in place of its own.
fn with_rules(setup: Setup, rules: &Value) -> Setup {
    let mock = HttpMock::parse(rules).unwrap_or_default();
    Setup {
        wire: Wire::Mock(Arc::new(mock)),
        ..setup
    }
}

/// What the contract lets a task of a role be, at the least.
fn sample_payload(route: &RouteKey) -> serde_json::Map<String, Value> {
    let text = |key: &str, value: &str| (key.to_owned(), Value::from(value));
    match route.event_stem().as_str() {
        "buildtest" => [
            text("repo", "https://example.test/repo.git"),
            text("ref", "main"),
        ],
        "codegen" => [text("spec", "say hello"), text("language", "text")],
        _ => [text("command", "true"), text("spec", "say hello")],
    }
    .into_iter()
    .collect()
}

fn hostile_payloads() -> [(&'static str, String); 7] {
    let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    [
        ("an empty object", "{}".to_owned()),
        ("10,000 levels of arrays", deep(10_000)),
        ("a text of 900 kB", json!({ "repo": "x".repeat(900_000) }).to_string()),
        (
            "100,000 fields",
            Value::Object((0..100_000).map(|n| (n.to_string(), n.into())).collect()).to_string(),
        ),
        ("numbers beyond every type", r#"{"limits":1e400,"timeout_ms":-0.0,"n":99999999999999999999999999}"#.to_owned()),
        (
            "other types for every usual field",
            json!({ "repo": 1, "ref": [], "spec": null, "command": {}, "code": true, "limits": "x", "task_id": {} })
                .to_string(),
        ),
        (
            "NUL, surrogates and bidi marks",
            r#"{"repo":"\u0000\ud83d\ude00\u202e","command":"\u0000","spec":"\uffff"}"#.to_owned(),
        ),
    ]
}

fn hostile_answers() -> [(&'static str, Value); 7] {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let text = |text: &str| json!({ "respond": { "text": text } });
    [
        ("an empty answer", json!({ "respond": { "status": 200 } })),
        ("an answer that is no JSON", text("<html>\u{0}\u{202e}")),
        ("an answer of 10,000 levels", text(&deep)),
        (
            "an answer of other types",
            json!({ "respond": { "json": { "passed": "yes", "tests": -1, "failures": 1e300, "duration_ms": [], "report_url": 7, "stdout": {}, "exit_code": "0", "edits_url": null } } }),
        ),
        ("a long answer", text(&"9".repeat(1 << 20))),
        (
            "a refusal that says when to come back",
            json!({ "respond": { "status": 429, "headers": { "retry-after": "-99999999999999999999" } } }),
        ),
        ("a broken connection", json!({ "fail": "connection-reset" })),
    ]
}

fn merge(rule: &mut Value, answer: Value) {
    if let (Value::Object(rule), Value::Object(answer)) = (rule, answer) {
        rule.extend(answer);
    }
}

fn no_trap(observed: &Observed, when: impl FnOnce() -> String) -> Result<(), String> {
    const TRAPS: [&str; 3] = ["plugin_trap", "plugin_limit", "plugin_memory_limit"];
    let problem = observed.problem.as_ref();
    match problem.filter(|problem| TRAPS.contains(&problem.code.as_str())) {
        Some(_) => Err(format!("{}: {}", when(), ended(observed))),
        None => Ok(()),
    }
}

fn ended(observed: &Observed) -> String {
    match &observed.problem {
        Some(problem) => format!(
            "{} ({}: {})",
            observed.outcome.as_str(),
            problem.code,
            problem.message
        ),
        None => observed.outcome.as_str().to_owned(),
    }
}
