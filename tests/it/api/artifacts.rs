//! What attempts published, and that nothing else can be had.

use cogo_host::ids::Digest;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::harness::TestApi;

const REPORT: &str = "all three passed";

async fn published() -> TestApi {
    let api = TestApi::start().await;
    let files = json!([
        { "path": "out/report.txt", "type": "text/plain", "text": REPORT },
        { "path": "ü/a b.html", "type": "text/html", "text": "<script>alert(1)</script>" },
        { "path": "%2e%2e", "type": "x\r\nset-cookie: a=b", "text": "odd" },
        { "path": "empty", "type": "application/json", "text": "" },
    ]);
    api.submit(json!({ "task_id": "t/1", "trace_id": "t", "payload": { "files": files } }))
        .await;
    api.until("t", "execute_done").await;
    api
}

#[tokio::test]
async fn an_artifact_is_described_and_never_run() {
    let api = published().await;
    let answer = api.get("/artifacts/t%2F1/out/report.txt").await;
    assert_eq!((answer.status, &*answer.text()), (StatusCode::OK, REPORT));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("content-length"), REPORT.len().to_string());
    let etag = format!("\"{}\"", Digest::of(REPORT.as_bytes()));
    assert_eq!(answer.header("etag"), etag);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(
        answer.header("content-disposition"),
        "inline; filename*=UTF-8''report.txt"
    );
    assert!(answer.header("content-security-policy").contains("sandbox"));
    assert_eq!(answer.header("cache-control"), "private, no-cache");

    let html = api.get("/artifacts/t%2F1/%C3%BC/a%20b.html").await;
    assert_eq!(html.status, StatusCode::OK);
    assert_eq!(
        html.header("content-disposition"),
        "attachment; filename*=UTF-8''a%20b.html"
    );
    let odd = api.get("/artifacts/t%2F1/%252e%252e").await;
    assert_eq!(odd.text(), "odd");
    assert_eq!(odd.header("content-type"), "application/octet-stream");
    assert_eq!(odd.header("set-cookie"), "");

    let head = api
        .send(api.request(Method::HEAD, "/artifacts/t%2F1/out/report.txt"))
        .await;
    assert_eq!(head.header("content-length"), REPORT.len().to_string());
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn parts_and_copies_that_are_still_good() {
    let api = published().await;
    let path = "/artifacts/t%2F1/out/report.txt";
    let etag = format!("\"{}\"", Digest::of(REPORT.as_bytes()));
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = api.request(Method::GET, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        api.send(request).await
    };
    let part = ask(&[("range", "bytes=4-8")]).await;
    assert_eq!(
        (part.status, &*part.text()),
        (StatusCode::PARTIAL_CONTENT, "three")
    );
    assert_eq!(part.header("content-range"), "bytes 4-8/16");
    assert_eq!(part.header("content-length"), "5");
    assert_eq!(ask(&[("range", "bytes=-6")]).await.text(), "passed");
    let outside = ask(&[("range", "bytes=16-")]).await;
    assert_eq!(
        (outside.status.as_u16(), &*outside.code()),
        (416, "range_unsatisfiable")
    );
    assert_eq!(outside.header("content-range"), "bytes */16");
    for whole in ["bytes=0-1,3-4", "lines=1-2", "bytes=x"] {
        assert_eq!(ask(&[("range", whole)]).await.text(), REPORT, "{whole}");
    }
    let fresh = [("range", "bytes=0-2"), ("if-range", &*etag)];
    assert_eq!(ask(&fresh).await.status, 206);
    let stale = [("range", "bytes=0-2"), ("if-range", "\"sha256:0\"")];
    assert_eq!(ask(&stale).await.status, 200);
    for known in [&*etag, "*", &format!("\"x\", W/{etag}")] {
        let same = ask(&[("if-none-match", known)]).await;
        assert_eq!(same.status, StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(same.header("etag"), etag);
        assert!(same.body.is_empty());
        // A length would have to be that of the whole (RFC 9110, section 8.6).
        assert!(["", "16"].contains(&same.header("content-length")));
    }
    let empty = api.get("/artifacts/t%2F1/empty").await;
    assert_eq!(
        (empty.status, empty.header("content-length")),
        (StatusCode::OK, "0")
    );
}

#[tokio::test]
async fn no_path_climbs_out_or_lists() {
    let api = published().await;
    let root = api.artifacts_root();
    std::fs::write(root.join("secret"), "SECRET").unwrap();
    std::fs::write(root.parent().unwrap().join("secret"), "SECRET").unwrap();
    let hex = Digest::of(REPORT.as_bytes()).hex();
    let by_digest = format!("/artifacts/t%2F1/{}/{}", &hex[..2], &hex[2..]);
    let corpus = [
        "/artifacts/secret",
        "/artifacts/t%2F1/secret",
        "/artifacts/../secret",
        "/artifacts/t%2F1/../../secret",
        "/artifacts/t%2F1/../secret",
        "/artifacts/t%2F1/./out/report.txt",
        "/artifacts/t%2F1//out/report.txt",
        "/artifacts/t%2F1/out/../out/report.txt",
        "/artifacts/t%2F1/out%2Freport.txt",
        "/artifacts/t%2F1/%2e%2e/secret",
        "/artifacts/t%2F1/%2e%2e%2fsecret",
        "/artifacts/t%2F1/%2E%2E%2F%2E%2E%2Fsecret",
        "/artifacts/t%2F1/.%2e/secret",
        "/artifacts/t%2F1/..%2fsecret",
        "/artifacts/t%2F1/..%5csecret",
        "/artifacts/t%2F1/..\\secret",
        "/artifacts/t%2F1/%5c..%5c..%5csecret",
        "/artifacts/t%2F1/%252e%252e/secret",
        "/artifacts/t%2F1/%252e%252e%252fsecret",
        "/artifacts/t%2F1/%c0%ae%c0%ae/secret",
        "/artifacts/t%2F1/%ff",
        "/artifacts/t%2F1/secret%00",
        "/artifacts/t%2F1/out/report.txt%00",
        "/artifacts/t%2F1/out/report.txt%0a",
        "/artifacts/t%2F1/%2fetc%2fpasswd",
        "/artifacts/t%2F1//etc/passwd",
        "/artifacts//etc/passwd",
        "/artifacts/%2e%2e/secret",
        "/artifacts/..%2f/secret",
        "/artifacts/t%252F1/out/report.txt",
        "/artifacts/t/1/out/report.txt",
        "/artifacts/t%2F1/out",
        "/artifacts/t%2F1/out/",
        "/artifacts/t%2F1/",
        "/artifacts/t%2F1",
        "/artifacts/",
        "/artifacts",
        "/artifacts/t%2F1/report.txt",
        "/artifacts/other/out/report.txt",
        "/artifacts/t%2F1/out/report.txt/",
        &by_digest,
    ];
    for target in corpus {
        let answer = api.raw_head("GET", target, &["host: localhost"]).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{target}");
        assert!(
            ["not_found", "artifact_not_found"].contains(&&*answer.code()),
            "{target}"
        );
        assert!(!answer.text().contains("SECRET"), "{target}");
    }
    // What is no request line at all does not even reach the router.
    for target in [&b"/artifacts/t%2F1/\0secret"[..], b"/artifacts/t%2F1/a b"] {
        let head = [
            b"GET ",
            target,
            b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ];
        assert_eq!(
            api.raw(&head.concat()).await.status,
            StatusCode::BAD_REQUEST
        );
    }
    let there = api.raw_head(
        "GET",
        "/artifacts/t%2F1/out/report.txt",
        &["host: localhost"],
    );
    assert_eq!(there.await.text(), REPORT);
}

#[tokio::test]
async fn a_file_that_was_changed_is_not_served() {
    let api = published().await;
    let hex = Digest::of(REPORT.as_bytes()).hex();
    let file = api.artifacts_root().join(&hex[..2]).join(&hex[2..]);
    std::fs::write(&file, "all three failed").unwrap();
    let fetch = async || {
        let answer = api.get("/artifacts/t%2F1/out/report.txt").await;
        (answer.status.as_u16(), answer.code())
    };
    assert_eq!(fetch().await, (500, "artifact_changed".to_owned()));
    // However much there is, no more is read than belongs there.
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_eq!(fetch().await, (500, "artifact_changed".to_owned()));
    std::fs::remove_file(file).unwrap();
    assert_eq!(fetch().await, (410, "artifact_gone".to_owned()));
}
