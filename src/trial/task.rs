//! A task for a trial, as it is written in a file.
//!
//! A JSON object with the field `payload` is a whole task; any other object is
//! the payload alone.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{InvalidLimits, TrialLimits};
use crate::attempt::StopReason;
use crate::ids::TraceId;
use crate::plugin::outbound::{HttpMock, InvalidMock};
use crate::route::RouteKey;

/// One attempt to run.
#[derive(Debug, Clone)]
pub struct TrialTask {
    /// Absent where the plugin handles one route and that is meant.
    pub route: Option<RouteKey>,
    /// A JSON object's text.
    pub payload: String,
    pub task_id: Option<String>,
    pub trace_id: Option<TraceId>,
    pub shard: i32,
    pub tenant: Option<String>,
    /// Counted from 1.
    pub attempt: u32,
    pub max_attempts: u32,
    pub deadline: Option<Duration>,
    /// Artifacts of the trace that are already there, by URL.
    pub artifacts: BTreeMap<String, Bytes>,
    pub stop: Option<Stop>,
}

/// When the attempt is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    pub after: Duration,
    pub reason: StopReason,
}

/// A task and what it wants around it.
#[derive(Debug, Clone)]
pub struct Given {
    pub task: TrialTask,
    pub config: BTreeMap<String, String>,
    /// Rules of an HTTP mock; absent where the task says nothing.
    pub http: Option<Value>,
    pub limits: Option<TrialLimits>,
}

/// Why a file holds no task.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTask {
    #[error("it is no JSON object: {0}")]
    Json(serde_json::Error),
    #[error("{0}")]
    Shape(serde_json::Error),
    #[error("`limits`: {0}")]
    Limits(#[from] InvalidLimits),
    #[error("`http`: {0}")]
    Http(#[from] InvalidMock),
    #[error("`{field}` {problem}")]
    Field {
        field: &'static str,
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    route: Option<RouteKey>,
    payload: Map<String, Value>,
    task_id: Option<String>,
    trace_id: Option<TraceId>,
    #[serde(default)]
    shard: i32,
    tenant: Option<String>,
    #[serde(default = "first")]
    attempt: u32,
    #[serde(default = "five")]
    max_attempts: u32,
    deadline_ms: Option<u64>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    http: Option<Value>,
    limits: Option<Value>,
    stop: Option<RawStop>,
    #[serde(default)]
    artifacts: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStop {
    after_ms: u64,
    #[serde(default = "cancelled")]
    reason: StopReason,
}

const fn first() -> u32 {
    1
}

const fn five() -> u32 {
    5
}

const fn cancelled() -> StopReason {
    StopReason::Cancelled
}

impl TrialTask {
    /// A task with this payload and nothing special.
    pub fn of(payload: &Map<String, Value>) -> Self {
        Self {
            route: None,
            payload: Value::Object(payload.clone()).to_string(),
            task_id: None,
            // As on the bus, where the row itself names none.
            trace_id: payload
                .get("trace_id")
                .and_then(Value::as_str)
                .and_then(|id| id.parse().ok()),
            shard: 0,
            tenant: None,
            attempt: first(),
            max_attempts: five(),
            deadline: None,
            artifacts: BTreeMap::new(),
            stop: None,
        }
    }
}

impl TrialTask {
    /// Sets fields of the payload.
    pub fn set(&mut self, fields: impl IntoIterator<Item = (String, Value)>) {
        // It is an object by construction.
        if let Ok(Value::Object(mut object)) = serde_json::from_str(&self.payload) {
            object.extend(fields);
            self.payload = Value::Object(object).to_string();
        }
    }
}

impl Given {
    /// A bare payload.
    pub fn payload(payload: &Map<String, Value>) -> Self {
        Self {
            task: TrialTask::of(payload),
            config: BTreeMap::new(),
            http: None,
            limits: None,
        }
    }

    /// Reads a task, or a bare payload.
    ///
    /// # Errors
    /// [`InvalidTask`] names the field and what would be right.
    pub fn parse(text: &str) -> Result<Self, InvalidTask> {
        let object: Map<String, Value> = serde_json::from_str(text).map_err(InvalidTask::Json)?;
        if !object.contains_key("payload") {
            return Ok(Self::payload(&object));
        }
        // From the text once more, so that a mistake is told with its line.
        let raw: Raw = serde_json::from_str(text).map_err(InvalidTask::Shape)?;
        raw.check()
    }
}

impl Raw {
    fn check(self) -> Result<Given, InvalidTask> {
        if self.attempt == 0 || self.attempt > self.max_attempts {
            let problem = format!("is {}; expected 1 to `max_attempts`", self.attempt);
            return Err(InvalidTask::Field {
                field: "attempt",
                problem,
            });
        }
        if let Some(rules) = &self.http {
            HttpMock::parse(rules)?;
        }
        let limits = self.limits.as_ref().map(TrialLimits::parse).transpose()?;
        let bytes = |(url, content): (String, Value)| {
            let content = match content {
                Value::String(text) => Bytes::from(text),
                json => Bytes::from(json.to_string()),
            };
            (url, content)
        };
        let plain = TrialTask::of(&self.payload);
        let task = TrialTask {
            route: self.route,
            task_id: self.task_id,
            trace_id: self.trace_id.or(plain.trace_id),
            shard: self.shard,
            tenant: self.tenant,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            deadline: self.deadline_ms.map(Duration::from_millis),
            artifacts: self.artifacts.into_iter().map(bytes).collect(),
            stop: self.stop.map(|stop| Stop {
                after: Duration::from_millis(stop.after_ms),
                reason: stop.reason,
            }),
            payload: plain.payload,
        };
        Ok(Given {
            task,
            config: self.config,
            http: self.http,
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_a_payload_is_one() {
        let given = Given::parse(r#"{"repo":"r"}"#).unwrap();
        assert_eq!(given.task.payload, r#"{"repo":"r"}"#);
        let given = Given::parse(r#"{"payload":{"repo":"r"},"attempt":2}"#).unwrap();
        assert_eq!(given.task.payload, r#"{"repo":"r"}"#);
        assert_eq!(given.task.attempt, 2);
    }

    #[test]
    fn a_mistake_is_named_with_its_line_or_field() {
        for (text, part) in [
            ("[]", "no JSON object"),
            ("{\"payload\":{},\n\"htpp\":[]}", "unknown field `htpp`"),
            ("{\"payload\":{},\n\"htpp\":[]}", "line 2"),
            (r#"{"payload":7}"#, "expected a map"),
            (r#"{"payload":{},"attempt":6}"#, "`attempt` is 6"),
            (r#"{"payload":{},"limits":"all"}"#, "`limits`: `all`"),
            (r#"{"payload":{},"http":[{}]}"#, "`http`: expected an array"),
            (r#"{"payload":{},"route":"x"}"#, "is not a route"),
            (
                r#"{"payload":{},"stop":{"after_ms":1,"reason":"bored"}}"#,
                "lease-lost",
            ),
        ] {
            let refused = Given::parse(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
