//! What an end of an attempt leaves on the bus, well-behaved or not.

use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Blame, Problem, StopReason};
use cogo_host::ids::MessageId;
use cogo_host::report::{Outcome, Report};
use cogo_host::task::{MAX_HOST_FAULTS, Status};
use serde_json::Map;

use super::faults::{Op, Side};
use super::harness::{Bench, Call, outcome, problem, served};
use crate::support::hand::{BUILD_TEST, DOCS, task, tasks};

#[tokio::test]
async fn retries_are_visible_and_done_says_what_ran() {
    let mut bench = Bench::new().await;
    let routes = vec![served(BUILD_TEST, 1, "mock", 1)];
    bench.routes.serve(routes);
    let id = bench.submit(task(BUILD_TEST)).await;
    let bus = bench.start();
    bench.call().await.retry("worker_timeout");
    let call = bench.call().await;
    assert_eq!((call.attempt.number, call.attempt.max_attempts), (2, 3));
    call.done();
    bench.ended(id).await;
    bench.stop(&bus).await;
    let retry = bench.event(id, "execute_retry").await;
    assert_eq!(retry.payload["attempt"], 1);
    assert_eq!(retry.payload["code"], "worker_timeout");
    assert!(retry.payload["delay_ms"].as_u64().unwrap() <= 5);
    assert_eq!(retry.reason.as_deref(), Some("as told"));
    let done = bench.event(id, "execute_done").await.payload;
    assert_eq!((&done["attempt"], &done["run_ms"]), (&2.into(), &3.into()));
    assert!(done["wait_ms"].is_u64());
    assert_eq!(
        (&done["plugin"], &done["kind"]),
        (&"mock".into(), &"mock".into())
    );
    assert!(done["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(
        (&done["stage"], &done["fallback"]),
        (&"staging".into(), &false.into())
    );
    let types = bench.event_types(id).await;
    let expected = [
        "execute_enqueued",
        "execute_retry",
        "buildtest_retry",
        "execute_done",
        "buildtest_done",
    ];
    assert_eq!(types, expected);
}

#[tokio::test]
async fn attempts_that_are_used_up_fail_the_task() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    for number in 1..=3 {
        let call = bench.call().await;
        assert_eq!(call.attempt.number, number);
        call.retry("worker_error");
    }
    let row = bench.ended(id).await;
    assert_eq!(row.status, Status::Failed);
    assert_eq!(row.error.as_deref(), Some("worker_error: as told"));
    let failed = bench.event(id, "execute_failed").await;
    assert_eq!(failed.payload["code"], "worker_error");
    assert_eq!(failed.payload["attempt"], 3);
    assert!(
        bench
            .event_types(id)
            .await
            .contains(&"docs_render_failed".to_owned())
    );
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_fallback_is_stamped_everywhere() {
    let mut bench = Bench::new().await;
    bench.routes.fall_back();
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    bench.call().await.done();
    let row = bench.ended(id).await;
    assert_eq!(
        row.result_snippet.as_deref(),
        Some("[mock fallback] as told")
    );
    assert_eq!(row.result.unwrap()["fallback"], true);
    let done = bench.event(id, "execute_done").await;
    assert_eq!(done.payload["fallback"], true);
    bench.event(id, "execute_fallback").await;
    let attempts = bench.attempts(id).await;
    assert_eq!(attempts[0].why.as_ref().unwrap()["fallback"], true);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_panicking_executor_is_the_hosts_fault() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    bench.call().await.panic();
    let call = bench.call().await;
    assert_eq!(call.attempt.number, 1);
    call.done();
    let row = bench.ended(id).await;
    assert_eq!((row.attempts, row.host_faults), (1, 1));
    let retry = bench.event(id, "execute_retry").await;
    assert_eq!(retry.payload["code"], "host_panic");
    bench.stop(&bus).await;
}

#[tokio::test]
async fn an_executor_that_outstays_its_deadline_is_dropped() {
    let mut bench = Bench::new().await;
    bench.routes.deadline(Duration::from_millis(20));
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let gone = bench.call().await.hang();
    let again = bench.call().await;
    assert!(gone.is_cancelled());
    assert_eq!(again.attempt.number, 2);
    again.done();
    bench.ended(id).await;
    let retry = bench.event(id, "execute_retry").await;
    assert_eq!(retry.payload["code"], "deadline_exceeded");
    bench.stop(&bus).await;
}

#[tokio::test]
async fn an_executor_that_does_not_stop_is_dropped() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let _gone = bench.call().await.hang();
    bus.cancel_hint(id);
    let row = bench.ended(id).await;
    assert_eq!(row.error.as_deref(), Some("cancelled"));
    bench.stop(&bus).await;
}

#[tokio::test]
async fn the_hosts_faults_are_given_back_twenty_times() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    for _ in 0..=MAX_HOST_FAULTS {
        let call = bench.call().await;
        assert_eq!(call.attempt.number, 1);
        let gone = Problem::new("plugin_gone", "as told", Blame::Host);
        call.end(AttemptEnd::HostFault(gone));
    }
    let row = bench.ended(id).await;
    assert_eq!(row.error.as_deref(), Some("plugin_gone: as told"));
    assert_eq!((row.attempts, row.host_faults), (1, MAX_HOST_FAULTS));
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_wish_to_cancel_is_not_lost_in_a_retry() {
    let mut bench = Bench::new().await;
    bench.settings.retry.cap = Duration::from_secs(3600);
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let mut call = bench.call().await;
    bench.bed.store.cancel(id, "operator").await.unwrap();
    bus.cancel_hint(id);
    assert_eq!(call.stopped().await, StopReason::Cancelled);
    call.end(AttemptEnd::Retryable {
        problem: problem("worker_error"),
        after: Some(Duration::from_secs(3600)),
    });
    let row = bench.ended(id).await;
    assert_eq!(row.error.as_deref(), Some("cancelled"));
    bench.stop(&bus).await;
}

#[tokio::test]
async fn ends_that_come_together_share_a_commit() {
    let mut bench = Bench::new().await;
    let ids = bench.submit_all(tasks(DOCS, 4)).await;
    bench.faults.block(Op::Settle, Side::Before);
    let bus = bench.start();
    let mut running = bench.calls(4).await;
    running.remove(0).done();
    bench.when(|faults| faults.begun(Op::Settle) == 1).await;
    running.into_iter().for_each(|call| call.done());
    // What ended is out of the executor's hands once its place is free.
    let more = bench.submit_all(tasks(DOCS, 4)).await;
    bus.wake();
    let running = bench.calls(4).await;
    bench.faults.release(Op::Settle, Side::Before);
    for id in ids {
        bench.ended(id).await;
    }
    running.into_iter().for_each(|call| call.done());
    for id in more {
        bench.ended(id).await;
    }
    assert_eq!(bench.faults.commits()[..2], [1, 3]);
    bench.stop(&bus).await;
}

/// Ends four attempts in one batch, the third of them with a NUL.
async fn end_with_nul(bench: &mut Bench, nul: AttemptEnd) -> Vec<MessageId> {
    bench.faults.refuse_nul();
    bench.faults.block(Op::Settle, Side::Before);
    let mut ids = Vec::new();
    for (place, call) in bench.calls(4).await.into_iter().enumerate() {
        ids.push(call.id());
        if place == 2 {
            call.end(nul.clone());
        } else {
            call.done();
        }
        if place == 0 {
            bench.when(|faults| faults.begun(Op::Settle) == 1).await;
        }
    }
    ids
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_fails_its_task_alone() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 4)).await;
    let bus = bench.start();
    let nul = AttemptEnd::Completed(Outcome {
        report: Report::Custom {
            value: Map::from_iter([("said".to_owned(), "a\0b".into())]),
        },
        snippet: None,
        url: None,
        attributes: Vec::new(),
    });
    let ids = end_with_nul(&mut bench, nul).await;
    bench.faults.release(Op::Settle, Side::Before);
    for (place, id) in ids.iter().enumerate() {
        let row = bench.ended(*id).await;
        if place == 2 {
            assert_eq!(row.status, Status::Failed);
            assert!(row.error.unwrap().starts_with("settlement_refused"));
            let failed = bench.event(*id, "execute_failed").await;
            assert_eq!(failed.payload["code"], "settlement_refused");
            assert_eq!(bench.attempts(*id).await[0].outcome, "failed");
        } else {
            assert_eq!(row.status, Status::Done);
        }
    }
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_problem_that_cannot_be_stored_is_retried_all_the_same() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 4)).await;
    let bus = bench.start();
    let nul = AttemptEnd::Retryable {
        problem: Problem::new("plugin_trap", "a\0b", Blame::Guest),
        after: None,
    };
    let ids = end_with_nul(&mut bench, nul).await;
    bench.faults.release(Op::Settle, Side::Before);
    let again = bench.call().await;
    assert_eq!((again.id(), again.attempt.number), (ids[2], 2));
    again.done();
    for id in ids {
        assert_eq!(bench.ended(id).await.status, Status::Done);
    }
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_locked_row_holds_up_nobody_else() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 4)).await;
    let bus = bench.start();
    let running = bench.calls(4).await;
    let locked = running[0].id();
    bench.faults.lock(locked);
    let ids: Vec<_> = running.iter().map(Call::id).collect();
    running.into_iter().for_each(|call| call.done());
    for id in &ids[1..] {
        assert_eq!(bench.ended(*id).await.status, Status::Done);
    }
    assert_eq!(bench.row(locked).await.status, Status::Claimed);
    bench.faults.unlock();
    assert_eq!(bench.ended(locked).await.status, Status::Done);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_settler_survives_a_store_that_panics() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    bench.faults.panic_at(Op::Settle);
    let bus = bench.start();
    let call = bench.call().await;
    let said = outcome(&call.attempt, "as told");
    call.end(AttemptEnd::Completed(said));
    assert_eq!(bench.ended(id).await.status, Status::Done);
    bench.stop(&bus).await;
}
