//! `plugin run`, on the bundled plugins.

use serde_json::{Value, json};

use crate::support::process::{Installation, Process, until};

fn write(here: &Installation, name: &str, text: &Value) -> String {
    let path = here.path().join(name);
    std::fs::write(&path, text.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `plugin run cogo-worker` on a build-test, with these arguments.
fn worker<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "plugin",
        "run",
        "cogo-worker",
        "--route",
        "code/build-test",
        "--config",
        "COGO_WORKER_URL=http://worker.test:8080",
    ];
    fixed.iter().chain(more).copied().collect()
}

#[test]
fn the_result_is_on_stdout_and_the_rest_on_stderr() {
    let here = Installation::new();
    let args = ["plugin", "run", "mock", "--route", "sandbox/run"];
    let task = ["--task", "command=ls", "mock={\"exit_code\":7}"];
    let ran = here.run(&[&args[..], &task[..]].concat()).expect(0);
    let result = ran.json();
    assert_eq!(result["outcome"], "completed");
    assert_eq!(result["report"]["exit_code"], 7);
    assert!(ran.stderr.starts_with("completed in "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(" of 128 MiB · 0 requests"),
        "{}",
        ran.stderr
    );
    let left: Vec<_> = std::fs::read_dir(here.path()).unwrap().collect();
    assert!(left.is_empty(), "it needs no place of its own: {left:?}");
}

#[test]
fn the_exit_code_follows_the_outcome() {
    let here = Installation::new();
    let cases = [
        ("{}", 0, "completed", None),
        (r#"{"behaviour":"tests-fail"}"#, 0, "completed", None),
        (
            r#"{"behaviour":"retryable","code":"busy"}"#,
            1,
            "retryable",
            Some("busy"),
        ),
        (
            r#"{"behaviour":"permanent","code":"bad"}"#,
            1,
            "permanent",
            Some("bad"),
        ),
        (
            r#"{"behaviour":"trap"}"#,
            1,
            "retryable",
            Some("plugin_trap"),
        ),
        (
            r#"{"behaviour":"wrong-report"}"#,
            1,
            "permanent",
            Some("report_mismatch"),
        ),
        (
            r#"{"behaviour":"allocate"}"#,
            1,
            "retryable",
            Some("plugin_memory_limit"),
        ),
    ];
    for (steering, exit, outcome, code) in cases {
        let field = format!("mock={steering}");
        let args = [
            "plugin",
            "run",
            "mock",
            "--route",
            "code/build-test",
            "--task",
        ];
        let ran = here
            .run(&[&args[..], &[&field, "--json"]].concat())
            .expect(exit);
        let result = &ran.data()["result"];
        assert_eq!(result["outcome"], outcome, "{steering}");
        assert_eq!(result["problem"]["code"].as_str(), code, "{steering}");
    }
}

#[test]
fn a_task_that_is_never_asked_to_stop_ends_at_its_deadline() {
    let here = Installation::new();
    let task = json!({
        "route": "code/build-test",
        "payload": { "mock": { "behaviour": "loop" } },
        "deadline_ms": 200,
    });
    let file = write(&here, "loop.task.json", &task);
    let ran = here
        .run(&["plugin", "run", "mock", "--task", &file])
        .expect(1);
    assert_eq!(ran.json()["outcome"], "stopped");
    assert_eq!(ran.json()["reason"], "deadline");
}

#[test]
fn a_mock_answers_and_keeps_what_it_was_asked() {
    let here = Installation::new();
    let rules = json!([
        { "method": "POST", "url": "http://worker.test:8080/run/build-test", "times": 1,
          "body": { "$subset": { "repo": "r" } },
          "respond": { "json": { "passed": true, "tests": 3, "failures": 0,
                                 "duration_ms": 5, "report_url": null } } },
        { "url": { "$pattern": "http://worker.test:8080/.*" }, "fail": "connection-refused" },
    ]);
    let mock = write(&here, "answers.json", &rules);
    let good = worker(&["--http-mock", &mock, "--task", "repo=r"]);
    let result = here.run(&good).expect(0).json();
    assert_eq!(result["report"]["tests"], 3);
    let request = &result["requests"][0];
    assert_eq!(request["method"], "POST");
    assert_eq!(request["url"], "http://worker.test:8080/run/build-test");
    assert_eq!(request["body"]["repo"], "r");
    assert!(
        request["headers"]["idempotency-key"].is_string(),
        "{request}"
    );
    // The same again, to the last byte: nothing in a trial is by chance.
    assert_eq!(here.run(&good).expect(0).json(), result);

    let other = worker(&["--http-mock", &mock, "--task", "repo=other"]);
    let result = here.run(&other).expect(1).json();
    assert_eq!(result["outcome"], "retryable");
    assert_eq!(result["problem"]["blame"], "worker");
}

#[test]
fn a_request_that_no_rule_is_for_is_refused_with_the_rule_to_add() {
    let here = Installation::new();
    let mock = write(&here, "answers.json", &json!([]));
    let ran = here.run(&worker(&["--http-mock", &mock])).expect(1);
    let (_, rule) = ran.stderr.split_once("to answer it, add ").unwrap();
    let rule: Value = serde_json::from_str(rule.lines().next().unwrap()).unwrap();
    let mock = write(&here, "answers.json", &json!([rule]));
    let ran = here.run(&worker(&["--http-mock", &mock])).expect(1);
    // It was answered now, by something that is no report.
    assert_eq!(ran.json()["problem"]["code"], "bad_response");
}

#[test]
fn a_host_that_is_not_allowed_is_named_with_the_flag_to_add() {
    let here = Installation::new();
    let ran = here.run(&worker(&[])).expect(1);
    let flag = "--allow-host http://worker.test:8080";
    assert!(ran.stderr.contains(flag), "{}", ran.stderr);
    assert_eq!(ran.json()["problem"]["code"], "egress_denied");
    // The last value counts; nobody listens on that port.
    let local = "COGO_WORKER_URL=http://127.0.0.1:1";
    let allowed = worker(&["--config", local, "--allow-host", "127.0.0.1:1"]);
    let ran = here.run(&allowed).expect(1);
    assert_eq!(ran.json()["problem"]["code"], "worker_unreachable");
}

#[test]
fn a_watch_runs_again_when_the_task_changes() {
    let here = Installation::new();
    let task = |exit: i32| json!({ "command": "ls", "mock": { "exit_code": exit } });
    let file = write(&here, "t.json", &task(1));
    let args = ["plugin", "run", "mock", "--watch", "--route", "sandbox/run"];
    let command = here.command(&[&args[..], &["--task", &file]].concat());
    let (process, _) = Process::start(command, |line| line.contains("\"exit_code\": 1"));
    let waiting = |times: usize| {
        until("it waits", &mut || {
            let waits = process.stderr().matches("waiting for a change").count();
            (waits == times).then_some(())
        });
    };
    waiting(1);
    write(&here, "t.json", &json!("no task"));
    waiting(2);
    assert!(
        process.stderr().contains("no JSON object"),
        "{}",
        process.stderr()
    );
    write(&here, "t.json", &task(10));
    waiting(3);
    assert_eq!(process.stderr().matches("completed in").count(), 2);
}
