//! Claiming, keeping a lease, and losing it.

use std::time::Duration;

use cogo_host::attempt::{Fence, LeaseEpoch, Usage};
use cogo_host::payload;
use cogo_host::store::{Renewal, Want};
use cogo_host::task::{Claim, ClaimedPayload, Status};

use crate::support::bed::Bed;
use crate::support::hand::{
    BUILD_TEST, DOCS, Hand, LEASE, done, drained, retry, task, tasks, want,
};

conformance!(
    a_claim_is_counted_fenced_and_leased,
    priority_goes_first_then_what_has_been_due_longest,
    shards_of_one_priority_are_claimed_as_one_queue,
    a_want_may_narrow_shard_and_tenant,
    wants_are_served_in_order_within_their_limits,
    wants_that_overlap_do_not_claim_twice,
    a_payload_over_the_limit_is_not_fetched,
    what_earlier_attempts_spent_is_added_up,
    renewing_extends_what_is_held_and_reports_the_rest,
    next_due_looks_at_the_wanted_routes_only,
);

fn ids(claims: &[Claim]) -> Vec<cogo_host::ids::MessageId> {
    claims.iter().map(|c| c.id).collect()
}

async fn a_claim_is_counted_fenced_and_leased(bed: &Bed) {
    let new = task(DOCS);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    assert_eq!((claim.id, claim.epoch), (new.id, LeaseEpoch(1)));
    assert_eq!(claim.attempt, 1);
    assert_eq!(claim.trace_id, new.trace_id);
    assert_eq!(claim.task_id.as_deref(), Some("label"));
    assert_eq!(claim.route, new.route);
    let ClaimedPayload::Text(text) = &claim.payload else {
        panic!("{:?}", claim.payload);
    };
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(text).unwrap(),
        new.payload
    );

    let row = bed.store.task(new.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Claimed);
    assert_eq!((row.attempts, row.lease_epoch), (1, 1));
    assert_eq!(row.claimed_by.as_deref(), Some(hand.id.as_str()));
    let lease = row.lease_expires_at.unwrap() - row.claimed_at.unwrap();
    assert_eq!(lease.to_std().unwrap(), LEASE);
    assert!(hand.claim(&*bed.store, DOCS, 5).await.is_empty());

    hand.end(&*bed.store, &claim, retry(Duration::ZERO)).await;
    let again = hand.claim_one(&*bed.store, DOCS).await;
    assert_eq!((again.attempt, again.epoch), (2, LeaseEpoch(2)));
}

async fn priority_goes_first_then_what_has_been_due_longest(bed: &Bed) {
    let mut new = tasks(DOCS, 5);
    new[3].priority = 9;
    new[4].priority = -1;
    bed.store.enqueue(&new).await.unwrap();
    let minute = Duration::from_secs(60);
    bed.age_task(new[1].id, "created_at", minute * 2).await;
    bed.age_task(new[2].id, "created_at", minute).await;
    bed.age_task(new[4].id, "created_at", minute * 9).await;
    let claims = Hand::new().claim(&*bed.store, DOCS, 10).await;
    let order = [3, 1, 2, 0, 4].map(|i| new[i].id);
    assert_eq!(ids(&claims), order);
}

async fn shards_of_one_priority_are_claimed_as_one_queue(bed: &Bed) {
    let mut new = tasks(DOCS, 6);
    for (i, task) in (0_i32..).zip(&mut new) {
        task.route.shard = i % 3 - 1;
    }
    bed.store.enqueue(&new).await.unwrap();
    for (i, task) in (0_u32..).zip(&new) {
        let age = Duration::from_secs(100) - Duration::from_secs(10) * i;
        bed.age_task(task.id, "created_at", age).await;
    }
    let hand = Hand::new();
    let first = hand.claim(&*bed.store, DOCS, 4).await;
    let expected: Vec<_> = new.iter().map(|t| t.id).collect();
    assert_eq!(ids(&first), expected[..4]);
    assert_eq!(ids(&hand.claim(&*bed.store, DOCS, 4).await), expected[4..]);
}

async fn a_want_may_narrow_shard_and_tenant(bed: &Bed) {
    let mut new = tasks(DOCS, 4);
    new[1].route.shard = 1;
    new[2].route.tenant = Some("acme".to_owned());
    new[3].route.shard = 1;
    new[3].route.tenant = Some("acme".to_owned());
    bed.store.enqueue(&new).await.unwrap();
    let hand = Hand::new();
    let both = Want {
        shard: Some(1),
        tenant: Some("acme".to_owned()),
        ..want(DOCS)
    };
    let other = Want {
        shard: Some(7),
        ..want(DOCS)
    };
    assert_eq!(
        bed.store
            .next_due(std::slice::from_ref(&other))
            .await
            .unwrap(),
        None
    );
    assert!(
        hand.claim_wants(&*bed.store, vec![other], 9)
            .await
            .is_empty()
    );
    let claims = hand.claim_wants(&*bed.store, vec![both], 9).await;
    assert_eq!(ids(&claims), [new[3].id]);
    let tenant = Want {
        tenant: Some("acme".to_owned()),
        ..want(DOCS)
    };
    let claims = hand.claim_wants(&*bed.store, vec![tenant], 9).await;
    assert_eq!(ids(&claims), [new[2].id]);
    let shard = Want {
        shard: Some(0),
        ..want(DOCS)
    };
    let claims = hand.claim_wants(&*bed.store, vec![shard], 9).await;
    assert_eq!(ids(&claims), [new[0].id]);
}

async fn wants_are_served_in_order_within_their_limits(bed: &Bed) {
    bed.store.enqueue(&tasks(DOCS, 10)).await.unwrap();
    bed.store.enqueue(&tasks(BUILD_TEST, 10)).await.unwrap();
    let hand = Hand::new();
    let wants = vec![
        Want {
            limit: 3,
            ..want(BUILD_TEST)
        },
        Want {
            limit: 9,
            ..want(DOCS)
        },
    ];
    let claims = hand.claim_wants(&*bed.store, wants, 5).await;
    let roles: Vec<_> = claims.iter().map(|c| c.route.key.role()).collect();
    assert_eq!(
        roles,
        ["build-test", "build-test", "build-test", "render", "render"]
    );
}

async fn wants_that_overlap_do_not_claim_twice(bed: &Bed) {
    bed.store.enqueue(&tasks(DOCS, 4)).await.unwrap();
    let narrow = Want {
        shard: Some(0),
        limit: 3,
        ..want(DOCS)
    };
    let claims = Hand::new()
        .claim_wants(&*bed.store, vec![narrow, want(DOCS)], 9)
        .await;
    let mut ids = ids(&claims);
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert!(claims.iter().all(|c| c.attempt == 1 && c.epoch.0 == 1));
}

async fn a_payload_over_the_limit_is_not_fetched(bed: &Bed) {
    let exact = format!("{{\"a\":\"{}\"}}", "x".repeat(payload::MAX_BYTES - 8));
    assert_eq!(exact.len(), payload::MAX_BYTES);
    let over = format!("{{\"a\":\"{}\"}}", "x".repeat(payload::MAX_BYTES));
    let fits = bed.foreign(DOCS, &exact).await;
    let large = bed.foreign(DOCS, &over).await;
    let claims = Hand::new().claim(&*bed.store, DOCS, 9).await;
    for claim in claims {
        match claim.payload {
            ClaimedPayload::Text(_) => assert_eq!(claim.id, fits),
            ClaimedPayload::TooLarge { bytes } => {
                assert_eq!(claim.id, large);
                assert!(bytes > payload::MAX_BYTES as u64);
            }
        }
    }
}

async fn what_earlier_attempts_spent_is_added_up(bed: &Bed) {
    bed.store.enqueue(&[task(DOCS)]).await.unwrap();
    let hand = Hand::new();
    let first = hand.claim_one(&*bed.store, DOCS).await;
    assert_eq!(first.spent, Usage::default());
    hand.end(&*bed.store, &first, retry(Duration::ZERO)).await;
    let second = hand.claim_one(&*bed.store, DOCS).await;
    hand.end(&*bed.store, &second, drained()).await;
    let third = hand.claim_one(&*bed.store, DOCS).await;
    let both = Usage {
        cost_micro_usd: 10,
        tokens: 18,
        model: Some("m".to_owned()),
    };
    assert_eq!((third.attempt, third.spent), (2, both));
}

async fn renewing_extends_what_is_held_and_reports_the_rest(bed: &Bed) {
    bed.store.enqueue(&tasks(DOCS, 4)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, DOCS, 4).await;
    hand.end(&*bed.store, &claims[1], done()).await;
    bed.store.cancel(claims[2].id, "me").await.unwrap();
    let stale = Fence {
        id: claims[3].id,
        epoch: LeaseEpoch(0),
    };
    let fences = [
        claims[0].fence(),
        claims[1].fence(),
        claims[2].fence(),
        stale,
    ];
    let hour = Duration::from_secs(3600);
    let answer = bed.store.renew(&hand.id, &fences, hour).await.unwrap();
    let expected = [
        Renewal::Held,
        Renewal::Lost,
        Renewal::CancelRequested,
        Renewal::Lost,
    ];
    assert_eq!(answer, expected);
    let row = bed.store.task(claims[0].id).await.unwrap().unwrap();
    let lease = row.lease_expires_at.unwrap() - row.claimed_at.unwrap();
    assert!(lease.to_std().unwrap() >= hour);

    // Somebody else cannot renew it.
    let other = Hand::new();
    let answer = bed
        .store
        .renew(&other.id, &fences[..1], hour)
        .await
        .unwrap();
    assert_eq!(answer, [Renewal::Lost]);
}

async fn next_due_looks_at_the_wanted_routes_only(bed: &Bed) {
    bed.store.enqueue(&[task(BUILD_TEST)]).await.unwrap();
    let mut later = task(DOCS);
    later.delay = Duration::from_secs(300);
    let mut latest = task(DOCS);
    latest.delay = Duration::from_secs(900);
    latest.priority = 5;
    bed.store.enqueue(&[later, latest]).await.unwrap();
    let next = bed.store.next_due(&[want(DOCS)]).await.unwrap().unwrap();
    assert!(next > Duration::from_secs(290) && next <= Duration::from_secs(300));
    let next = bed.store.next_due(&[want(DOCS), want(BUILD_TEST)]).await;
    assert_eq!(next.unwrap(), Some(Duration::ZERO));
}
