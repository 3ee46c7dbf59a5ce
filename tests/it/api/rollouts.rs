//! Rollouts, over the API.

use cogo_host::ids::Digest;
use cogo_host::stage::Stage;
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Setup, TOKEN, TestApi};
use super::host::ROUTE;

pub(super) async fn guarded() -> TestApi {
    TestApi::with(Setup {
        stage: Stage::Staging,
        writes_need_token: true,
        tokens: format!("anna:{TOKEN}"),
        ..Setup::default()
    })
    .await
}

pub(super) async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    let request = api.request(Method::POST, path).bearer_auth(TOKEN);
    api.send(request.json(body)).await
}

/// An order that the test host takes, of the plugin that it knows.
pub(super) async fn order(api: &TestApi) -> Value {
    let plugins = api.get("/api/plugins").await.json();
    let name = plugins["plugins"][0]["name"].as_str().unwrap();
    json!({
        "route": ROUTE,
        "candidate": format!("{name}@{}", Digest::of(b"candidate")),
        "steps": [5, 50],
        "interval_ms": 60_000,
        "reason": "faster",
    })
}

fn with(order: &Value, field: &str, value: Value) -> Value {
    let mut order = order.clone();
    order[field] = value;
    order
}

#[tokio::test]
async fn a_rollout_is_started_steered_and_shown() {
    let api = guarded().await;
    let order = order(&api).await;
    let denied = api
        .send(api.request(Method::POST, "/api/rollouts").json(&order))
        .await;
    assert_eq!(denied.code(), "token_missing");
    let started = post(&api, "/api/rollouts", &order).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let row = started.json();
    assert_eq!(
        (&row["state"], &row["started_by"]),
        (&json!("waiting"), &json!("anna"))
    );
    assert_eq!(row["steps"], json!([5, 50]));
    let busy = post(&api, "/api/rollouts", &order).await;
    assert_eq!(busy.code(), "rollout_running");

    let at = format!("/api/rollouts/{}", row["id"].as_str().unwrap());
    let shown = api.get(&at).await.json();
    assert_eq!(
        (&shown["share"], &shown["gate"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(shown["hosts"], json!([]));
    let act = async |action: &str| {
        let answer = post(&api, &format!("{at}/{action}"), &json!({ "reason": "r" })).await;
        (answer.status.as_u16(), answer.json()["state"].clone())
    };
    assert_eq!(act("promote").await.0, 409);
    assert_eq!(act("pause").await, (200, json!("paused")));
    assert_eq!(act("resume").await, (200, json!("waiting")));
    assert_eq!(act("abort").await, (200, json!("aborted")));
    let over = post(&api, &format!("{at}/abort"), &json!({})).await;
    assert_eq!(over.code(), "rollout_not_possible");
    let listed = api.get("/api/rollouts").await.json();
    assert_eq!(listed["rollouts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_makes_no_rollout_is_refused_and_says_why() {
    let api = guarded().await;
    let order = order(&api).await;
    let name = order["candidate"]
        .as_str()
        .unwrap()
        .split('@')
        .next()
        .unwrap();
    for (field, value, status, code) in [
        ("route", json!("no/such"), 404, "route_not_found"),
        ("candidate", json!(name), 422, "candidate_invalid"),
        (
            "candidate",
            json!(format!("{name}@sha256:00")),
            422,
            "candidate_invalid",
        ),
        (
            "candidate",
            json!(format!("{name}@sha256:000000")),
            404,
            "candidate_unknown",
        ),
        (
            "candidate",
            json!("other@sha256:000000"),
            409,
            "plugin_not_on_route",
        ),
        ("steps", json!([]), 422, "steps_invalid"),
        ("steps", json!([50, 5]), 422, "steps_invalid"),
        ("steps", json!([0]), 422, "steps_invalid"),
        ("interval_ms", json!(999), 422, "interval_invalid"),
        ("reason", json!("  "), 422, "reason_missing"),
    ] {
        let refused = post(&api, "/api/rollouts", &with(&order, field, value)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (status, code)
        );
    }
    for path in [
        "/api/rollouts/ro-0",
        "/api/rollouts/a%20b",
        "/api/rollouts/ro-0/abort",
    ] {
        let answer = match path.ends_with("abort") {
            true => post(&api, path, &json!({})).await,
            false => api.get(path).await,
        };
        assert_eq!(answer.status, 404, "{path}");
    }
    let unknown = post(&api, "/api/rollouts/ro-0/sing", &json!({})).await;
    assert_eq!(unknown.code(), "not_found");
    assert_eq!(api.get("/api/rollouts").await.json()["rollouts"], json!([]));
}
