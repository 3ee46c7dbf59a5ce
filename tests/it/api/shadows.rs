//! Shadows, over the API.

use reqwest::Method;
use serde_json::{Value, json};

use super::rollouts::{guarded, order, post};

#[tokio::test]
async fn a_shadow_is_ordered_shown_and_ended() {
    let api = guarded().await;
    let rollout = order(&api).await;
    let order = json!({
        "route": rollout["route"],
        "candidate": rollout["candidate"],
        "share": 40,
        "side_effects": "refuse",
        "reason": "a look at it",
    });
    let denied = api
        .send(api.request(Method::POST, "/api/shadows").json(&order))
        .await;
    assert_eq!(denied.code(), "token_missing");
    let started = post(&api, "/api/shadows", &order).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let row = started.json();
    assert_eq!(
        (&row["started_by"], &row["share"], &row["dropped"]),
        (&json!("anna"), &json!(40), &json!(0))
    );
    assert_eq!(
        post(&api, "/api/shadows", &order).await.code(),
        "shadow_running"
    );

    let at = format!("/api/shadows/{}", row["id"].as_str().unwrap());
    let shown = api.get(&at).await.json();
    assert_eq!(shown["row"]["id"], row["id"]);
    assert_eq!(shown["gate"]["verdict"], "inconclusive");
    assert_eq!(
        (&shown["agreement"], &shown["sample"]),
        (&Value::Null, &json!([]))
    );
    // What nobody ordered is there all the same.
    let compare = api.get("/api/shadows/compare?route=code/build-test").await;
    assert_eq!(compare.json()["row"], Value::Null);
    assert_eq!(
        api.get("/api/shadows/sh-none").await.code(),
        "shadow_not_found"
    );

    let stop = format!("{at}/stop");
    let ended = post(&api, &stop, &json!({ "reason": "seen" })).await;
    assert_eq!(ended.json()["ended_by"], "anna", "{}", ended.text());
    assert_eq!(post(&api, &stop, &json!({})).await.code(), "shadow_over");
    let none = post(&api, "/api/shadows/sh-none/stop", &json!({})).await;
    assert_eq!(none.code(), "shadow_not_found");
    let listed = api.get("/api/shadows").await.json();
    assert_eq!(listed["shadows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused() {
    let api = guarded().await;
    let rollout = order(&api).await;
    for (field, value, code) in [
        ("share", json!(0), "share_invalid"),
        ("candidate", json!("mock"), "candidate_invalid"),
        ("side_effects", json!("some"), "body_invalid"),
        ("reason", json!(" "), "reason_missing"),
        ("route", json!("docs/none"), "route_not_found"),
    ] {
        let mut order = json!({
            "route": rollout["route"],
            "candidate": rollout["candidate"],
            "share": 100,
            "side_effects": "allow",
            "reason": "r",
        });
        order[field] = value;
        let refused = post(&api, "/api/shadows", &order).await;
        assert_eq!(refused.code(), code, "{field}: {}", refused.text());
    }
}
