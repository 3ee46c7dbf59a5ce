//! What the worker reports, checked field by field: a report decides whether a
//! change is good, so a doubtful one is none.

use cogo_executor::http::BaseUrl;
use cogo_executor::json::{FieldError, Object};
use cogo_executor::payload::Role;
use cogo_executor::{BuildTestReport, CodegenReport, Outcome, Report, SandboxReport, Usage};

/// Longer ones are not links.
const MAX_URL_BYTES: usize = 2_048;

/// A finished run.
#[derive(Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) report: Report,
    pub(crate) usage: Option<Usage>,
    /// Of a sandbox: the limit that ended the run.
    limit: Option<String>,
    /// Of a sandbox: how the run was kept apart.
    isolation: Option<String>,
    /// Of a sandbox, whose report has no place for it.
    url: Option<String>,
}

impl From<Finished> for Outcome {
    fn from(finished: Finished) -> Self {
        let mut outcome = Outcome::new(finished.report);
        outcome.url = finished.url;
        if let Some(limit) = finished.limit {
            let said = outcome.snippet.take().unwrap_or_default();
            outcome = outcome
                .with_snippet(format!("{said}: ended by the limit {limit}"))
                .with_attribute("limit", limit);
        }
        match finished.isolation {
            Some(isolation) => outcome.with_attribute("isolation", isolation),
            None => outcome,
        }
    }
}

impl Finished {
    /// Reads the body of an answer. Fields that are not known are left alone: a
    /// newer worker may say more.
    pub(crate) fn read(role: Role, worker: &BaseUrl, body: &[u8]) -> Result<Self, FieldError> {
        let text = std::str::from_utf8(body).map_err(|error| FieldError {
            path: "report".into(),
            complaint: format!("is not UTF-8: {error}"),
        })?;
        let object = Object::parse(text, "report")?;
        Ok(Self {
            report: match role {
                Role::BuildTest => Report::BuildTest(build_test(&object, worker)?),
                Role::Codegen => Report::Codegen(codegen(&object, worker)?),
                Role::Sandbox => Report::Sandbox(sandbox(&object)?),
            },
            usage: usage(&object)?,
            limit: optional_word(&object, role, "limit")?,
            isolation: optional_word(&object, role, "isolation")?,
            url: match role {
                Role::Sandbox => optional_link(&object, worker, "report_url")?,
                Role::BuildTest | Role::Codegen => None,
            },
        })
    }
}

/// What a sandbox says in a word; other roles know no such field.
fn optional_word(object: &Object<'_>, role: Role, key: &str) -> Result<Option<String>, FieldError> {
    match role {
        Role::Sandbox => object.optional(key),
        Role::BuildTest | Role::Codegen => Ok(None),
    }
}

fn build_test(object: &Object<'_>, worker: &BaseUrl) -> Result<BuildTestReport, FieldError> {
    let report = BuildTestReport {
        passed: object.required("passed")?,
        tests: object.required("tests")?,
        failures: object.required("failures")?,
        duration_ms: object.required("duration_ms")?,
        report_url: optional_link(object, worker, "report_url")?,
    };
    if report.failures > report.tests {
        let complaint = format!(
            "{} are more than the {} tests",
            report.failures, report.tests
        );
        return Err(object.error("failures", complaint));
    }
    if report.passed && report.failures > 0 {
        let complaint = format!("is true with {} failures", report.failures);
        return Err(object.error("passed", complaint));
    }
    Ok(report)
}

fn codegen(object: &Object<'_>, worker: &BaseUrl) -> Result<CodegenReport, FieldError> {
    Ok(CodegenReport {
        edits_url: match optional_link(object, worker, "edits_url")? {
            Some(url) => url,
            None => object.required("edits_url")?,
        },
        files: object.required("files")?,
        duration_ms: object.required("duration_ms")?,
    })
}

fn sandbox(object: &Object<'_>) -> Result<SandboxReport, FieldError> {
    Ok(SandboxReport {
        exit_code: object.required("exit_code")?,
        stdout: object.optional("stdout")?.unwrap_or_default(),
        stderr: object.optional("stderr")?.unwrap_or_default(),
        truncated: object.optional("truncated")?.unwrap_or_default(),
        duration_ms: object.required("duration_ms")?,
    })
}

fn usage(object: &Object<'_>) -> Result<Option<Usage>, FieldError> {
    let Some(usage) = object.object("usage")? else {
        return Ok(None);
    };
    Ok(Some(Usage {
        cost_micro_usd: usage.optional("cost_micro_usd")?.unwrap_or_default(),
        tokens: usage.optional("tokens")?.unwrap_or_default(),
        model: usage.optional("model")?,
    }))
}

/// A URL that people will click. One that begins with a slash is the worker's.
fn optional_link(
    object: &Object<'_>,
    worker: &BaseUrl,
    key: &str,
) -> Result<Option<String>, FieldError> {
    let Some(link) = object.optional::<String>(key)? else {
        return Ok(None);
    };
    let printable = link.bytes().all(|byte| byte.is_ascii_graphic());
    let absolute = link.starts_with("http://") || link.starts_with("https://");
    if link.len() > MAX_URL_BYTES || !printable {
        return Err(object.error(key, "is no URL: too long, or not plain ASCII"));
    }
    if absolute {
        return Ok(Some(link));
    }
    if link.starts_with('/') && !link.starts_with("//") {
        return Ok(Some(format!("{}{link}", worker.origin())));
    }
    Err(object.error(key, "is no http or https URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, body: &str) -> Result<Finished, String> {
        let worker = BaseUrl::parse("http://worker:8080/cogo").expect("a URL");
        Finished::read(role, &worker, body.as_bytes()).map_err(|error| error.to_string())
    }

    fn build_test(fields: &str) -> Result<Finished, String> {
        read(Role::BuildTest, &format!("{{{fields}}}"))
    }

    #[test]
    fn reports_of_every_role_are_read() {
        let read = |role, body| super::tests::read(role, body).expect("valid").report;
        assert_eq!(
            read(
                Role::BuildTest,
                r#"{"passed":false,"tests":9,"failures":2,"duration_ms":31,"report_url":"/r/1","new":[1]}"#
            ),
            Report::BuildTest(BuildTestReport {
                passed: false,
                tests: 9,
                failures: 2,
                duration_ms: 31,
                report_url: Some("http://worker:8080/r/1".into()),
            })
        );
        assert_eq!(
            read(
                Role::Codegen,
                r#"{"edits_url":"https://a/e.json","files":3,"duration_ms":1}"#
            ),
            Report::Codegen(CodegenReport {
                edits_url: "https://a/e.json".into(),
                files: 3,
                duration_ms: 1,
            })
        );
        assert_eq!(
            read(
                Role::Sandbox,
                r#"{"exit_code":-9,"stdout":"a\n","truncated":true,"duration_ms":1}"#
            ),
            Report::Sandbox(SandboxReport {
                exit_code: -9,
                stdout: "a\n".into(),
                stderr: String::new(),
                truncated: true,
                duration_ms: 1,
            })
        );
    }

    #[test]
    fn a_sandbox_tells_what_ended_it_and_where_it_ran() {
        let finished = read(
            Role::Sandbox,
            r#"{"exit_code":-9,"duration_ms":1,"limit":"wall_ms","isolation":"namespaces","report_url":"/r/2"}"#,
        );
        let outcome = Outcome::from(finished.expect("valid"));
        let attribute = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            outcome.attributes,
            [
                attribute("limit", "wall_ms"),
                attribute("isolation", "namespaces")
            ]
        );
        assert_eq!(
            outcome.snippet.as_deref(),
            Some("exit code -9: ended by the limit wall_ms")
        );
        assert_eq!(outcome.url.as_deref(), Some("http://worker:8080/r/2"));
    }

    #[test]
    fn what_a_run_spent_is_read() {
        let finished = build_test(
            r#""passed":true,"tests":1,"failures":0,"duration_ms":1,"usage":{"tokens":5,"model":"m"}"#,
        );
        let usage = finished.expect("valid").usage.expect("present");
        assert_eq!(
            (usage.cost_micro_usd, usage.tokens, usage.model.as_deref()),
            (0, 5, Some("m"))
        );
    }

    #[test]
    fn doubtful_build_tests_are_no_reports() {
        for (fields, expected) in [
            (
                r#""tests":1,"failures":0,"duration_ms":1"#,
                "report.passed: is missing",
            ),
            (
                r#""passed":"yes","tests":1,"failures":0,"duration_ms":1"#,
                "report.passed: expected true or false",
            ),
            (
                r#""passed":true,"failures":0,"duration_ms":1"#,
                "report.tests: is missing",
            ),
            (
                r#""passed":true,"tests":-1,"failures":0,"duration_ms":1"#,
                "report.tests: expected a whole number",
            ),
            (
                r#""passed":true,"tests":1.5,"failures":0,"duration_ms":1"#,
                "report.tests: expected a whole number",
            ),
            (
                r#""passed":true,"tests":4294967296,"failures":0,"duration_ms":1"#,
                "report.tests: expected a whole number",
            ),
            (
                r#""passed":true,"tests":1e99999,"failures":0,"duration_ms":1"#,
                "report.tests: expected a whole number",
            ),
            (
                r#""passed":true,"tests":NaN,"failures":0,"duration_ms":1"#,
                "report: is no JSON",
            ),
            (
                r#""passed":false,"tests":1,"failures":2,"duration_ms":1"#,
                "report.failures: 2 are more than the 1 tests",
            ),
            (
                r#""passed":true,"tests":2,"failures":1,"duration_ms":1"#,
                "report.passed: is true with 1 failures",
            ),
            (
                r#""passed":true,"tests":2,"failures":0"#,
                "report.duration_ms: is missing",
            ),
            (
                r#""passed":true,"tests":2,"failures":0,"duration_ms":"1""#,
                "report.duration_ms: expected a whole number",
            ),
        ] {
            let error = build_test(fields).expect_err(fields);
            assert!(error.starts_with(expected), "{fields}: {error}");
        }
    }

    #[test]
    fn links_are_web_links() {
        let long = format!("http://a/{}", "x".repeat(MAX_URL_BYTES));
        for link in [
            "javascript:alert(1)",
            "ftp://a/b",
            "//evil/x",
            "",
            "http://a/ b",
            "report.html",
            long.as_str(),
        ] {
            let fields = format!(
                r#""passed":true,"tests":1,"failures":0,"duration_ms":1,"report_url":"{link}""#
            );
            let error = build_test(&fields).expect_err(link);
            assert!(error.starts_with("report.report_url: is no"), "{error}");
        }
    }

    #[test]
    fn doubtful_reports_of_other_roles_are_none() {
        for (role, body, expected) in [
            (
                Role::Codegen,
                r#"{"files":1,"duration_ms":1}"#,
                "report.edits_url: is missing",
            ),
            (
                Role::Codegen,
                r#"{"edits_url":"http://a","files":true,"duration_ms":1}"#,
                "report.files: expected",
            ),
            (
                Role::Sandbox,
                r#"{"exit_code":3000000000,"duration_ms":1}"#,
                "report.exit_code: expected",
            ),
            (
                Role::Sandbox,
                r#"{"exit_code":0,"stdout":[],"duration_ms":1}"#,
                "report.stdout: expected a string",
            ),
            (
                Role::Sandbox,
                r#"{"exit_code":0,"duration_ms":1,"usage":[]}"#,
                "report.usage: expected an object",
            ),
            (Role::Sandbox, "[]", "report: expected an object"),
            (Role::Sandbox, "<html>", "report: is no JSON"),
            (Role::Sandbox, "", "report: is no JSON"),
        ] {
            let error = read(role, body).expect_err(body);
            assert!(error.starts_with(expected), "{body}: {error}");
        }
        let worker = BaseUrl::parse("http://worker").expect("a URL");
        let error = Finished::read(Role::Sandbox, &worker, &[0xff]).expect_err("no text");
        assert!(
            error.to_string().starts_with("report: is not UTF-8"),
            "{error}"
        );
    }
}
