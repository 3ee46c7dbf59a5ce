//! What is read of tasks, attempts and events, for people and their programs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::ids::{Digest, MessageId, TraceId};
use crate::route::RouteKey;
use crate::task::Status;

/// Which rows to read.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub status: Option<Status>,
    pub route: Option<RouteKey>,
    pub trace_id: Option<TraceId>,
    pub task_id: Option<String>,
    /// At most this many, newest first.
    pub limit: u32,
}

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub trace_id: Option<String>,
    pub event_type: Option<String>,
    pub message_id: Option<MessageId>,
    /// Not older than this.
    pub since: Option<Duration>,
    /// Only those with a greater id, for following.
    pub after_id: Option<i64>,
    pub limit: u32,
    pub order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
}

/// An attempt row as it is read back.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRow {
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
    pub wait_ms: u64,
    pub run_ms: u64,
    pub outcome: String,
    pub code: Option<String>,
    pub blame: Option<String>,
    pub usage: Value,
    pub peak_memory_bytes: u64,
    pub outbound_requests: u32,
    pub spans: Value,
    pub log: Value,
    pub log_dropped: u32,
}

/// How long tasks waited for their claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Latency {
    pub p50_ms: Option<u64>,
    pub p90_ms: Option<u64>,
    pub n: u64,
}

/// How full the bus is, by status. Large counts may be estimates of the
/// database: this is for people and their graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Depth {
    pub queued: u64,
    pub claimed: u64,
    pub done: u64,
    pub failed: u64,
    /// Age of the oldest task that is due.
    pub oldest_due_ms: Option<u64>,
}

/// What waits on one route. Large counts stop at some point: this is for graphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub route: RouteKey,
    pub queued: u64,
    /// Age of the oldest task that is due.
    pub oldest_due_ms: Option<u64>,
}

/// A published artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactRow {
    pub message_id: MessageId,
    pub task_id: String,
    pub trace_id: TraceId,
    pub path: String,
    pub content_type: String,
    pub digest: Digest,
    pub bytes: u64,
    pub created_at: DateTime<Utc>,
}
