//! What a payload must be, and what its assignment allows.

use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Usage};
use cogo_host::ids::MessageId;
use cogo_host::task::{NewTask, Status};
use serde_json::{Value, json};

use super::faults::{Op, Side};
use super::harness::{Bench, outcome, problem, served};
use crate::support::hand::{BUILD_TEST, DOCS, task};

fn assigned(assignment: &Value) -> NewTask {
    let mut task = task(DOCS);
    task.payload = json!({ "__assignment": assignment });
    task
}

fn tokens(tokens: u64) -> Usage {
    Usage {
        tokens,
        ..Usage::default()
    }
}

/// Fails with this code, and says so in both events.
async fn fails(bench: &Bench, id: MessageId, code: &str, role: &str) {
    let row = bench.ended(id).await;
    assert_eq!(row.status, Status::Failed);
    let error = row.error.unwrap();
    assert!(error.starts_with(&format!("{code}: ")), "{error}");
    for event_type in ["execute_failed", role] {
        let event = bench.event(id, event_type).await;
        assert_eq!(event.payload["code"], code);
        assert!(event.reason.is_some());
        assert_eq!(event.trace_id, row.trace_id);
    }
}

#[tokio::test]
async fn a_bad_payload_fails_before_any_executor() {
    let mut bench = Bench::new().await;
    bench.routes.serve(vec![
        served(BUILD_TEST, 4, "mock", 4),
        served("codegen/generate", 4, "mock", 4),
        served("sandbox/run", 4, "mock", 4),
    ]);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1024 * 1024));
    let cases = [
        (BUILD_TEST, "buildtest_failed", "{", "payload_invalid"),
        (BUILD_TEST, "buildtest_failed", "[1]", "payload_invalid"),
        (
            BUILD_TEST,
            "buildtest_failed",
            r#"{"repo":7}"#,
            "payload_invalid",
        ),
        (BUILD_TEST, "buildtest_failed", &*large, "payload_too_large"),
        (
            BUILD_TEST,
            "buildtest_failed",
            r#"{"__assignment":{"ttl_ms":-1}}"#,
            "payload_invalid",
        ),
        (
            "codegen/generate",
            "codegen_failed",
            "{}",
            "payload_invalid",
        ),
        (
            "sandbox/run",
            "sandbox_failed",
            r#"{"code":"1"}"#,
            "payload_invalid",
        ),
    ];
    let mut ids = Vec::new();
    for (route, role, payload, code) in cases {
        ids.push((bench.bed.foreign(route, payload).await, role, code));
    }
    let bus = bench.start();
    for (id, role, code) in ids {
        fails(&bench, id, code, role).await;
        let attempts = bench.attempts(id).await;
        assert_eq!((attempts.len(), &attempts[0].plugin), (1, &None));
        let types = bench.event_types(id).await;
        assert_eq!(types, ["execute_enqueued", "execute_failed", role]);
    }
    assert!(bench.call_now().is_none());
    bench.stop(&bus).await;
}

#[tokio::test]
async fn the_deadline_is_the_routes_or_what_is_left_to_live() {
    let mut bench = Bench::new().await;
    bench.routes.deadline(Duration::from_secs(600));
    let aged = bench
        .submit(assigned(&json!({ "ttl_ms": 3_600_000 })))
        .await;
    let age = Duration::from_secs(3500);
    bench.bed.age_task(aged, "created_at", age).await;
    let fresh = bench
        .submit(assigned(&json!({ "ttl_ms": 3_600_000 })))
        .await;
    let bus = bench.start();
    for call in bench.calls(2).await {
        let deadline = call.attempt.deadline;
        if call.id() == aged {
            assert!(deadline <= Duration::from_secs(100), "{deadline:?}");
            assert!(deadline > Duration::from_secs(60), "{deadline:?}");
        } else {
            assert_eq!(call.id(), fresh);
            assert_eq!(deadline, Duration::from_secs(600));
        }
        call.done();
    }
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_task_that_is_too_old_is_not_begun() {
    let mut bench = Bench::new().await;
    // The sweep shall not be first.
    bench.faults.block(Op::Expire, Side::Before);
    let id = bench.submit(assigned(&json!({ "ttl_ms": 1000 }))).await;
    let age = Duration::from_secs(2);
    bench.bed.age_task(id, "created_at", age).await;
    let bus = bench.start();
    fails(&bench, id, "ttl_exceeded", "docs_render_failed").await;
    assert_eq!(bench.row(id).await.attempts, 1);
    assert!(bench.call_now().is_none());
    bench.faults.release(Op::Expire, Side::Before);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_scheduled() {
    let mut bench = Bench::new().await;
    bench.settings.retry.cap = Duration::from_secs(3600);
    let id = bench.submit(assigned(&json!({ "ttl_ms": 600_000 }))).await;
    let bus = bench.start();
    bench.call().await.end(AttemptEnd::Retryable {
        problem: problem("worker_busy"),
        after: Some(Duration::from_secs(3600)),
    });
    fails(&bench, id, "ttl_exceeded", "docs_render_failed").await;
    let reason = bench.event(id, "execute_failed").await.reason.unwrap();
    assert!(reason.contains("worker_busy"), "{reason}");
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_task_that_grows_too_old_while_it_waits_is_swept() {
    let mut bench = Bench::new().await;
    let mut waiting = assigned(&json!({ "ttl_ms": 1000 }));
    waiting.delay = Duration::from_secs(3600);
    let id = bench.submit(waiting).await;
    let bus = bench.start();
    let age = Duration::from_secs(2);
    bench.bed.age_task(id, "created_at", age).await;
    fails(&bench, id, "ttl_exceeded", "docs_render_failed").await;
    assert_eq!(bench.row(id).await.attempts, 0);
    bench.stop(&bus).await;
    assert!(bench.call_now().is_none());
}

#[tokio::test]
async fn a_budget_holds_over_all_attempts() {
    let mut bench = Bench::new().await;
    let budget = json!({ "budget": { "maxTokens": 10, "maxCostUsd": 1.0 } });
    let id = bench.submit(assigned(&budget)).await;
    let bus = bench.start();
    let retryable = || AttemptEnd::Retryable {
        problem: problem("worker_error"),
        after: None,
    };
    bench.call().await.spend(retryable(), tokens(6));
    let second = bench.call().await;
    assert_eq!(second.attempt.allowance.spent.tokens, 6);
    assert_eq!(second.attempt.allowance.budget.max_tokens, Some(10));
    second.spend(retryable(), tokens(5));
    fails(&bench, id, "budget_exceeded", "docs_render_failed").await;
    assert_eq!(bench.row(id).await.attempts, 2);

    // To the last token is within it.
    let id = bench.submit(assigned(&budget)).await;
    bus.wake();
    let call = bench.call().await;
    let end = AttemptEnd::Completed(outcome(&call.attempt, "as told"));
    call.spend(end, tokens(10));
    assert_eq!(bench.ended(id).await.status, Status::Done);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn an_assignments_model_is_the_only_one() {
    let mut bench = Bench::new().await;
    let using = |model: &str| Usage {
        model: Some(model.to_owned()),
        ..Usage::default()
    };
    let model = json!({ "model": "small" });
    let bad = bench.submit(assigned(&model)).await;
    let good = bench.submit(assigned(&model)).await;
    let bus = bench.start();
    for call in bench.calls(2).await {
        assert_eq!(call.attempt.allowance.model.as_deref(), Some("small"));
        let used = if call.id() == bad { "large" } else { "small" };
        let end = AttemptEnd::Completed(outcome(&call.attempt, "as told"));
        call.spend(end, using(used));
    }
    fails(&bench, bad, "model_policy_violation", "docs_render_failed").await;
    assert_eq!(bench.ended(good).await.status, Status::Done);
    bench.stop(&bus).await;
}
