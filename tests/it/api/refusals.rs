//! What is refused, and how: one shape, and always what would be right.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::harness::TestApi;

const NO_TASK: &str = "018f0000-0000-7000-8000-000000000000";
const LIMIT: usize = 1024 * 1024 + 64 * 1024;

#[tokio::test]
async fn unknown_paths_and_methods() {
    let api = TestApi::start().await;
    for path in [
        "/no",
        "/api",
        "/api/",
        "/api/tasks/",
        "//",
        "/API/tasks",
        "/artifacts/t",
    ] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (404, "not_found"),
            "{path}"
        );
    }
    let pipeline = api.post("/api/pipeline/codeOnly", &json!({})).await;
    assert_eq!(pipeline.code(), "not_found");
    for (method, path, allow) in [
        (Method::DELETE, "/api/tasks", "GET,HEAD,POST"),
        (Method::POST, "/api/plugins", "GET,HEAD"),
        (Method::GET, "/api/tasks/x/cancel", "POST"),
        (Method::OPTIONS, "/", "GET,HEAD"),
    ] {
        let answer = api.send(api.request(method.clone(), path)).await;
        assert_eq!(answer.code(), "method_not_allowed", "{method} {path}");
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn query_parameters_are_read_strictly() {
    let api = TestApi::start().await;
    let cases = [
        (
            "/api/tasks?limt=5",
            "parameter_unknown",
            "`limt`",
            "`limit`",
        ),
        ("/api/plugins?x=1", "parameter_unknown", "`x`", "takes none"),
        (
            "/api/tasks?limit=0",
            "parameter_invalid",
            "`0` is not a whole number from 1 to 500",
            "",
        ),
        (
            "/api/tasks?limit=99999999999",
            "parameter_invalid",
            "1 to 500",
            "",
        ),
        (
            "/api/tasks?limit=1&limit=2",
            "parameter_repeated",
            "`limit`",
            "",
        ),
        (
            "/api/tasks?status=open",
            "parameter_invalid",
            "`queued`, `claimed`, `done` or `failed`",
            "",
        ),
        (
            "/api/tasks?route=code",
            "parameter_invalid",
            "`service/role`",
            "",
        ),
        ("/api/tasks?trace=a%20b", "parameter_invalid", "`trace`", ""),
        (
            "/api/tasks?task_id=",
            "parameter_invalid",
            "it is empty",
            "",
        ),
        (
            "/api/metrics/bus/events?since_min=-1",
            "parameter_invalid",
            "`-1`",
            "",
        ),
        (
            "/api/metrics/bus/latency?since=5",
            "parameter_unknown",
            "`since`",
            "`since_min`",
        ),
        (
            "/api/metrics/orchestrator/decision-quality?since_min=x",
            "parameter_invalid",
            "`x`",
            "",
        ),
        (
            "/api/workflows/gate?trace=t&window_min=5",
            "parameter_invalid",
            "not at both",
            "",
        ),
        (
            "/api/workflows/gate?require_real=yes",
            "parameter_invalid",
            "`true` nor `false`",
            "",
        ),
        (
            "/api/events?after=x",
            "parameter_invalid",
            "`x` is not the id of an event",
            "",
        ),
    ];
    for (path, code, message, hint) in cases {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (400, code),
            "{path}"
        );
        assert!(
            answer.message().contains(message),
            "{path}: {}",
            answer.message()
        );
        assert!(answer.hint().contains(hint), "{path}: {}", answer.hint());
    }
}

#[tokio::test]
async fn identifiers() {
    let api = TestApi::start().await;
    let answer = api.get("/api/tasks/t1").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (400, "id_invalid")
    );
    assert!(
        answer.message().contains("expected a UUID"),
        "{}",
        answer.message()
    );
    assert!(answer.hint().contains("task_id="), "{}", answer.hint());
    assert_eq!(
        api.get("/api/metrics/trace/a%20b").await.code(),
        "id_invalid"
    );
    assert_eq!(api.get("/api/metrics/trace/%ff").await.code(), "id_invalid");
    for (method, path) in [
        (Method::GET, format!("/api/tasks/{NO_TASK}")),
        (Method::POST, format!("/api/tasks/{NO_TASK}/cancel")),
        (Method::POST, format!("/api/tasks/{NO_TASK}/retry")),
    ] {
        let answer = api.send(api.request(method, &path)).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (404, "task_not_found"),
            "{path}"
        );
    }
    let answer = api.get("/api/metrics/trace/nobody").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (404, "trace_not_found")
    );
}

#[tokio::test]
async fn bodies() {
    let api = TestApi::start().await;
    let post = |kind: &'static str, body: &'static str| {
        let request = api.request(Method::POST, "/api/tasks");
        api.send(request.header("content-type", kind).body(body))
    };
    let json_type = "application/json";
    let cases = [
        (
            "text/plain",
            "{}",
            415,
            "content_type_unsupported",
            "`text/plain`",
        ),
        (
            "application/x-www-form-urlencoded",
            "a=b",
            415,
            "content_type_unsupported",
            "form",
        ),
        (json_type, "", 400, "json_invalid", "line 1 column 0"),
        (
            json_type,
            "{\n  \"service\": ,",
            400,
            "json_invalid",
            "line 2 column 14",
        ),
        (
            json_type,
            "{\"service\":\"a\"",
            400,
            "json_invalid",
            "line 1 column 14",
        ),
        (json_type, "[]", 422, "body_invalid", "line 1"),
        (
            json_type,
            "{\"service\":\"a\"}",
            422,
            "body_invalid",
            "missing field `role`",
        ),
        (
            json_type,
            "{\"service\":\"a\",\"role\":\"b\",\"paylod\":{}}",
            422,
            "body_invalid",
            "`paylod`",
        ),
        (
            json_type,
            "{\"service\":\"a\",\"role\":7}",
            422,
            "body_invalid",
            "expected a string",
        ),
    ];
    for (kind, body, status, code, message) in cases {
        let answer = post(kind, body).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (status, code),
            "{body}"
        );
        assert!(
            answer.message().contains(message),
            "{body}: {}",
            answer.message()
        );
    }
    assert_eq!(
        post("application/json; charset=utf-8", "{").await.code(),
        "json_invalid"
    );
    let bare = api.request(Method::POST, "/api/tasks").body("{}");
    assert_eq!(api.send(bare).await.code(), "content_type_unsupported");
}

#[tokio::test]
async fn bodies_over_the_limit_announced_or_not() {
    let api = TestApi::start().await;
    let body = format!("{{\"service\":\"{}\"}}", "x".repeat(LIMIT));
    let announced = api
        .request(Method::POST, "/api/tasks")
        .header("content-type", "application/json")
        .body(body.clone());
    let answer = api.send(announced).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (413, "body_too_large")
    );

    let mut chunked = b"POST /api/tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in body.as_bytes().chunks(65_536) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let answer = api.raw(&chunked).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (413, "body_too_large")
    );

    let payload = json!({ "service": "code", "role": "build-test", "payload": { "a": "x".repeat(1024 * 1024) } });
    let answer = api.post("/api/tasks", &payload).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (413, "payload_too_large")
    );
}

#[tokio::test]
async fn submissions_that_could_never_be_executed() {
    let api = TestApi::start().await;
    let cases = [
        (
            json!({"service": "code", "role": "deploy"}),
            "route_unknown",
            "there are: code/build-test",
        ),
        (
            json!({"service": "a b", "role": "c"}),
            "route_invalid",
            "is not a route",
        ),
        (
            json!({"service": "code", "role": "build-test", "payload": [1]}),
            "payload_invalid",
            "an array",
        ),
        (
            json!({"service": "code", "role": "build-test", "payload": {"repo": 7}}),
            "payload_invalid",
            "`repo` is a number",
        ),
        (
            json!({"service": "code", "role": "build-test", "trace_id": "a b"}),
            "submission_invalid",
            "trace id",
        ),
        (
            json!({"service": "code", "role": "build-test", "max_attempts": 0}),
            "submission_invalid",
            "1 to 1000",
        ),
    ];
    for (body, code, message) in cases {
        let answer = api.post("/api/tasks", &body).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (422, code),
            "{body}"
        );
        assert!(
            answer.message().contains(message),
            "{body}: {}",
            answer.message()
        );
    }
    assert_eq!(api.get("/api/tasks").await.json()["tasks"], json!([]));
}

#[tokio::test]
async fn a_database_that_is_away() {
    let api = TestApi::start().await;
    api.store.close().await.unwrap();
    let body = json!({"service": "code", "role": "build-test"});
    for answer in [
        api.get("/api/tasks").await,
        api.get("/api/events").await,
        api.get("/api/integration/status").await,
        api.get("/artifacts/t/a").await,
        api.post("/api/tasks", &body).await,
    ] {
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{}",
            answer.text()
        );
        assert!(answer.code().ends_with("_unavailable"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), "1");
        // Where the file lies is nobody's business.
        assert!(!answer.text().contains("bus.db"), "{}", answer.text());
    }
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["checks"][0]["ok"], json!(false));
    let metrics = api.get("/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert!(metrics.text().contains("\ncogo_bus_up 0\n"));
    assert_eq!(api.get("/healthz").await.status, StatusCode::OK);
}
