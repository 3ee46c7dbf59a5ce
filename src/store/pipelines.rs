//! Runs of the pipeline as the bus keeps them: what the stores take and give.
//!
//! **Invariant:** a run and the task of its next stage enter the bus together,
//! and a move that does not name the run's revision does nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cells::{Cells, Columns, Step};
use crate::attempt::StagedArtifact;
use crate::event::NewEvent;
use crate::ids::MessageId;
use crate::pipeline::{Run, State};
use crate::task::NewTask;

/// What became of the wish to begin a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Started {
    New(Box<Run>),
    /// There is a run of that name, of this order or of another.
    Existing(Box<Run>),
}

/// A change of a run, with all that belongs to it in one transaction.
#[derive(Debug, Clone)]
pub struct RunMove<'a> {
    pub run: &'a Run,
    pub to: State,
    /// The task of the build-test, on its way to the bus.
    pub build_test: Option<&'a NewTask>,
    pub error: Option<&'a str>,
    pub decision: Option<&'a Value>,
    /// A file that is published with it, as one of this task's.
    pub artifact: Option<(MessageId, &'a StagedArtifact)>,
    pub events: &'a [NewEvent],
}

/// What became of the wish to end a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunCancelled {
    /// It ends as soon as the task that it waits for has.
    Requested,
    /// It had ended before, so.
    Ended(State),
}

/// How the runs of the last while went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RunFigures {
    /// Those that have not ended, however old.
    pub running: u64,
    pub passed: u64,
    pub failed: u64,
    pub inconclusive: u64,
    pub cancelled: u64,
    /// From start to end, by nearest rank.
    pub p50_ms: Option<u64>,
    pub p90_ms: Option<u64>,
}

pub(super) fn run<R: Columns>(cells: &Cells<'_, R>) -> Step<Run> {
    let order = cells.required_text("request")?;
    Ok(Run {
        task_id: cells.required_text("task_id")?,
        trace_id: cells.parsed("trace_id")?,
        state: cells.parsed("state")?,
        revision: cells.int("revision")?.unwrap_or(0),
        order: serde_json::from_str(&order)
            .map_err(|cause| cells.wrong(format!("`request` is no order: {cause}")))?,
        actor: cells.required_text("actor")?,
        codegen: cells.parsed_opt("codegen_id")?,
        build_test: cells.parsed_opt("build_test_id")?,
        cancel_requested_at: cells.instant("cancel_requested_at")?,
        cancelled_by: cells.text("cancelled_by")?,
        error: cells.text("error")?,
        decision: cells.json("decision")?,
        created_at: cells.required_instant("created_at")?,
        updated_at: cells.required_instant("updated_at")?,
        ended_at: cells.instant("ended_at")?,
        age_ms: cells.count("age_ms")?,
    })
}

pub(super) fn figures<R: Columns>(cells: &Cells<'_, R>) -> Step<RunFigures> {
    let length = |column: &str| -> Step<Option<u64>> {
        let value = cells.int(column)?;
        Ok(value.map(|ms| u64::try_from(ms).unwrap_or(0)))
    };
    Ok(RunFigures {
        running: cells.count("running")?,
        passed: cells.count("passed")?,
        failed: cells.count("failed")?,
        inconclusive: cells.count("inconclusive")?,
        cancelled: cells.count("cancelled")?,
        p50_ms: length("p50_ms")?,
        p90_ms: length("p90_ms")?,
    })
}
