//! What the roles of the bus ask for, typed.
//!
//! Every reader refuses a wrong payload with a permanent `payload_invalid` that
//! names the field: a payload does not get better by another attempt. Fields
//! that a role does not know are left alone, they may be somebody else's.
//!
//! ```
//! use cogo_executor::payload::{self, Program, Sandbox};
//! # use cogo_executor::testing;
//!
//! # fn main() -> Result<(), cogo_executor::Failure> {
//! let task = testing::task("sandbox/run", r#"{"code":"print(1)","language":"python"}"#);
//! let object = payload::parse(&task)?;
//! let wanted = Sandbox::read(&object)?;
//! assert!(matches!(wanted.program, Program::Source { .. }));
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::json::{FieldError, FromJson, Object};
use crate::{Failure, Route, Task};

/// The roles that the contract has a report for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `code/build-test`: build a project and run its tests.
    BuildTest,
    /// `codegen/generate`: write code from a specification.
    Codegen,
    /// `sandbox/run`: run a command or a piece of code in isolation.
    Sandbox,
}

impl Role {
    /// All of them, in the order of the contract's report variants.
    pub const ALL: [Role; 3] = [Role::BuildTest, Role::Codegen, Role::Sandbox];

    /// The role as the bus writes it, `service/role`.
    pub const fn path(self) -> &'static str {
        match self {
            Role::BuildTest => "code/build-test",
            Role::Codegen => "codegen/generate",
            Role::Sandbox => "sandbox/run",
        }
    }

    /// The role a task was addressed to.
    ///
    /// # Errors
    ///
    /// `role_unsupported`, permanent, for a role that this version has no type for.
    pub fn of(route: &Route) -> Result<Self, Failure> {
        match (route.service.as_str(), route.role.as_str()) {
            ("code", "build-test") => Ok(Role::BuildTest),
            ("codegen", "generate") => Ok(Role::Codegen),
            ("sandbox", "run") => Ok(Role::Sandbox),
            (service, role) => Err(Failure::permanent(
                "role_unsupported",
                format!("this plugin does not execute {service}/{role}"),
            )),
        }
    }
}

/// Reads the payload of a task, to be looked into by the type of its role.
///
/// # Errors
///
/// `payload_invalid`, permanent, when the payload is no JSON object, or when its
/// `task_id` or `trace_id` is there and no string.
pub fn parse(task: &Task) -> Result<Object<'_>, Failure> {
    let object = Object::parse(&task.payload, "payload").map_err(invalid)?;
    for label in ["task_id", "trace_id"] {
        object.optional::<Cow<'_, str>>(label).map_err(invalid)?;
    }
    Ok(object)
}

/// The failure for a payload with something wrong in it.
pub fn invalid(error: FieldError) -> Failure {
    Failure::permanent("payload_invalid", error.to_string())
}

/// `code/build-test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildTest<'a> {
    /// Git URL, path or source archive; the worker knows which it takes.
    pub repo: Option<Cow<'a, str>>,
    /// Branch, tag or commit.
    pub reference: Option<Cow<'a, str>>,
    /// Edits to apply before the tests run.
    pub edits_url: Option<Cow<'a, str>>,
}

impl<'a> BuildTest<'a> {
    /// Reads `repo`, `ref` and `edits_url`.
    ///
    /// # Errors
    ///
    /// `payload_invalid`, permanent, when one of them is no string or an empty one.
    pub fn read(object: &Object<'a>) -> Result<Self, Failure> {
        Ok(Self {
            repo: optional_text(object, "repo")?,
            reference: optional_text(object, "ref")?,
            edits_url: optional_text(object, "edits_url")?,
        })
    }
}

/// `codegen/generate`.
#[derive(Debug, Clone)]
pub struct Codegen<'a> {
    /// What to generate.
    pub spec: Spec<'a>,
}

/// A specification in words, or structured.
#[derive(Debug, Clone)]
pub enum Spec<'a> {
    /// Prose.
    Text(Cow<'a, str>),
    /// A JSON object or list.
    Structured(&'a RawValue),
}

impl Spec<'_> {
    /// The specification as text; JSON stays JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Spec::Text(text) => text,
            Spec::Structured(json) => json.get(),
        }
    }
}

impl<'a> Codegen<'a> {
    /// Reads `spec`.
    ///
    /// # Errors
    ///
    /// `payload_invalid`, permanent, when it is missing, empty, or neither a
    /// string, an object nor a list.
    pub fn read(object: &Object<'a>) -> Result<Self, Failure> {
        let spec = object.required::<Spec<'a>>("spec").map_err(invalid)?;
        if matches!(&spec, Spec::Text(text) if text.trim().is_empty()) {
            return Err(invalid(object.error("spec", "is empty")));
        }
        Ok(Self { spec })
    }
}

impl<'a> FromJson<'a> for Spec<'a> {
    const EXPECTED: &'static str = "a string, an object or a list";

    fn from_json(raw: &'a str) -> Option<Self> {
        if raw.starts_with(['{', '[']) {
            serde_json::from_str(raw).ok().map(Spec::Structured)
        } else {
            Cow::from_json(raw).map(Spec::Text)
        }
    }
}

/// `sandbox/run`.
#[derive(Debug)]
pub struct Sandbox<'a> {
    /// What to run.
    pub program: Program<'a>,
    /// Limits the producer asks for, as it wrote them.
    pub limits: Option<Object<'a>>,
}

/// Either of the two ways to say what a sandbox runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program<'a> {
    /// A line for a shell.
    Command(Cow<'a, str>),
    /// A program and its arguments.
    Arguments(Vec<String>),
    /// Source code in a named language.
    Source {
        /// The code itself.
        code: Cow<'a, str>,
        /// Such as `python`.
        language: Cow<'a, str>,
    },
}

impl<'a> Sandbox<'a> {
    /// Reads `command`, or `code` with `language`, and `limits`.
    ///
    /// # Errors
    ///
    /// `payload_invalid`, permanent, when there is neither or both, or when one
    /// of them has the wrong type or is empty.
    pub fn read(object: &Object<'a>) -> Result<Self, Failure> {
        Ok(Self {
            program: Program::read(object)?,
            limits: object.object("limits").map_err(invalid)?,
        })
    }
}

impl<'a> Program<'a> {
    fn read(object: &Object<'a>) -> Result<Self, Failure> {
        let complain = |key, complaint: &str| Err(invalid(object.error(key, complaint)));
        match (object.raw("command"), object.raw("code")) {
            (None, None) => complain("command", "is missing; expected this, or code and language"),
            (Some(_), Some(_)) => complain(
                "command",
                "is given together with code; expected one of them",
            ),
            (Some(raw), None) if raw.starts_with('[') => {
                match serde_json::from_str::<Vec<String>>(raw) {
                    Ok(arguments) if !arguments.is_empty() => Ok(Self::Arguments(arguments)),
                    _ => complain(
                        "command",
                        "expected at least one string in the list, and nothing else",
                    ),
                }
            }
            (Some(_), None) => Ok(Self::Command(required_text(object, "command")?)),
            (None, Some(_)) => Ok(Self::Source {
                code: required_text(object, "code")?,
                language: required_text(object, "language")?,
            }),
        }
    }
}

fn optional_text<'a>(object: &Object<'a>, key: &str) -> Result<Option<Cow<'a, str>>, Failure> {
    match object.optional::<Cow<'a, str>>(key).map_err(invalid)? {
        Some(text) if text.trim().is_empty() => Err(invalid(object.error(key, "is empty"))),
        text => Ok(text),
    }
}

fn required_text<'a>(object: &Object<'a>, key: &str) -> Result<Cow<'a, str>, Failure> {
    match optional_text(object, key)? {
        Some(text) => Ok(text),
        None => object.required(key).map_err(invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::task;

    fn message<T>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Permanent(problem)) if problem.code == "payload_invalid" => {
                problem.message
            }
            Err(other) => panic!("expected payload_invalid, got {other:?}"),
            Ok(_) => panic!("expected payload_invalid, got a payload"),
        }
    }

    /// Reads the payload as its role would, for its complaint.
    fn complaint(route: &str, payload: &str) -> String {
        let task = task(route, payload);
        message(
            parse(&task).and_then(|object| match Role::of(&task.route)? {
                Role::BuildTest => BuildTest::read(&object).map(drop),
                Role::Codegen => Codegen::read(&object).map(drop),
                Role::Sandbox => Sandbox::read(&object).map(drop),
            }),
        )
    }

    #[test]
    fn wrong_payloads_are_refused_by_field() {
        for (route, payload, expected) in [
            (
                "code/build-test",
                "[]",
                "payload: expected an object, found []",
            ),
            (
                "code/build-test",
                "{",
                "payload: is no JSON: EOF while parsing an object at line 1 column 1",
            ),
            (
                "code/build-test",
                r#"{"task_id":5}"#,
                "payload.task_id: expected a string, found 5",
            ),
            (
                "code/build-test",
                r#"{"trace_id":{}}"#,
                "payload.trace_id: expected a string, found {}",
            ),
            (
                "code/build-test",
                r#"{"repo":["a"]}"#,
                r#"payload.repo: expected a string, found ["a"]"#,
            ),
            ("code/build-test", r#"{"ref":" "}"#, "payload.ref: is empty"),
            (
                "code/build-test",
                r#"{"edits_url":true}"#,
                "payload.edits_url: expected a string, found true",
            ),
            (
                "codegen/generate",
                "{}",
                "payload.spec: is missing; expected a string, an object or a list",
            ),
            (
                "codegen/generate",
                r#"{"spec":""}"#,
                "payload.spec: is empty",
            ),
            (
                "codegen/generate",
                r#"{"spec":3}"#,
                "payload.spec: expected a string, an object or a list, found 3",
            ),
            (
                "sandbox/run",
                "{}",
                "payload.command: is missing; expected this, or code and language",
            ),
            (
                "sandbox/run",
                r#"{"command":"a","code":"b"}"#,
                "payload.command: is given together with code; expected one of them",
            ),
            (
                "sandbox/run",
                r#"{"command":[]}"#,
                "payload.command: expected at least one string in the list, and nothing else",
            ),
            (
                "sandbox/run",
                r#"{"command":["a",1]}"#,
                "payload.command: expected at least one string in the list, and nothing else",
            ),
            (
                "sandbox/run",
                r#"{"code":"b"}"#,
                "payload.language: is missing; expected a string",
            ),
            (
                "sandbox/run",
                r#"{"command":"a","limits":3}"#,
                "payload.limits: expected an object, found 3",
            ),
        ] {
            assert_eq!(complaint(route, payload), expected, "{route} {payload}");
        }
    }

    #[test]
    fn right_payloads_are_read_with_fields_unknown_to_the_role() {
        let build = task(
            "code/build-test",
            r#"{"task_id":"t","repo":"r","ref":null,"__assignment":{}}"#,
        );
        let read = BuildTest::read(&parse(&build).expect("valid")).expect("valid");
        assert_eq!((read.repo.as_deref(), read.reference), (Some("r"), None));

        let structured = task("codegen/generate", r#"{"spec":{"files":[1, 2]}}"#);
        let read = Codegen::read(&parse(&structured).expect("valid")).expect("valid");
        assert_eq!(read.spec.as_str(), r#"{"files":[1, 2]}"#);

        let arguments = task(
            "sandbox/run",
            r#"{"command":["echo","a b"],"limits":{"cpu":1}}"#,
        );
        let read = Sandbox::read(&parse(&arguments).expect("valid")).expect("valid");
        assert_eq!(
            read.program,
            Program::Arguments(vec!["echo".into(), "a b".into()])
        );
        assert_eq!(read.limits.and_then(|limits| limits.raw("cpu")), Some("1"));
    }

    #[test]
    fn roles_and_their_paths_agree() {
        for role in Role::ALL {
            assert_eq!(Role::of(&task(role.path(), "{}").route), Ok(role));
        }
        let Err(Failure::Permanent(problem)) = Role::of(&task("code/deploy", "{}").route) else {
            panic!("an unknown role is refused for good");
        };
        assert_eq!(problem.code, "role_unsupported");
    }
}
