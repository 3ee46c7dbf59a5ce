//! What events say besides their columns, and what each end of an attempt says.
//!
//! Written as JSON once, where an event is made: a settlement is made for each
//! task, and a tree of values that is only written again would be much of what
//! it costs. Nothing here chooses which events there are.

use std::fmt;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::LastAttempt;
use crate::attempt::{AttemptOutcome, AttemptRecord, Blame, Kind, Problem};
use crate::ids::{Digest, PluginName};
use crate::millis::millis;
use crate::selection::Why;
use crate::stage::Stage;

/// The `payload` of an event to be written: a JSON value as text.
#[derive(Clone)]
pub struct EventPayload(Box<RawValue>);

impl EventPayload {
    /// # Panics
    /// When `facts` is nothing that JSON can say, such as a map whose keys are
    /// no text; what a type says is known where it is written.
    #[expect(clippy::expect_used, reason = "a fault of the program, as documented")]
    pub fn of(facts: &impl Serialize) -> Self {
        Self(to_raw_value(facts).expect("the payload of an event is JSON"))
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The same for whoever reads it.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }
}

impl From<Value> for EventPayload {
    fn from(value: Value) -> Self {
        Self::of(&value)
    }
}

impl fmt::Debug for EventPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EventPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for EventPayload {
    /// As texts: the same facts, told in the same way.
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for EventPayload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// What an attempt was.
#[derive(Serialize)]
pub(super) struct AttemptFacts<'a> {
    attempt: u32,
    digest: Option<Digest>,
    fallback: bool,
    kind: Option<Kind>,
    plugin: Option<&'a PluginName>,
    run_ms: u64,
    stage: Stage,
    version: Option<&'a str>,
    wait_ms: u64,
    why: Option<&'a Why>,
}

impl<'a> AttemptFacts<'a> {
    pub(super) fn of(attempt: &'a AttemptRecord) -> Self {
        let plugin = attempt.plugin.as_ref();
        Self {
            attempt: attempt.attempt,
            digest: plugin.map(|p| p.digest),
            fallback: attempt.why.as_ref().is_some_and(|why| why.fallback),
            kind: plugin.map(|p| p.kind),
            plugin: plugin.map(|p| &p.name),
            run_ms: millis(attempt.measured.run),
            stage: attempt.stage,
            version: plugin.map(|p| p.version.as_str()),
            wait_ms: attempt.wait_ms,
            why: attempt.why.as_ref(),
        }
    }
}

/// What came of a task.
#[derive(Serialize)]
pub(super) struct DoneFacts<'a> {
    pub(super) attempt: u32,
    pub(super) result: WithoutOutput<'a>,
    pub(super) task_id: Option<&'a str>,
}

/// A result without what a run printed, which may be a megabyte: the row has it.
pub(super) struct WithoutOutput<'a>(pub(super) &'a Value);

impl Serialize for WithoutOutput<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(result) = self.0 else {
            return self.0.serialize(serializer);
        };
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in result {
            if key != "stdout" && key != "stderr" {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

/// Why a task waits again, and for how long.
#[derive(Serialize)]
pub struct RetryFacts<'a> {
    pub attempt: u32,
    pub blame: Option<Blame>,
    pub code: &'a str,
    pub delay_ms: u64,
    pub outcome: AttemptOutcome,
}

/// Why a task failed.
#[derive(Serialize)]
pub(super) struct FailureFacts<'a> {
    blame: Blame,
    code: &'a str,
    #[serde(flatten)]
    last: LastFacts<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LastFacts<'a> {
    Never {},
    Lost { attempt: u32 },
    Ended(AttemptFacts<'a>),
}

impl<'a> FailureFacts<'a> {
    pub(super) fn of(problem: &'a Problem, last: LastAttempt<'a>) -> Self {
        Self {
            blame: problem.blame,
            code: &problem.code,
            last: match last {
                LastAttempt::Never => LastFacts::Never {},
                LastAttempt::Lost(attempt) => LastFacts::Lost { attempt },
                LastAttempt::Ended(record) => LastFacts::Ended(AttemptFacts::of(record)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_event_of_a_result_leaves_out_what_a_run_printed() {
        let result = json!({ "type": "sandbox", "exit_code": 0, "stdout": "o", "stderr": "e" });
        let facts = DoneFacts {
            attempt: 1,
            result: WithoutOutput(&result),
            task_id: None,
        };
        assert_eq!(
            EventPayload::of(&facts).value(),
            json!({
                "attempt": 1,
                "result": { "type": "sandbox", "exit_code": 0 },
                "task_id": null,
            })
        );
    }

    #[test]
    fn a_failure_says_what_is_known_of_its_attempt() {
        let problem = Problem::new("poisoned", "three hosts vanished", Blame::Host);
        let told = |last| EventPayload::of(&FailureFacts::of(&problem, last)).value();
        assert_eq!(
            told(LastAttempt::Never),
            json!({ "code": "poisoned", "blame": "host" })
        );
        assert_eq!(
            told(LastAttempt::Lost(3)),
            json!({ "code": "poisoned", "blame": "host", "attempt": 3 })
        );
    }
}
