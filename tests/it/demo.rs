//! The first thing that anybody runs: `demo`, on what it brings along and on a
//! source archive.

use std::process::Command;

use serde_json::Value;

use crate::support::process::{Installation, sources};

/// Runs the demo where the sources lie, with a bus of its own.
fn demo(here: &Installation, more: &[&str]) -> Value {
    let mut args = vec!["demo", "--exit", "--json"];
    args.extend(more);
    let ended = here
        .command(&args)
        .current_dir(sources())
        .env("COGO_STATE_DIR", here.path().join("state"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    let answer: Value = serde_json::from_slice(&ended.stdout).unwrap();
    answer["data"].clone()
}

fn assert_really_tested(data: &Value, tests: u64) {
    let (task, trace) = (&data["task"], &data["trace"]);
    assert_eq!(task["status"], "done", "{data:#}");
    assert_eq!(task["result"]["tests"], tests, "{data:#}");
    assert_eq!(task["result"]["kind"], "real", "{data:#}");
    assert_eq!(trace["gate"]["verdict"], "pass", "{data:#}");
}

#[test]
fn it_tests_the_sample_project_for_real() {
    assert_really_tested(&demo(&Installation::new(), &[]), 11);
}

#[test]
fn it_tests_a_source_archive() {
    let here = Installation::new();
    let archive = here.path().join("sample.tar.gz");
    let packed = Command::new("tar")
        .args(["-C", "examples", "-czf"])
        .arg(&archive)
        .arg("sample-project")
        .current_dir(sources())
        .status()
        .unwrap();
    assert!(packed.success());
    let data = demo(&here, &["--repo", archive.to_str().unwrap()]);
    assert_really_tested(&data, 11);
}
