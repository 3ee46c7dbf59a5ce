//! The whole path with nothing replaced: the real binary, the real worker, real
//! projects, each a process of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::process::{Host, Installation, Worker};

/// A project with one test that runs `body`.
pub fn project(dir: &Path, body: &str) -> PathBuf {
    let project = dir.join("project");
    std::fs::create_dir_all(project.join("tests")).unwrap();
    std::fs::write(project.join("tests/__init__.py"), "").unwrap();
    let indented = body.replace('\n', "\n        ");
    let test = format!(
        "import os, time, unittest\n\nclass Test(unittest.TestCase):\n    def test_it(self):\n        {indented}\n"
    );
    std::fs::write(project.join("tests/test_it.py"), test).unwrap();
    project
}

/// A test that says it has begun and then waits for permission to end.
pub fn waiting(dir: &Path) -> String {
    let (begun, go) = (dir.join("begun"), dir.join("go"));
    format!("open({begun:?}, 'a').write('x')\nwhile not os.path.exists({go:?}): time.sleep(0.02)")
}

fn real(worker_url: &str) -> Installation {
    Installation::new()
        .with("ENABLE_COGO_WORKER", "true")
        .with("COGO_WORKER_URL", worker_url)
        .with("COGO_RETRY_BASE_MS", "50")
        .with("RECLAIM_AFTER_MS", "1500")
}

pub fn submit(here: &Installation, project: &Path, more: &[&str]) -> Value {
    let repo = ["--repo", project.to_str().unwrap()];
    here.submit("code/build-test", &[&repo[..], more].concat())
}

pub fn task(here: &Installation, id: &str) -> Value {
    here.run(&["task", "show", "--json", id]).expect(0).data()
}

pub fn ended(here: &Installation, id: &str) -> Value {
    here.until("the task has ended", || {
        let shown = task(here, id);
        let status = shown["status"].as_str().unwrap().to_owned();
        matches!(status.as_str(), "done" | "failed").then_some(shown)
    })
}

/// Every event of the trace, asserted to carry its id, in order.
pub fn events(here: &Installation, trace: &str) -> Vec<String> {
    let story = here.run(&["trace", "--json", trace]).expect(0).data();
    let events = story["events"].as_array().unwrap();
    assert!(!events.is_empty());
    for event in events {
        assert_eq!(event["trace_id"], trace, "{event}");
    }
    events
        .iter()
        .map(|event| event["event_type"].as_str().unwrap().to_owned())
        .collect()
}

pub fn count(events: &[String], name: &str) -> usize {
    events.iter().filter(|event| *event == name).count()
}

fn id(submitted: &Value) -> (&str, &str) {
    (
        submitted["id"].as_str().unwrap(),
        submitted["trace_id"].as_str().unwrap(),
    )
}

fn start(here: &Installation) -> Host {
    here.host(&[])
}

#[test]
fn a_passing_project_is_done_with_a_trace_and_passes_the_gate() {
    let here = Installation::new();
    let project = project(here.path(), "self.assertEqual(1 + 1, 2)");
    let worker = Worker::start(here.path(), 0);
    let here = real(&worker.url);
    let _host = start(&here);

    let submitted = submit(&here, &project, &["--task-id", "t-1"]);
    let (id, trace) = id(&submitted);
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "done");
    assert_eq!(shown["result"]["passed"], true);
    assert_eq!(shown["result"]["tests"], 1);
    assert_eq!(shown["result"]["kind"], "real");
    assert_eq!(shown["result"]["fallback"], false);
    assert_eq!(shown["history"][0]["plugin"], "cogo-worker");
    assert_eq!(shown["history"][0]["outbound_requests"], 1);
    assert_eq!(
        events(&here, trace),
        ["execute_enqueued", "execute_done", "buildtest_done"]
    );
    let gate = here
        .run(&["gate", "--trace", trace, "--require-real", "--json"])
        .expect(0)
        .data();
    assert_eq!(gate["report"]["verdict"], "pass");
}

#[test]
fn failing_tests_are_a_result_and_fail_the_gate() {
    let here = Installation::new();
    let project = project(here.path(), "self.fail('on purpose')");
    let worker = Worker::start(here.path(), 0);
    let here = real(&worker.url);
    let _host = start(&here);

    let submitted = submit(&here, &project, &[]);
    let (id, trace) = id(&submitted);
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "done");
    assert_eq!(shown["result"]["passed"], false);
    assert_eq!(shown["result"]["failures"], 1);
    assert_eq!(
        events(&here, trace),
        ["execute_enqueued", "execute_done", "buildtest_done"]
    );
    let _ = here.run(&["gate", "--trace", trace]).expect(1);
}

#[test]
fn a_worker_that_comes_back_gets_the_task_again() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let port = free_port();
    let here = real(&format!("http://127.0.0.1:{port}"));
    let _host = start(&here);

    let submitted = submit(&here, &project, &["--max-attempts", "50"]);
    let (id, trace) = id(&submitted);
    here.until("two attempts have failed", || {
        let shown = task(&here, id);
        (shown["history"].as_array().unwrap().len() >= 2).then_some(())
    });
    let _worker = Worker::start(root.path(), port);
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "done");
    assert_eq!(shown["result"]["passed"], true);
    let attempts = shown["history"].as_array().unwrap();
    assert_eq!(attempts[0]["outcome"], "retry");
    assert_eq!(attempts[0]["code"], "worker_unreachable");
    assert_eq!(attempts[0]["blame"], "worker");
    let events = events(&here, trace);
    let failed = attempts.len() - 1;
    assert_eq!(count(&events, "execute_retry"), failed);
    assert_eq!(count(&events, "buildtest_retry"), failed);
    assert_eq!(count(&events, "execute_done"), 1);
    assert_eq!(count(&events, "buildtest_done"), 1);
}

#[test]
fn a_worker_that_stays_away_fails_the_task_for_good() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let here = real(&format!("http://127.0.0.1:{}", free_port()));
    let _host = start(&here);

    let submitted = submit(&here, &project, &["--max-attempts", "2"]);
    let (id, trace) = id(&submitted);
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "failed");
    assert_eq!(shown["history"].as_array().unwrap().len(), 2);
    assert_eq!(
        events(&here, trace),
        [
            "execute_enqueued",
            "execute_retry",
            "buildtest_retry",
            "execute_failed",
            "buildtest_failed"
        ]
    );
    let _ = here.run(&["gate", "--trace", trace]).expect(1);
}

#[test]
fn a_running_task_can_be_cancelled() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker.url);
    let _host = start(&here);

    let submitted = submit(&here, &project, &[]);
    let (id, trace) = id(&submitted);
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    let _ = here.run(&["task", "cancel", id]).expect(0);
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "failed");
    assert_eq!(shown["error"], "cancelled");
    let events = events(&here, trace);
    assert_eq!(count(&events, "execute_cancelled"), 1);
    assert_eq!(count(&events, "execute_done"), 0);
    std::fs::write(root.path().join("go"), "").unwrap();
}

#[test]
fn a_task_survives_the_death_of_its_host() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker.url);
    let mut first = start(&here);

    let submitted = submit(&here, &project, &[]);
    let (id, trace) = id(&submitted);
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    first.process.kill();
    let _second = start(&here);
    std::fs::write(root.path().join("go"), "").unwrap();

    let shown = ended(&here, id);
    assert_eq!(shown["status"], "done");
    let attempts = shown["history"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0]["outcome"], "lost");
    assert_eq!(attempts[1]["outcome"], "done");
    assert_ne!(attempts[0]["host"], attempts[1]["host"]);
    let events = events(&here, trace);
    assert_eq!(count(&events, "task_rescued"), 1);
    assert_eq!(count(&events, "execute_done"), 1);
    assert_eq!(count(&events, "buildtest_done"), 1);
    // The worker knew the run by its key: the project's test ran once.
    assert_eq!(
        std::fs::read_to_string(root.path().join("begun")).unwrap(),
        "x"
    );
}

#[test]
fn a_drain_gives_the_attempt_back() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker.url).with("COGO_DRAIN_MS", "500");
    let mut first = start(&here);

    let submitted = submit(&here, &project, &[]);
    let (id, trace) = id(&submitted);
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    first.process.signal("TERM");
    assert_eq!(first.process.wait(), Some(0));
    let shown = task(&here, id);
    assert_eq!(shown["status"], "queued");
    assert_eq!(shown["attempts"], 0);
    assert_eq!(shown["history"][0]["outcome"], "drained");

    let _second = start(&here);
    std::fs::write(root.path().join("go"), "").unwrap();
    let shown = ended(&here, id);
    assert_eq!(shown["status"], "done");
    assert_eq!(shown["attempts"], 1);
    assert_eq!(count(&events(&here, trace), "execute_done"), 1);
}

/// A port that nobody listens on, for a worker that is not there yet.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
