//! Rescue, expiry, cancelling, retention.

use std::time::Duration;

use cogo_host::ids::MessageId;
use cogo_host::store::{Cancelled, EventFilter, Retention, Settled};
use cogo_host::task::{NewTask, Status};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{
    BUILD_TEST, DOCS, Hand, artifact, done, drained, failed, retry, settlement, task, tasks, want,
};

conformance!(
    an_expired_lease_is_taken_back,
    a_live_lease_is_left_alone,
    a_rescue_takes_one_page_oldest_first,
    a_rescue_after_the_last_attempt_fails_the_task,
    a_task_that_took_three_hosts_with_it_is_poisoned,
    deaths_count_across_other_ends,
    a_rescue_carries_out_a_cancellation,
    a_waiting_task_is_cancelled_at_once,
    a_running_task_learns_of_its_cancellation,
    what_ended_or_never_was_cannot_be_cancelled,
    a_cancellation_survives_a_retry,
    a_time_to_live_ends_a_waiting_task,
    a_time_to_live_that_is_no_number_is_none,
    a_time_to_live_of_another_route_is_left_alone,
    retention_deletes_what_is_old_and_nothing_else,
    retention_deletes_in_batches,
);

async fn events(bed: &Bed, id: MessageId) -> Vec<cogo_host::event::Event> {
    let filter = EventFilter {
        message_id: Some(id),
        limit: 100,
        ..EventFilter::default()
    };
    bed.store.events(&filter).await.unwrap()
}

async fn types(bed: &Bed, id: MessageId) -> Vec<String> {
    let events = events(bed, id).await;
    events.into_iter().map(|e| e.event_type).collect()
}

async fn claimed(bed: &Bed, new: NewTask) -> MessageId {
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    Hand::new().claim_one(&*bed.store, BUILD_TEST).await.id
}

async fn an_expired_lease_is_taken_back(bed: &Bed) {
    bed.store.enqueue(&[task(BUILD_TEST)]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    bed.end_lease(claim.id).await;
    let rescued = bed.store.rescue(10, 5).await.unwrap();
    assert_eq!(rescued.len(), 1);
    assert_eq!(
        (rescued[0].id, rescued[0].status),
        (claim.id, Status::Queued)
    );
    assert_eq!(rescued[0].holder.as_deref(), Some(hand.id.as_str()));

    let row = bed.store.task(claim.id).await.unwrap().unwrap();
    assert_eq!(
        (row.status, row.lease_epoch, row.attempts),
        (Status::Queued, 2, 1)
    );
    assert!(row.error.unwrap().starts_with("lease_expired: "));
    let attempts = bed.store.attempts(claim.id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        (attempts[0].outcome.as_str(), attempts[0].lease_epoch),
        ("lost", 1)
    );
    assert_eq!(attempts[0].host, hand.id.as_str());
    assert_eq!(attempts[0].blame.as_deref(), Some("host"));
    let expected = [
        "execute_enqueued",
        "task_rescued",
        "execute_retry",
        "buildtest_retry",
    ];
    assert_eq!(types(bed, claim.id).await, expected);
    // It is due at once, and the next claim has the next epoch.
    let again = Hand::new().claim_one(&*bed.store, BUILD_TEST).await;
    assert_eq!((again.attempt, again.epoch.0), (2, 3));
}

async fn a_live_lease_is_left_alone(bed: &Bed) {
    claimed(bed, task(BUILD_TEST)).await;
    assert!(bed.store.rescue(10, 5).await.unwrap().is_empty());
}

async fn a_rescue_takes_one_page_oldest_first(bed: &Bed) {
    bed.store.enqueue(&tasks(BUILD_TEST, 5)).await.unwrap();
    let claims = Hand::new().claim(&*bed.store, BUILD_TEST, 5).await;
    for (i, claim) in (1_u32..).zip(&claims) {
        let by = Duration::from_secs(1000) * i;
        bed.age_task(claim.id, "lease_expires_at", by).await;
    }
    let page = bed.store.rescue(2, 5).await.unwrap();
    let ids: Vec<_> = page.iter().map(|r| r.id).collect();
    assert_eq!(ids, [claims[4].id, claims[3].id]);
    assert_eq!(bed.store.rescue(9, 5).await.unwrap().len(), 3);
    assert!(bed.store.rescue(9, 5).await.unwrap().is_empty());
}

async fn a_rescue_after_the_last_attempt_fails_the_task(bed: &Bed) {
    let mut own = task(BUILD_TEST);
    own.max_attempts = Some(1);
    let own = claimed(bed, own).await;
    let default = claimed(bed, task(BUILD_TEST)).await;
    bed.end_lease(own).await;
    bed.end_lease(default).await;
    bed.store.rescue(10, 2).await.unwrap();
    let row = bed.store.task(own).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Failed);
    assert!(row.error.unwrap().starts_with("lease_expired: "));
    let expected = [
        "execute_enqueued",
        "task_rescued",
        "execute_failed",
        "buildtest_failed",
    ];
    assert_eq!(types(bed, own).await, expected);
    let row = bed.store.task(default).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Queued);
}

async fn a_task_that_took_three_hosts_with_it_is_poisoned(bed: &Bed) {
    let id = claimed(bed, task(BUILD_TEST)).await;
    for _ in 0..2 {
        bed.end_lease(id).await;
        bed.store.rescue(10, 50).await.unwrap();
        Hand::new().claim_one(&*bed.store, BUILD_TEST).await;
    }
    bed.end_lease(id).await;
    let rescued = bed.store.rescue(10, 50).await.unwrap();
    assert_eq!(rescued[0].status, Status::Failed);
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert!(row.error.unwrap().starts_with("poisoned: "));
    let failed = events(bed, id).await;
    let failed = failed
        .iter()
        .find(|e| e.event_type == "execute_failed")
        .unwrap();
    assert_eq!(failed.payload["code"], "poisoned");
    assert_eq!(failed.payload["attempt"], 3);
}

async fn deaths_count_across_other_ends(bed: &Bed) {
    let id = claimed(bed, task(BUILD_TEST)).await;
    let hand = Hand::new();
    for _ in 0..2 {
        bed.end_lease(id).await;
        bed.store.rescue(10, 50).await.unwrap();
        let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
        hand.end(&*bed.store, &claim, drained()).await;
        hand.claim_one(&*bed.store, BUILD_TEST).await;
    }
    bed.end_lease(id).await;
    bed.store.rescue(10, 50).await.unwrap();
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert!(row.error.unwrap().starts_with("poisoned: "));
}

async fn a_rescue_carries_out_a_cancellation(bed: &Bed) {
    let id = claimed(bed, task(BUILD_TEST)).await;
    bed.store.cancel(id, "me").await.unwrap();
    bed.end_lease(id).await;
    let rescued = bed.store.rescue(10, 5).await.unwrap();
    assert_eq!(rescued[0].status, Status::Failed);
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!(row.error.as_deref(), Some("cancelled"));
    let expected = [
        "execute_enqueued",
        "cancel_requested",
        "task_rescued",
        "execute_cancelled",
    ];
    assert_eq!(types(bed, id).await, expected);
}

async fn a_waiting_task_is_cancelled_at_once(bed: &Bed) {
    let new = task(BUILD_TEST);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let answer = bed.store.cancel(new.id, "alice").await.unwrap();
    assert_eq!(answer, Some(Cancelled::AtOnce));
    let row = bed.store.task(new.id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts), (Status::Failed, 0));
    assert_eq!(row.error.as_deref(), Some("cancelled"));
    let events = events(bed, new.id).await;
    assert_eq!(events[1].event_type, "execute_cancelled");
    assert_eq!(events[1].payload["actor"], "alice");
    assert!(
        Hand::new()
            .claim(&*bed.store, BUILD_TEST, 5)
            .await
            .is_empty()
    );
}

async fn a_running_task_learns_of_its_cancellation(bed: &Bed) {
    bed.store.enqueue(&tasks(BUILD_TEST, 2)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, BUILD_TEST, 2).await;
    assert!(
        bed.store
            .cancel_requests(&hand.id)
            .await
            .unwrap()
            .is_empty()
    );
    for _ in 0..2 {
        let answer = bed.store.cancel(claims[0].id, "alice").await.unwrap();
        assert_eq!(answer, Some(Cancelled::Requested));
    }
    let asked = bed.store.cancel_requests(&hand.id).await.unwrap();
    assert_eq!(asked, [claims[0].fence()]);
    assert!(
        bed.store
            .cancel_requests(&Hand::new().id)
            .await
            .unwrap()
            .is_empty()
    );
    // Who asked is kept, once.
    let events = events(bed, claims[0].id).await;
    let asked: Vec<_> = events
        .iter()
        .filter(|e| e.event_type == "cancel_requested")
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].payload["actor"], "alice");
    // What had finished all the same stays finished.
    hand.end(&*bed.store, &claims[0], done()).await;
    assert!(
        bed.store
            .cancel_requests(&hand.id)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn what_ended_or_never_was_cannot_be_cancelled(bed: &Bed) {
    let answer = bed.store.cancel(MessageId::generate(), "me").await.unwrap();
    assert_eq!(answer, None);
    bed.store.enqueue(&tasks(BUILD_TEST, 2)).await.unwrap();
    let hand = Hand::new();
    for next in [done(), failed("no")] {
        let status = match next {
            cogo_host::task::Next::Done { .. } => Status::Done,
            _ => Status::Failed,
        };
        let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
        hand.end(&*bed.store, &claim, next).await;
        let answer = bed.store.cancel(claim.id, "me").await.unwrap();
        assert_eq!(answer, Some(Cancelled::Ended(status)));
    }
}

async fn a_cancellation_survives_a_retry(bed: &Bed) {
    bed.store.enqueue(&[task(BUILD_TEST)]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    assert!(!claim.cancel_requested);
    bed.store.cancel(claim.id, "me").await.unwrap();
    hand.end(&*bed.store, &claim, retry(Duration::ZERO)).await;
    let again = hand.claim_one(&*bed.store, BUILD_TEST).await;
    assert!(again.cancel_requested);
}

fn with_ttl(route: &str, ttl: &serde_json::Value) -> NewTask {
    let mut new = task(route);
    new.payload = json!({ "__assignment": { "ttl_ms": ttl } });
    new
}

async fn a_time_to_live_ends_a_waiting_task(bed: &Bed) {
    let short = with_ttl(BUILD_TEST, &json!(60_000));
    let long = with_ttl(BUILD_TEST, &json!(3_600_000));
    let running = with_ttl(BUILD_TEST, &json!(60_000));
    bed.store
        .enqueue(std::slice::from_ref(&running))
        .await
        .unwrap();
    Hand::new().claim_one(&*bed.store, BUILD_TEST).await;
    bed.store
        .enqueue(&[short.clone(), long.clone()])
        .await
        .unwrap();
    let wants = [want(BUILD_TEST)];
    assert!(bed.store.expire(&wants, 10).await.unwrap().is_empty());
    for id in [short.id, long.id, running.id] {
        bed.age_task(id, "created_at", Duration::from_secs(61))
            .await;
    }
    assert_eq!(bed.store.expire(&wants, 10).await.unwrap(), [short.id]);
    assert!(bed.store.expire(&wants, 10).await.unwrap().is_empty());
    let row = bed.store.task(short.id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts), (Status::Failed, 0));
    assert!(row.error.unwrap().starts_with("ttl_exceeded: "));
    let expected = ["execute_enqueued", "execute_failed", "buildtest_failed"];
    assert_eq!(types(bed, short.id).await, expected);
}

async fn a_time_to_live_that_is_no_number_is_none(bed: &Bed) {
    let odd = [json!("60"), json!(null), json!([1]), json!({}), json!(-0.5)];
    for ttl in odd {
        bed.store
            .enqueue(&[with_ttl(BUILD_TEST, &ttl)])
            .await
            .unwrap();
    }
    let mut huge = with_ttl(BUILD_TEST, &json!(u64::MAX));
    huge.task_id = None;
    bed.store.enqueue(&[huge]).await.unwrap();
    let text = match bed.door.keeps_broken_json() {
        true => "\"__assignment\" is no JSON",
        false => "\"__assignment\"",
    };
    bed.foreign(BUILD_TEST, text).await;
    bed.foreign(BUILD_TEST, "{\"__assignment\": 7}").await;
    let day = Duration::from_secs(86_400);
    bed.door
        .age("agent_messages", "created_at", day, "1 = 1")
        .await;
    assert!(
        bed.store
            .expire(&[want(BUILD_TEST)], 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        Hand::new().claim(&*bed.store, BUILD_TEST, 99).await.len(),
        8
    );
}

async fn a_time_to_live_of_another_route_is_left_alone(bed: &Bed) {
    let new = with_ttl(DOCS, &json!(1));
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    bed.age_task(new.id, "created_at", Duration::from_secs(9))
        .await;
    assert!(
        bed.store
            .expire(&[want(BUILD_TEST)], 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(bed.store.expire(&[], 10).await.unwrap().is_empty());
    assert_eq!(bed.store.expire(&[want(DOCS)], 10).await.unwrap(), [new.id]);
}

async fn end_one(bed: &Bed, hand: &Hand) -> MessageId {
    let mut new = task(BUILD_TEST);
    new.task_id = None;
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    let mut end = settlement(&claim, done());
    end.artifacts = vec![artifact("a")];
    let answer = bed.store.settle(&hand.id, &[end]).await.unwrap();
    assert_eq!(answer, [Settled::Applied]);
    claim.id
}

async fn retention_deletes_what_is_old_and_nothing_else(bed: &Bed) {
    let hand = Hand::new();
    let old = end_one(bed, &hand).await;
    let fresh = end_one(bed, &hand).await;
    let waiting = task(DOCS);
    bed.store
        .enqueue(std::slice::from_ref(&waiting))
        .await
        .unwrap();
    let year = Duration::from_secs(365 * 86_400);
    bed.age_task(old, "done_at", year).await;
    bed.age_task(waiting.id, "created_at", year).await;
    let nothing = Retention {
        tasks: None,
        events: None,
        batch: 100,
    };
    assert_eq!(bed.store.retire(&nothing).await.unwrap(), 0);
    let month = Duration::from_secs(30 * 86_400);
    let tasks = Retention {
        tasks: Some(month),
        ..nothing
    };
    // The task, its attempt, its artifact.
    assert_eq!(bed.store.retire(&tasks).await.unwrap(), 3);
    bed.watch.retired(old);
    assert!(bed.store.task(old).await.unwrap().is_none());
    assert!(bed.store.attempts(old).await.unwrap().is_empty());
    assert!(
        bed.store
            .artifact(&old.to_string(), "a")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        bed.store
            .artifact(&fresh.to_string(), "a")
            .await
            .unwrap()
            .is_some()
    );
    assert!(bed.store.task(waiting.id).await.unwrap().is_some());
    // The trail stays until its own time has come.
    assert_eq!(events(bed, old).await.len(), 3);
    let which = format!("message_id = '{old}'");
    bed.door.age("bus_events", "created_at", year, &which).await;
    let trail = Retention {
        events: Some(month),
        ..nothing
    };
    assert_eq!(bed.store.retire(&trail).await.unwrap(), 3);
    assert!(events(bed, old).await.is_empty());
    assert_eq!(events(bed, fresh).await.len(), 3);
}

async fn retention_deletes_in_batches(bed: &Bed) {
    let hand = Hand::new();
    bed.store.enqueue(&tasks(DOCS, 5)).await.unwrap();
    for claim in hand.claim(&*bed.store, DOCS, 5).await {
        hand.end(&*bed.store, &claim, done()).await;
        bed.watch.retired(claim.id);
    }
    let hour = Duration::from_secs(3600);
    bed.door
        .age("agent_messages", "done_at", hour, "1 = 1")
        .await;
    let batch = Retention {
        tasks: Some(Duration::from_secs(60)),
        events: None,
        batch: 2,
    };
    let mut deleted = Vec::new();
    for _ in 0..4 {
        deleted.push(bed.store.retire(&batch).await.unwrap());
    }
    assert_eq!(deleted, [4, 4, 2, 0]);
}
