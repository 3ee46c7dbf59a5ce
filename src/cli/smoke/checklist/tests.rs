//! What the lines say, as far as no running host shows it.

use super::*;

use serde_json::{Value, json};

fn key() -> RouteKey {
    "code/build-test".parse().unwrap()
}

/// The route as the API shows it, with what would happen to a task now.
fn route(now: &Value, decided: &Value) -> RouteView {
    let mut view = json!({
        "route": "code/build-test",
        "policy": "required",
        "plugins": { "pair": { "real": "cogo-worker", "mock": "mock" } },
        "served": true,
        "decided": decided,
    });
    let object = view.as_object_mut().unwrap();
    object.extend(now.as_object().unwrap().clone());
    serde_json::from_value(view).unwrap()
}

fn runs(kind: &str, path: &str, fallback: bool) -> Value {
    json!({
        "state": "runs",
        "executor": {
            "name": "own", "version": "1.0.0", "kind": kind,
            "digest": crate::ids::Digest::of(b"own"),
        },
        "why": { "path": path, "basis": "flag", "fallback": fallback },
    })
}

fn told(now: &Value, decided: &Value) -> (Verdict, String, String) {
    let line = real_path(&key(), &[route(now, decided)]);
    assert_eq!(line.verdict == Verdict::Pass, line.fix.is_none());
    (line.verdict, line.found, line.fix.unwrap_or_default())
}

#[test]
fn only_a_real_executor_on_the_real_path_will_do() {
    let none = json!({});
    let (verdict, found, _) = told(&runs("real", "real", false), &none);
    assert_eq!(verdict, Verdict::Pass, "{found}");
    let flag = json!({ "flag": {
        "route": "code/build-test", "enabled": false, "actor": "anna",
        "reason": "too slow", "changed_at": "2026-01-31T12:00:00Z",
    }});
    let down = json!({ "breaker": {
        "plugin": "cogo-worker", "route": "code/build-test", "revision": 1,
        "state": "open", "cause": "unreachable", "attempts": 5, "tasks": 2,
        "failed_probes": 0, "probe_in_ms": 10,
    }});
    let held = |reason: &str| json!({ "state": "held", "reason": reason });
    let missing = json!({ "state": "missing", "problem": "it was refused" });
    let cases = [
        (
            runs("mock", "real", false),
            &none,
            "counts as a mock",
            "kind = \"real\"",
        ),
        (
            runs("mock", "mock", false),
            &none,
            "configuration",
            "flag set code/build-test on",
        ),
        (
            runs("mock", "mock", false),
            &flag,
            "anna turned its flag off: too slow",
            "flag set",
        ),
        (
            runs("mock", "mock", true),
            &down,
            "could not be reached 5 times",
            "COGO_WORKER_URL",
        ),
        (
            held("paused"),
            &none,
            "somebody paused it",
            "route resume code/build-test",
        ),
        (
            held("flag_off"),
            &none,
            "its flag is off",
            "flag set code/build-test on",
        ),
        (
            held("breaker_open"),
            &none,
            "its real path is down",
            "COGO_WORKER_URL",
        ),
        (missing, &none, "it was refused", "plugin list"),
    ];
    for (now, decided, part, cure) in cases {
        let (verdict, found, fix) = told(&now, decided);
        assert_eq!(verdict, Verdict::Fail, "{found}");
        assert!(found.contains(part), "{found}");
        assert!(fix.contains(cure), "{fix}");
    }
    let line = real_path(&key(), &[]);
    assert_eq!(line.verdict, Verdict::Fail);
}

/// A task of the test with attempts by these outcomes and codes.
fn seen(status: &str, attempts: &[(&str, Option<&str>)], events: &[(&str, Option<&str>)]) -> Seen {
    let now = "2026-01-31T12:00:00Z";
    let id = crate::ids::MessageId::generate();
    let history: Vec<Value> = attempts
        .iter()
        .map(|(outcome, code)| {
            json!({
                "message_id": id, "lease_epoch": 1, "attempt": 1, "host": "h:1",
                "plugin": "cogo-worker", "version": "1.0.0", "digest": null, "kind": "real",
                "stage": "staging", "why": null, "claimed_at": now, "ended_at": now,
                "wait_ms": 1, "run_ms": 2, "outcome": outcome, "code": code, "blame": null,
                "usage": {}, "peak_memory_bytes": 0, "outbound_requests": 1,
                "spans": [], "log": [], "log_dropped": 0,
            })
        })
        .collect();
    let task = json!({
        "id": id, "created_at": now, "service": "code", "role": "build-test", "shard": 0,
        "tenant": null, "task_id": "smoke", "trace_id": "t", "status": status, "priority": 0,
        "attempts": attempts.len(), "max_attempts": ATTEMPTS, "host_faults": 0,
        "unique_key": null, "claimed_by": null, "claimed_at": null, "lease_epoch": 1,
        "lease_expires_at": null, "cancel_requested_at": null, "done_at": null,
        "retry_at": null, "last_error_at": null, "error": null,
        "result_snippet": "1 test passed", "result_url": null,
        "result": (status == "done").then(|| json!({ "passed": true })),
        "history": history,
    });
    let events = (1..).zip(events).map(|(n, (name, trace))| Event {
        id: n,
        created_at: now.parse().unwrap(),
        event_type: (*name).to_owned(),
        message_id: Some(id),
        service: None,
        role: None,
        shard: None,
        tenant: None,
        trace_id: trace.map(str::to_owned),
        reason: None,
        payload: json!({ "delay_ms": 7 }),
    });
    Seen {
        task: serde_json::from_value(task).unwrap(),
        events: events.collect(),
    }
}

const T: Option<&str> = Some("t");

#[test]
fn what_was_not_recorded_once_fails() {
    let attempts = [("done", None)];
    let all = [
        ("execute_enqueued", T),
        ("execute_done", T),
        ("buildtest_done", T),
    ];
    let lines = success(&key(), &seen("done", &attempts, &all));
    assert_eq!(verdict(&lines), Verdict::Pass, "{lines:?}");
    let [_, events] = success(&key(), &seen("done", &attempts, &all[..2]));
    assert_eq!(events.verdict, Verdict::Fail);
    assert!(events.found.contains("buildtest_done"), "{events:?}");
    let twice = [all[0], all[1], all[1], all[2]];
    let [_, events] = success(&key(), &seen("done", &attempts, &twice));
    assert!(events.found.contains("2 times"), "{events:?}");
}

#[test]
fn an_event_of_another_trace_or_of_none_fails() {
    let attempts = [("done", None)];
    let of = |trace| {
        seen(
            "done",
            &attempts,
            &[("execute_done", T), ("buildtest_done", trace)],
        )
    };
    assert_eq!(trace_ids(&[&of(T)]).verdict, Verdict::Pass);
    assert_eq!(trace_ids(&[&of(Some("u"))]).verdict, Verdict::Fail);
    assert_eq!(trace_ids(&[&of(T), &of(None)]).verdict, Verdict::Fail);
    let nothing = seen("done", &attempts, &[]);
    assert_eq!(trace_ids(&[&nothing]).verdict, Verdict::Inconclusive);
}

#[test]
fn a_failure_counts_only_after_a_retry() {
    let events = [
        ("execute_enqueued", T),
        ("execute_retry", T),
        ("buildtest_retry", T),
        ("execute_failed", T),
        ("buildtest_failed", T),
    ];
    let (again, used_up) = (
        ("retry", Some("worker_error")),
        ("failed", Some("worker_error")),
    );
    let lines = failure(&key(), &seen("failed", &[again, used_up], &events));
    assert_eq!(verdict(&lines), Verdict::Pass, "{lines:?}");
    // The worker refused it at once: nothing was shown of a retry.
    let refused = [("failed", Some("worker_rejected"))];
    let [retry, failure_] = failure(&key(), &seen("failed", &refused, &events[3..]));
    assert_eq!(
        (retry.verdict, failure_.verdict),
        (Verdict::Fail, Verdict::Fail)
    );
    assert!(retry.found.contains("worker_rejected"), "{retry:?}");
    assert!(retry.fix.unwrap().contains("--failing-repo"));
    let lines = failure(&key(), &seen("done", &[("done", None)], &[]));
    assert!(lines.iter().all(|line| line.verdict == Verdict::Fail));
    let lines = failure(&key(), &seen("queued", &[again], &events[..3]));
    assert_eq!(verdict(&lines), Verdict::Inconclusive, "{lines:?}");
}

#[test]
fn the_gates_must_tell_success_from_failure() {
    let report = |verdict: &str, rate: &str| -> GateSeen {
        serde_json::from_value(json!({ "verdict": verdict, "checks": [
            { "name": "failure_rate", "verdict": rate, "value": 0.5, "threshold": 0.05 },
        ]}))
        .unwrap()
    };
    assert_eq!(gate(&report("pass", "pass")).verdict, Verdict::Pass);
    assert_eq!(gate(&report("fail", "fail")).verdict, Verdict::Fail);
    let open = report("inconclusive", "inconclusive");
    assert_eq!(gate(&open).verdict, Verdict::Inconclusive);
    assert_eq!(gate_refuses(&open).verdict, Verdict::Inconclusive);
    assert_eq!(gate_refuses(&report("fail", "fail")).verdict, Verdict::Pass);
    // It failed, but not since the task did.
    assert_eq!(gate_refuses(&report("fail", "pass")).verdict, Verdict::Fail);
    assert_eq!(gate_refuses(&report("pass", "pass")).verdict, Verdict::Fail);
}
