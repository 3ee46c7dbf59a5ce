//! The plugin as a whole, against a host that answers from a script.

use cogo_executor::http::{Error, Response};
use cogo_executor::testing::{FakeHost, task};
use cogo_executor::{
    BuildTestReport, CodegenReport, Executor, Failure, Outcome, Report, StopReason,
};
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

const GENERATED: &str = r#"{"edits_url":"/reports/run_1/edits.json","files":7,"duration_ms":4}"#;
const EDITS: &str = r#"{"version":1,"edits":[{"path":"a.py","content":"x = 1\n"}]}"#;

fn generate(host: &FakeHost) -> Result<Outcome, Failure> {
    CogoWorker::execute(task("codegen/generate", r#"{"spec":"do it"}"#), host)
}

#[test]
fn edits_are_fetched_checked_and_kept_with_the_task() {
    let host = host()
        .answering(Response::new(200).with_body(GENERATED))
        .answering(Response::new(200).with_body(EDITS));
    let outcome = generate(&host).expect("a report");
    assert_eq!(
        outcome.report,
        Report::Codegen(CodegenReport {
            edits_url: "artifact:edits.json".into(),
            // As many as there are, whatever the worker counted.
            files: 1,
            duration_ms: 4,
        })
    );
    assert_eq!(host.artifacts.borrow()["edits.json"], EDITS.as_bytes());
    let requests = host.requests.borrow();
    assert_eq!(
        requests[1].url,
        "http://worker:8080/reports/run_1/edits.json"
    );
}

#[test]
fn edits_that_cannot_be_used_fail_for_good_and_those_out_of_reach_do_not() {
    let climbing = r#"{"edits":[{"path":"../a","content":""}]}"#;
    let changed = format!(r#"{{"edits":[],"digest":"sha256:{}"}}"#, "0".repeat(64));
    let many = format!(r#"{{"edits":[{}]}}"#, vec!["1"; 2_001].join(","));
    let ok = |body: &str| Ok(Response::new(200).with_body(body));
    let large = Response::new(200).cut_by(Error::TooLarge(9));
    let cases = [
        (ok("<html>"), "permanent", "invalid_edits"),
        (ok(climbing), "permanent", "edit_outside_tree"),
        (ok(&changed), "permanent", "edits_digest_mismatch"),
        (ok(&many), "permanent", "edits_too_large"),
        (Ok(large), "permanent", "edits_too_large"),
        (Ok(Response::new(404)), "permanent", "edits_missing"),
        (Ok(Response::new(302)), "permanent", "worker_rejected"),
        (
            Err(Error::Denied("no".into())),
            "permanent",
            "egress_denied",
        ),
        (Ok(Response::new(503)), "retryable", "worker_error"),
        (
            Err(Error::Unreachable("gone".into())),
            "retryable",
            "worker_unreachable",
        ),
    ];
    for (answer, class, code) in cases {
        let host = host().answering(Response::new(200).with_body(GENERATED));
        let host = match answer.clone() {
            Ok(answer) => host.answering(answer),
            Err(error) => host.failing(error),
        };
        let found = match generate(&host) {
            Err(Failure::Permanent(problem)) => ("permanent", problem.code),
            Err(Failure::Retryable(problem)) => ("retryable", problem.code),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, (class, code.to_owned()), "{answer:?}");
        assert!(host.artifacts.borrow().is_empty(), "{answer:?}");
    }
}
