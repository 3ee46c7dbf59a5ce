//! What may enter the bus through the host: a submission is checked here once,
//! for the command line and the API alike.
//!
//! A payload that could never be executed is refused at the door, with the
//! field and the cure; rows that other programs insert are checked at the claim
//! by the same [`Payload`] rules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ids::{InvalidId, MessageId, TraceId};
use crate::payload::{Payload, PayloadError};
use crate::route::{InvalidRoute, Route, RouteKey};
use crate::task::{NewTask, TaskRow};

/// The longest label, tenant or unique key, in bytes.
const TEXT_MAX: usize = 256;
/// The longest delay: a year.
const DELAY_MAX_MS: u64 = 365 * 24 * 3600 * 1000;

/// A task as a producer asks for it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    pub service: String,
    pub role: String,
    #[serde(default)]
    pub shard: i32,
    pub tenant: Option<String>,
    pub task_id: Option<String>,
    pub trace_id: Option<String>,
    #[serde(default)]
    pub payload: Value,
    #[serde(default)]
    pub priority: i32,
    pub max_attempts: Option<u32>,
    pub unique_key: Option<String>,
    #[serde(default)]
    pub delay_ms: u64,
}

/// Why a submission is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error(transparent)]
    Route(#[from] InvalidRoute),
    #[error("nobody handles the route `{asked}`; there are: {}", listed(served))]
    NobodyHandles {
        asked: RouteKey,
        served: Vec<RouteKey>,
    },
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("`trace_id`: {0}")]
    TraceId(InvalidId),
    #[error("`{field}` {problem}")]
    Field {
        field: &'static str,
        problem: &'static str,
    },
}

impl IntakeError {
    /// The stable code of the API and the command line.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Route(_) => "route_invalid",
            Self::NobodyHandles { .. } => "route_unknown",
            Self::Payload(error) => error.code(),
            Self::TraceId(_) | Self::Field { .. } => "submission_invalid",
        }
    }
}

fn listed(routes: &[RouteKey]) -> String {
    if routes.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = routes.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

impl Submission {
    /// Checks the submission against the routes that some plugin handles.
    ///
    /// The label and the trace id are also put into the payload where it has
    /// none, since that is where executors of other hosts look.
    ///
    /// # Errors
    /// [`IntakeError`] names what is wrong and what would be right.
    pub fn accept(self, served: &[RouteKey]) -> Result<NewTask, IntakeError> {
        let key = RouteKey::new(&self.service, &self.role)?;
        if !served.contains(&key) {
            return Err(IntakeError::NobodyHandles {
                asked: key,
                served: served.to_vec(),
            });
        }
        let mut payload = match self.payload {
            Value::Null => Map::new(),
            Value::Object(object) => object,
            other => {
                // The common parser words the refusal.
                Payload::parse(other.to_string(), &key)?;
                Map::new()
            }
        };
        let task_id = self.task_id.or_else(|| text_of(&payload, "task_id"));
        let trace_id = match self.trace_id.or_else(|| text_of(&payload, "trace_id")) {
            Some(text) => text.parse().map_err(IntakeError::TraceId)?,
            None => TraceId::generate(),
        };
        if let Some(task_id) = &task_id {
            fill(&mut payload, "task_id", task_id);
        }
        fill(&mut payload, "trace_id", trace_id.as_str());
        let payload = Value::Object(payload);
        let text = payload.to_string();
        let target = Payload::parse(text, &key)?.target;
        check_target(target, served)?;
        if holds_nul(&payload) {
            return Err(IntakeError::Field {
                field: "payload",
                problem: "holds a NUL character, which not every bus can store; expected it encoded otherwise",
            });
        }
        check_text("task_id", task_id.as_deref())?;
        check_text("tenant", self.tenant.as_deref())?;
        check_text("unique_key", self.unique_key.as_deref())?;
        if self.max_attempts == Some(0) || self.max_attempts.is_some_and(|n| n > 1000) {
            return Err(IntakeError::Field {
                field: "max_attempts",
                problem: "is out of range; expected 1 to 1000",
            });
        }
        if self.delay_ms > DELAY_MAX_MS {
            return Err(IntakeError::Field {
                field: "delay_ms",
                problem: "is more than a year",
            });
        }
        Ok(NewTask {
            id: MessageId::generate(),
            route: Route {
                key,
                shard: self.shard,
                tenant: self.tenant,
            },
            task_id,
            trace_id,
            payload,
            priority: self.priority,
            max_attempts: self.max_attempts,
            unique_key: self.unique_key,
            delay: Duration::from_millis(self.delay_ms),
            repeats: None,
        })
    }
}

/// A dispatcher's task that nobody could execute is refused at the door, too.
fn check_target(target: Option<RouteKey>, served: &[RouteKey]) -> Result<(), IntakeError> {
    match target {
        Some(target) if target.is_dispatcher() => Err(IntakeError::Field {
            field: "target",
            problem: "is the dispatcher itself, which would forward the task for ever",
        }),
        Some(asked) if !served.contains(&asked) => Err(IntakeError::NobodyHandles {
            asked,
            served: served.to_vec(),
        }),
        _ => Ok(()),
    }
}

fn text_of(payload: &Map<String, Value>, field: &str) -> Option<String> {
    payload.get(field)?.as_str().map(str::to_owned)
}

fn fill(payload: &mut Map<String, Value>, field: &str, value: &str) {
    let entry = payload.entry(field).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::String(value.to_owned());
    }
}

/// Postgres stores every character in JSON but this one. The parser's limit of
/// nesting bounds the depth.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(object) => object
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn check_text(field: &'static str, text: Option<&str>) -> Result<(), IntakeError> {
    let problem = match text {
        Some("") => "is empty; leave it out instead",
        Some(text) if text.len() > TEXT_MAX => "has more than 256 bytes",
        Some(text) if text.chars().any(char::is_control) => "holds a control character",
        _ => return Ok(()),
    };
    Err(IntakeError::Field { field, problem })
}

/// Why a task cannot be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepeatError {
    #[error("task {0} has not ended; only `done` and `failed` tasks can be repeated")]
    NotEnded(MessageId),
    #[error("task {id} cannot be repeated: {problem}")]
    Unusable { id: MessageId, problem: String },
}

/// A new task that asks for the same as one that has ended: same label, same
/// trace, its own id, and so its own idempotency key. The old row stays as it
/// is.
///
/// # Errors
/// When the old task has not ended, or its row holds what no task may.
pub fn repeat(row: &TaskRow) -> Result<NewTask, RepeatError> {
    if !row.status.is_terminal() {
        return Err(RepeatError::NotEnded(row.id));
    }
    let unusable = |problem: String| RepeatError::Unusable {
        id: row.id,
        problem,
    };
    let key = RouteKey::new(&row.service, &row.role).map_err(|e| unusable(e.to_string()))?;
    let trace_id = match &row.trace_id {
        Some(text) => text.parse().unwrap_or_else(|_| TraceId::generate()),
        None => TraceId::generate(),
    };
    let payload = row
        .payload
        .clone()
        .ok_or_else(|| unusable("its payload was not read".to_owned()))?;
    Payload::parse(payload.to_string(), &key).map_err(|e| unusable(e.to_string()))?;
    Ok(NewTask {
        id: MessageId::generate(),
        route: Route {
            key,
            shard: row.shard,
            tenant: row.tenant.clone(),
        },
        task_id: row.task_id.clone(),
        trace_id,
        payload,
        priority: row.priority,
        max_attempts: row.max_attempts,
        unique_key: None,
        delay: Duration::ZERO,
        repeats: Some(row.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn submission(value: Value) -> Submission {
        serde_json::from_value(value).unwrap()
    }

    fn served() -> Vec<RouteKey> {
        vec!["code/build-test".parse().unwrap()]
    }

    #[test]
    fn label_and_trace_reach_row_and_payload() {
        let task = submission(json!({
            "service": "code", "role": "build-test", "task_id": "t1", "payload": {"repo": "."}
        }))
        .accept(&served())
        .unwrap();
        assert_eq!(task.payload["task_id"], "t1");
        assert_eq!(task.payload["trace_id"], task.trace_id.as_str());

        let task = submission(json!({
            "service": "code", "role": "build-test",
            "payload": {"task_id": "from-payload", "trace_id": "abc"}
        }))
        .accept(&served())
        .unwrap();
        assert_eq!(task.task_id.as_deref(), Some("from-payload"));
        assert_eq!(task.trace_id.as_str(), "abc");
    }

    #[test]
    fn refusals_name_the_field_and_the_cure() {
        let cases = [
            (
                json!({"service": "x", "role": "y"}),
                "there are: code/build-test",
            ),
            (json!({"service": "", "role": "y"}), "is not a route"),
            (
                json!({"service": "code", "role": "build-test", "payload": [1]}),
                "an array",
            ),
            (
                json!({"service": "code", "role": "build-test", "trace_id": "a b"}),
                "trace id",
            ),
            (
                json!({"service": "code", "role": "build-test", "max_attempts": 0}),
                "1 to 1000",
            ),
            (
                json!({"service": "code", "role": "build-test", "task_id": ""}),
                "empty",
            ),
            (
                json!({"service": "code", "role": "build-test", "payload": {"a": ["x\0"]}}),
                "NUL",
            ),
            (
                json!({"service": "code", "role": "build-test", "payload": {"a\0": 1}}),
                "NUL",
            ),
        ];
        for (value, part) in cases {
            let message = submission(value).accept(&served()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
