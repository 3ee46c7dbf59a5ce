//! Requests of guests, against real servers on the loopback.

use std::sync::Arc;
use std::time::Duration;

use cogo_host::attempt::{Attempt, AttemptEnd, AttemptReport, Denial, StopReason};
use cogo_host::plugin::limits::{Limits, OutboundLimits};
use cogo_host::plugin::load::{Plugin, Settings};
use cogo_host::report::Report;

use super::harness::{Bench, Controls, attempt, completed, load};
use super::server::{Answer, Server};
use crate::guest::fetch::{Fetch, Until};

// The numbers of `error-code`, as the guest tells them.
const IP_PROHIBITED: i32 = -5;
const REFUSED: i32 = -7;
const LIMIT_REACHED: i32 = -12;
const DENIED: i32 = -16;
const REQUEST_BODY_SIZE: i32 = -18;
const HEADER_SECTION_SIZE: i32 = -27;
const RESPONSE_BODY_SIZE: i32 = -29;
const RESPONSE_TIMEOUT: i32 = -34;
// `wasi:http` of the engine names no code for errors within a body; the span does.
const BODY_FAILED: i32 = -100;

async fn plugin(fetch: &Fetch, allow: &[&str], egress: &[&str], limits: Limits) -> Arc<Plugin> {
    let settings = Settings {
        allow: allow.iter().map(|a| (*a).to_owned()).collect(),
        limits,
        ..Settings::default()
    };
    load(&fetch.guest().egress(egress), settings).await
}

/// Runs the request with a grant of exactly its origin, also in the plugin's list.
async fn granted(fetch: &Fetch) -> AttemptReport {
    granted_with(fetch, Limits::DEFAULT).await
}

async fn granted_with(fetch: &Fetch, limits: Limits) -> AttemptReport {
    let scheme = if fetch.https { "https" } else { "http" };
    let origin = format!("{scheme}://{}", fetch.authority);
    let plugin = plugin(fetch, &[&origin], &[&origin], limits).await;
    Bench::new().run(&plugin).await
}

/// The status or error that the guest saw, and how many bytes it read.
fn told(report: &AttemptReport) -> (i32, u64) {
    match &completed(report).report {
        Report::Sandbox {
            exit_code,
            duration_ms,
            ..
        } => (*exit_code, *duration_ms),
        other => panic!("expected a sandbox report, got {other:?}"),
    }
}

fn http_span(report: &AttemptReport) -> &cogo_host::attempt::Span {
    let found = report.measured.spans.iter().find(|s| s.name == "http");
    found.expect("the request left a span")
}

fn denied(report: &AttemptReport) -> Vec<(Denial, u32)> {
    let denied = report.measured.outbound_denied.iter();
    denied.map(|(denial, times)| (*denial, *times)).collect()
}

fn log(report: &AttemptReport) -> String {
    let lines = report.measured.log.iter().map(|line| line.message.as_str());
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn an_allowed_request_goes_out_with_the_hosts_headers() {
    let server = Server::start(Answer::ok("hello")).await;
    let fetch = Fetch::get(&server.authority(), "/run/x?token=secret");
    let origin = server.origin();
    let plugin = plugin(&fetch, &[&origin], &[&origin], Limits::DEFAULT).await;
    let task = attempt(&plugin);
    let trace_id = task.trace_id.clone();
    let report = Bench::new().run_attempt(&plugin, task).await;
    assert_eq!(told(&report), (200, 5));

    let request = server.requests.lock()[0].clone();
    assert!(
        request.starts_with("GET /run/x?token=secret HTTP/1.1\r\n"),
        "{request}"
    );
    let lower = request.to_ascii_lowercase();
    assert_eq!(lower.matches("\r\nhost: ").count(), 1, "{request}");
    assert!(
        lower.contains(&format!("\r\nx-trace-id: {trace_id}\r\n")),
        "{request}"
    );
    assert!(
        lower.contains(&format!("\r\ntraceparent: 00-{}-", trace_id.w3c())),
        "{request}"
    );
    assert!(lower.contains("\r\nuser-agent: cogo-host/"), "{request}");

    assert_eq!(report.measured.outbound_requests, 1);
    assert_eq!(report.measured.outbound_allowed(), 1);
    let fields = &http_span(&report).fields;
    assert_eq!(fields["method"], "GET");
    assert_eq!(fields["status"], "200");
    assert_eq!(fields["bytes"], "5");
    // No query: it may hold secrets.
    assert_eq!(fields["url"], format!("{origin}/run/x"));
}

#[tokio::test]
async fn a_body_goes_out_with_its_length() {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    fetch.body = Some(10_000);
    assert_eq!(told(&granted(&fetch).await), (200, 0));
    let request = server.requests.lock()[0].to_ascii_lowercase();
    assert!(request.starts_with("post / http/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\ncontent-length: 10000\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_request_that_nobody_granted_is_refused_with_the_grant_to_paste() {
    let server = Server::start(Answer::ok("")).await;
    let fetch = Fetch::get(&server.authority(), "/");
    let origin = server.origin();
    let plugin = plugin(&fetch, &["https://a.test"], &[&origin], Limits::DEFAULT).await;
    let report = Bench::new().run(&plugin).await;
    assert_eq!(told(&report), (DENIED, 0));
    let log = log(&report);
    let paste = format!("[plugin.guest]\nallow = [\"https://a.test\", \"{origin}\"]");
    assert!(log.contains(&paste), "{log}");
    assert!(http_span(&report).fields.contains_key("error"));
    assert!(server.requests.lock().is_empty());
    assert_eq!(denied(&report), [(Denial::NotGranted, 1)]);
    assert_eq!(report.measured.outbound_allowed(), 0);
}

#[tokio::test]
async fn a_request_that_the_plugin_did_not_declare_is_refused() {
    let server = Server::start(Answer::ok("")).await;
    let fetch = Fetch::get(&server.authority(), "/");
    let plugin = plugin(&fetch, &[&server.origin()], &[], Limits::DEFAULT).await;
    let report = Bench::new().run(&plugin).await;
    assert_eq!(told(&report), (DENIED, 0));
    assert!(log(&report).contains("`egress`"), "{}", log(&report));
    assert!(server.requests.lock().is_empty());
    assert_eq!(denied(&report), [(Denial::NotDeclared, 1)]);
}

#[tokio::test]
async fn a_private_address_needs_to_be_named() {
    let server = Server::start(Answer::ok("")).await;
    let port = server.address.port();
    for (authority, allow, code) in [
        // By its number under a network.
        (
            server.authority(),
            format!("http://127.0.0.0/8:{port}"),
            DENIED,
        ),
        // By a name that resolves to it.
        (
            format!("localhost:{port}"),
            format!("http://localhost:{port}"),
            200,
        ),
    ] {
        let fetch = Fetch::get(&authority, "/");
        let plugin = plugin(
            &fetch,
            &[&allow],
            &[&format!("http://{authority}"), &allow],
            Limits::DEFAULT,
        )
        .await;
        let report = Bench::new().run(&plugin).await;
        assert_eq!(
            told(&report).0,
            code,
            "{authority} {allow}: {}",
            log(&report)
        );
    }
    assert_eq!(server.requests.lock().len(), 1);
}

/// Names below `localhost` are loopback addresses to every resolver that knows
/// RFC 6761; where one does not, the name does not resolve at all. Either way
/// nothing is connected to.
#[tokio::test]
async fn a_name_under_a_wildcard_never_leads_to_a_private_address() {
    let server = Server::start(Answer::ok("")).await;
    let port = server.address.port();
    let fetch = Fetch::get(&format!("a.b.localhost:{port}"), "/");
    let allow = format!("http://*.b.localhost:{port}");
    let plugin = plugin(&fetch, &[&allow], &[&allow], Limits::DEFAULT).await;
    let report = Bench::new().run(&plugin).await;
    let (code, _) = told(&report);
    assert!(code == IP_PROHIBITED || code == -2, "{code}");
    let resolved = code == IP_PROHIBITED;
    let expected = resolved.then_some((Denial::PrivateAddress, 1));
    assert_eq!(denied(&report), Vec::from_iter(expected));
    assert!(server.requests.lock().is_empty());
}

#[tokio::test]
async fn a_metadata_address_is_refused_even_when_named() {
    for authority in [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "0xa9fea9fe",
        "2852039166",
    ] {
        let report = granted(&Fetch::get(authority, "/latest/meta-data/")).await;
        assert_eq!(told(&report), (DENIED, 0), "{authority}");
        assert!(
            log(&report).contains("no plugin may reach"),
            "{}",
            log(&report)
        );
        assert_eq!(denied(&report), [(Denial::ForbiddenAddress, 1)]);
    }
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow() {
    let target = Server::start(Answer::ok("secret")).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        target.origin()
    );
    let server = Server::start(Answer::Raw(redirect.into_bytes())).await;
    assert_eq!(
        told(&granted(&Fetch::get(&server.authority(), "/")).await),
        (302, 0)
    );
    assert!(target.requests.lock().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told() {
    let server = Server::start(Answer::ok("")).await;
    let authority = server.authority();
    let (ended, _) = (server.ended.clone(), server);
    // The listener is gone once nobody counts its connections any more.
    let mut ended = ended;
    while ended.changed().await.is_ok() {}
    assert_eq!(
        told(&granted(&Fetch::get(&authority, "/")).await),
        (REFUSED, 0)
    );
}

#[tokio::test]
async fn response_body_obeyed_and_violated() {
    let limits = |bytes| Limits {
        outbound: OutboundLimits {
            response_body_bytes: bytes,
            ..Limits::DEFAULT.outbound
        },
        ..Limits::DEFAULT
    };
    let announced = Server::start(Answer::ok(&"x".repeat(1_000))).await;
    let fetch = Fetch::get(&announced.authority(), "/");
    assert_eq!(
        told(&granted_with(&fetch, limits(1_000)).await),
        (200, 1_000)
    );
    assert_eq!(
        told(&granted_with(&fetch, limits(999)).await).0,
        RESPONSE_BODY_SIZE
    );
    // Without a length it is counted as it comes.
    let endless = Server::start(Answer::Endless).await;
    let report = granted(&Fetch::get(&endless.authority(), "/")).await;
    let (code, read) = told(&report);
    assert_eq!(code, BODY_FAILED);
    assert!(read <= 8 * 1024 * 1024, "{read}");
    let error = &http_span(&report).fields["error"];
    assert!(error.contains("body size"), "{error}");
}

#[tokio::test]
async fn request_body_obeyed_and_violated() {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    let limits = Limits {
        outbound: OutboundLimits {
            request_body_bytes: 8_192,
            ..Limits::DEFAULT.outbound
        },
        ..Limits::DEFAULT
    };
    fetch.body = Some(8_192);
    assert_eq!(told(&granted_with(&fetch, limits.clone()).await).0, 200);
    fetch.body = Some(8_193);
    assert_eq!(
        told(&granted_with(&fetch, limits).await).0,
        REQUEST_BODY_SIZE
    );
    assert_eq!(server.requests.lock().len(), 1);
}

#[tokio::test]
async fn a_response_with_too_many_headers_is_refused() {
    let head = |headers: usize| {
        let headers: String = (0..headers).map(|n| format!("x-{n}: y\r\n")).collect();
        Answer::Raw(
            format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n")
                .into_bytes(),
        )
    };
    let few = Server::start(head(90)).await;
    assert_eq!(
        told(&granted(&Fetch::get(&few.authority(), "/")).await).0,
        200
    );
    let many = Server::start(head(5_000)).await;
    assert!(told(&granted(&Fetch::get(&many.authority(), "/")).await).0 < 0);
    let large = Server::start(Answer::Raw(
        format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "y".repeat(100_000)
        )
        .into_bytes(),
    ))
    .await;
    let code = told(&granted(&Fetch::get(&large.authority(), "/")).await).0;
    assert_eq!(code, HEADER_SECTION_SIZE);
}

#[tokio::test]
async fn a_body_that_stalls_and_one_that_breaks_off() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    let stalling = Server::start(Answer::Stall(head.clone())).await;
    let mut fetch = Fetch::get(&stalling.authority(), "/");
    fetch.between_bytes = Some(50);
    let report = granted(&fetch).await;
    assert_eq!(told(&report), (BODY_FAILED, 4));
    assert_eq!(
        http_span(&report).fields["error"],
        "connection read timeout"
    );
    let breaking = Server::start(Answer::Raw(head)).await;
    let report = granted(&Fetch::get(&breaking.authority(), "/")).await;
    assert_eq!(told(&report), (BODY_FAILED, 4));
    assert_eq!(
        http_span(&report).fields["error"],
        "incomplete HTTP response"
    );
}

#[tokio::test]
async fn a_head_that_does_not_come_is_waited_for_as_long_as_the_guest_says() {
    let silent = Server::start(Answer::Stall(Vec::new())).await;
    let mut fetch = Fetch::get(&silent.authority(), "/");
    fetch.first_byte = Some(50);
    let report = granted(&fetch).await;
    assert_eq!(told(&report), (RESPONSE_TIMEOUT, 0));
    // Who waits keeps no thread.
    let measured = &report.measured;
    assert!(measured.busy > Duration::ZERO);
    assert!(measured.busy + Duration::from_millis(50) <= measured.run);
}

#[tokio::test]
async fn number_of_requests_obeyed_and_violated() {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    fetch.times = 64;
    let report = granted(&fetch).await;
    assert_eq!(told(&report).0, 200);
    assert_eq!(report.measured.outbound_requests, 64);
    fetch.times = 65;
    let report = granted(&fetch).await;
    assert_eq!(told(&report).0, LIMIT_REACHED);
    assert_eq!(report.measured.outbound_requests, 64);
    assert_eq!(denied(&report), [(Denial::TooMany, 1)]);
    assert_eq!(report.measured.outbound_allowed(), 64);
}

async fn short(plugin: &Arc<Plugin>, deadline: u64) -> AttemptReport {
    let mut attempt: Attempt = attempt(plugin);
    attempt.deadline = Duration::from_millis(deadline);
    Bench::new().run_attempt(plugin, attempt).await
}

#[tokio::test]
async fn an_attempt_that_is_cut_takes_its_request_along() {
    let silent = Server::start(Answer::Stall(Vec::new())).await;
    let fetch = Fetch::get(&silent.authority(), "/");
    let origin = silent.origin();
    let plugin = plugin(&fetch, &[&origin], &[&origin], Limits::DEFAULT).await;
    let bench = Bench::with_grace(Duration::from_millis(50));
    let controls = Controls::new();
    let running = bench
        .sandbox
        .run(plugin.clone(), attempt(&plugin), controls.control.clone());
    let stop = async {
        let mut arrived = silent.arrived.clone();
        arrived.wait_for(|arrived| *arrived == 1).await.unwrap();
        controls.stop.send_replace(Some(StopReason::Cancelled));
    };
    let (report, ()) = tokio::join!(running, stop);
    assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Cancelled));
    assert_eq!(http_span(&report).fields["error"], "aborted");
    // The server sees its end of the connection close.
    let mut ended = silent.ended.clone();
    ended.wait_for(|ended| *ended == 1).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_is_dropped_takes_its_request_along() {
    let silent = Server::start(Answer::Stall(Vec::new())).await;
    let fetch = Fetch::get(&silent.authority(), "/");
    let origin = silent.origin();
    let plugin = plugin(&fetch, &[&origin], &[&origin], Limits::DEFAULT).await;
    let bench = Bench::new();
    let controls = Controls::new();
    let running = bench
        .sandbox
        .run(plugin.clone(), attempt(&plugin), controls.control.clone());
    let mut arrived = silent.arrived.clone();
    tokio::select! {
        _ = running => panic!("the server never answers"),
        _ = arrived.wait_for(|arrived| *arrived == 1) => {}
    }
    let mut ended = silent.ended.clone();
    ended.wait_for(|ended| *ended == 1).await.unwrap();
}

/// A guest that returns while its request is out does not keep the connection.
#[tokio::test]
async fn a_request_that_is_not_waited_for_is_aborted() {
    let silent = Server::start(Answer::Stall(Vec::new())).await;
    let mut fetch = Fetch::get(&silent.authority(), "/");
    fetch.until = Until::Sent;
    let report = granted(&fetch).await;
    assert_eq!(told(&report).0, 0);
    assert_eq!(http_span(&report).fields["error"], "aborted");
}

#[tokio::test]
async fn a_guest_that_wants_only_the_head_frees_the_connection() {
    let endless = Server::start(Answer::Endless).await;
    let mut fetch = Fetch::get(&endless.authority(), "/");
    fetch.until = Until::Head;
    assert_eq!(told(&granted(&fetch).await).0, 200);
    let mut ended = endless.ended.clone();
    ended.wait_for(|ended| *ended == 1).await.unwrap();
}

#[tokio::test]
async fn requests_of_a_plugin_wait_for_their_turn() {
    let silent = Server::start(Answer::Stall(Vec::new())).await;
    let fetch = Fetch::get(&silent.authority(), "/");
    let origin = silent.origin();
    let limits = Limits {
        outbound: OutboundLimits {
            concurrency: 1,
            ..Limits::DEFAULT.outbound
        },
        ..Limits::DEFAULT
    };
    let plugin = plugin(&fetch, &[&origin], &[&origin], limits).await;
    let bench = Bench::with_grace(Duration::from_millis(50));
    let first = Controls::new();
    let holding = bench
        .sandbox
        .run(plugin.clone(), attempt(&plugin), first.control.clone());
    tokio::pin!(holding);
    let mut arrived = silent.arrived.clone();
    tokio::select! {
        _ = &mut holding => panic!("the server never answers"),
        _ = arrived.wait_for(|arrived| *arrived == 1) => {}
    }
    // The second one never gets to the server.
    let report = short(&plugin, 200).await;
    assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Deadline));
    assert_eq!(silent.requests.lock().len(), 1);
    first.stop.send_replace(Some(StopReason::Cancelled));
    assert_eq!(
        holding.await.end,
        AttemptEnd::Stopped(StopReason::Cancelled)
    );
}

#[tokio::test]
async fn https_to_a_server_that_speaks_none_is_an_error_not_a_trap() {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    fetch.https = true;
    let (code, _) = told(&granted(&fetch).await);
    assert!(code < 0, "{code}");
}
