//! The plugin as a whole, against a host that answers from a script.

use cogo_executor::http::{Error, Response};
use cogo_executor::testing::{FakeHost, task};
use cogo_executor::{BuildTestReport, Executor, Failure, Outcome, Report, StopReason};
use cogo_worker::CogoWorker;

const URL: &str = "COGO_WORKER_URL";

fn run(payload: &str, host: &FakeHost) -> Result<Outcome, Failure> {
    CogoWorker::execute(task("code/build-test", payload), host)
}

fn host() -> FakeHost {
    FakeHost::new().with_config(URL, "http://worker:8080/")
}

#[test]
fn a_run_on_the_worker_becomes_an_outcome() {
    let host = host().answering(Response::new(200).with_body(
        r#"{"passed":false,"tests":5,"failures":1,"duration_ms":40,"report_url":"http://w/r","usage":{"tokens":9}}"#,
    ));
    let outcome = run(r#"{"repo":"r"}"#, &host).expect("a report");
    assert_eq!(
        outcome.report,
        Report::BuildTest(BuildTestReport {
            passed: false,
            tests: 5,
            failures: 1,
            duration_ms: 40,
            report_url: Some("http://w/r".into()),
        })
    );
    assert_eq!(outcome.snippet.as_deref(), Some("1 of 5 tests failed"));
    assert_eq!(host.usage.borrow()[0].tokens, 9);
    let requests = host.requests.borrow();
    assert_eq!(requests.len(), 1, "one request a task");
    assert_eq!(requests[0].url, "http://worker:8080/run/build-test");
}

#[test]
fn nothing_is_sent_where_payload_or_configuration_is_wrong() {
    for (host, payload, code) in [
        (FakeHost::new(), "{}", "config_missing"),
        (
            FakeHost::new().with_config(URL, "nonsense"),
            "{}",
            "config_invalid",
        ),
        (host(), "[]", "payload_invalid"),
    ] {
        let result = run(payload, &host);
        assert!(
            matches!(&result, Err(Failure::Permanent(problem)) if problem.code == code),
            "{result:?}"
        );
        assert!(host.requests.borrow().is_empty());
    }
}

#[test]
fn a_stop_or_a_dead_worker_ends_the_attempt() {
    let stopped = host().stopping(StopReason::Cancelled);
    assert_eq!(run("{}", &stopped), Err(Failure::Interrupted));

    let dead = host().failing(Error::Unreachable("the connection was refused".into()));
    let result = run("{}", &dead);
    assert!(
        matches!(&result, Err(Failure::Retryable(problem)) if problem.code == "worker_unreachable"),
        "{result:?}"
    );
}
