//! The payload of a bus row: checked once, before an executor sees it.
//!
//! A payload that lacks what its role needs would fail in every attempt, so it
//! is refused with the field and the cure instead of being tried. Unknown
//! fields are the producer's business and are passed on untouched.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::route::{KnownRole, RouteKey};

/// The largest payload that a task may carry, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Why a payload cannot be executed. Each is the producer's to mend, so none is
/// worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error(
        "the payload has {bytes} bytes; at most {MAX_BYTES} are allowed: put large input behind a URL"
    )]
    TooLarge { bytes: u64 },
    #[error("the payload is not JSON: {0}")]
    NotJson(String),
    #[error("the payload is {found}; it must be a JSON object")]
    NotObject { found: &'static str },
    #[error("payload of {route}: `{field}` {problem}")]
    Field {
        route: RouteKey,
        field: &'static str,
        problem: String,
    },
}

impl PayloadError {
    /// The stable code stored in `error` and in events.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "payload_too_large",
            _ => "payload_invalid",
        }
    }
}

/// A checked payload: the producer's JSON object and what the host reads of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    /// The object exactly as it came, for the executor.
    pub text: String,
    /// The producer's label, where the payload holds one.
    pub task_id: Option<String>,
    /// Where a dispatcher's task is to go; set for these and no other.
    pub target: Option<RouteKey>,
    /// What the producer allows this task, if it said so.
    pub assignment: Option<Assignment>,
}

/// The envelope `__assignment`: who may do the task, with what, until when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub agent_id: Option<String>,
    pub version: Option<String>,
    /// The only model that the task may use.
    pub model: Option<String>,
    pub budget: Budget,
    /// Counted from the row's creation.
    pub ttl: Option<Duration>,
}

/// What a task may spend over all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    pub max_cost_micro_usd: Option<u64>,
    pub max_tokens: Option<u64>,
}

impl Payload {
    /// Parses and checks the payload of a task on `route`.
    ///
    /// # Errors
    /// [`PayloadError`] names the field, what is wrong and what would be right.
    pub fn parse(text: String, route: &RouteKey) -> Result<Self, PayloadError> {
        if text.len() > MAX_BYTES {
            return Err(PayloadError::TooLarge {
                bytes: text.len() as u64,
            });
        }
        let object: Map<String, Value> = match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => {
                return Err(PayloadError::NotObject {
                    found: kind_of(&other),
                });
            }
            Err(cause) => return Err(PayloadError::NotJson(cause.to_string())),
        };
        let fields = Fields {
            route,
            object: &object,
        };
        fields.check_role()?;
        let task_id = fields.text("task_id")?.map(str::to_owned);
        let target = fields.target()?;
        let assignment = fields.assignment()?;
        Ok(Self {
            text,
            task_id,
            target,
            assignment,
        })
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The object under check, with the route that the message names.
struct Fields<'a> {
    route: &'a RouteKey,
    object: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn wrong(&self, field: &'static str, problem: impl Into<String>) -> PayloadError {
        PayloadError::Field {
            route: self.route.clone(),
            field,
            problem: problem.into(),
        }
    }

    fn text(&self, field: &'static str) -> Result<Option<&str>, PayloadError> {
        match self.object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(self.wrong(field, format!("is {}; expected a string", kind_of(other))))
            }
        }
    }

    fn required_text(&self, field: &'static str) -> Result<&str, PayloadError> {
        match self.text(field)? {
            Some(text) if !text.trim().is_empty() => Ok(text),
            Some(_) => Err(self.wrong(field, "is empty")),
            None => Err(self.wrong(field, "is missing; expected a string")),
        }
    }

    /// `service/role`, or an object of both.
    fn target(&self) -> Result<Option<RouteKey>, PayloadError> {
        const EXPECTED: &str = "expected `service/role`, or an object with `service` and `role`";
        if !self.route.is_dispatcher() {
            return Ok(None);
        }
        let part = |object: &Map<String, Value>, key| {
            object.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let target = match self.object.get("target") {
            Some(Value::String(target)) => target.parse(),
            Some(Value::Object(object)) => match (part(object, "service"), part(object, "role")) {
                (Some(service), Some(role)) => RouteKey::new(&service, &role),
                _ => return Err(self.wrong("target", format!("is incomplete; {EXPECTED}"))),
            },
            None | Some(Value::Null) => {
                return Err(self.wrong("target", format!("is missing; {EXPECTED}")));
            }
            Some(other) => {
                return Err(self.wrong("target", format!("is {}; {EXPECTED}", kind_of(other))));
            }
        };
        match target {
            Ok(target) => Ok(Some(target)),
            Err(cause) => Err(self.wrong("target", format!("cannot be used: {cause}"))),
        }
    }

    fn check_role(&self) -> Result<(), PayloadError> {
        match self.route.known_role() {
            Some(KnownRole::BuildTest) => {
                self.text("repo")?;
                self.text("ref")?;
                self.text("edits_url")?;
                Ok(())
            }
            Some(KnownRole::Codegen) => match self.object.get("spec") {
                Some(Value::String(spec)) if !spec.trim().is_empty() => Ok(()),
                Some(Value::Object(spec)) if !spec.is_empty() => Ok(()),
                Some(Value::Array(spec)) if !spec.is_empty() => Ok(()),
                _ => Err(self.wrong(
                    "spec",
                    "is missing or empty; expected what to generate, as a string, an object or a list",
                )),
            },
            Some(KnownRole::Sandbox) => self.check_sandbox(),
            None => Ok(()),
        }
    }

    fn check_sandbox(&self) -> Result<(), PayloadError> {
        match (self.object.get("command"), self.object.get("code")) {
            (Some(_), Some(_)) => {
                Err(self.wrong("command", "and `code` are both given; expected one of them"))
            }
            (Some(Value::String(command)), None) if !command.trim().is_empty() => Ok(()),
            (Some(Value::Array(words)), None)
                if !words.is_empty() && words.iter().all(Value::is_string) =>
            {
                Ok(())
            }
            (Some(_), None) => Err(self.wrong(
                "command",
                "must be a non-empty string or an array of strings",
            )),
            (None, Some(Value::String(_))) => self.required_text("language").map(|_| ()),
            (None, Some(other)) => {
                Err(self.wrong("code", format!("is {}; expected a string", kind_of(other))))
            }
            (None, None) => Err(self.wrong(
                "command",
                "is missing; expected `command`, or `code` with `language`",
            )),
        }
    }

    fn assignment(&self) -> Result<Option<Assignment>, PayloadError> {
        #[derive(Deserialize)]
        struct RawAssignment {
            agent_id: Option<String>,
            version: Option<Value>,
            model: Option<String>,
            budget: Option<RawBudget>,
            ttl_ms: Option<u64>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RawBudget {
            max_cost_usd: Option<f64>,
            max_tokens: Option<u64>,
        }

        let Some(value) = self.object.get("__assignment").filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        let raw = RawAssignment::deserialize(value)
            .map_err(|cause| self.wrong("__assignment", format!("is unusable: {cause}")))?;
        if raw
            .model
            .as_deref()
            .is_some_and(|model| model.trim().is_empty())
        {
            return Err(self.wrong(
                "__assignment",
                "has an empty model; leave it out to allow any",
            ));
        }
        let budget = raw.budget.unwrap_or(RawBudget {
            max_cost_usd: None,
            max_tokens: None,
        });
        let max_cost_micro_usd = match budget.max_cost_usd {
            None => None,
            Some(usd) if usd.is_finite() && (0.0..=1e12).contains(&usd) => {
                // In range by the guard, so the conversion only drops what is
                // below a millionth of a dollar.
                Some((usd * 1e6).round() as u64)
            }
            Some(usd) => {
                return Err(self.wrong(
                    "__assignment",
                    format!("has budget.maxCostUsd {usd}; expected 0 or more"),
                ));
            }
        };
        Ok(Some(Assignment {
            agent_id: raw.agent_id,
            version: raw.version.map(|v| match v {
                Value::String(text) => text,
                other => other.to_string(),
            }),
            model: raw.model,
            budget: Budget {
                max_cost_micro_usd,
                max_tokens: budget.max_tokens,
            },
            ttl: raw.ttl_ms.map(Duration::from_millis),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(route: &str, text: &str) -> Result<Payload, PayloadError> {
        Payload::parse(text.to_owned(), &route.parse().unwrap())
    }

    #[test]
    fn what_each_role_needs() {
        let good = [
            ("code/build-test", r#"{"task_id":"t","repo":"."}"#),
            ("code/build-test", r#"{"edits_url":null}"#),
            ("codegen/generate", r#"{"spec":"add a test"}"#),
            ("codegen/generate", r#"{"spec":{"goal":"x"}}"#),
            ("codegen/generate", r#"{"spec":[{"delete":"a.py"}]}"#),
            ("orchestrator/execute", r#"{"target":"docs/render"}"#),
            (
                "orchestrator/execute",
                r#"{"target":{"service":"docs","role":"render"}}"#,
            ),
            ("sandbox/run", r#"{"command":"ls"}"#),
            ("sandbox/run", r#"{"command":["ls","-l"]}"#),
            ("sandbox/run", r#"{"code":"1","language":"python"}"#),
            ("docs/render", r#"{}"#),
        ];
        for (route, text) in good {
            assert!(parse(route, text).is_ok(), "{route} {text}");
        }
        let bad = [
            ("code/build-test", r#"{"repo":7}"#, "`repo` is a number"),
            ("codegen/generate", r#"{}"#, "`spec` is missing"),
            ("codegen/generate", r#"{"spec":[]}"#, "`spec` is missing"),
            ("orchestrator/execute", "{}", "`target` is missing"),
            (
                "orchestrator/execute",
                r#"{"target":7}"#,
                "`target` is a number",
            ),
            (
                "orchestrator/execute",
                r#"{"target":"docs"}"#,
                "is not a route",
            ),
            (
                "orchestrator/execute",
                r#"{"target":{"service":"docs"}}"#,
                "`target` is incomplete",
            ),
            ("sandbox/run", r#"{}"#, "`command` is missing"),
            ("sandbox/run", r#"{"code":"1"}"#, "`language` is missing"),
            ("sandbox/run", r#"{"command":"a","code":"b"}"#, "both given"),
            ("docs/render", "[1]", "an array"),
            ("docs/render", "{", "not JSON"),
            ("docs/render", r#"{"task_id":1}"#, "`task_id` is a number"),
        ];
        for (route, text, part) in bad {
            let message = parse(route, text).unwrap_err().to_string();
            assert!(message.contains(part), "{route} {text}: {message}");
        }
    }

    #[test]
    fn an_assignment_is_read_and_its_mistakes_are_named() {
        let payload = parse(
            "docs/render",
            r#"{"__assignment":{"agent_id":"a","model":"m","budget":{"maxCostUsd":0.5,"maxTokens":9},"ttl_ms":100}}"#,
        )
        .unwrap();
        let assignment = payload.assignment.unwrap();
        assert_eq!(assignment.budget.max_cost_micro_usd, Some(500_000));
        assert_eq!(assignment.budget.max_tokens, Some(9));
        assert_eq!(assignment.ttl, Some(Duration::from_millis(100)));
        for bad in [
            r#"{"__assignment":7}"#,
            r#"{"__assignment":{"ttl_ms":-1}}"#,
            r#"{"__assignment":{"model":" "}}"#,
            r#"{"__assignment":{"budget":{"maxCostUsd":-1}}}"#,
        ] {
            let message = parse("docs/render", bad).unwrap_err().to_string();
            assert!(message.contains("__assignment"), "{message}");
        }
    }

    #[test]
    fn a_payload_over_the_limit_has_its_own_code() {
        let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_BYTES));
        assert_eq!(
            parse("docs/render", &text).unwrap_err().code(),
            "payload_too_large"
        );
    }
}
