//! Runs of the pipeline with nothing replaced: hosts that die, stages on their
//! own flags, edits that go missing, and somebody else's project.

use std::path::Path;
use std::process::Command;

use cogo_host::attempt::StagedArtifact;
use cogo_host::ids::Digest;
use cogo_host::pipeline::Order;
use cogo_host::route::KnownRole;
use cogo_host::store::{OpenMode, SqliteStore, Store as _};
use cogo_host::task::Next;
use serde_json::{Value, json};

use crate::support::hand::{Hand, settlement};
use crate::support::process::{Host, Installation, Worker, sources};
use crate::support::s3::S3;
use crate::whole_path::{count, ended as task_ended, events, project, submit, task, waiting};

const PIPELINE: &str = "/api/pipeline/codeBuildTest";

/// Build-tests on the worker; codegen stays with the mock until its flag is set.
fn real(worker: &Worker) -> Installation {
    Installation::new()
        .with("ENABLE_COGO_WORKER", "true")
        .with("COGO_WORKER_URL", &worker.url)
        .with("RECLAIM_AFTER_MS", "1500")
}

fn codegen_too(here: &Installation) {
    let args = [
        "flag",
        "set",
        "codegen/generate",
        "on",
        "--reason",
        "a test",
    ];
    let _ = here.run(&args).expect(0);
}

pub fn enforced(host: &Host, order: &Value) -> (u16, Value) {
    host.post(&format!("{PIPELINE}?enforce=true&wait_ms=120000"), order)
}

fn ended(here: &Installation, task_id: &str) -> Value {
    here.until("the run has ended", || {
        let shown = here.run(&["pipeline", "status", "--json", task_id]).data();
        let state = shown["state"].as_str().unwrap().to_owned();
        matches!(state.as_str(), "done" | "cancelled").then_some(shown)
    })
}

fn tasks(here: &Installation, trace: &str) -> Vec<Value> {
    let listed = here.run(&["trace", "--json", trace]).expect(0).data();
    listed["tasks"].as_array().unwrap().clone()
}

fn trace(run: &Value) -> &str {
    run["trace_id"].as_str().unwrap()
}

#[test]
fn a_host_that_ends_when_idle_ends_no_run_between_its_stages() {
    let here = Installation::new();
    let start = ["pipeline", "start", "--task-id", "t-1", "--spec", "note it"];
    let started = here.run(&[&start[..], &["--repo", ".", "--json"]].concat());
    let _ = started.expect(0);
    let _ = here.run(&["run", "--until-idle"]).expect(0);
    let run = here.run(&["pipeline", "status", "--json", "t-1"]).data();
    assert_eq!(run["state"], json!("done"), "{run:#}");
    assert_eq!(tasks(&here, trace(&run)).len(), 2);
}

#[test]
fn each_stage_goes_by_its_own_flag_and_the_same_order_is_the_same_run() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker);
    let host = here.host(&[]);

    let order = json!({ "taskId": "t/1", "spec": "note it", "repo": project });
    let (status, run) = enforced(&host, &order);
    assert_eq!(
        (status, &run["decision"]["verdict"]),
        (200, &json!("pass")),
        "{run:#}"
    );
    let story = tasks(&here, trace(&run));
    let kinds: Vec<_> = story.iter().map(|task| &task["result"]["kind"]).collect();
    assert_eq!(kinds, ["mock", "real"]);
    assert_eq!(run["ids"]["build_test"], story[1]["id"]);
    // The mock's edits went through the worker as any other.
    let build_test = task(&here, story[1]["id"].as_str().unwrap());
    let edits = format!("{}/artifacts/t%2F1/edits.json", host.api);
    assert_eq!(build_test["payload"]["edits_url"], edits);
    let report = host.get("/artifacts/t%2F1/build-test/report.json");
    assert_eq!(
        (&report["passed"], &report["decision"]["verdict"]),
        (&json!(true), &json!("pass"))
    );

    let (status, again) = enforced(&host, &order);
    assert_eq!((status, trace(&again)), (200, trace(&run)));
    assert_eq!(tasks(&here, trace(&run)).len(), 2);
    let other = json!({ "taskId": "t/1", "spec": "another", "repo": project });
    let (status, refused) = enforced(&host, &other);
    assert_eq!(
        (status, &refused["error"]["code"]),
        (409, &json!("pipeline_differs"))
    );
    let figures = host.get("/api/metrics/workflows/codeBuildTest");
    assert_eq!(
        (&figures["passed"], &figures["running"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn a_run_survives_the_death_of_its_host_while_it_is_built_and_tested() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker);
    let mut first = here.host(&[]);

    let order = json!({ "taskId": "t-1", "spec": "note it", "repo": project });
    let (status, begun) = first.post(&format!("{PIPELINE}?wait_ms=0"), &order);
    assert_eq!((status, &begun["decision"]), (202, &Value::Null));
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    first.process.kill();
    std::fs::write(root.path().join("go"), "").unwrap();
    let _ = resumed(&here, &order, &begun);
}

/// The run as a host ends it that starts after another was killed; everything
/// happened once.
fn resumed(here: &Installation, order: &Value, begun: &Value) -> Value {
    let host = here.host(&[]);
    let (status, run) = enforced(&host, order);
    assert_eq!((status, &run["state"]), (200, &json!("done")), "{run:#}");
    assert_eq!(trace(&run), trace(begun));
    let events = events(here, trace(&run));
    for once in [
        "pipeline_started",
        "codegen_done",
        "pipeline_stage",
        "buildtest_done",
        "pipeline_done",
    ] {
        assert_eq!(count(&events, once), 1, "{once} in {events:?}");
    }
    assert_eq!(tasks(here, trace(&run)).len(), 2);
    run
}

#[test]
fn a_run_survives_the_death_of_its_host_while_code_is_written() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    // A worker that takes the call and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker).with("COGO_WORKER_URL", &url);
    codegen_too(&here);
    let mut first = here.host(&[]);
    let spec = "create note.txt with \"x\"";
    let order = json!({ "taskId": "t-1", "spec": spec, "repo": project });
    let (status, begun) = first.post(&format!("{PIPELINE}?wait_ms=0"), &order);
    assert_eq!((status, &begun["state"]), (202, &json!("codegen")));
    let _call = silent.accept().unwrap();
    first.process.kill();

    let run = resumed(&here.with("COGO_WORKER_URL", &worker.url), &order, &begun);
    assert_eq!(run["decision"]["verdict"], "pass", "{run:#}");
}

#[test]
fn a_run_survives_the_death_of_its_host_while_it_is_judged() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let s3 = S3::start();
    let here = s3.keep_artifacts_of(real(&worker));
    let mut first = here.host(&[]);
    let order = json!({ "taskId": "t-1", "spec": "note it", "repo": project });
    let (_, begun) = first.post(&format!("{PIPELINE}?wait_ms=0"), &order);
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    // The verdict waits for its report, which nobody keeps.
    s3.refuse(true);
    std::fs::write(root.path().join("go"), "").unwrap();
    here.until("the report is refused", || (s3.refused() > 0).then_some(()));
    first.process.kill();
    let status = here.run(&["pipeline", "status", "--json", "t-1"]).data();
    let stage = task(&here, status["ids"]["build_test"].as_str().unwrap());
    assert_eq!(
        (&stage["status"], &status["state"], &status["decision"]),
        (&json!("done"), &json!("build-test"), &Value::Null)
    );

    s3.refuse(false);
    let run = resumed(&here, &order, &begun);
    assert_eq!(run["decision"]["verdict"], "pass", "{run:#}");
    assert_eq!(s3.paths().len(), 2, "edits and report");
}

#[test]
fn a_run_is_cancelled_with_the_task_that_it_waits_for() {
    let root = Installation::new();
    let project = project(root.path(), &waiting(root.path()));
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker);
    let host = here.host(&[]);

    let repo = project.to_str().unwrap();
    let start = [
        "pipeline",
        "start",
        "--task-id",
        "t-1",
        "--spec",
        "note it",
        "--repo",
        repo,
    ];
    let _ = here.run(&start).expect(0);
    here.until("the test has begun", || {
        root.path().join("begun").exists().then_some(())
    });
    let _ = here.run(&["pipeline", "cancel", "t-1"]).expect(0);
    let run = ended(&here, "t-1");
    assert_eq!(
        (&run["state"], &run["decision"]),
        (&json!("cancelled"), &Value::Null)
    );
    let story = tasks(&here, trace(&run));
    assert_eq!(story[1]["error"], "cancelled");
    assert_eq!(count(&events(&here, trace(&run)), "pipeline_cancelled"), 1);
    let order = json!({ "taskId": "t-1", "spec": "note it", "repo": repo });
    let (status, refused) = enforced(&host, &order);
    assert_eq!(
        (status, &refused["error"]["code"]),
        (422, &json!("gate_not_passed"))
    );
    let _ = here.run(&["pipeline", "cancel", "t-1"]).expect(2);
    let _ = here.run(&["pipeline", "cancel", "t-2"]).expect(4);
    std::fs::write(root.path().join("go"), "").unwrap();
}

#[test]
fn a_codegen_that_fails_ends_the_run_and_says_why() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker);
    let host = here.host(&[]);
    codegen_too(&here);

    let spec = "replace \"not there\" with \"x\" in tests/test_it.py";
    let order = json!({ "taskId": "t-1", "spec": spec, "repo": project });
    let (status, run) = enforced(&host, &order);
    assert_eq!(
        (status, &run["error"]["code"]),
        (422, &json!("gate_not_passed"))
    );
    let message = run["error"]["message"].as_str().unwrap();
    assert!(message.contains("codegen: worker_rejected: "), "{message}");
    let events = events(&here, trace(&run));
    assert_eq!(count(&events, "codegen_failed"), 1);
    assert_eq!(count(&events, "gate_violation"), 1);
    assert_eq!(tasks(&here, trace(&run)).len(), 1);

    for (order, code) in [
        (
            json!({ "taskId": "t-2", "repo": project }),
            "payload_invalid",
        ),
        (
            json!({ "taskId": "t-2", "spec": spec, "sepc": 1 }),
            "body_invalid",
        ),
    ] {
        let (status, refused) = enforced(&host, &order);
        assert_eq!(
            (status, &refused["error"]["code"]),
            (422, &json!(code)),
            "{refused}"
        );
    }
    let _ = here.run(&["pipeline", "status", "t-2"]).expect(4);
}

#[test]
fn edits_that_do_not_apply_fail_the_build_test() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let note = project.join("note.txt");
    std::fs::write(&note, "to go\n").unwrap();
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker);
    let host = here.host(&[]);
    codegen_too(&here);

    let order = json!({ "taskId": "t-1", "spec": "delete note.txt", "repo": project });
    let (status, run) = enforced(&host, &order);
    assert_eq!(status, 200, "{run:#}");
    // The same edits on a tree that they were not made for.
    std::fs::remove_file(note).unwrap();
    let edits = format!("{}/artifacts/t-1/edits.json", host.api);
    let submitted = submit(&here, &project, &["--edits-url", &edits]);
    let shown = task_ended(&here, submitted["id"].as_str().unwrap());
    let error = shown["error"].as_str().unwrap();
    assert!(
        error.starts_with("worker_rejected: ") && error.contains("note.txt"),
        "{error}"
    );
    let trace = submitted["trace_id"].as_str().unwrap();
    assert_eq!(count(&events(&here, trace), "buildtest_failed"), 1);
}

/// What a host finds where codegen left its edits.
struct Left {
    name: &'static str,
    /// What codegen stored; nothing where it stored nothing.
    stored: Option<&'static str>,
    /// What lies there now.
    found: Option<&'static str>,
    error: &'static str,
}

const LEFT: [Left; 4] = [
    Left {
        name: "none",
        stored: None,
        found: None,
        error: "edits_missing: ",
    },
    Left {
        name: "gone",
        stored: Some(r#"{"edits":[]}"#),
        found: None,
        error: "artifact_gone: ",
    },
    Left {
        name: "changed",
        stored: Some(r#"{"edits": []}"#),
        found: Some(r#"{"edits":[1]}"#),
        error: "artifact_changed: ",
    },
    Left {
        name: "climbing",
        stored: Some(r#"{"edits":[{"path":"../x","delete":true}]}"#),
        found: Some(r#"{"edits":[{"path":"../x","delete":true}]}"#),
        error: "edit_outside_tree: edits[0]: ",
    },
];

/// Plays the host that ran codegen and died before it took the next step.
async fn ran_codegen(here: &Path, left: &Left) {
    let path = here.join(".cogo/bus.db");
    std::fs::create_dir_all(here.join(".cogo")).unwrap();
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    store.migrate(false).await.unwrap();
    let order: Order = serde_json::from_value(json!({ "taskId": left.name, "spec": "s" })).unwrap();
    let run = order
        .accept("me", &KnownRole::ALL.map(KnownRole::key))
        .unwrap();
    store.start_run(&run).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&store, "codegen/generate").await;
    let next = Next::Done {
        result: json!({ "type": "codegen", "edits_url": "http://h/e.json", "files": 1 }),
        snippet: "edits".to_owned(),
        url: None,
    };
    let mut settled = settlement(&claim, next);
    if let Some(stored) = left.stored {
        let digest = Digest::of(stored.as_bytes());
        settled.artifacts = vec![StagedArtifact {
            path: "edits.json".to_owned(),
            content_type: "application/json".to_owned(),
            digest,
            bytes: stored.len() as u64,
        }];
        let (shelf, name) = (&digest.hex()[..2], &digest.hex()[2..]);
        let shelf = here.join(".cogo/artifacts").join(shelf);
        std::fs::create_dir_all(&shelf).unwrap();
        if let Some(found) = left.found {
            std::fs::write(shelf.join(name), found).unwrap();
        }
    }
    store.settle(&hand.id, &[settled]).await.unwrap();
    store.close().await.unwrap();
}

#[test]
fn edits_that_went_missing_or_bad_between_the_stages_end_the_run() {
    let here = Installation::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for left in &LEFT {
        runtime.block_on(ran_codegen(here.path(), left));
    }
    let _host = here.host(&[]);
    for left in &LEFT {
        let run = ended(&here, left.name);
        let error = run["error"].as_str().unwrap();
        assert!(error.starts_with(left.error), "{}: {error}", left.name);
        assert_eq!(run["decision"]["verdict"], "fail");
        assert_eq!(run["ids"]["build_test"], Value::Null);
    }
}

/// An archive of `toolz` in which the same change is made as the spec asks for.
fn broken(archive: &Path, dir: &Path) {
    let tar = |args: &[&str]| {
        let done = Command::new("tar").args(args).current_dir(dir).status();
        assert!(done.unwrap().success(), "{args:?}");
    };
    tar(&["-xzf", archive.to_str().unwrap()]);
    let file = dir.join("toolz-1.0.0/toolz/itertoolz.py");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(SOUND, BROKEN)).unwrap();
    tar(&["-czf", "broken.tar.gz", "toolz-1.0.0"]);
}

const SOUND: &str = "filterfalse(predicate, seq)";
const BROKEN: &str = "filter(predicate, seq)";

#[test]
fn a_change_to_an_open_source_project_is_judged_by_its_own_tests() {
    let archive = sources().join("target/downloads/toolz-1.0.0.tar.gz");
    assert!(
        archive.exists(),
        "tests/setup fetches {}",
        archive.display()
    );
    let root = Installation::new();
    broken(&archive, root.path());
    std::fs::copy(&archive, root.path().join("sound.tar.gz")).unwrap();
    let worker = Worker::start(root.path(), 0);
    let here = real(&worker).with("COGO_WORKER_TIMEOUT_MS", "110000");
    let host = here.host(&[]);
    codegen_too(&here);

    for (task_id, from, to, status, passed) in [
        ("breaks", SOUND, BROKEN, 422, false),
        ("mends", BROKEN, SOUND, 200, true),
    ] {
        let repo = if passed {
            "broken.tar.gz"
        } else {
            "sound.tar.gz"
        };
        let order = json!({
            "taskId": task_id,
            "spec": format!("replace {from:?} with {to:?} in toolz/itertoolz.py"),
            "repo": root.path().join(repo),
        });
        let (answered, run) = enforced(&host, &order);
        assert_eq!(answered, status, "{run:#}");
        let report = host.get(&format!("/artifacts/{task_id}/build-test/report.json"));
        assert_eq!(report["passed"], passed, "{report:#}");
        assert_eq!(
            (&report["tests"], &report["kind"]),
            (&json!(180), &json!("real"))
        );
        assert_eq!(report["failures"].as_u64().unwrap() > 0, !passed);
        let edits = host.get(&format!("/artifacts/{task_id}/edits.json"));
        assert_eq!(edits["edits"][0]["path"], "toolz/itertoolz.py");
        assert!(edits["digest"].as_str().unwrap().starts_with("sha256:"));
    }
}
