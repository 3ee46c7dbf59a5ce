//! One trace read back from the bus as a story: its tasks, their attempts with
//! waits, spans and log lines, its events, and what the gate says of it.
//!
//! Command line and API show the same [`TraceView`]. **Invariant:** this module
//! only reads and arranges; it decides nothing, the verdict is
//! [`crate::gate`]'s.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attempt::{LogLine, Span};
use crate::event::Event;
use crate::gate::{self, GateReport, Question, Scope, Thresholds};
use crate::ids::{Digest, MessageId, TraceId};
use crate::route::{Policy, RouteKey};
use crate::shadow::ShadowRunRow;
use crate::store::{
    AttemptRow, EventFilter, Order, ShadowRunFilter, Store, StoreError, TaskFilter,
};
use crate::task::TaskRow;

/// More tasks than a person reads; a trace of the pipeline has a handful.
const MAX_TASKS: u32 = 500;
/// A task of five attempts leaves about a dozen events.
const MAX_EVENTS: u32 = 5_000;
/// Few shadows ever watch a task.
const MAX_SHADOWS: u32 = 50;

/// How the trace is to be judged.
#[derive(Clone, Copy)]
pub struct Judging<'a> {
    pub thresholds: &'a Thresholds,
    /// Results of required routes must come from the real executor.
    pub require_real: bool,
    pub policy: &'a (dyn Fn(&RouteKey) -> Policy + Send + Sync),
}

/// The whole story of a trace.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TraceView {
    pub trace_id: TraceId,
    /// The same as outbound requests carry it in `traceparent`.
    pub w3c_trace_id: String,
    /// Oldest first.
    pub tasks: Vec<TaskView>,
    /// Oldest first.
    pub events: Vec<Event>,
    pub gate: GateReport,
    /// There are more tasks or events than are shown.
    pub truncated: bool,
}

/// A task and what was tried.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    #[serde(flatten)]
    pub task: TaskRow,
    /// First to last; an attempt that still runs has no entry yet.
    #[serde(rename = "history")]
    pub attempts: Vec<AttemptView>,
    /// What other versions came to beside it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<ShadowRunRow>,
}

/// An attempt that is over. Spans and log lines count from the hand-over to the
/// executor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AttemptView {
    pub message_id: MessageId,
    pub lease_epoch: i64,
    pub attempt: u32,
    pub host: String,
    pub plugin: Option<String>,
    pub version: Option<String>,
    pub digest: Option<Digest>,
    pub kind: Option<String>,
    /// Unknown where the holder vanished.
    pub stage: Option<String>,
    pub why: Option<Value>,
    pub claimed_at: Option<DateTime<Utc>>,
    pub ended_at: DateTime<Utc>,
    /// From when the task was due to the claim.
    pub wait_ms: u64,
    pub run_ms: u64,
    pub outcome: String,
    pub code: Option<String>,
    pub blame: Option<String>,
    pub usage: Value,
    pub peak_memory_bytes: u64,
    pub outbound_requests: u32,
    /// Outbound calls are among them.
    pub spans: Vec<Span>,
    pub log: Vec<LogLine>,
    pub log_dropped: u32,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            message_id: row.message_id,
            lease_epoch: row.lease_epoch,
            attempt: row.attempt,
            host: row.host,
            plugin: row.plugin,
            version: row.version,
            digest: row.digest,
            kind: row.kind,
            stage: row.stage,
            why: row.why,
            claimed_at: row.claimed_at,
            ended_at: row.ended_at,
            wait_ms: row.wait_ms,
            run_ms: row.run_ms,
            outcome: row.outcome,
            code: row.code,
            blame: row.blame,
            usage: row.usage,
            peak_memory_bytes: row.peak_memory_bytes,
            outbound_requests: row.outbound_requests,
            spans: readable(row.spans),
            log: readable(row.log),
            log_dropped: row.log_dropped,
        }
    }
}

/// What of a list this build understands. A later build may write entries that
/// this one does not know, and a trace must still be readable then.
fn readable<T: DeserializeOwned>(list: Value) -> Vec<T> {
    let Value::Array(entries) = list else {
        return Vec::new();
    };
    let read = entries.into_iter().map(serde_json::from_value);
    read.filter_map(Result::ok).collect()
}

impl TraceView {
    /// Reads a trace and judges it; `None` where the bus knows nothing of it.
    ///
    /// The parts are read one after the other, so a trace that is still
    /// running may show an event whose attempt is not listed yet.
    ///
    /// # Errors
    /// As the store's reads.
    pub async fn read(
        store: &dyn Store,
        trace_id: &TraceId,
        judging: &Judging<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let (rows, more_tasks) = newest_tasks(store, trace_id).await?;
        let (events, more_events) = oldest_events(store, trace_id).await?;
        if rows.is_empty() && events.is_empty() {
            return Ok(None);
        }
        let mut tasks = Vec::with_capacity(rows.len());
        for task in rows.into_iter().rev() {
            tasks.push(TaskView::of(store, task).await?);
        }
        let gate = judge(store, &Scope::Trace(trace_id.clone()), judging).await?;
        Ok(Some(Self {
            trace_id: trace_id.clone(),
            w3c_trace_id: trace_id.w3c(),
            tasks,
            events,
            gate,
            truncated: more_tasks || more_events,
        }))
    }
}

impl TaskView {
    /// A task with its attempts.
    ///
    /// # Errors
    /// As the store's reads.
    pub async fn of(store: &dyn Store, task: TaskRow) -> Result<Self, StoreError> {
        let attempts = store.attempts(task.id).await?;
        let attempts = attempts.into_iter().map(AttemptView::from).collect();
        let filter = ShadowRunFilter {
            task: Some(task.id),
            limit: MAX_SHADOWS,
            ..ShadowRunFilter::default()
        };
        Ok(Self {
            shadows: store.shadow_runs(&filter).await?,
            task,
            attempts,
        })
    }
}

/// Gathers the evidence of a scope and judges it.
///
/// # Errors
/// As the store's reads.
pub async fn judge(
    store: &dyn Store,
    scope: &Scope,
    judging: &Judging<'_>,
) -> Result<GateReport, StoreError> {
    let evidence = store.evidence(scope).await?;
    let question = Question {
        scope,
        thresholds: judging.thresholds,
        require_real: judging.require_real,
        policy: judging.policy,
    };
    Ok(gate::judge(&evidence, &question))
}

async fn newest_tasks(
    store: &dyn Store,
    trace_id: &TraceId,
) -> Result<(Vec<TaskRow>, bool), StoreError> {
    let filter = TaskFilter {
        trace_id: Some(trace_id.clone()),
        limit: MAX_TASKS + 1,
        ..TaskFilter::default()
    };
    Ok(cut(store.tasks(&filter).await?, MAX_TASKS))
}

async fn oldest_events(
    store: &dyn Store,
    trace_id: &TraceId,
) -> Result<(Vec<Event>, bool), StoreError> {
    let filter = EventFilter {
        trace_id: Some(trace_id.as_str().to_owned()),
        limit: MAX_EVENTS + 1,
        order: Order::OldestFirst,
        ..EventFilter::default()
    };
    Ok(cut(store.events(&filter).await?, MAX_EVENTS))
}

/// The first `limit` of a list that was read one longer, and whether there was
/// more.
pub(crate) fn cut<T>(mut list: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let limit = limit as usize;
    let more = list.len() > limit;
    list.truncate(limit);
    (list, more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_of_another_build_do_not_hide_the_others() {
        let list = json!([
            {"name": "call", "start_us": 1, "duration_us": 2},
            {"name": "call", "start": "later"},
            7,
        ]);
        let spans: Vec<Span> = readable(list);
        assert_eq!(spans.len(), 1);
        assert!(readable::<Span>(Value::Null).is_empty());
    }

    #[test]
    fn a_list_is_cut_and_says_so() {
        assert_eq!(cut(vec![1, 2, 3], 2), (vec![1, 2], true));
        assert_eq!(cut(vec![1, 2], 2), (vec![1, 2], false));
    }
}
