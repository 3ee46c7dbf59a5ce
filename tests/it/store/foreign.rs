//! Living with other programs on the same tables: their rows are done as they
//! are, their claims are theirs, and nothing they write stops the queue.

use std::time::Duration;

use cogo_host::attempt::LeaseEpoch;
use cogo_host::ids::MessageId;
use cogo_host::store::{Cancelled, EventFilter, Renewal, Settled, Want};
use cogo_host::task::{ClaimedPayload, Status};

use crate::support::bed::Bed;
use crate::support::hand::{BUILD_TEST, DOCS, Hand, LEASE, done, settlement, task, want};

conformance!(
    a_row_by_hand_is_claimed_with_the_labels_of_its_payload,
    the_columns_win_over_the_payload,
    a_row_without_a_trace_gets_one_that_is_kept,
    an_adopted_row_is_enqueued_once,
    a_trace_that_cannot_be_used_is_replaced_and_noted,
    a_cancelled_or_expired_row_by_hand_has_a_complete_trail,
    rows_of_routes_nobody_wants_are_untouched,
    a_foreign_claim_is_left_alone,
    a_foreign_claim_is_taken_over_where_the_route_says_so,
    a_foreign_claim_can_be_asked_to_cancel,
    a_foreign_worker_that_steals_a_row_fences_us_off,
    a_row_that_a_foreign_worker_ended_stays_ended,
    instants_in_other_forms_are_understood,
    routes_that_are_none_do_not_stop_a_sweep,
);

async fn events(bed: &Bed, id: MessageId) -> Vec<cogo_host::event::Event> {
    let filter = EventFilter {
        message_id: Some(id),
        limit: 100,
        ..EventFilter::default()
    };
    bed.store.events(&filter).await.unwrap()
}

async fn a_row_by_hand_is_claimed_with_the_labels_of_its_payload(bed: &Bed) {
    let payload = r#"{"task_id":"T-1","trace_id":"trace-1","repo":"r"}"#;
    let id = bed.foreign(BUILD_TEST, payload).await;
    bed.watch.acknowledge([id]);
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!((row.lease_epoch, row.status), (0, Status::Queued));
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    assert_eq!(
        (claim.id, claim.epoch, claim.attempt),
        (id, LeaseEpoch(1), 1)
    );
    assert_eq!(claim.trace_id.as_str(), "trace-1");
    assert_eq!(claim.task_id.as_deref(), Some("T-1"));
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!(row.trace_id.as_deref(), Some("trace-1"));
    assert_eq!(row.task_id.as_deref(), Some("T-1"));
    hand.end(&*bed.store, &claim, done()).await;
}

async fn the_columns_win_over_the_payload(bed: &Bed) {
    let payload = r#"{"task_id":"T-1","trace_id":"trace-1"}"#;
    bed.foreign_with(DOCS, payload, "trace_id", "'column'")
        .await;
    let claim = Hand::new().claim_one(&*bed.store, DOCS).await;
    assert_eq!(claim.trace_id.as_str(), "column");
    assert_eq!(claim.task_id.as_deref(), Some("T-1"));
}

async fn a_row_without_a_trace_gets_one_that_is_kept(bed: &Bed) {
    for payload in [
        "{}",
        "[]",
        "null",
        "\"text\"",
        "{\"trace_id\":7,\"task_id\":null}",
    ] {
        bed.foreign(DOCS, payload).await;
    }
    let claims = Hand::new().claim(&*bed.store, DOCS, 9).await;
    assert_eq!(claims.len(), 5);
    for claim in claims {
        assert_eq!(claim.trace_id.as_str(), claim.trace_id.w3c());
        assert_eq!(claim.task_id, None);
        let row = bed.store.task(claim.id).await.unwrap().unwrap();
        assert_eq!(row.trace_id.as_deref(), Some(claim.trace_id.as_str()));
    }
}

async fn an_adopted_row_is_enqueued_once(bed: &Bed) {
    let id = bed.foreign(DOCS, "{}").await;
    assert!(events(bed, id).await.is_empty());
    let hand = Hand::new();
    let first = hand.claim_one(&*bed.store, DOCS).await;
    let retry = crate::support::hand::retry(Duration::ZERO);
    hand.end(&*bed.store, &first, retry).await;
    let second = hand.claim_one(&*bed.store, DOCS).await;
    assert_eq!(second.trace_id, first.trace_id);
    let events = events(bed, id).await;
    let enqueued: Vec<_> = events
        .iter()
        .filter(|e| e.event_type == "execute_enqueued")
        .collect();
    assert_eq!(enqueued.len(), 1);
    assert_eq!(
        enqueued[0].trace_id.as_deref(),
        Some(first.trace_id.as_str())
    );
    assert_eq!(enqueued[0].payload["adopted"], true);
}

async fn a_trace_that_cannot_be_used_is_replaced_and_noted(bed: &Bed) {
    let long = "x".repeat(500);
    let column = bed
        .foreign_with(DOCS, "{}", "trace_id", "'two words'")
        .await;
    let payload = bed
        .foreign(DOCS, &format!("{{\"trace_id\":\"{long}\"}}"))
        .await;
    let claims = Hand::new().claim(&*bed.store, DOCS, 9).await;
    assert_eq!(claims.len(), 2);
    let noted = |events: &[cogo_host::event::Event]| {
        events[0].payload["refused_trace_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(noted(&events(bed, column).await), "two words");
    assert!(long.starts_with(&noted(&events(bed, payload).await)));
    let row = bed.store.task(column).await.unwrap().unwrap();
    assert_eq!(row.trace_id.unwrap().len(), 32);
}

async fn a_cancelled_or_expired_row_by_hand_has_a_complete_trail(bed: &Bed) {
    let cancelled = bed.foreign(DOCS, r#"{"trace_id":"c"}"#).await;
    let answer = bed.store.cancel(cancelled, "me").await.unwrap();
    assert_eq!(answer, Some(Cancelled::AtOnce));
    let payload = r#"{"trace_id":"e","__assignment":{"ttl_ms":5}}"#;
    let expired = bed.foreign(DOCS, payload).await;
    bed.age_task(expired, "created_at", Duration::from_secs(1))
        .await;
    assert_eq!(bed.store.expire(&[want(DOCS)], 9).await.unwrap(), [expired]);
    for (id, trace, last) in [
        (cancelled, "c", "execute_cancelled"),
        (expired, "e", "docs_render_failed"),
    ] {
        let events = events(bed, id).await;
        assert_eq!(events[0].event_type, "execute_enqueued");
        assert_eq!(events.last().unwrap().event_type, last);
        assert!(events.iter().all(|e| e.trace_id.as_deref() == Some(trace)));
    }
}

async fn rows_of_routes_nobody_wants_are_untouched(bed: &Bed) {
    bed.watch.unknown("other/thing");
    let id = bed
        .foreign("other/thing", r#"{"__assignment":{"ttl_ms":1}}"#)
        .await;
    bed.age_task(id, "created_at", Duration::from_secs(99))
        .await;
    let before = bed.store.task(id).await.unwrap().unwrap();
    let hand = Hand::new();
    assert!(hand.claim(&*bed.store, DOCS, 9).await.is_empty());
    bed.store.expire(&[want(DOCS)], 9).await.unwrap();
    bed.store.rescue(9, 5).await.unwrap();
    let after = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!(
        serde_json::to_string(&before).unwrap(),
        serde_json::to_string(&after).unwrap()
    );
}

async fn a_foreign_claim_is_left_alone(bed: &Bed) {
    let id = bed.foreign(DOCS, "{}").await;
    bed.steal(id).await;
    bed.age_task(id, "claimed_at", Duration::from_secs(9999))
        .await;
    let hand = Hand::new();
    assert!(hand.claim(&*bed.store, DOCS, 9).await.is_empty());
    assert!(bed.store.rescue(9, 5).await.unwrap().is_empty());
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!(row.claimed_by.as_deref(), Some("ts-worker"));
    let depth = bed.store.depth().await.unwrap();
    assert_eq!((depth.queued, depth.claimed), (0, 1));
}

async fn a_foreign_claim_is_taken_over_where_the_route_says_so(bed: &Bed) {
    let old = bed.foreign(DOCS, r#"{"trace_id":"t"}"#).await;
    let ours = task(DOCS);
    bed.store
        .enqueue(std::slice::from_ref(&ours))
        .await
        .unwrap();
    let young = bed.foreign(DOCS, "{}").await;
    for id in [old, ours.id, young] {
        bed.steal(id).await;
    }
    bed.age_task(old, "claimed_at", Duration::from_secs(200))
        .await;
    bed.age_task(ours.id, "claimed_at", Duration::from_secs(100))
        .await;
    let reclaiming = Want {
        reclaim_foreign_after: Some(Duration::from_secs(50)),
        ..want(DOCS)
    };
    let hand = Hand::new();
    let claims = hand.claim_wants(&*bed.store, vec![reclaiming], 9).await;
    let ids: Vec<_> = claims.iter().map(|c| c.id).collect();
    assert_eq!(ids, [old, ours.id]);
    // The foreign worker counted its own attempt.
    assert_eq!((claims[0].attempt, claims[0].epoch), (2, LeaseEpoch(1)));
    assert_eq!(claims[0].trace_id.as_str(), "t");
    let events = events(bed, old).await;
    let types: Vec<_> = events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(types, ["execute_enqueued", "task_rescued"]);
    assert_eq!(events[1].payload["holder"], "ts-worker");
    let row = bed.store.task(old).await.unwrap().unwrap();
    assert_eq!(row.claimed_by.as_deref(), Some(hand.id.as_str()));
    assert!(row.lease_expires_at.is_some());
    hand.end(&*bed.store, &claims[0], done()).await;
}

async fn a_foreign_claim_can_be_asked_to_cancel(bed: &Bed) {
    let id = bed.foreign(DOCS, "{}").await;
    bed.steal(id).await;
    let answer = bed.store.cancel(id, "me").await.unwrap();
    assert_eq!(answer, Some(Cancelled::Requested));
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert!(row.cancel_requested_at.is_some());
    assert_eq!(row.status, Status::Claimed);
    // Should it come back to us, we know, and it was enqueued once.
    let reclaiming = Want {
        reclaim_foreign_after: Some(Duration::ZERO),
        ..want(DOCS)
    };
    let claims = Hand::new()
        .claim_wants(&*bed.store, vec![reclaiming], 9)
        .await;
    assert_eq!(claims.len(), 1);
    assert!(claims[0].cancel_requested);
    let events = events(bed, id).await;
    let types: Vec<_> = events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(
        types,
        ["execute_enqueued", "cancel_requested", "task_rescued"]
    );
}

async fn a_foreign_worker_that_steals_a_row_fences_us_off(bed: &Bed) {
    let new = task(DOCS);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    bed.steal(new.id).await;
    let answer = bed.store.renew(&hand.id, &[claim.fence()], LEASE).await;
    assert_eq!(answer.unwrap(), [Renewal::Lost]);
    let answer = bed
        .store
        .settle(&hand.id, &[settlement(&claim, done())])
        .await;
    assert_eq!(answer.unwrap(), [Settled::LeaseLost]);
    // What is left of our lease ends, and says nothing of the worker's claim.
    bed.end_lease(new.id).await;
    assert!(bed.store.rescue(9, 5).await.unwrap().is_empty());
    assert!(Hand::new().claim(&*bed.store, DOCS, 9).await.is_empty());
    let row = bed.store.task(new.id).await.unwrap().unwrap();
    assert_eq!(row.claimed_by.as_deref(), Some("ts-worker"));
    assert_eq!(row.status, Status::Claimed);
    assert!(bed.store.attempts(new.id).await.unwrap().is_empty());
    // From then on, it is a foreign claim as any other.
    let reclaiming = Want {
        reclaim_foreign_after: Some(Duration::ZERO),
        ..want(DOCS)
    };
    let claims = hand.claim_wants(&*bed.store, vec![reclaiming], 9).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].epoch, LeaseEpoch(2));
    hand.end(&*bed.store, &claims[0], done()).await;
}

async fn a_row_that_a_foreign_worker_ended_stays_ended(bed: &Bed) {
    let id = bed.foreign(DOCS, "{}").await;
    bed.watch.meddled(id);
    let sql = format!("UPDATE agent_messages SET status = 'done' WHERE id = '{id}'");
    bed.door.execute(&sql).await;
    assert!(Hand::new().claim(&*bed.store, DOCS, 9).await.is_empty());
    let answer = bed.store.cancel(id, "me").await.unwrap();
    assert_eq!(answer, Some(Cancelled::Ended(Status::Done)));
}

async fn instants_in_other_forms_are_understood(bed: &Bed) {
    let forms = [
        "'2026-01-31T12:00:00+02:00'",
        "'2026-01-31 10:00:00'",
        "'2026-01-31T10:00:00.000000+00:00'",
        "'2026-01-31T10:00:00Z'",
    ];
    for form in forms {
        let id = bed.foreign_with(DOCS, "{}", "created_at", form).await;
        let row = bed.store.task(id).await.unwrap().unwrap();
        assert_eq!(
            row.created_at.to_rfc3339(),
            "2026-01-31T10:00:00+00:00",
            "{form}"
        );
    }
    // A retry that another worker schedules, in its own form.
    let later = bed
        .foreign_with(DOCS, "{}", "retry_at", "'2999-01-01 00:00:00+14:00'")
        .await;
    let claims = Hand::new().claim(&*bed.store, DOCS, 9).await;
    assert_eq!(claims.len(), forms.len());
    let sql = format!(
        "UPDATE agent_messages SET retry_at = '2026-01-31 23:59:59-05:00' WHERE id = '{later}'"
    );
    bed.door.execute(&sql).await;
    let claim = Hand::new().claim_one(&*bed.store, DOCS).await;
    assert!(matches!(claim.payload, ClaimedPayload::Text(text) if text == "{}"));
}

async fn routes_that_are_none_do_not_stop_a_sweep(bed: &Bed) {
    for route in ["x/a b", "x/ü", "x/"] {
        let id = bed.foreign(route, "{}").await;
        bed.watch.meddled(id);
        let sql = format!(
            "UPDATE agent_messages SET status = 'claimed', claimed_by = 'x', lease_epoch = 1,
               lease_expires_at = created_at
             WHERE id = '{id}'"
        );
        bed.door.execute(&sql).await;
        bed.end_lease(id).await;
    }
    let new = task(DOCS);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    Hand::new().claim_one(&*bed.store, DOCS).await;
    bed.age_task(new.id, "lease_expires_at", Duration::from_secs(100))
        .await;
    let rescued = bed.store.rescue(1, 5).await.unwrap();
    assert_eq!(rescued.len(), 1);
    assert_eq!(rescued[0].id, new.id);
}
