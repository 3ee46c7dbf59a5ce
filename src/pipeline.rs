//! The pipeline `codeBuildTest`: codegen writes edits, a build-test applies them,
//! a gate judges the trace.
//!
//! Pure: an order and the rows of its stages in, the next step out. A run is a
//! row of its own ([`Run`]); the tasks of its stages are tasks like any other,
//! and no row of the bus is held while a run waits for them. Any host may take a
//! step; the run's revision sees to it that one does.
//!
//! ```text
//!   codegen ──done, edits usable──▶ build-test ──done──▶ done (decision)
//!      │                                │                 ▲
//!      ├── failed, edits unusable ──────┴── failed ───────┘
//!      └── cancelled ──▶ cancelled ◀────────┘
//! ```

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::attempt::Usage;
use crate::event::{
    GATE_VIOLATION, NewEvent, PIPELINE_CANCELLED, PIPELINE_DONE, PIPELINE_STAGE, PIPELINE_STARTED,
};
use crate::gate::{Check, Comparison, GateReport, Unit, Verdict};
use crate::ids::{MessageId, TraceId};
use crate::intake::{IntakeError, Submission};
use crate::route::{KnownRole, RouteKey};
use crate::task::{CANCELLED, NewTask, Status, TaskRow};

/// Its name, as the installation's paths spell it.
pub const WORKFLOW: &str = "codeBuildTest";
/// Where a run leaves its report, below the artifacts of its task.
pub const REPORT_PATH: &str = "build-test/report.json";

/// What somebody wants built and tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// Names the run: the same order again is the same run.
    #[serde(alias = "task_id")]
    pub task_id: String,
    #[serde(default, alias = "trace_id", skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default)]
    pub shard: i32,
    #[serde(default)]
    pub priority: i32,
    /// What codegen is to write.
    #[serde(default)]
    pub spec: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
    /// Holds for the run: its time to live counts from the start, and both stages
    /// spend from one budget.
    #[serde(
        default,
        rename = "__assignment",
        skip_serializing_if = "Option::is_none"
    )]
    pub assignment: Option<Value>,
    /// More for the payload of codegen.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub codegen: Map<String, Value>,
    /// More for the payload of the build-test.
    #[serde(default, alias = "build_test", skip_serializing_if = "Map::is_empty")]
    pub build_test: Map<String, Value>,
}

/// A run to begin, with the task of its first stage.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub trace_id: TraceId,
    pub order: Order,
    /// Who wants it.
    pub actor: String,
    pub codegen: NewTask,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Codegen,
    BuildTest,
    /// The gate has spoken.
    Done,
    Cancelled,
}

impl State {
    const ALL: [Self; 4] = [Self::Codegen, Self::BuildTest, Self::Done, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Codegen => "codegen",
            Self::BuildTest => "build-test",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// Why a text is no state of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a pipeline")]
pub struct InvalidState(String);

impl std::str::FromStr for State {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|state| state.as_str() == text);
        found.ok_or_else(|| InvalidState(text.chars().take(80).collect()))
    }
}

/// A run as the bus holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    pub task_id: String,
    pub trace_id: TraceId,
    pub state: State,
    /// Only who names it may change the run.
    pub revision: i64,
    pub order: Order,
    pub actor: String,
    pub codegen: Option<MessageId>,
    pub build_test: Option<MessageId>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub cancelled_by: Option<String>,
    /// Why a stage did not come to its end.
    pub error: Option<String>,
    /// What the gate said.
    pub decision: Option<Value>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Since its start, by the database's clock.
    pub age_ms: u64,
}

/// What is to be done about a run now.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Wait,
    /// Somebody wants the run to end: so must the task that it waits for.
    CancelTask(MessageId),
    /// Codegen is done: are its edits there and sound?
    CheckEdits,
    /// There is nothing more to run; `error` says why, if too early.
    Judge {
        error: Option<String>,
    },
    Cancel,
}

/// The next step of a run; `stage` is the row of the task that it waits for.
pub fn next(run: &Run, stage: Option<&TaskRow>) -> Step {
    if run.state.is_terminal() {
        return Step::Wait;
    }
    let Some(task) = stage else {
        let error = format!(
            "stage_lost: the task of {} is gone from the bus",
            run.state.as_str()
        );
        return Step::Judge { error: Some(error) };
    };
    let cancelling = run.cancel_requested_at.is_some();
    match (task.status, run.state) {
        (Status::Queued | Status::Claimed, _) if cancelling => Step::CancelTask(task.id),
        (Status::Queued | Status::Claimed, _) => Step::Wait,
        (Status::Failed, _) if task.error.as_deref() == Some(CANCELLED) => Step::Cancel,
        (Status::Failed, state) => {
            let error = task.error.as_deref().unwrap_or("no reason");
            let error = format!("{}: {error}", state.as_str());
            Step::Judge { error: Some(error) }
        }
        (Status::Done, State::Codegen) if cancelling => Step::Cancel,
        (Status::Done, State::Codegen) => Step::CheckEdits,
        (Status::Done, _) => Step::Judge { error: None },
    }
}

impl Order {
    /// Checks the order against the routes that some plugin handles, as each of
    /// its tasks will be.
    ///
    /// # Errors
    /// [`IntakeError`] names what is wrong and what would be right.
    pub fn accept(self, actor: &str, handled: &[RouteKey]) -> Result<NewRun, IntakeError> {
        let all = self.assignment.clone();
        let codegen = self
            .stage(KnownRole::Codegen, None, None, all.clone())
            .accept(handled)?;
        let trace_id = codegen.trace_id.clone();
        self.stage(KnownRole::BuildTest, Some(&trace_id), None, all)
            .accept(handled)?;
        Ok(NewRun {
            trace_id,
            order: self,
            actor: actor.to_owned(),
            codegen,
        })
    }

    /// The task of a stage, with what is left of the assignment.
    fn stage(
        &self,
        role: KnownRole,
        trace_id: Option<&TraceId>,
        edits_url: Option<&str>,
        assignment: Option<Value>,
    ) -> Submission {
        let mut payload = match role {
            KnownRole::BuildTest => self.build_test.clone(),
            KnownRole::Codegen | KnownRole::Sandbox => self.codegen.clone(),
        };
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                payload.insert(key.to_owned(), value);
            }
        };
        put("repo", self.repo.as_ref().map(|repo| json!(repo)));
        put("ref", self.git_ref.as_ref().map(|name| json!(name)));
        put("__assignment", assignment);
        match role {
            KnownRole::BuildTest => put("edits_url", edits_url.map(|url| json!(url))),
            KnownRole::Codegen | KnownRole::Sandbox => put("spec", Some(self.spec.clone())),
        }
        let key = role.key();
        Submission {
            service: key.service().to_owned(),
            role: key.role().to_owned(),
            shard: self.shard,
            tenant: self.tenant.clone(),
            task_id: Some(self.task_id.clone()),
            trace_id: trace_id.map_or_else(|| self.trace_id.clone(), |id| Some(id.to_string())),
            payload: Value::Object(payload),
            priority: self.priority,
            max_attempts: None,
            unique_key: None,
            delay_ms: 0,
        }
    }

    /// The assignment `age_ms` after the run's start, when so much was spent.
    fn assignment_after(&self, age_ms: u64, spent: &Usage) -> Option<Value> {
        let mut assignment = self.assignment.clone()?;
        let of = |field: &str, within: &mut Value, left: &dyn Fn(&Value) -> Option<Value>| {
            if let Some(value) = within.get_mut(field)
                && let Some(left) = left(value)
            {
                *value = left;
            }
        };
        of("ttl_ms", &mut assignment, &|ttl| {
            Some(json!(ttl.as_u64()?.saturating_sub(age_ms)))
        });
        if let Some(budget) = assignment.get_mut("budget") {
            of("maxTokens", budget, &|max| {
                Some(json!(max.as_u64()?.saturating_sub(spent.tokens)))
            });
            of("maxCostUsd", budget, &|max| {
                let spent_usd = spent.cost_micro_usd as f64 / 1e6;
                Some(json!((max.as_f64()? - spent_usd).max(0.0)))
            });
        }
        Some(assignment)
    }
}

impl Run {
    /// The task that the run waits for.
    pub fn waits_for(&self) -> Option<MessageId> {
        match self.state {
            State::Codegen => self.codegen,
            State::BuildTest => self.build_test,
            State::Done | State::Cancelled => None,
        }
    }

    /// The task of the second stage, once the first has `spent` so much.
    ///
    /// # Errors
    /// As [`Order::accept`]; the order was accepted before, so only the URL can
    /// be at fault.
    pub fn build_test_task(&self, edits_url: &str, spent: &Usage) -> Result<NewTask, IntakeError> {
        let role = KnownRole::BuildTest;
        let left = self.order.assignment_after(self.age_ms, spent);
        let submission = self
            .order
            .stage(role, Some(&self.trace_id), Some(edits_url), left);
        submission.accept(&[role.key()])
    }

    /// What the run leaves under [`REPORT_PATH`].
    pub fn report(
        &self,
        build_test: Option<&TaskRow>,
        decision: &GateReport,
        error: Option<&str>,
    ) -> Value {
        let result = build_test.and_then(|task| task.result.as_ref());
        let of_result = |field: &str| result.and_then(|result| result.get(field));
        json!({
            "workflow": WORKFLOW,
            "task_id": self.task_id,
            "trace_id": self.trace_id,
            "ids": { "codegen": self.codegen, "build_test": self.build_test },
            "passed": of_result("passed"),
            "tests": of_result("tests"),
            "failures": of_result("failures"),
            "duration_ms": of_result("duration_ms"),
            "report_url": build_test.and_then(|task| task.result_url.as_ref()),
            "plugin": of_result("plugin"),
            "kind": of_result("kind"),
            "error": error,
            "decision": decision,
        })
    }

    fn event(&self, event_type: &'static str, reason: Option<&str>, payload: Value) -> NewEvent {
        event(&self.trace_id, event_type, reason, payload)
    }

    /// The event of the second stage.
    pub fn staged(&self, task: &NewTask) -> NewEvent {
        let payload = json!({
            "task_id": self.task_id, "stage": State::BuildTest, "message_id": task.id,
        });
        self.event(PIPELINE_STAGE, None, payload)
    }

    /// The events of a run that was judged.
    pub fn judged(&self, decision: &GateReport, error: Option<&str>) -> Vec<NewEvent> {
        let payload = json!({ "task_id": self.task_id, "verdict": decision.verdict });
        let mut events = vec![self.event(PIPELINE_DONE, error, payload)];
        if decision.verdict == Verdict::Fail {
            let failed = decision
                .checks
                .iter()
                .filter(|c| c.verdict == Verdict::Fail);
            let failed: Vec<&str> = failed.map(|check| &*check.name).collect();
            let payload = json!({ "task_id": self.task_id, "checks": failed });
            let reason = format!("the gate failed: {}", failed.join(", "));
            events.push(self.event(GATE_VIOLATION, Some(&reason), payload));
        }
        events
    }

    /// The event of a run that was cancelled.
    pub fn cancelled(&self) -> NewEvent {
        let payload = json!({
            "task_id": self.task_id, "stage": self.state, "actor": self.cancelled_by,
        });
        self.event(PIPELINE_CANCELLED, Some("cancelled on request"), payload)
    }
}

impl NewRun {
    /// The first event of a run.
    pub fn started(&self) -> NewEvent {
        let payload = json!({
            "task_id": self.order.task_id,
            "workflow": WORKFLOW,
            "actor": self.actor,
            "message_id": self.codegen.id,
        });
        event(&self.trace_id, PIPELINE_STARTED, None, payload)
    }
}

fn event(
    trace_id: &TraceId,
    event_type: &'static str,
    reason: Option<&str>,
    payload: Value,
) -> NewEvent {
    NewEvent {
        event_type: event_type.into(),
        message_id: None,
        route: None,
        trace_id: trace_id.clone(),
        reason: reason.map(str::to_owned),
        payload: payload.into(),
    }
}

/// What the gate says of a run: what it says of the trace, and that both stages
/// came to their end. A trace may hold more than this run.
pub fn decide(trace: GateReport, done: u32, error: Option<&str>) -> GateReport {
    const STAGES: u32 = 2;
    let GateReport {
        verdict,
        mut checks,
    } = trace;
    let complete = done >= STAGES && error.is_none();
    checks.push(Check {
        name: "stages_done".into(),
        verdict: if complete {
            Verdict::Pass
        } else {
            Verdict::Fail
        },
        value: Some(f64::from(done)),
        threshold: f64::from(STAGES),
        comparison: Comparison::AtLeast,
        unit: Unit::Count,
        n: u64::from(STAGES),
        note: error.map(str::to_owned),
    });
    GateReport {
        verdict: if complete { verdict } else { Verdict::Fail },
        checks,
    }
}

#[cfg(test)]
mod tests;
