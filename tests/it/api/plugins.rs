//! Rolling plugins back over the API.

use cogo_host::stage::Stage;
use reqwest::Method;
use serde_json::json;

use super::harness::{Setup, TOKEN, TestApi};

const ROLLBACK: &str = "/api/plugins/obedient/rollback";

#[tokio::test]
async fn a_rollback_says_who_and_why() {
    let api = TestApi::with(Setup {
        stage: Stage::Staging,
        writes_need_token: true,
        tokens: format!("anna:{TOKEN}"),
        ..Setup::default()
    })
    .await;
    let order = json!({ "to": null, "reason": "  too slow " });
    let denied = api.post(ROLLBACK, &order).await;
    assert_eq!(denied.code(), "token_missing");
    assert!(api.operator.0.lock().is_empty());
    let request = api.request(Method::POST, ROLLBACK).bearer_auth(TOKEN);
    let done = api.send(request.json(&order)).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.json()["plugin"], "obedient");
    assert_eq!(done.json()["to"]["version"], "1.2.3");
    let orders = api.operator.0.lock();
    assert_eq!(orders[0].actor, "anna");
    let reason = orders[0].reason.as_ref();
    assert_eq!(reason.unwrap().as_str(), "too slow");
    assert_eq!(orders[0].to, None);
}

#[tokio::test]
async fn what_cannot_be_rolled_back_is_refused() {
    let api = TestApi::start().await;
    let long = "x".repeat(1_001);
    for (path, body, status, code) in [
        (
            "/api/plugins/nobody/rollback",
            json!({}),
            404,
            "plugin_not_found",
        ),
        (
            "/api/plugins/No%20Body/rollback",
            json!({}),
            404,
            "plugin_not_found",
        ),
        (
            "/api/plugins/%ff/rollback",
            json!({}),
            404,
            "plugin_not_found",
        ),
        (
            ROLLBACK,
            json!({ "to": "sha256:12345678" }),
            404,
            "version_not_found",
        ),
        (ROLLBACK, json!({ "to": "latest" }), 422, "digest_invalid"),
        (ROLLBACK, json!({ "reason": long }), 422, "reason_too_long"),
        (ROLLBACK, json!({ "reasons": "x" }), 422, "body_invalid"),
    ] {
        let answer = api.post(path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (status, code),
            "{path} {body}"
        );
    }
    let unknown = api
        .post(ROLLBACK, &json!({ "to": "sha256:12345678" }))
        .await;
    assert!(
        unknown.hint().starts_with("there are: sha256:"),
        "{}",
        unknown.hint()
    );
}
