//! What operators decide about routes, over the API.

use cogo_host::stage::Stage;
use cogo_host::store::EventFilter;
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Setup, TOKEN, TestApi};
use super::host::ROUTE;

/// Staging, and somebody who may write.
async fn guarded() -> TestApi {
    TestApi::with(Setup {
        stage: Stage::Staging,
        writes_need_token: true,
        tokens: format!("anna:{TOKEN}"),
        ..Setup::default()
    })
    .await
}

async fn send(api: &TestApi, method: Method, path: &str, body: &Value) -> Answer {
    let request = api.request(method, path).bearer_auth(TOKEN);
    api.send(request.json(body)).await
}

async fn actor(api: &TestApi, event_type: &str) -> String {
    let filter = EventFilter {
        event_type: Some(event_type.to_owned()),
        limit: 10,
        ..EventFilter::default()
    };
    let events = api.store.events(&filter).await.unwrap();
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    event.payload["actor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_flag_is_set_by_who_holds_a_token() {
    let api = guarded().await;
    let order = json!({ "route": ROUTE, "enabled": false, "reason": " too slow " });
    let denied = api
        .send(api.request(Method::PUT, "/api/flags").json(&order))
        .await;
    assert_eq!(denied.code(), "token_missing");
    let done = send(&api, Method::PUT, "/api/flags", &order).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.json()["changed"], true);
    assert_eq!(done.json()["now"]["route"], ROUTE);
    let listed = api.get("/api/flags").await.json();
    let flag = &listed["flags"][0];
    assert_eq!(
        (&flag["route"], &flag["enabled"]),
        (&json!(ROUTE), &json!(false))
    );
    assert_eq!(flag["set"]["actor"], "anna");
    assert_eq!(flag["set"]["reason"], "too slow");
    assert_eq!(actor(&api, "flag_changed").await, "anna");

    let unset = json!({ "route": ROUTE, "enabled": null });
    assert_eq!(
        send(&api, Method::PUT, "/api/flags", &unset).await.json()["changed"],
        true
    );
    let again = send(&api, Method::PUT, "/api/flags", &unset).await.json();
    assert_eq!(
        (&again["changed"], &again["trace_id"]),
        (&json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn a_route_is_paused_and_resumed() {
    let api = guarded().await;
    let pause = json!({ "route": ROUTE, "paused": true, "reason": "r" });
    let paused = send(&api, Method::PUT, "/api/pauses", &pause).await.json();
    assert_eq!(paused["changed"], true);
    let listed = api.get("/api/pauses").await.json();
    assert_eq!(listed["pauses"][0]["actor"], "anna");
    let resume = json!({ "route": ROUTE, "paused": false });
    send(&api, Method::PUT, "/api/pauses", &resume).await;
    assert_eq!(api.get("/api/pauses").await.json(), json!({ "pauses": [] }));
    assert_eq!(actor(&api, "route_held").await, "anna");
    assert_eq!(actor(&api, "route_released").await, "anna");
}

#[tokio::test]
async fn a_fallback_is_approved_and_revoked() {
    let api = guarded().await;
    let order = json!({ "route": ROUTE, "reason": "a release waits", "ttl_ms": 60_000 });
    let approved = send(&api, Method::POST, "/api/approvals", &order).await;
    assert_eq!(approved.status, 201, "{}", approved.text());
    let id = approved.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(approved.json()["approver"], "anna");
    let listed = api.get("/api/approvals").await.json();
    assert_eq!(listed["approvals"][0]["id"], id.as_str());
    let path = format!("/api/approvals/{id}/revoke");
    let revoked = send(&api, Method::POST, &path, &json!({})).await;
    assert_eq!(revoked.json()["id"], id.as_str());
    let over = send(&api, Method::POST, &path, &json!({})).await;
    assert_eq!(
        (over.status.as_u16(), &*over.code()),
        (409, "approval_over")
    );
    assert_eq!(actor(&api, "fallback_approved").await, "anna");
    assert_eq!(actor(&api, "fallback_revoked").await, "anna");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_not_recorded() {
    let api = guarded().await;
    let long = "x".repeat(1_001);
    let approve = |route: &str, reason: &str, ttl_ms: u64| json!({ "route": route, "reason": reason, "ttl_ms": ttl_ms });
    let (put, post) = (Method::PUT, Method::POST);
    for (method, path, body, status, code) in [
        (
            &put,
            "/api/flags",
            json!({ "route": "code/x", "enabled": true }),
            404,
            "route_not_found",
        ),
        (
            &put,
            "/api/flags",
            json!({ "route": ROUTE, "enabled": true }),
            409,
            "plugin_not_configured",
        ),
        (
            &put,
            "/api/flags",
            json!({ "route": ROUTE }),
            422,
            "body_invalid",
        ),
        (
            &put,
            "/api/flags",
            json!({ "route": "x", "enabled": true }),
            422,
            "body_invalid",
        ),
        (
            &put,
            "/api/flags",
            json!({ "route": ROUTE, "enabled": false, "reason": long }),
            422,
            "reason_too_long",
        ),
        (
            &put,
            "/api/pauses",
            json!({ "route": "code/x", "paused": true }),
            404,
            "route_not_found",
        ),
        (
            &put,
            "/api/pauses",
            json!({ "route": ROUTE }),
            422,
            "body_invalid",
        ),
        (
            &post,
            "/api/approvals",
            approve("code/x", "r", 60_000),
            404,
            "route_not_found",
        ),
        (
            &post,
            "/api/approvals",
            approve(ROUTE, " ", 60_000),
            422,
            "reason_missing",
        ),
        (
            &post,
            "/api/approvals",
            approve(ROUTE, "r", 999),
            422,
            "ttl_invalid",
        ),
        (
            &post,
            "/api/approvals",
            approve(ROUTE, "r", 604_800_001),
            422,
            "ttl_invalid",
        ),
        (
            &post,
            "/api/approvals/fa-0/revoke",
            json!({}),
            404,
            "approval_not_found",
        ),
        (
            &post,
            "/api/approvals/%ff/revoke",
            json!({}),
            404,
            "approval_not_found",
        ),
    ] {
        let answer = send(&api, method.clone(), path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (status, code),
            "{method} {path} {body}"
        );
    }
    let events = api
        .store
        .events(&crate::support::everything())
        .await
        .unwrap();
    assert!(events.is_empty(), "{events:?}");
}
