//! The `mock` object of a payload. Strict: a test that misspells a key must not
//! pass for the wrong reason.

use std::borrow::Cow;
use std::time::Duration;

use cogo_executor::json::{FieldError, Object};
use cogo_executor::payload::{self, Role};
use cogo_executor::{Failure, Problem, Usage};

const KEYS: [&str; 15] = [
    "allocate_mb",
    "artifact",
    "behaviour",
    "code",
    "delay_ms",
    "duration_ms",
    "exit_code",
    "failures",
    "log_lines",
    "message",
    "progress",
    "retries",
    "retry_after_ms",
    "tests",
    "usage",
];
const USAGE_KEYS: [&str; 3] = ["cost_micro_usd", "model", "tokens"];
/// More than any host keeps.
const DEFAULT_LOG_LINES: u32 = 100_000;

/// What the mock does with a task; the crate's documentation explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "explained in the table at the head of the crate"
)]
pub enum Behaviour {
    #[default]
    Pass,
    TestsFail,
    Retryable,
    Permanent,
    Trap,
    Loop,
    Allocate,
    Stall,
    WrongReport,
    LogFlood,
}

impl Behaviour {
    const ALL: [(&'static str, Behaviour); 10] = [
        ("pass", Behaviour::Pass),
        ("tests-fail", Behaviour::TestsFail),
        ("retryable", Behaviour::Retryable),
        ("permanent", Behaviour::Permanent),
        ("trap", Behaviour::Trap),
        ("loop", Behaviour::Loop),
        ("allocate", Behaviour::Allocate),
        ("stall", Behaviour::Stall),
        ("wrong-report", Behaviour::WrongReport),
        ("log-flood", Behaviour::LogFlood),
    ];
}

/// A payload's `mock` object; the default is that of a payload without one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steering {
    /// What to do.
    pub behaviour: Behaviour,
    /// Waited before.
    pub delay: Option<Duration>,
    /// Attempts that fail before.
    pub retries: u32,
    /// Steps of progress to report.
    pub progress: u32,
    /// Spent by the attempt.
    pub usage: Option<Usage>,
    /// Of a failure, in place of its own.
    pub code: Option<String>,
    /// Of a failure, in place of its own.
    pub message: Option<String>,
    /// Of a retryable failure.
    pub retry_after: Option<Duration>,
    /// Whether the report is stored as an artifact.
    pub artifact: bool,
    /// Where [`Behaviour::Allocate`] ends, in MiB.
    pub allocate_mb: Option<u32>,
    /// Lines of [`Behaviour::LogFlood`].
    pub log_lines: u32,
    /// In place of a derived value.
    pub tests: Option<u32>,
    /// In place of a derived value.
    pub failures: Option<u32>,
    /// In place of a derived value.
    pub exit_code: Option<i32>,
    /// In place of a derived value.
    pub duration_ms: Option<u64>,
}

impl Steering {
    /// Reads the `mock` object of a payload.
    ///
    /// # Errors
    ///
    /// `payload_invalid`, permanent, for a key it does not know, a value of the
    /// wrong type, or values that contradict each other.
    pub fn read(role: Role, payload: &Object<'_>) -> Result<Self, Failure> {
        match payload.object("mock").map_err(payload::invalid)? {
            None => Ok(Self::default()),
            Some(object) => Self::read_object(role, &object),
        }
    }

    /// A retryable failure, as it was told to be where it was told.
    pub fn retryable(&self, code: &str, message: &str) -> Failure {
        Failure::Retryable(self.problem(code, message)).retry_after(self.retry_after)
    }

    /// A permanent failure, as it was told to be where it was told.
    pub fn permanent(&self, code: &str, message: &str) -> Failure {
        Failure::Permanent(self.problem(code, message))
    }

    fn problem(&self, code: &str, message: &str) -> Problem {
        Problem::new(
            self.code.as_deref().unwrap_or(code),
            self.message.as_deref().unwrap_or(message),
        )
    }

    fn read_object(role: Role, object: &Object<'_>) -> Result<Self, Failure> {
        refuse_unknown(object, &KEYS).map_err(payload::invalid)?;
        let behaviour = behaviour(role, object)?;
        Self::read_fields(behaviour, object).map_err(payload::invalid)
    }

    fn read_fields(behaviour: Behaviour, object: &Object<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            behaviour,
            delay: object.optional("delay_ms")?.map(Duration::from_millis),
            retries: object.optional("retries")?.unwrap_or_default(),
            progress: object.optional("progress")?.unwrap_or_default(),
            usage: usage(object)?,
            code: object.optional("code")?,
            message: object.optional("message")?,
            retry_after: object
                .optional("retry_after_ms")?
                .map(Duration::from_millis),
            artifact: object.optional("artifact")?.unwrap_or_default(),
            allocate_mb: object.optional("allocate_mb")?,
            log_lines: object.optional("log_lines")?.unwrap_or(DEFAULT_LOG_LINES),
            tests: object.optional("tests")?,
            failures: object.optional("failures")?,
            exit_code: object.optional("exit_code")?,
            duration_ms: object.optional("duration_ms")?,
        })
    }
}

fn behaviour(role: Role, object: &Object<'_>) -> Result<Behaviour, Failure> {
    let refuse = |complaint: String| Err(payload::invalid(object.error("behaviour", complaint)));
    let Some(name) = object
        .optional::<Cow<'_, str>>("behaviour")
        .map_err(payload::invalid)?
    else {
        return Ok(Behaviour::default());
    };
    match Behaviour::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, Behaviour::TestsFail)) if role == Role::Codegen => {
            refuse("codegen has no negative report; use permanent".into())
        }
        Some((_, behaviour)) => Ok(*behaviour),
        None => {
            let known = Behaviour::ALL.map(|(known, _)| known).join(", ");
            refuse(format!("there is no {name}; there are {known}"))
        }
    }
}

fn usage(object: &Object<'_>) -> Result<Option<Usage>, FieldError> {
    let Some(usage) = object.object("usage")? else {
        return Ok(None);
    };
    refuse_unknown(&usage, &USAGE_KEYS)?;
    Ok(Some(Usage {
        cost_micro_usd: usage.optional("cost_micro_usd")?.unwrap_or_default(),
        tokens: usage.optional("tokens")?.unwrap_or_default(),
        model: usage.optional("model")?,
    }))
}

/// An error that names every key of `object` that is not among `known`.
fn refuse_unknown(object: &Object<'_>, known: &[&str]) -> Result<(), FieldError> {
    let unknown: Vec<&str> = object
        .entries()
        .map(|(key, _)| key)
        .filter(|key| !known.contains(key))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let complaint = format!("is not known; there are {}", known.join(", "));
    Err(object.error(&unknown.join(", "), complaint))
}

#[cfg(test)]
mod tests {
    use cogo_executor::testing::task;

    use super::*;

    fn read(role: Role, mock: &str) -> Result<Steering, String> {
        let payload = format!(r#"{{"mock":{mock}}}"#);
        let task = task(role.path(), &payload);
        let object = payload::parse(&task).expect("an object");
        Steering::read(role, &object).map_err(|failure| match failure {
            Failure::Permanent(problem) => format!("{} {}", problem.code, problem.message),
            other => panic!("expected a permanent failure, got {other:?}"),
        })
    }

    #[test]
    fn every_behaviour_is_reached_by_its_name() {
        for (name, behaviour) in Behaviour::ALL {
            let steering = read(Role::BuildTest, &format!(r#"{{"behaviour":"{name}"}}"#));
            assert_eq!(steering.map(|steering| steering.behaviour), Ok(behaviour));
        }
    }

    #[test]
    fn wrong_steering_is_refused_by_key() {
        for (mock, expected) in [
            ("3", "payload.mock: expected an object, found 3"),
            (
                r#"{"delay":1,"speed":2}"#,
                "payload.mock.delay, speed: is not known; there are allocate_mb, ",
            ),
            (
                r#"{"behaviour":"explode"}"#,
                "payload.mock.behaviour: there is no explode; there are pass, tests-fail, ",
            ),
            (
                r#"{"delay_ms":-1}"#,
                "payload.mock.delay_ms: expected a whole number",
            ),
            (
                r#"{"artifact":"yes"}"#,
                "payload.mock.artifact: expected true or false",
            ),
            (
                r#"{"usage":{"token":1}}"#,
                "payload.mock.usage.token: is not known; there are cost_micro_usd, model, tokens",
            ),
        ] {
            let error = read(Role::BuildTest, mock).expect_err(mock);
            assert!(
                error.starts_with(&format!("payload_invalid {expected}")),
                "{error}"
            );
        }
        let error = read(Role::Codegen, r#"{"behaviour":"tests-fail"}"#).expect_err("has none");
        assert!(error.contains("codegen has no negative report"), "{error}");
    }

    #[test]
    fn the_documented_keys_are_the_known_ones() {
        let documentation = include_str!("lib.rs");
        for key in KEYS {
            assert!(
                documentation.contains(&format!("`{key}`")),
                "{key} is not in the table"
            );
        }
    }
}
