//! Following the events, and how a stream ends.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::TestApi;

const HOUR_MS: u64 = 3_600_000;

async fn enqueue(api: &TestApi, trace: &str) {
    api.submit(json!({ "trace_id": trace, "delay_ms": HOUR_MS }))
        .await;
}

fn trace(event: &Value) -> &str {
    event["trace_id"].as_str().unwrap()
}

#[tokio::test]
async fn a_new_follower_hears_what_happens_from_now_on() {
    let api = TestApi::start().await;
    enqueue(&api, "before").await;
    let mut following = api.follow(api.request(Method::GET, "/api/events")).await;
    enqueue(&api, "after").await;
    let event = following.next().await;
    assert_eq!(trace(&event), "after");
    assert_eq!(event["event_type"], "execute_enqueued");
    enqueue(&api, "later").await;
    assert_eq!(trace(&following.next().await), "later");
}

#[tokio::test]
async fn a_follower_that_comes_back_misses_nothing() {
    let api = TestApi::start().await;
    for trace in ["a", "b", "c"] {
        enqueue(&api, trace).await;
    }
    let from_start = api.request(Method::GET, "/api/events?after=0");
    let mut following = api.follow(from_start).await;
    let first = following.next().await;
    assert_eq!(trace(&first), "a");
    drop(following);
    let id = first["id"].as_i64().unwrap().to_string();
    let back = api
        .request(Method::GET, "/api/events?after=0")
        .header("last-event-id", id);
    let mut following = api.follow(back).await;
    assert_eq!(trace(&following.next().await), "b");
    assert_eq!(trace(&following.next().await), "c");
}

#[tokio::test]
async fn more_events_than_a_page_come_in_order() {
    let api = TestApi::start().await;
    for n in 0..450 {
        enqueue(&api, &format!("t{n}")).await;
    }
    let request = api.request(Method::GET, "/api/events?after=0&type=execute_enqueued");
    let mut following = api.follow(request).await;
    for n in 0..450 {
        assert_eq!(trace(&following.next().await), format!("t{n}"));
    }
}

#[tokio::test]
async fn followers_are_limited() {
    let api = TestApi::start().await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(api.follow(api.request(Method::GET, "/api/events")).await);
    }
    let refused = api.get("/api/events").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.code(), "too_many_streams");
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_the_server() {
    let api = TestApi::start().await;
    let mut following = api.follow(api.request(Method::GET, "/api/events")).await;
    api.shutdown.cancel();
    assert_eq!(following.try_next().await, None);
    let served = api.served.lock().await.take().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
    ended.unwrap().unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(api.address).await.is_err());
}
