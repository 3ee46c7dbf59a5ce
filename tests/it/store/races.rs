//! Several hosts at once on one bus.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cogo_host::ids::MessageId;
use cogo_host::store::{Cancelled, Settled, Store};
use cogo_host::task::{Enqueued, Status};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::bed::Bed;
use crate::support::hand::{DOCS, Hand, done, retry, settlement, task, tasks};

conformance!(
    concurrent_claimers_share_without_overlap,
    a_task_settled_while_it_is_rescued_ends_once,
    a_task_settled_while_it_is_cancelled_ends_once,
    one_of_many_gets_a_unique_key,
    a_caller_that_goes_away_leaves_no_half_done_write,
);

/// Runs the same thing on several tasks that start together.
async fn together<T: Send + 'static, F>(n: usize, run: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(n));
    let mut set = JoinSet::new();
    for i in 0..n {
        let barrier = Arc::clone(&barrier);
        let work = run(i);
        set.spawn(async move {
            barrier.wait().await;
            work.await
        });
    }
    set.join_all().await
}

async fn concurrent_claimers_share_without_overlap(bed: &Bed) {
    const TASKS: usize = 500;
    bed.store.enqueue(&tasks(DOCS, TASKS)).await.unwrap();
    let claimed = together(8, |_| {
        let store = Arc::clone(&bed.store);
        async move {
            let hand = Hand::new();
            let mut ids = Vec::new();
            loop {
                let claims = hand.claim(&*store, DOCS, 7).await;
                if claims.is_empty() {
                    return ids;
                }
                let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
                let settled = store.settle(&hand.id, &ends).await.unwrap();
                assert!(settled.iter().all(|s| *s == Settled::Applied));
                ids.extend(claims.iter().map(|c| c.id));
            }
        }
    })
    .await;
    let mut times: HashMap<MessageId, usize> = HashMap::new();
    for id in claimed.into_iter().flatten() {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), TASKS);
    assert!(times.values().all(|n| *n == 1));
}

async fn a_task_settled_while_it_is_rescued_ends_once(bed: &Bed) {
    for _ in 0..20 {
        bed.store.enqueue(&[task(DOCS)]).await.unwrap();
        let hand = Arc::new(Hand::new());
        let claim = hand.claim_one(&*bed.store, DOCS).await;
        let id = claim.id;
        bed.end_lease(id).await;
        let outcomes = together(2, |i| {
            let store = Arc::clone(&bed.store);
            let hand = Arc::clone(&hand);
            let claim = claim.clone();
            async move {
                match i {
                    0 => hand.settle(&*store, &claim, done()).await == Settled::Applied,
                    _ => !store.rescue(10, 5).await.unwrap().is_empty(),
                }
            }
        })
        .await;
        let winners = outcomes.iter().filter(|won| **won).count();
        assert_eq!(winners, 1, "either settled or rescued");
        bed.store.cancel(id, "next round").await.unwrap();
    }
}

async fn a_task_settled_while_it_is_cancelled_ends_once(bed: &Bed) {
    for round in 0..20 {
        bed.store.enqueue(&[task(DOCS)]).await.unwrap();
        let hand = Arc::new(Hand::new());
        let claim = hand.claim_one(&*bed.store, DOCS).await;
        let next = match round % 2 {
            0 => done(),
            _ => retry(Duration::from_secs(60)),
        };
        let answers = together(2, |i| {
            let store = Arc::clone(&bed.store);
            let (hand, claim, next) = (Arc::clone(&hand), claim.clone(), next.clone());
            async move {
                if i == 0 {
                    assert_eq!(hand.settle(&*store, &claim, next).await, Settled::Applied);
                    None
                } else {
                    store.cancel(claim.id, "me").await.unwrap()
                }
            }
        })
        .await;
        let answer = answers.into_iter().flatten().next().unwrap();
        let status = bed.store.task(claim.id).await.unwrap().unwrap().status;
        let fits = match answer {
            Cancelled::AtOnce => status == Status::Failed,
            Cancelled::Ended(ended) => status == ended,
            Cancelled::Requested => status == Status::Done || status == Status::Queued,
        };
        assert!(fits, "{answer:?} and {status:?}");
    }
}

async fn one_of_many_gets_a_unique_key(bed: &Bed) {
    let answers = together(8, |_| {
        let store = Arc::clone(&bed.store);
        async move {
            let mut new = task(DOCS);
            new.unique_key = Some("k".to_owned());
            store.enqueue(&[new]).await.unwrap()[0]
        }
    })
    .await;
    let new: Vec<_> = answers
        .iter()
        .filter(|a| matches!(a, Enqueued::New(_)))
        .collect();
    assert_eq!(new.len(), 1);
    assert!(answers.iter().all(|a| a.id() == new[0].id()));
}

/// Polls a write a few times and lets go of it, at every depth that it has.
async fn a_caller_that_goes_away_leaves_no_half_done_write(bed: &Bed) {
    let hand = Hand::new();
    for polls in 1..40 {
        bed.store.enqueue(&tasks(DOCS, 3)).await.unwrap();
        let claims = hand.claim(&*bed.store, DOCS, 3).await;
        let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
        abandon(&*bed.store, &hand, &ends, polls).await;
        // All or nothing, in one glance: a server may be at it still.
        let ids: Vec<_> = claims.iter().map(|c| format!("'{}'", c.id)).collect();
        let open = format!(
            "SELECT count(*) FROM agent_messages WHERE status = 'claimed' AND id IN ({})",
            ids.join(", ")
        );
        let open = bed.door.number(&open).await;
        assert!(open == 0 || open == 3, "{open} of 3 are open");
        if open > 0 {
            let settled = bed.store.settle(&hand.id, &ends).await.unwrap();
            assert!(settled.iter().all(|s| *s == Settled::Applied));
        }
    }
}

async fn abandon(
    store: &dyn Store,
    hand: &Hand,
    ends: &[cogo_host::store::Settlement],
    polls: usize,
) {
    let mut work = Box::pin(store.settle(&hand.id, ends));
    let mut left = polls;
    std::future::poll_fn(|cx| {
        left -= 1;
        match work.as_mut().poll(cx) {
            std::task::Poll::Pending if left > 0 => std::task::Poll::Pending,
            _ => std::task::Poll::Ready(()),
        }
    })
    .await;
    drop(work);
    // Whatever was on its way to the database is through once this is.
    store.record(&[]).await.unwrap();
    let hand = Hand::new();
    store.leave(&hand.id).await.unwrap();
}
