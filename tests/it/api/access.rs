//! Who gets in: tokens, `Host`, other sites, and what every answer carries.

use cogo_host::stage::Stage;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::harness::{Setup, TOKEN, TestApi};

fn tokens() -> String {
    format!("# who may\nci:{TOKEN}\n")
}

fn staging() -> Setup {
    Setup {
        stage: Stage::Staging,
        writes_need_token: true,
        tokens: tokens(),
        ..Setup::default()
    }
}

fn reachable() -> Setup {
    Setup {
        bind: "0.0.0.0".parse().unwrap(),
        tokens: tokens(),
        ..Setup::default()
    }
}

async fn status(api: &TestApi, method: Method, path: &str, token: Option<&str>) -> StatusCode {
    let mut request = api.request(method, path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    api.send(request).await.status
}

#[tokio::test]
async fn reads_are_free_on_loopback_and_writes_are_not_in_staging() {
    let api = TestApi::with(staging()).await;
    for path in ["/", "/healthz", "/metrics", "/api/tasks", "/api/plugins"] {
        assert_eq!(status(&api, Method::GET, path, None).await, 200, "{path}");
    }
    let cancel = "/api/tasks/018f0000-0000-7000-8000-000000000000/cancel";
    let denied = api.order(cancel).await;
    assert_eq!(denied.status, StatusCode::UNAUTHORIZED);
    assert_eq!(denied.code(), "token_missing");
    assert!(denied.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(status(&api, Method::POST, cancel, Some(TOKEN)).await, 404);
    let wrong = api
        .send(api.request(Method::GET, "/").bearer_auth("no-good-token"))
        .await;
    assert_eq!(
        (wrong.status.as_u16(), &*wrong.code()),
        (401, "token_wrong")
    );
    assert!(!wrong.text().contains("no-good"), "{}", wrong.text());
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token_for_all_but_liveness() {
    let api = TestApi::with(reachable()).await;
    assert_eq!(status(&api, Method::GET, "/healthz", None).await, 200);
    let guarded = [
        "/",
        "/readyz",
        "/metrics",
        "/api/tasks",
        "/api/events",
        "/artifacts/t/a",
        "/no",
    ];
    for path in guarded {
        assert_eq!(status(&api, Method::GET, path, None).await, 401, "{path}");
    }
    assert_eq!(status(&api, Method::POST, "/healthz", None).await, 401);
    assert_eq!(status(&api, Method::GET, "/readyz", Some(TOKEN)).await, 200);
    assert_eq!(status(&api, Method::GET, "/no", Some(TOKEN)).await, 404);
}

#[tokio::test]
async fn a_host_without_tokens_says_so_when_one_is_needed() {
    let api = TestApi::with(Setup {
        writes_need_token: true,
        ..Setup::default()
    })
    .await;
    let denied = api.post("/api/tasks", &json!({})).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert_eq!(denied.code(), "token_not_configured");
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let api = TestApi::with(staging()).await;
    for _ in 0..10 {
        assert_eq!(status(&api, Method::GET, "/", Some("guess")).await, 401);
    }
    let blocked = api
        .send(api.request(Method::GET, "/").bearer_auth(TOKEN))
        .await;
    assert_eq!(blocked.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(blocked.code(), "token_failures");
    let after: u64 = blocked.header("retry-after").parse().unwrap();
    assert!((1..=61).contains(&after), "{after}");
    assert_eq!(status(&api, Method::GET, "/", None).await, 200);
}

#[tokio::test]
async fn only_names_of_this_host_are_answered() {
    let api = TestApi::start().await;
    let port = api.address.port();
    let ours = [
        format!("127.0.0.1:{port}"),
        "127.0.0.1".to_owned(),
        format!("localhost:{port}"),
        "LocalHost.".to_owned(),
        format!("[::1]:{port}"),
        "bus.example".to_owned(),
    ];
    for host in ours {
        let answer = api
            .raw_head("GET", "/healthz", &[&format!("host: {host}")])
            .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    let foreign = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "evil.example@localhost",
        "192.0.2.1",
    ];
    for host in foreign {
        let answer = api
            .raw_head("GET", "/healthz", &[&format!("host: {host}")])
            .await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (421, "host_unknown"),
            "{host}"
        );
    }
    for headers in [
        &[][..],
        &["host: localhost", "host: localhost"],
        &["host: "],
        &["host: a b"],
    ] {
        let answer = api.raw_head("GET", "/healthz", headers).await;
        assert_eq!(answer.status, 400, "{headers:?}");
    }
    let absolute = "http://evil.example/healthz";
    let answer = api.raw_head("GET", absolute, &["host: localhost"]).await;
    assert_eq!(answer.status, 421);
}

#[tokio::test]
async fn other_sites_cannot_write() {
    let api = TestApi::start().await;
    let own = format!("http://{}", api.address);
    let allowed = [
        vec![],
        vec![("sec-fetch-site", "same-origin")],
        vec![("sec-fetch-site", "none")],
        vec![("origin", &*own)],
    ];
    let refused = [
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "cross-site"), ("origin", &*own)],
        vec![("origin", "http://evil.example")],
        vec![("origin", "null")],
    ];
    let path = "/api/tasks/018f0000-0000-7000-8000-000000000000/cancel";
    for (cases, expected) in [(&allowed[..], 404), (&refused[..], 403)] {
        for case in cases {
            let mut request = api.request(Method::POST, path);
            for (name, value) in case {
                request = request.header(*name, *value);
            }
            assert_eq!(api.send(request).await.status, expected, "{case:?}");
        }
    }
    let read = api
        .request(Method::GET, "/")
        .header("sec-fetch-site", "cross-site");
    let read = api.send(read).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let api = TestApi::with(reachable()).await;
    for (path, token) in [
        ("/healthz", None),
        ("/", None),
        ("/no", Some(TOKEN)),
        ("/", Some(TOKEN)),
    ] {
        let mut request = api.request(Method::GET, path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = api.send(request).await;
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'self'"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(
            answer.header("cross-origin-resource-policy"),
            "same-origin",
            "{path}"
        );
    }
}
