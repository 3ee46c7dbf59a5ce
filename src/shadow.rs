//! Shadows: another version runs tasks again that had their result, and what it
//! comes to is compared with that.
//!
//! An operator orders one for a route and a version of one of its plugins, to
//! see what a candidate would do before any task depends on it. In development,
//! `compare` is one that nobody ordered: the plugin of a route that a task did
//! not get.
//!
//! **Invariants.** A shadow run begins when its task has ended, on a place that
//! nothing else needs, or not at all. It writes no row of the task, publishes
//! nothing, counts in no breaker and in no failure rate, and its result is never
//! returned. What is lost with a host is a sample, and nothing else.
//!
//! Nothing here reads a clock, the bus or chance. What two runs differ in is said
//! by [`difference`], what all differences are worth by [`verdict`].

pub mod difference;
pub mod events;
pub mod verdict;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attempt::{PluginVersion, SideEffects};
use crate::ids::{Digest, MessageId, PluginName, ShadowId, TraceId};
use crate::rollout::Share;
use crate::route::{Route, RouteKey};
use difference::{Comparison, Seen};

/// A shadow as the bus holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowRow {
    pub id: ShadowId,
    pub route: RouteKey,
    pub plugin: PluginName,
    pub candidate: Digest,
    /// How many of a hundred tasks it runs, by a hash of their ids.
    pub share: Share,
    pub side_effects: SideEffects,
    pub started_by: String,
    pub reason: Option<String>,
    /// Of its own events; differences are in the traces of their tasks.
    pub trace_id: TraceId,
    pub started_at: DateTime<Utc>,
    /// Tasks that it did not run since nothing was spare.
    pub dropped: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
}

impl ShadowRow {
    /// Whether it runs a task that this version has run.
    pub fn wants(&self, task: MessageId, ran: Digest) -> bool {
        self.ended_at.is_none() && self.candidate != ran && self.share.holds(self.id.as_str(), task)
    }
}

/// One task that ran in a shadow, beside what it came to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowRun {
    pub shadow: ShadowId,
    pub message_id: MessageId,
    pub route: Route,
    pub trace_id: TraceId,
    pub host: String,
    pub side_effects: SideEffects,
    /// The version that ran in the shadow.
    pub candidate: PluginVersion,
    pub candidate_seen: Seen,
    /// The version whose result is the task's.
    pub stable: PluginVersion,
    pub stable_seen: Seen,
    pub comparison: Comparison,
}

/// The same, as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowRunRow {
    #[serde(flatten)]
    pub run: ShadowRun,
    pub ended_at: DateTime<Utc>,
}

impl ShadowRunRow {
    /// What another version came to beside the task's own attempt, in a line.
    pub fn said(&self) -> String {
        let run = &self.run;
        let differences = difference::told(&run.stable_seen, &run.candidate_seen, &run.comparison);
        let found = match (run.comparison.agrees, differences.is_empty()) {
            (None, _) => "cannot be compared".to_owned(),
            (Some(true), true) => "agrees".to_owned(),
            (Some(true), false) => format!("agrees; {differences}"),
            (Some(false), _) => format!("differs in {differences}"),
        };
        let candidate = &run.candidate;
        format!(
            "shadow {}: {} by {} {} ({}), ran {} ms beside {} ms of {}: {found}",
            run.shadow,
            run.candidate_seen.said(),
            candidate.name,
            candidate.version,
            candidate.digest.short(),
            run.candidate_seen.run_ms,
            run.stable_seen.run_ms,
            run.stable.name,
        )
    }
}
