//! A run of the pipeline as people and programs read it: its state, the tasks
//! of its stages, the decision, the events of its trace.
//!
//! Command line and API show the same [`RunView`]. **Invariant:** this module
//! only reads and arranges.

use schemars::JsonSchema;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::event::Event;
use crate::gate::Check;
use crate::ids::{MessageId, TraceId};
use crate::pipeline::{Run, State, WORKFLOW};
use crate::store::{EventFilter, Store, StoreError};

/// Two tasks of a few attempts leave a few dozen.
const MAX_EVENTS: u32 = 1_000;

/// What there is to know of a run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RunView {
    pub workflow: &'static str,
    pub task_id: String,
    pub trace_id: TraceId,
    pub state: State,
    pub ids: StageIds,
    /// What the gate said; absent until then.
    pub decision: Option<Value>,
    /// Why a stage did not come to its end.
    pub error: Option<String>,
    /// Of both stages and the gate, those that are over.
    pub progress: Progress,
    pub cancel_requested: bool,
    pub age_ms: u64,
    /// Of the trace, oldest first.
    pub events: Vec<Event>,
}

/// The bus rows of the stages, as far as they were reached.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct StageIds {
    pub codegen: Option<MessageId>,
    pub build_test: Option<MessageId>,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Progress {
    pub done: u32,
    pub of: u32,
}

impl RunView {
    /// # Errors
    /// Those of the store.
    pub async fn of(store: &dyn Store, run: Run) -> Result<Self, StoreError> {
        let filter = EventFilter {
            trace_id: Some(run.trace_id.to_string()),
            limit: MAX_EVENTS,
            ..EventFilter::default()
        };
        let events = store.events(&filter).await?;
        Ok(Self {
            workflow: WORKFLOW,
            state: run.state,
            ids: StageIds {
                codegen: run.codegen,
                build_test: run.build_test,
            },
            progress: Progress {
                done: match run.state {
                    State::Codegen | State::Cancelled => 0,
                    State::BuildTest => 1,
                    State::Done => 3,
                },
                of: 3,
            },
            cancel_requested: run.cancel_requested_at.is_some(),
            age_ms: run.age_ms,
            task_id: run.task_id,
            trace_id: run.trace_id,
            decision: run.decision,
            error: run.error,
            events,
        })
    }

    /// The gate's word: `pass`, `fail` or `inconclusive`.
    pub fn verdict(&self) -> Option<&str> {
        self.decision.as_ref()?.get("verdict")?.as_str()
    }

    /// What the verdict rests on.
    pub fn checks(&self) -> Vec<Check> {
        let decision = self.decision.as_ref();
        let checks = decision.and_then(|decision| decision.get("checks"));
        checks
            .and_then(|checks| Vec::deserialize(checks).ok())
            .unwrap_or_default()
    }
}
