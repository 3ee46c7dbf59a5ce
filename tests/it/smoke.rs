//! The acceptance checklist against the real host and the real worker: what it
//! says where all is well, where the worker is down, and where the real path is
//! not enabled.

use std::path::Path;

use serde_json::Value;

use crate::support::process::{Finished, Host, Installation, Worker};
use crate::whole_path::{free_port, project};

const TOKEN: &str = "0123456789abcdef";

/// A host in this stage, whose worker is at this port.
fn host(stage: &str, port: u16) -> (Installation, Host) {
    let here = Installation::new()
        .with("COGO_STAGE", stage)
        .with("AGENT_SERVICE", "code")
        .with("COGO_HOST_TOKEN", TOKEN)
        .with("COGO_WORKER_URL", &format!("http://127.0.0.1:{port}"))
        .with("COGO_RETRY_BASE_MS", "50");
    let host = here.host(&[]);
    (here, host)
}

fn smoke(here: &Installation, project: &Path, more: &[&str]) -> Finished {
    let repo = project.to_str().unwrap();
    let nowhere = format!("http://127.0.0.1:{}/sources.tar.gz", free_port());
    let mut args = vec!["smoke", "--json", "--repo", repo];
    args.extend(["--failing-repo", &nowhere]);
    args.extend(more);
    here.run(&args)
}

/// The verdict of each line, in order.
fn lines(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .map(|check| {
            assert_eq!(
                check["verdict"] == "pass",
                check["fix"].is_null(),
                "{check}"
            );
            let text = |field: &str| check[field].as_str().unwrap();
            (text("name"), text("verdict"))
        })
        .collect()
}

fn line<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

fn tasks_on_the_bus(here: &Installation) -> usize {
    let listed = here.run(&["task", "list", "--json"]).expect(0).data();
    listed
        .as_array()
        .map_or_else(|| listed["tasks"].as_array().unwrap().len(), Vec::len)
}

#[test]
fn every_line_passes_and_no_gate_over_real_work_sees_it() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let port = free_port();
    let _worker = Worker::start(root.path(), port);
    let (here, host) = host("staging", port);

    let report = smoke(&here, &project, &[]).expect(0).data();
    let passed = [
        "real_path_enabled",
        "success",
        "success_events",
        "retry",
        "failure",
        "trace_ids",
        "gate",
        "gate_refuses",
    ];
    assert_eq!(
        lines(&report),
        passed.map(|name| (name, "pass")),
        "{report}"
    );
    assert_eq!(report["stage"], "staging");
    let found = line(&report, "retry")["found"].as_str().unwrap();
    assert!(found.contains("worker_error"), "{found}");
    // The worker's word, which it was asked to wait by.
    let failure = report["tasks"]["failure"]["id"].as_str().unwrap();
    let shown = here.run(&["task", "show", "--json", failure]).expect(0);
    assert_eq!(shown.data()["attempts"], 2);

    // Half of all that ended failed, on purpose: no window counts it.
    let gate = host.get("/api/workflows/gate?window_min=60");
    for check in gate["checks"].as_array().unwrap() {
        assert_eq!(check["n"], 0, "{check}");
    }
    for (task, verdict) in [("success", "pass"), ("failure", "fail")] {
        let trace = report["tasks"][task]["trace_id"].as_str().unwrap();
        let gate = host.get(&format!("/api/workflows/gate?trace={trace}"));
        assert_eq!(gate["verdict"], verdict, "{gate}");
    }
}

#[test]
fn with_the_worker_down_the_lines_that_need_it_say_so() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let (here, host) = host("staging", free_port());

    let report = smoke(&here, &project, &[]).expect(1).data();
    let found: Vec<_> = lines(&report);
    let expected = [
        ("real_path_enabled", "pass"),
        ("success", "fail"),
        ("success_events", "fail"),
        // The host did all that it is to do.
        ("retry", "pass"),
        ("failure", "pass"),
        ("trace_ids", "pass"),
        ("gate", "fail"),
        ("gate_refuses", "pass"),
    ];
    assert_eq!(found, expected, "{report}");
    let success = line(&report, "success");
    let said = success["found"].as_str().unwrap();
    assert!(said.contains("worker_unreachable"), "{said}");
    let fix = success["fix"].as_str().unwrap();
    assert!(fix.contains("COGO_WORKER_URL"), "{fix}");

    // Four failed connections of two tasks, and again: on purpose, or as good as.
    let _ = smoke(&here, &project, &[]).expect(1);
    let routes = host.get("/api/routes");
    let breaker = &routes["routes"][0]["decided"]["breaker"];
    assert!(breaker.is_null(), "{breaker}");

    let text = here
        .run(&["smoke", "--repo", project.to_str().unwrap()])
        .expect(1);
    assert!(text.stdout.contains("✗ success"), "{}", text.stdout);
    assert!(text.stdout.contains("fix: "), "{}", text.stdout);
}

#[test]
fn without_the_real_path_nothing_is_put_on_the_bus() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let (here, _host) = host("staging", free_port());
    let off = [
        "flag",
        "set",
        "code/build-test",
        "off",
        "--reason",
        "too slow",
    ];
    let _ = here.run(&off).expect(0);

    let report = smoke(&here, &project, &[]).expect(1).data();
    let found = lines(&report);
    assert_eq!(found[0], ("real_path_enabled", "fail"));
    assert!(found[1..].iter().all(|line| line.1 == "inconclusive"));
    let real_path = line(&report, "real_path_enabled");
    let said = real_path["found"].as_str().unwrap();
    assert!(said.contains("too slow"), "{said}");
    let fix = real_path["fix"].as_str().unwrap();
    assert!(fix.contains("flag set code/build-test on"), "{fix}");
    assert_eq!(tasks_on_the_bus(&here), 0);
}

#[test]
fn production_is_left_alone_without_consent() {
    let root = Installation::new();
    let project = project(root.path(), "pass");
    let (here, _host) = host("production", free_port());
    let refused = smoke(&here, &project, &[]).expect(2).json();
    assert_eq!(refused["error"]["code"], "consent_missing");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--yes"));
    assert_eq!(tasks_on_the_bus(&here), 0);
    // With consent it is done; with no worker, it fails.
    let _ = smoke(&here, &project, &["--yes"]).expect(1);
    assert_eq!(tasks_on_the_bus(&here), 2);
}

#[test]
fn what_does_not_end_in_time_is_cancelled_and_inconclusive() {
    let root = Installation::new();
    let project = project(root.path(), &crate::whole_path::waiting(root.path()));
    let port = free_port();
    let _worker = Worker::start(root.path(), port);
    let (here, _host) = host("staging", port);
    let report = smoke(&here, &project, &["--timeout", "100ms"])
        .expect(3)
        .data();
    assert_eq!(line(&report, "success")["verdict"], "inconclusive");
    for task in ["success", "failure"] {
        let id = report["tasks"][task]["id"].as_str().unwrap();
        let shown = crate::whole_path::ended(&here, id);
        assert_eq!(shown["error"], "cancelled", "{shown}");
    }
    std::fs::write(root.path().join("go"), "").unwrap();
}

#[test]
fn without_a_host_it_says_how_to_start_one() {
    let here = Installation::new();
    let refused = here
        .run(&["smoke", "--repo", ".", "--json"])
        .expect(6)
        .json();
    assert_eq!(refused["error"]["code"], "no_host");
    let elsewhere = format!("http://127.0.0.1:{}", free_port());
    let args = ["smoke", "--repo", ".", "--host", &elsewhere, "--json"];
    let refused = here.run(&args).expect(6).json();
    assert_eq!(refused["error"]["code"], "host_unreachable");
    let refused = here
        .run(&["smoke", "--host", &elsewhere, "--json"])
        .expect(2);
    assert_eq!(refused.json()["error"]["code"], "repo_missing");
}
