//! An executor plugin in Rust: every part of the contract on one page.
//!
//! Handles `code/build-test`, a role the contract has a report for, and
//! `docs/render`, one it has none for. README.md lists what the payload steers.

use std::borrow::Cow;
use std::time::Duration;

use cogo_executor::http::Request;
use cogo_executor::{
    BuildTestReport, Descriptor, Executor, Failure, Host, Kind, Outcome, Report, Task, Usage, info,
    payload,
};
use serde_json::json;

struct Plugin;

impl Executor for Plugin {
    /// Constants only: the host calls it once, with nothing to reach.
    fn describe() -> Descriptor {
        Descriptor::new("rust-example", env!("CARGO_PKG_VERSION"), Kind::Real)
            .handling(["code/build-test", "docs/render"])
            .reading(["GREETING", "FETCH_ORIGIN"])
            .calling(["config:FETCH_ORIGIN"])
    }

    fn execute(task: Task, host: &impl Host) -> Result<Outcome, Failure> {
        let wanted = Wanted::read(&task)?;
        let salute = host.config("GREETING").unwrap_or_else(|| "Hello".into());
        let greeting = format!("{salute}, {}!", wanted.greet);
        info!(
            host,
            "{greeting} (attempt {} of {})", task.attempt, task.max_attempts
        );
        host.progress(Some(0.1), "greeted");
        // Before anything can fail: what a failed attempt spent counts too.
        let tokens = greeting.split(' ').count() as u64;
        host.report_usage(&Usage {
            cost_micro_usd: 0,
            tokens,
            model: None,
        });

        match wanted.fail.as_deref() {
            Some("retryable") => {
                let failure =
                    Failure::retryable("example_retryable", "fails, as the payload asked");
                return Err(failure.retry_after(Some(Duration::from_secs(1))));
            }
            Some("permanent") => {
                let message = "fails for good, as the payload asked";
                return Err(Failure::permanent("example_permanent", message));
            }
            _ => {}
        }
        if let Some(url) = &wanted.fetch {
            // Ends early when the host wants the attempt to end, as every wait does.
            let body = download(url, &task, host)?;
            host.store_artifact("fetched.bin", "application/octet-stream", &body)?;
            host.progress(Some(0.6), "fetched");
        }
        // What computes for long asks now and then.
        if host.stop().is_some() {
            return Err(Failure::Interrupted);
        }
        match (task.route.service.as_str(), task.route.role.as_str()) {
            ("code", "build-test") => build_test(&wanted, &greeting, host),
            ("docs", "render") => render(&wanted, &greeting, host),
            (service, role) => Err(Failure::permanent(
                "role_unsupported",
                format!("does not handle {service}/{role}"),
            )),
        }
    }
}

cogo_executor::export!(Plugin);

/// What the payload asks for. It comes from whoever put the task on the bus:
/// parsed once, here.
struct Wanted<'a> {
    greet: Cow<'a, str>,
    fail: Option<Cow<'a, str>>,
    fetch: Option<Cow<'a, str>>,
    failures: u32,
    title: Option<Cow<'a, str>>,
    text: Option<Cow<'a, str>>,
}

impl<'a> Wanted<'a> {
    fn read(task: &'a Task) -> Result<Self, Failure> {
        let object = payload::parse(task)?;
        let text = |key| {
            object
                .optional::<Cow<'a, str>>(key)
                .map_err(payload::invalid)
        };
        let failures = object.optional("failures").map_err(payload::invalid)?;
        if failures.is_some_and(|failures: u32| failures > 3) {
            return Err(payload::invalid(object.error("failures", "is more than 3")));
        }
        Ok(Self {
            greet: text("greet")?.unwrap_or("world".into()),
            fail: text("fail")?,
            fetch: text("fetch")?,
            failures: failures.unwrap_or(0),
            title: text("title")?,
            text: text("text")?,
        })
    }
}

fn download(url: &str, task: &Task, host: &impl Host) -> Result<Vec<u8>, Failure> {
    let request = Request::get(url)
        // Whoever is called can tell a repetition from another task.
        .header("idempotency-key", task.idempotency_key.as_str())
        .timeout(Duration::from_secs(20));
    let response = host.send(&request)?;
    let message = format!("{url}: status {}", response.status);
    match response.status {
        200..=299 => Ok(response.body().map_err(Clone::clone)?.to_vec()),
        429 | 500.. => {
            let failure = Failure::retryable("fetch_refused", message);
            Err(failure.retry_after(response.retry_after()))
        }
        _ => Err(Failure::permanent("fetch_refused", message)),
    }
}

fn build_test(wanted: &Wanted<'_>, greeting: &str, host: &impl Host) -> Result<Outcome, Failure> {
    let failures = wanted.failures;
    let text = format!("{greeting}\n{failures} of 3 tests failed\n");
    let url = host.store_artifact("report.txt", "text/plain; charset=utf-8", text.as_bytes())?;
    // Failing tests are a finished task with a negative verdict, not a failure.
    let report = BuildTestReport {
        passed: failures == 0,
        tests: 3,
        failures,
        duration_ms: 0,
        report_url: Some(url),
    };
    Ok(Outcome::from(report).with_snippet(greeting))
}

fn render(wanted: &Wanted<'_>, greeting: &str, host: &impl Host) -> Result<Outcome, Failure> {
    let title = escape(wanted.title.as_deref().unwrap_or(greeting));
    let text = escape(wanted.text.as_deref().unwrap_or_default());
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1><p>{text}</p>\n"
    );
    let url = host.store_artifact("index.html", "text/html; charset=utf-8", page.as_bytes())?;
    let report = json!({ "page_url": url, "bytes": page.len() }).to_string();
    let mut outcome = Outcome::from(Report::Custom(report)).with_snippet(greeting);
    outcome.url = Some(url);
    Ok(outcome)
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use cogo_executor::StopReason;
    use cogo_executor::http::Response;
    use cogo_executor::testing::{FakeHost, task};

    use super::*;

    #[test]
    fn it_greets_and_reports() {
        let host = FakeHost::new().with_config("GREETING", "Ahoj");
        let outcome =
            Plugin::execute(task("code/build-test", r#"{"greet":"you"}"#), &host).unwrap();
        assert_eq!(outcome.snippet.as_deref(), Some("Ahoj, you!"));
        assert!(host.artifacts.borrow().contains_key("report.txt"));
    }

    #[test]
    fn a_server_that_is_down_is_worth_another_attempt() {
        let host = FakeHost::new().answering(Response::new(503).with_header("retry-after", "7"));
        let asked = task("code/build-test", r#"{"fetch":"http://x/"}"#);
        let Err(Failure::Retryable(problem)) = Plugin::execute(asked, &host) else {
            panic!("expected a retryable failure");
        };
        assert_eq!(problem.retry_after_ms, Some(7000));
    }

    #[test]
    fn it_gives_way_when_asked() {
        let host = FakeHost::new().stopping(StopReason::Draining);
        let ended = Plugin::execute(task("code/build-test", "{}"), &host);
        assert_eq!(ended, Err(Failure::Interrupted));
    }
}
