//! Submit, list, show, cancel, repeat.

use reqwest::StatusCode;
use serde_json::json;

use super::harness::TestApi;

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_submission_runs_without_waiting_for_a_poll() {
    let api = TestApi::start().await;
    let body = json!({
        "service": "code", "role": "build-test", "task_id": "t 1", "trace_id": "a/b",
        "payload": { "repo": "." }
    });
    let answer = api.post("/api/tasks", &body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let submitted = answer.json();
    assert_eq!(submitted["existing"], false);
    assert_eq!(submitted["task_id"], "t 1");
    let link = submitted["links"]["task"].as_str().unwrap();
    assert_eq!(answer.header("location"), link);
    api.until("a/b", "execute_done").await;
    let shown = api.get(link).await.json();
    assert_eq!(shown["status"], "done");
    assert_eq!(shown["history"][0]["outcome"], "done");
    assert_eq!(shown["payload"]["repo"], ".");
    let story = api.get(submitted["links"]["trace"].as_str().unwrap()).await;
    assert_eq!(story.json()["trace_id"], "a/b");
    let gate = api.get(submitted["links"]["gate"].as_str().unwrap()).await;
    assert_eq!(gate.json()["scope"], json!({ "trace": "a/b" }));
}

#[tokio::test]
async fn a_unique_key_gives_the_task_that_holds_it() {
    let api = TestApi::start().await;
    let first = json!({
        "service": "code", "role": "build-test", "task_id": "one", "trace_id": "first",
        "unique_key": "k", "delay_ms": HOUR_MS
    });
    let mut second = first.clone();
    second["task_id"] = json!("two");
    second["trace_id"] = json!("second");
    let first = api.post("/api/tasks", &first).await.json();
    let answer = api.post("/api/tasks", &second).await;
    assert_eq!(answer.status, StatusCode::OK);
    let second = answer.json();
    assert_eq!(second["existing"], true);
    for field in ["id", "task_id", "trace_id", "links"] {
        assert_eq!(second[field], first[field], "{field}");
    }
}

#[tokio::test]
async fn listings_filter_and_say_when_they_are_cut() {
    let api = TestApi::start().await;
    for label in ["a", "b", "b"] {
        api.submit(json!({ "task_id": label, "delay_ms": HOUR_MS }))
            .await;
    }
    let labels = |listing: serde_json::Value| -> Vec<String> {
        let tasks = listing["tasks"].as_array().unwrap();
        let label = |task: &serde_json::Value| task["task_id"].as_str().unwrap().to_owned();
        tasks.iter().map(label).collect()
    };
    let all = api.get("/api/tasks").await.json();
    assert_eq!(all["truncated"], false);
    assert!(all["tasks"][0].get("payload").is_none());
    assert_eq!(labels(all), ["b", "b", "a"]);
    let two = api
        .get("/api/tasks?limit=2&route=code/build-test&status=queued")
        .await
        .json();
    assert_eq!(two["truncated"], true);
    assert_eq!(labels(two), ["b", "b"]);
    assert_eq!(labels(api.get("/api/tasks?task_id=a").await.json()), ["a"]);
    assert!(labels(api.get("/api/tasks?status=done").await.json()).is_empty());
    assert!(labels(api.get("/api/tasks?route=docs/render").await.json()).is_empty());
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once() {
    let api = TestApi::start().await;
    let id = api.submit(json!({ "delay_ms": HOUR_MS })).await;
    let path = format!("/api/tasks/{id}/cancel");
    let answer = api.order(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["cancelled"], "at_once");
    let shown = api.get(&format!("/api/tasks/{id}")).await.json();
    assert_eq!(
        (&shown["status"], &shown["error"]),
        (&json!("failed"), &json!("cancelled"))
    );
    let again = api.order(&path).await;
    assert_eq!((again.status.as_u16(), &*again.code()), (409, "task_ended"));
}

#[tokio::test]
async fn a_running_task_shows_its_progress_and_ends_when_cancelled() {
    let api = TestApi::start().await;
    let id = api
        .submit(json!({ "trace_id": "t", "payload": { "do": "hang" } }))
        .await;
    api.hangs(&id).await;
    let shown = api.get(&format!("/api/tasks/{id}")).await.json();
    assert_eq!(shown["status"], "claimed");
    assert_eq!(
        shown["progress"],
        json!({ "fraction": 0.5, "note": "half of it" })
    );
    let retry = api.order(&format!("/api/tasks/{id}/retry")).await;
    assert_eq!(
        (retry.status.as_u16(), &*retry.code()),
        (409, "task_not_ended")
    );
    let answer = api.order(&format!("/api/tasks/{id}/cancel")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["cancelled"], "requested");
    api.until("t", "execute_cancelled").await;
    let shown = api.get(&format!("/api/tasks/{id}")).await.json();
    assert_eq!(
        (&shown["status"], &shown["progress"]),
        (&json!("failed"), &json!(null))
    );
}

#[tokio::test]
async fn a_repeat_is_a_new_task_of_the_same_trace() {
    let api = TestApi::start().await;
    let id = api
        .submit(json!({ "task_id": "t1", "trace_id": "t", "payload": { "do": "fail" } }))
        .await;
    api.until("t", "execute_failed").await;
    let answer = api.order(&format!("/api/tasks/{id}/retry")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let repeat = answer.json();
    assert_eq!(
        (&repeat["repeats"], &repeat["trace_id"]),
        (&json!(id), &json!("t"))
    );
    assert_ne!(repeat["id"], json!(id));
    let old = api.get(&format!("/api/tasks/{id}")).await.json();
    assert_eq!(
        (&old["status"], &old["attempts"]),
        (&json!("failed"), &json!(1))
    );
}
