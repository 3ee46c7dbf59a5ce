//! An example of every answer that programs read, so that a field that goes
//! missing or changes its name is seen. Fields may be added.

use std::collections::HashMap;

use cogo_host::stage::Stage;
use serde_json::{Value, json};
use uuid::Uuid;

use super::harness::{Setup, TestApi};

/// One build-test that passed with an artifact, one that failed, one that waits.
pub async fn lived_in() -> TestApi {
    let api = TestApi::start().await;
    let file = json!([{ "path": "report.txt", "type": "text/plain", "text": "fine" }]);
    api.submit(
        json!({ "task_id": "t1", "trace_id": "good", "payload": { "repo": ".", "files": file } }),
    )
    .await;
    api.until("good", "buildtest_done").await;
    api.submit(json!({ "trace_id": "bad", "payload": { "do": "fail" } }))
        .await;
    api.until("bad", "buildtest_failed").await;
    api.submit(json!({ "trace_id": "idle", "delay_ms": 3_600_000 }))
        .await;
    api
}

/// Replaces what differs from run to run by what it is.
fn redacted(value: Value) -> Value {
    Redaction::default().value("", value)
}

/// Keeps equal things equal, so that references can be followed.
#[derive(Default)]
struct Redaction {
    ids: HashMap<String, usize>,
}

impl Redaction {
    fn value(&mut self, key: &str, value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                // A check of a gate whose value is a time.
                let timed = fields
                    .get("unit")
                    .is_some_and(|unit| unit == "milliseconds");
                let fields = fields.into_iter().map(|(key, value)| {
                    let name = if timed && key == "value" {
                        "wait_ms"
                    } else {
                        &key
                    };
                    let value = self.value(name, value);
                    (key, value)
                });
                fields.collect()
            }
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.value(key, item))
                .collect(),
            Value::String(text) => Value::String(self.text(&text)),
            Value::Number(_) if measured(key) => json!("[measured]"),
            other => other,
        }
    }

    fn text(&mut self, text: &str) -> String {
        if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
            return "[instant]".to_owned();
        }
        if let Some(at) = text.find("test-host:") {
            return format!("{}[holder]", &text[..at]);
        }
        if text == env!("CARGO_PKG_VERSION") {
            return "[version]".to_owned();
        }
        let mut redacted = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match rest.get(..36).filter(|part| Uuid::parse_str(part).is_ok()) {
                Some(id) => {
                    let next = self.ids.len() + 1;
                    let number = *self.ids.entry(id.to_owned()).or_insert(next);
                    redacted += &format!("[id {number}]");
                    rest = &rest[36..];
                }
                None => {
                    redacted.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        redacted
    }
}

fn measured(key: &str) -> bool {
    ["wait_ms", "p50_ms", "p90_ms", "oldest_due_ms", "delay_ms"].contains(&key)
}

async fn example(api: &TestApi, path: &str) -> Value {
    let answer = api.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    redacted(answer.json())
}

#[tokio::test]
async fn installation_paths() {
    let api = lived_in().await;
    for (name, path) in [
        ("bus_events", "/api/metrics/bus/events?trace=good"),
        (
            "bus_latency",
            "/api/metrics/bus/latency?service=code&role=build-test&since_min=5",
        ),
        ("trace", "/api/metrics/trace/good"),
        ("integration_status", "/api/integration/status"),
        (
            "decision_quality",
            "/api/metrics/orchestrator/decision-quality?since_min=5",
        ),
        ("gate", "/api/workflows/gate?trace=good"),
    ] {
        insta::assert_json_snapshot!(name, example(&api, path).await);
    }
}

#[tokio::test]
async fn own_paths() {
    let api = lived_in().await;
    let listing = api.get("/api/tasks?trace=good").await.json();
    let id = listing["tasks"][0]["id"].as_str().unwrap().to_owned();
    insta::assert_json_snapshot!("task_list", redacted(listing));
    insta::assert_json_snapshot!("task", example(&api, &format!("/api/tasks/{id}")).await);
    insta::assert_json_snapshot!("plugins", example(&api, "/api/plugins").await);
    insta::assert_json_snapshot!("index", example(&api, "/").await);
    insta::assert_json_snapshot!("readyz", example(&api, "/readyz").await);
    let body = json!({ "service": "code", "role": "build-test", "trace_id": "new", "delay_ms": 9_999_999 });
    let submitted = api.post("/api/tasks", &body).await.json();
    let cancel = format!("{}/cancel", submitted["links"]["task"].as_str().unwrap());
    insta::assert_json_snapshot!("submitted", redacted(submitted));
    insta::assert_json_snapshot!("cancelled", redacted(api.order(&cancel).await.json()));
    let error = api.get("/api/tasks?limt=1").await.json();
    insta::assert_json_snapshot!("error", error);
}

#[tokio::test]
async fn a_window_needs_samples_and_a_stage_real_results() {
    let api = lived_in().await;
    let window = api.get("/api/workflows/gate?window_min=5").await.json();
    assert_eq!(window["scope"], json!({ "window_min": 5 }));
    assert_eq!(
        (&window["verdict"], &window["require_real"]),
        (&json!("inconclusive"), &json!(false))
    );
    let real = api
        .get("/api/workflows/gate?trace=good&require_real=true")
        .await
        .json();
    assert_eq!(
        (&real["verdict"], &real["require_real"]),
        (&json!("fail"), &json!(true))
    );

    let staging = TestApi::with(Setup {
        stage: Stage::Staging,
        ..Setup::default()
    })
    .await;
    let gate = staging.get("/api/workflows/gate").await.json();
    assert_eq!(
        (&gate["require_real"], &gate["scope"]),
        (&json!(true), &json!({ "window_min": 60 }))
    );
    let less = staging.get("/api/workflows/gate?require_real=false").await;
    assert_eq!(
        (less.status.as_u16(), &*less.code()),
        (400, "parameter_invalid")
    );
    assert!(less.message().contains("staging"), "{}", less.message());
}

#[tokio::test]
async fn events_are_the_newest_oldest_first() {
    let api = lived_in().await;
    let all = api.get("/api/metrics/bus/events").await.json();
    assert_eq!(all["truncated"], false);
    let events = all["events"].as_array().unwrap();
    let ids: Vec<i64> = events
        .iter()
        .map(|event| event["id"].as_i64().unwrap())
        .collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let last = api.get("/api/metrics/bus/events?limit=2").await.json();
    assert_eq!(last["truncated"], true);
    assert_eq!(
        last["events"].as_array().unwrap()[..],
        events[events.len() - 2..]
    );
    let failed = api
        .get("/api/metrics/bus/events?type=execute_failed&since_min=5")
        .await
        .json();
    assert_eq!(failed["events"][0]["trace_id"], "bad");
}

#[tokio::test]
async fn readiness_follows_the_host() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/readyz").await.status, 200);
    *api.facts.not_ready.lock() = Some("the disk is full".to_owned());
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status, 503);
    let checks = answer.json()["checks"].clone();
    let disk = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"] == "disk");
    assert_eq!(disk.unwrap()["detail"], "the disk is full");
    *api.facts.not_ready.lock() = None;
    api.bus.drain();
    assert_eq!(api.get("/readyz").await.status, 503);
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn metrics_name_each_family_once_and_tell_the_depth() {
    let api = lived_in().await;
    let answer = api.get("/metrics").await;
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let mut text = answer.text();
    // An attempt is counted once its commit is answered, and lands after that.
    while !text.contains("\ncogo_attempts_in_flight 0\n") {
        text = api.get("/metrics").await.text();
    }
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.split(' ').next().unwrap();
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = *families.last().unwrap();
            let suffix = name
                .strip_prefix(family)
                .unwrap_or_else(|| panic!("{line}"));
            assert!(
                ["", "_bucket", "_sum", "_count"].contains(&suffix),
                "{line}"
            );
            assert!(
                line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
    for sample in [
        "cogo_queue_depth{state=\"queued\"} 1",
        "cogo_queue_depth{state=\"done\"} 1",
        "cogo_queue_depth{state=\"failed\"} 1",
        "cogo_bus_up 1",
        "cogo_plugin_load_failed{plugin=\"broken\"} 1",
        "cogo_attempts_total{plugin=\"obedient\",outcome=\"done\"} 1",
        "cogo_attempts_total{plugin=\"obedient\",outcome=\"failed\"} 1",
        "cogo_attempt_run_seconds_count{plugin=\"obedient\"} 2",
        "cogo_attempt_run_seconds_bucket{plugin=\"obedient\",le=\"+Inf\"} 2",
        "cogo_task_wait_seconds_count{route=\"code/build-test\"} 2",
        "cogo_settle_batch_size_sum 2",
        "cogo_tasks_claimed_total 2",
        "cogo_guest_busy_seconds_total{plugin=\"obedient\"} 0.5",
        "cogo_outbound_requests_total{plugin=\"obedient\",result=\"allowed\"} 2",
        "cogo_outbound_requests_total{plugin=\"obedient\",result=\"too_many\"} 10",
        "cogo_plugin_swaps_total{plugin=\"obedient\",result=\"applied\"} 3",
        "cogo_plugin_swaps_total{plugin=\"obedient\",result=\"refused\"} 2",
        "cogo_plugin_swaps_total{plugin=\"obedient\",result=\"rolled_back\"} 1",
        "cogo_completions_fenced_total 0",
        "cogo_route_queue_depth{route=\"code/build-test\"} 1",
        "cogo_route_queue_oldest_age_seconds{route=\"code/build-test\"} 0",
    ] {
        assert!(
            text.lines().any(|line| line == sample),
            "{sample} in {text}"
        );
    }
}
