//! Writing the ends of attempts.

use std::time::Duration;

use cogo_host::attempt::{Blame, LogLevel, LogLine, Problem, Span};
use cogo_host::ids::Digest;
use cogo_host::store::{EventFilter, Settled};
use cogo_host::task::{CANCELLED, Next, Status};

use crate::support::bed::Bed;
use crate::support::hand::{
    BUILD_TEST, DOCS, Hand, artifact, done, drained, failed, host_fault, record, retry, settlement,
    task, tasks,
};

conformance!(
    done_keeps_who_and_what,
    failed_names_its_problem,
    cancelled_is_spelled_as_other_programs_read_it,
    a_retry_waits_its_delay,
    what_is_given_back_is_not_counted,
    an_attempt_row_keeps_everything,
    a_batch_is_one_commit_of_many_ends,
    a_late_settlement_is_refused_and_leaves_a_trace,
    the_same_claim_settles_once,
    two_claims_of_one_task_in_one_batch_are_told_apart,
    another_holder_cannot_settle,
    artifacts_become_visible_with_the_settlement,
    a_refused_settlement_publishes_nothing,
    a_forwarded_task_enters_the_bus_with_the_settlement,
    a_refused_settlement_forwards_nothing,
    counts_beyond_the_database_are_capped,
);

async fn claimed(bed: &Bed, hand: &Hand) -> cogo_host::task::Claim {
    bed.store.enqueue(&[task(BUILD_TEST)]).await.unwrap();
    hand.claim_one(&*bed.store, BUILD_TEST).await
}

async fn event_types(bed: &Bed, id: cogo_host::ids::MessageId) -> Vec<String> {
    let filter = EventFilter {
        message_id: Some(id),
        limit: 100,
        ..EventFilter::default()
    };
    let events = bed.store.events(&filter).await.unwrap();
    events.into_iter().map(|e| e.event_type).collect()
}

async fn done_keeps_who_and_what(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    hand.end(&*bed.store, &claim, done()).await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Done);
    assert_eq!(row.claimed_by.as_deref(), Some(hand.id.as_str()));
    assert!(row.claimed_at.is_some() && row.done_at.is_some());
    assert_eq!(row.result.unwrap()["tests"], 3);
    assert_eq!(row.result_snippet.as_deref(), Some("3 tests passed"));
    assert_eq!(row.result_url.as_deref(), Some("http://worker/report"));
    let types = event_types(bed, claim.id).await;
    assert_eq!(
        types,
        ["execute_enqueued", "execute_done", "buildtest_done"]
    );
}

async fn failed_names_its_problem(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    hand.end(&*bed.store, &claim, retry(Duration::ZERO)).await;
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    hand.end(&*bed.store, &claim, failed("payload_invalid"))
        .await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Failed);
    assert_eq!(row.error.as_deref(), Some("payload_invalid: it broke"));
    assert!(row.done_at.is_some() && row.last_error_at.is_some());
    let types = event_types(bed, claim.id).await;
    let expected = [
        "execute_enqueued",
        "execute_retry",
        "buildtest_retry",
        "execute_failed",
        "buildtest_failed",
    ];
    assert_eq!(types, expected);
}

async fn cancelled_is_spelled_as_other_programs_read_it(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    let problem = Problem::new(CANCELLED, "cancelled on request", Blame::Guest);
    hand.end(&*bed.store, &claim, Next::Failed { problem })
        .await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("cancelled"));
    let types = event_types(bed, claim.id).await;
    assert_eq!(types, ["execute_enqueued", "execute_cancelled"]);
}

async fn a_retry_waits_its_delay(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    hand.end(&*bed.store, &claim, retry(Duration::from_secs(30)))
        .await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Queued);
    assert_eq!((row.claimed_by, row.claimed_at), (None, None));
    let delay = row.retry_at.unwrap() - row.last_error_at.unwrap();
    assert_eq!(delay.num_seconds(), 30);
    assert_eq!(row.error.as_deref(), Some("worker_error: it broke"));
    assert!(hand.claim(&*bed.store, BUILD_TEST, 5).await.is_empty());
    bed.age_task(claim.id, "retry_at", Duration::from_secs(31))
        .await;
    let again = hand.claim_one(&*bed.store, BUILD_TEST).await;
    assert!(again.wait < Duration::from_secs(20), "{:?}", again.wait);
}

async fn what_is_given_back_is_not_counted(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    hand.end(&*bed.store, &claim, host_fault()).await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.host_faults, row.lease_epoch), (0, 1, 1));
    assert_eq!(row.error.as_deref(), Some("database: gone"));

    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    assert_eq!((claim.attempt, claim.epoch.0, claim.host_faults), (1, 2, 1));
    hand.end(&*bed.store, &claim, drained()).await;
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.host_faults, row.lease_epoch), (0, 1, 2));
    // A drain is no problem, and does not hide the last one.
    assert_eq!(row.error.as_deref(), Some("database: gone"));
    assert!(row.retry_at.is_some());
    bed.watch.check_drained(&*bed.store, &hand.id).await;
}

async fn an_attempt_row_keeps_everything(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    let mut end = settlement(&claim, failed("plugin_trap"));
    end.attempt.measured.peak_memory_bytes = 4096;
    end.attempt.measured.outbound_requests = 2;
    end.attempt.measured.log_dropped = 5;
    end.attempt.measured.spans = vec![Span {
        name: "call".into(),
        start_us: 1,
        duration_us: 2,
        fields: [("status".to_owned(), "503".to_owned())].into(),
    }];
    end.attempt.measured.log = vec![LogLine {
        at_us: 3,
        level: LogLevel::Warn,
        message: "'quoted' \"é\"".to_owned(),
    }];
    bed.store.settle(&hand.id, &[end]).await.unwrap();
    let attempts = bed.store.attempts(claim.id).await.unwrap();
    let [row] = attempts.as_slice() else {
        panic!("{attempts:?}");
    };
    assert_eq!((row.attempt, row.lease_epoch), (1, 1));
    assert_eq!(row.host, hand.id.as_str());
    assert_eq!(row.plugin.as_deref(), Some("cogo-worker"));
    assert_eq!(row.version.as_deref(), Some("1.2.3"));
    assert_eq!(row.digest, Some(Digest::of(b"cogo-worker")));
    assert_eq!(row.kind.as_deref(), Some("real"));
    assert_eq!(row.stage.as_deref(), Some("staging"));
    assert_eq!(row.why.as_ref().unwrap()["basis"], "stage_default");
    assert!(row.claimed_at.unwrap() <= row.ended_at);
    assert_eq!((row.wait_ms, row.run_ms), (7, 11));
    assert_eq!(
        (row.outcome.as_str(), row.code.as_deref()),
        ("failed", Some("plugin_trap"))
    );
    assert_eq!(row.blame.as_deref(), Some("worker"));
    assert_eq!(row.usage["tokens"], 9);
    assert_eq!((row.peak_memory_bytes, row.outbound_requests), (4096, 2));
    assert_eq!(row.spans[0]["fields"]["status"], "503");
    assert_eq!(row.log[0]["message"], "'quoted' \"é\"");
    assert_eq!(row.log_dropped, 5);
}

async fn a_batch_is_one_commit_of_many_ends(bed: &Bed) {
    let hand = Hand::new();
    bed.store.enqueue(&tasks(DOCS, 250)).await.unwrap();
    let claims = hand.claim(&*bed.store, DOCS, 250).await;
    assert_eq!(claims.len(), 250);
    let ends: Vec<_> = claims
        .iter()
        .enumerate()
        .map(|(i, claim)| {
            let next = match i % 3 {
                0 => done(),
                1 => failed("no"),
                _ => retry(Duration::from_secs(60)),
            };
            settlement(claim, next)
        })
        .collect();
    let answer = bed.store.settle(&hand.id, &ends).await.unwrap();
    assert!(answer.iter().all(|settled| *settled == Settled::Applied));
    let depth = bed.store.depth().await.unwrap();
    assert_eq!((depth.queued, depth.claimed), (83, 0));
    assert_eq!((depth.done, depth.failed), (84, 83));
}

async fn a_late_settlement_is_refused_and_leaves_a_trace(bed: &Bed) {
    let hand = Hand::new();
    bed.store.enqueue(&tasks(DOCS, 3)).await.unwrap();
    let claims = hand.claim(&*bed.store, DOCS, 3).await;
    bed.end_lease(claims[1].id).await;
    bed.store.rescue(10, 5).await.unwrap();
    let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
    let answer = bed.store.settle(&hand.id, &ends).await.unwrap();
    let expected = [Settled::Applied, Settled::LeaseLost, Settled::Applied];
    assert_eq!(answer, expected);

    let row = bed.store.task(claims[1].id).await.unwrap().unwrap();
    assert_eq!((row.status, row.result), (Status::Queued, None));
    let filter = EventFilter {
        event_type: Some("lease_lost".to_owned()),
        limit: 10,
        ..EventFilter::default()
    };
    let events = bed.store.events(&filter).await.unwrap();
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(event.message_id, Some(claims[1].id));
    assert_eq!(event.trace_id.as_deref(), Some(claims[1].trace_id.as_str()));
    assert_eq!(event.payload["outcome"], "done");
    assert_eq!(event.payload["lease_epoch"], 1);

    // The next holder is not disturbed, and a settlement without events of its
    // own is refused under the same trace.
    let next = Hand::new();
    let again = next.claim_one(&*bed.store, DOCS).await;
    let mut bare = settlement(&claims[1], failed("late"));
    bare.events.clear();
    let answer = bed.store.settle(&hand.id, &[bare]).await.unwrap();
    assert_eq!(answer, [Settled::LeaseLost]);
    next.end(&*bed.store, &again, done()).await;
}

async fn the_same_claim_settles_once(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    let twice = [settlement(&claim, done()), settlement(&claim, failed("no"))];
    let answer = bed.store.settle(&hand.id, &twice).await.unwrap();
    assert_eq!(answer, [Settled::Applied, Settled::LeaseLost]);
    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Done);
}

async fn two_claims_of_one_task_in_one_batch_are_told_apart(bed: &Bed) {
    let hand = Hand::new();
    let stale = claimed(bed, &hand).await;
    bed.end_lease(stale.id).await;
    bed.store.rescue(10, 5).await.unwrap();
    let held = hand.claim_one(&*bed.store, BUILD_TEST).await;
    let both = [
        settlement(&stale, failed("late")),
        settlement(&held, done()),
    ];
    let answer = bed.store.settle(&hand.id, &both).await.unwrap();
    assert_eq!(answer, [Settled::LeaseLost, Settled::Applied]);
    let row = bed.store.task(held.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Done);
}

async fn another_holder_cannot_settle(bed: &Bed) {
    let claim = claimed(bed, &Hand::new()).await;
    let answer = Hand::new().settle(&*bed.store, &claim, done()).await;
    assert_eq!(answer, Settled::LeaseLost);
    assert!(bed.store.attempts(claim.id).await.unwrap().is_empty());
}

async fn artifacts_become_visible_with_the_settlement(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    assert!(
        bed.store
            .artifact("label", "a/b.json")
            .await
            .unwrap()
            .is_none()
    );
    let mut end = settlement(&claim, done());
    end.artifacts = vec![artifact("a/b.json"), artifact("c"), artifact("c")];
    bed.store.settle(&hand.id, &[end]).await.unwrap();
    let found = bed
        .store
        .artifact("label", "a/b.json")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.message_id, found.bytes), (claim.id, 12));
    assert_eq!(found.digest, Digest::of(b"a/b.json"));
    assert_eq!(found.trace_id, claim.trace_id);
    assert_eq!(found.content_type, "application/json");

    // A task without a label goes by its id.
    let mut unnamed = task(BUILD_TEST);
    unnamed.task_id = None;
    bed.store.enqueue(&[unnamed.clone()]).await.unwrap();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    let mut end = settlement(&claim, done());
    end.artifacts = vec![artifact("c")];
    bed.store.settle(&hand.id, &[end]).await.unwrap();
    let found = bed
        .store
        .artifact(&unnamed.id.to_string(), "c")
        .await
        .unwrap();
    assert_eq!(found.unwrap().message_id, unnamed.id);
}

async fn a_refused_settlement_publishes_nothing(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    bed.end_lease(claim.id).await;
    bed.store.rescue(10, 5).await.unwrap();
    let mut end = settlement(&claim, done());
    end.artifacts = vec![artifact("a")];
    let answer = bed.store.settle(&hand.id, &[end]).await.unwrap();
    assert_eq!(answer, [Settled::LeaseLost]);
    assert!(bed.store.artifact("label", "a").await.unwrap().is_none());
}

async fn counts_beyond_the_database_are_capped(bed: &Bed) {
    let hand = Hand::new();
    let claim = claimed(bed, &hand).await;
    let next = done();
    let mut attempt = record(&claim, &next);
    attempt.wait_ms = u64::MAX;
    attempt.measured.run = Duration::MAX;
    attempt.measured.peak_memory_bytes = u64::MAX;
    attempt.measured.usage.tokens = u64::MAX;
    let end = crate::support::hand::with_record(&claim, next, attempt);
    let answer = bed.store.settle(&hand.id, &[end]).await.unwrap();
    assert_eq!(answer, [Settled::Applied]);
    let row = &bed.store.attempts(claim.id).await.unwrap()[0];
    assert_eq!(row.wait_ms, i64::MAX as u64);
}

/// A settlement that forwards a task of its own trace.
fn forwarding(
    claim: &cogo_host::task::Claim,
) -> (cogo_host::store::Settlement, cogo_host::task::NewTask) {
    let mut forward = task(BUILD_TEST);
    forward.trace_id = claim.trace_id.clone();
    forward.unique_key = Some(format!("dispatch:{}", claim.id));
    let mut settlement = settlement(claim, done());
    settlement.forward = Some(Box::new(forward.clone()));
    (settlement, forward)
}

async fn a_forwarded_task_enters_the_bus_with_the_settlement(bed: &Bed) {
    let hand = Hand::new();
    let mut from = task(DOCS);
    from.priority = 7;
    bed.store.enqueue(&[from]).await.unwrap();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    let (settlement, forward) = forwarding(&claim);
    let both = [settlement.clone(), settlement.clone()];
    let settled = bed.store.settle(&hand.id, &both).await.unwrap();
    assert_eq!(settled, [Settled::Applied, Settled::LeaseLost]);
    // As after a commit whose answer was lost.
    let settled = bed.store.settle(&hand.id, &[settlement]).await.unwrap();
    assert_eq!(settled, [Settled::Applied]);
    let row = bed.store.task(forward.id).await.unwrap().unwrap();
    assert_eq!((row.status, row.priority), (Status::Queued, 7));
    assert_eq!(row.trace_id.as_deref(), Some(claim.trace_id.as_str()));
    assert_eq!(event_types(bed, forward.id).await, ["execute_enqueued"]);
    // Claimable like any other, and nothing came of the second end.
    assert_eq!(hand.claim_one(&*bed.store, BUILD_TEST).await.id, forward.id);
    assert!(hand.claim(&*bed.store, BUILD_TEST, 5).await.is_empty());
}

async fn a_refused_settlement_forwards_nothing(bed: &Bed) {
    let (hand, other) = (Hand::new(), Hand::new());
    bed.store.enqueue(&[task(DOCS)]).await.unwrap();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    let (settlement, forward) = forwarding(&claim);
    let settled = bed.store.settle(&other.id, &[settlement]).await.unwrap();
    assert_eq!(settled, [Settled::LeaseLost]);
    assert!(bed.store.task(forward.id).await.unwrap().is_none());
    assert!(event_types(bed, forward.id).await.is_empty());
}
