//! Golden tasks: `NAME.task.json` and, beside it, `NAME.expect.json` with what
//! must come of it.
//!
//! A golden task runs offline: what it does not mock is refused. Of an
//! expectation only the fields that it names are compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Given, Setup, Steering, Trial, TrialError, Trials};
use crate::expect::{self, Difference, Expectation, InvalidExpectation};
use crate::plugin::load::Candidate;
use crate::plugin::outbound::{HttpMock, Wire};

const TASK: &str = ".task.json";
const EXPECT: &str = ".expect.json";
/// Where golden tasks lie below a plugin's directory, besides the directory
/// itself.
const SHELF: &str = "tasks";

/// A golden task that was read.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The files' name without its ending.
    pub name: String,
    pub given: Given,
    pub expected: Option<Expected>,
    expect_file: PathBuf,
}

/// What must come of a task.
#[derive(Debug, Clone)]
pub struct Expected {
    written: Map<String, Value>,
    /// Parsed, in the same order.
    fields: Vec<(String, Expectation)>,
}

/// Why golden tasks cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GoldenError {
    pub path: PathBuf,
    pub problem: String,
}

impl GoldenError {
    fn reading(path: &Path, cause: &std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::NotFound => Self::new(path, "it does not exist"),
            std::io::ErrorKind::PermissionDenied => Self::new(path, "this user must not read it"),
            _ => Self::new(path, cause),
        }
    }

    fn new(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// What an expectation may speak of.
const FIELDS: [&str; 9] = [
    "outcome",
    "report",
    "snippet",
    "url",
    "problem",
    "reason",
    "artifacts",
    "requests",
    "usage",
];

impl Expected {
    /// Reads an expectation.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Map<String, Value> =
            serde_json::from_str(text).map_err(|cause| format!("it is no JSON object: {cause}"))?;
        let field = |(name, value): (&String, &Value)| {
            if !FIELDS.contains(&name.as_str()) {
                let known = FIELDS.join(", ");
                return Err(format!("`{name}` is nothing to expect; there are {known}"));
            }
            let at = |cause: InvalidExpectation| format!("`{name}`: {cause}");
            Ok((name.clone(), Expectation::parse(value).map_err(at)?))
        };
        let fields = written.iter().map(field).collect::<Result<_, _>>()?;
        Ok(Self { written, fields })
    }

    /// Where what was observed differs.
    pub fn differences(&self, observed: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        for (name, expected) in &self.fields {
            // What is not there was not observed.
            let value = observed.get(name).unwrap_or(&Value::Null);
            for mut difference in expected.differences(value) {
                difference.path = match difference.path.as_str() {
                    "." => name.clone(),
                    element if element.starts_with('[') => format!("{name}{element}"),
                    field => format!("{name}.{field}"),
                };
                found.push(difference);
            }
        }
        found
    }

    /// The expectation for what was observed now, with everything kept that
    /// still holds.
    fn updated(&self, observed: &Map<String, Value>) -> Value {
        // Another outcome is another story.
        if self.written.get("outcome") != observed.get("outcome") {
            return Value::Object(observed.clone());
        }
        let field = |(name, written): (&String, &Value)| {
            let now = observed.get(name)?;
            Some((name.clone(), expect::updated(written, now)))
        };
        Value::Object(self.written.iter().filter_map(field).collect())
    }
}

/// What came of a golden task.
#[derive(Debug)]
pub struct Tried {
    pub trial: Trial,
    /// As it is compared and written.
    pub observed: Value,
    /// Nothing where there is no expectation yet.
    pub differences: Option<Vec<Difference>>,
}

impl Golden {
    /// All golden tasks of a directory and of `tasks` in it, by name.
    ///
    /// # Errors
    /// The first file that cannot be read or understood.
    pub fn find(directory: &Path) -> Result<Vec<Self>, GoldenError> {
        let mut found = Vec::new();
        for place in [directory.to_owned(), directory.join(SHELF)] {
            let entries = match std::fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(_) if place != directory => continue,
                Err(cause) => return Err(GoldenError::reading(&place, &cause)),
            };
            for entry in entries {
                let entry = entry.map_err(|cause| GoldenError::new(&place, cause))?;
                let file = entry.file_name().into_string().unwrap_or_default();
                if let Some(name) = file.strip_suffix(TASK) {
                    found.push(Self::read(&place, name)?);
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn read(place: &Path, name: &str) -> Result<Self, GoldenError> {
        let task_file = place.join(format!("{name}{TASK}"));
        let expect_file = place.join(format!("{name}{EXPECT}"));
        let at_task = |cause: String| GoldenError::new(&task_file, cause);
        let text = std::fs::read_to_string(&task_file).map_err(|e| at_task(e.to_string()))?;
        let given = Given::parse(&text).map_err(|cause| at_task(cause.to_string()))?;
        let expected = match std::fs::read_to_string(&expect_file) {
            Ok(text) => {
                let parsed = Expected::parse(&text);
                Some(parsed.map_err(|cause| GoldenError::new(&expect_file, cause))?)
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => None,
            Err(cause) => return Err(GoldenError::new(&expect_file, cause)),
        };
        Ok(Self {
            name: name.to_owned(),
            given,
            expected,
            expect_file,
        })
    }

    /// Where the expectation lies, or will lie.
    pub fn expect_file(&self) -> &Path {
        &self.expect_file
    }

    /// What the task wants around it. Each call makes a mock of its own, whose
    /// rules are all unused.
    pub fn setup(&self) -> Setup {
        let none = Value::Array(Vec::new());
        let rules = self.given.http.as_ref().unwrap_or(&none);
        Setup {
            config: self.given.config.clone(),
            limits: self.given.limits.clone().unwrap_or_default(),
            // Its rules were checked when the task was read.
            wire: Wire::Mock(Arc::new(HttpMock::parse(rules).unwrap_or_default())),
            ..Setup::default()
        }
    }

    /// Runs the task on a component and compares.
    ///
    /// # Errors
    /// As [`Trials::run`].
    pub async fn run(&self, trials: &Trials, candidate: Candidate) -> Result<Tried, TrialError> {
        let setup = self.setup();
        let steering = Steering::default();
        let trial = trials
            .run(candidate, &setup, &self.given.task, steering)
            .await?;
        let observed = serde_json::to_value(&trial.observed)
            .map_err(|cause| TrialError::Broken(cause.to_string()))?;
        let differences = self.expected.as_ref().map(|e| e.differences(&observed));
        Ok(Tried {
            trial,
            observed,
            differences,
        })
    }

    /// Writes the expectation that the observation meets.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update(&self, observed: &Value) -> Result<(), GoldenError> {
        let new = match (&self.expected, observed) {
            (Some(expected), Value::Object(observed)) => expected.updated(observed),
            (_, observed) => observed.clone(),
        };
        std::fs::write(&self.expect_file, format!("{new:#}\n"))
            .map_err(|cause| GoldenError::new(&self.expect_file, cause))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differences(expected: Value, observed: Value) -> Vec<String> {
        let expected = Expected::parse(&expected.to_string()).unwrap();
        let found = expected.differences(&observed);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_named_is_compared() {
        let observed = json!({
            "outcome": "completed",
            "report": { "type": "custom", "value": { "n": 1 } },
            "requests": [{ "url": "http://a/" }],
        });
        assert!(differences(json!({ "outcome": "completed" }), observed.clone()).is_empty());
        assert_eq!(
            differences(
                json!({
                    "report": { "type": "custom", "value": { "n": 2 } },
                    "requests": [],
                    "snippet": "done",
                }),
                observed
            ),
            [
                "report.value.n\n  - 2\n  + 1",
                "requests[0]\n  + {\"url\":\"http://a/\"}",
                "snippet\n  - \"done\"\n  + null",
            ]
        );
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        let refused = Expected::parse(r#"{"result":1}"#).unwrap_err();
        assert!(
            refused.contains("`result` is nothing to expect"),
            "{refused}"
        );
        let refused = Expected::parse(r#"{"report":{"n":{"$x":1}}}"#).unwrap_err();
        assert!(refused.starts_with("`report`: at `n`"), "{refused}");
    }

    #[test]
    fn an_update_keeps_the_choice_of_fields_unless_the_outcome_changes() {
        let written = r#"{"outcome":"completed","report":{"$any":"object"}}"#;
        let expected = Expected::parse(written).unwrap();
        let observe = |value: Value| value.as_object().cloned().unwrap();
        let same = observe(json!({ "outcome": "completed", "report": {}, "snippet": "x" }));
        assert_eq!(expected.updated(&same).to_string(), written);
        let other = observe(json!({ "outcome": "permanent", "problem": { "code": "x" } }));
        assert_eq!(expected.updated(&other), Value::Object(other));
    }
}
