//! Between the contract's types and the bus's: the task on its way in, what the
//! guest returned on its way out, checked.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::attempt::{Attempt, AttemptEnd, Blame, Problem, StopReason};
use crate::millis::millis;
use crate::plugin::bindings::cogo::executor::contract;
use crate::plugin::host::State;
use crate::plugin::limits::Limits;
use crate::plugin::sandbox::{CallEnd, failure};
use crate::plugin::text;
use crate::report::{Outcome, Report};
use crate::route::RouteKey;

/// The longest one-line summary, in bytes.
const SNIPPET_BYTES: usize = 500;
/// The longest URL that a result may name, in bytes.
const URL_BYTES: usize = 2_048;
/// The longest code of a failure, in bytes.
const CODE_BYTES: usize = 64;
/// The code of a failure whose own is unusable.
const ANY_FAILURE: &str = "plugin_failure";

/// The task as the guest gets it. Borrows: the payload is copied once, into the
/// guest.
pub(super) fn task<'a>(
    attempt: &'a Attempt,
    (message_id, idempotency_key): (&'a str, &'a str),
    left: Duration,
) -> contract::Task<'a> {
    let route = &attempt.route;
    contract::Task {
        id: &attempt.task_id,
        message_id,
        idempotency_key,
        trace_id: attempt.trace_id.as_str(),
        route: contract::Route {
            service: route.key.service(),
            role: route.key.role(),
            shard: route.shard,
            tenant: route.tenant.as_deref(),
        },
        attempt: attempt.number,
        max_attempts: attempt.max_attempts,
        deadline_ms: millis(left),
        payload: &attempt.payload,
        attributes: &[],
    }
}

/// How the attempt ends. A guest that was asked to stop and did not finish gave
/// way, however it came back; what it finished all the same counts.
pub(super) fn of(called: CallEnd, state: &State, route: &RouteKey) -> AttemptEnd {
    let asked = state.asked_to_stop();
    let end = match called {
        CallEnd::Cut(reason) => AttemptEnd::Stopped(reason),
        CallEnd::Trapped(cause) => failure::end(&cause, state),
        CallEnd::Returned(Ok(outcome)) => match accept(outcome, state.limits(), route) {
            Ok(outcome) => AttemptEnd::Completed(outcome),
            Err(problem) => AttemptEnd::Permanent(problem),
        },
        CallEnd::Returned(Err(failure)) => failed(failure, state.stop_reason(), state.limits()),
    };
    match (asked, end) {
        (Some(reason), AttemptEnd::Retryable { .. }) => AttemptEnd::Stopped(reason),
        (_, end) => end,
    }
}

fn failed(failure: contract::Failure, stop: Option<StopReason>, limits: &Limits) -> AttemptEnd {
    match failure {
        contract::Failure::Retryable(raw) => {
            let after = raw.retry_after_ms.map(Duration::from_millis);
            AttemptEnd::Retryable {
                problem: problem(raw, limits),
                after,
            }
        }
        contract::Failure::Permanent(raw) => AttemptEnd::Permanent(problem(raw, limits)),
        contract::Failure::Interrupted => match stop {
            Some(reason) => AttemptEnd::Stopped(reason),
            None => AttemptEnd::Retryable {
                problem: Problem::new(
                    "interrupted_unasked",
                    "the plugin gave way although nobody asked it to",
                    Blame::Guest,
                ),
                after: None,
            },
        },
    }
}

/// A failure in the plugin's words. Codes that begin `worker_` speak of the
/// service behind the plugin; every other failure is the plugin's own.
fn problem(raw: contract::Problem, limits: &Limits) -> Problem {
    let usable = !raw.code.is_empty()
        && raw.code.len() <= CODE_BYTES
        && raw
            .code
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b));
    let code = if usable {
        raw.code
    } else {
        ANY_FAILURE.to_owned()
    };
    let blame = if code.starts_with("worker_") {
        Blame::Worker
    } else {
        Blame::Guest
    };
    let message = text::cut(text::printable(raw.message), limits.message_bytes);
    Problem::new(code, message, blame)
}

/// Checks what the guest calls its result.
fn accept(
    outcome: contract::Outcome,
    limits: &Limits,
    route: &RouteKey,
) -> Result<Outcome, Problem> {
    let bytes = size(&outcome);
    if bytes > limits.result_bytes {
        return Err(invalid(format!(
            "the result has {bytes} bytes; at most {} are allowed: put large output into an artifact",
            limits.result_bytes
        )));
    }
    let report = report(outcome.report)?;
    if !report.fits(route) {
        let message = format!(
            "the plugin returned a `{}` report for a task of {route}",
            report.case()
        );
        return Err(Problem::new("report_mismatch", message, Blame::Guest));
    }
    let snippet = outcome.snippet.map(text::one_line);
    let attributes = outcome.attributes.into_iter();
    Ok(Outcome {
        report,
        snippet: snippet
            .filter(|snippet| !snippet.trim().is_empty())
            .map(|snippet| text::cut(snippet, SNIPPET_BYTES)),
        url: outcome.url.map(|url| checked_url("url", url)).transpose()?,
        attributes: attributes
            .map(|(key, value)| (text::storable(key), text::storable(value)))
            .collect(),
    })
}

fn invalid(message: String) -> Problem {
    Problem::new("report_invalid", message, Blame::Guest)
}

/// The bytes of all strings of a result.
fn size(outcome: &contract::Outcome) -> usize {
    let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let report = match &outcome.report {
        contract::Report::BuildTest(report) => len(&report.report_url),
        contract::Report::Codegen(report) => report.edits_url.len(),
        contract::Report::Sandbox(report) => report.stdout.len() + report.stderr.len(),
        contract::Report::Custom(report) => report.len(),
    };
    let attributes = outcome.attributes.iter().map(|(k, v)| k.len() + v.len());
    report + len(&outcome.snippet) + len(&outcome.url) + attributes.sum::<usize>()
}

fn report(raw: contract::Report) -> Result<Report, Problem> {
    Ok(match raw {
        contract::Report::BuildTest(raw) => Report::BuildTest {
            passed: raw.passed,
            tests: raw.tests,
            failures: raw.failures,
            duration_ms: raw.duration_ms,
            report_url: raw
                .report_url
                .map(|url| checked_url("report-url", url))
                .transpose()?,
        },
        contract::Report::Codegen(raw) => Report::Codegen {
            edits_url: checked_url("edits-url", raw.edits_url)?,
            files: raw.files,
            duration_ms: raw.duration_ms,
        },
        contract::Report::Sandbox(raw) => Report::Sandbox {
            exit_code: raw.exit_code,
            stdout: text::storable(raw.stdout),
            stderr: text::storable(raw.stderr),
            truncated: raw.truncated,
            duration_ms: raw.duration_ms,
        },
        contract::Report::Custom(raw) => Report::Custom {
            value: object(&raw)?,
        },
    })
}

fn checked_url(field: &str, url: String) -> Result<String, Problem> {
    if url.len() > URL_BYTES || url.chars().any(char::is_control) {
        return Err(invalid(format!(
            "`{field}` is no URL: it has more than {URL_BYTES} bytes or control characters"
        )));
    }
    Ok(url)
}

fn object(raw: &str) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_str(raw) {
        Ok(Value::Object(object)) => Ok(storable(object)),
        Ok(_) => Err(invalid("a custom report must be a JSON object".to_owned())),
        Err(cause) => Err(invalid(format!("a custom report must be JSON: {cause}"))),
    }
}

/// Replaces NUL in all texts; the parser's limit of nesting bounds the depth.
fn storable(object: Map<String, Value>) -> Map<String, Value> {
    let entries = object.into_iter();
    entries
        .map(|(key, value)| (text::storable(key), storable_value(value)))
        .collect()
}

fn storable_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text::storable(text)),
        Value::Array(items) => Value::Array(items.into_iter().map(storable_value).collect()),
        Value::Object(object) => Value::Object(storable(object)),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(report: contract::Report) -> contract::Outcome {
        contract::Outcome {
            report,
            snippet: None,
            url: None,
            attributes: Vec::new(),
        }
    }

    fn custom(text: &str) -> Result<Outcome, Problem> {
        let route = "docs/render".parse().unwrap();
        let raw = outcome(contract::Report::Custom(text.to_owned()));
        accept(raw, &Limits::DEFAULT, &route)
    }

    #[test]
    fn a_custom_report_is_a_json_object() {
        assert!(custom(r#"{"a":[1]}"#).is_ok());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in ["", "[]", "1", "{", "{\"a\":1} x", &deep] {
            assert_eq!(custom(bad).unwrap_err().code, "report_invalid");
        }
    }

    #[test]
    fn nothing_that_the_databases_refuse_gets_through() {
        let Report::Custom { value } = custom(r#"{"a\u0000":["\u0000"]}"#).unwrap().report else {
            panic!("expected a custom report");
        };
        assert!(!Value::Object(value).to_string().contains("\\u0000"));
    }

    #[test]
    fn a_url_is_bounded_and_plain() {
        let route = "codegen/generate".parse().unwrap();
        for bad in ["x".repeat(URL_BYTES + 1), "http://a\nb".to_owned()] {
            let report = contract::Report::Codegen(contract::CodegenReport {
                edits_url: bad,
                files: 1,
                duration_ms: 1,
            });
            let refused = accept(outcome(report), &Limits::DEFAULT, &route).unwrap_err();
            assert_eq!(refused.code, "report_invalid");
        }
    }

    #[test]
    fn who_is_to_blame_follows_from_the_code() {
        let problem_of = |code: &str| {
            let raw = contract::Problem {
                code: code.to_owned(),
                message: "x".repeat(10_000),
                retry_after_ms: None,
            };
            problem(raw, &Limits::DEFAULT)
        };
        assert_eq!(problem_of("worker_timeout").blame, Blame::Worker);
        assert_eq!(problem_of("bad_input").blame, Blame::Guest);
        assert_eq!(problem_of("Bad Code").code, ANY_FAILURE);
        assert_eq!(problem_of("x").message.len(), Limits::DEFAULT.message_bytes);
    }
}
