//! Putting tasks on the bus.

use std::time::Duration;

use cogo_host::store::EventFilter;
use cogo_host::task::{Enqueued, Status};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{BUILD_TEST, DOCS, Hand, done, key, task, tasks, want};

conformance!(
    a_task_is_kept_as_it_was_given,
    every_task_has_its_event,
    a_unique_key_belongs_to_one_task_that_has_not_ended,
    a_unique_key_given_twice_at_once_is_one_task,
    a_unique_key_is_free_again_after_the_end,
    a_delayed_task_is_due_later,
    the_same_id_again_is_the_same_task,
    routes_lists_what_has_not_ended,
    nothing_is_no_trouble,
);

async fn a_task_is_kept_as_it_was_given(bed: &Bed) {
    let mut new = task(BUILD_TEST);
    new.route.shard = 3;
    new.route.tenant = Some("acme".to_owned());
    new.priority = -2;
    new.max_attempts = Some(7);
    new.payload = json!({ "big": 12345678901234567890_u64, "half": 0.5, "t": "'\"\\\n\u{1F600}" });
    let answer = bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(answer, [Enqueued::New(new.id)]);
    bed.watch.acknowledge([new.id]);

    let row = bed.store.task(new.id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Queued);
    assert_eq!(
        (row.service.as_str(), row.role.as_str()),
        ("code", "build-test")
    );
    assert_eq!((row.shard, row.tenant.as_deref()), (3, Some("acme")));
    assert_eq!(row.task_id.as_deref(), Some("label"));
    assert_eq!(row.trace_id.as_deref(), Some(new.trace_id.as_str()));
    assert_eq!((row.priority, row.max_attempts), (-2, Some(7)));
    assert_eq!((row.attempts, row.lease_epoch), (0, 0));
    assert_eq!(row.payload, Some(new.payload));
    assert_eq!(row.retry_at, None);
}

async fn every_task_has_its_event(bed: &Bed) {
    let new = tasks(DOCS, 3);
    bed.store.enqueue(&new).await.unwrap();
    let events = bed
        .store
        .events(&EventFilter {
            event_type: Some("execute_enqueued".to_owned()),
            limit: 10,
            ..EventFilter::default()
        })
        .await
        .unwrap();
    let ids: Vec<_> = events.iter().map(|e| e.message_id.unwrap()).collect();
    assert_eq!(ids, new.iter().map(|t| t.id).collect::<Vec<_>>());
    assert_eq!(
        events[0].trace_id.as_deref(),
        Some(new[0].trace_id.as_str())
    );
    assert_eq!(events[0].payload["task_id"], "label");
    assert_eq!(events[0].service.as_deref(), Some("docs"));
}

async fn a_unique_key_belongs_to_one_task_that_has_not_ended(bed: &Bed) {
    let mut first = task(DOCS);
    first.unique_key = Some("k".to_owned());
    let mut second = task(DOCS);
    second.unique_key = Some("k".to_owned());
    let plain = task(DOCS);
    bed.store
        .enqueue(std::slice::from_ref(&first))
        .await
        .unwrap();
    let answer = bed.store.enqueue(&[second.clone(), plain.clone()]).await;
    let expected = [Enqueued::Existing(first.id), Enqueued::New(plain.id)];
    assert_eq!(answer.unwrap(), expected);
    assert!(bed.store.task(second.id).await.unwrap().is_none());
    let events = format!(
        "SELECT count(*) FROM bus_events WHERE message_id = '{}'",
        second.id
    );
    assert_eq!(bed.door.number(&events).await, 0);

    // A running task keeps its key.
    Hand::new().claim(&*bed.store, DOCS, 10).await;
    let answer = bed.store.enqueue(&[second]).await.unwrap();
    assert_eq!(answer, [Enqueued::Existing(first.id)]);
}

async fn a_unique_key_given_twice_at_once_is_one_task(bed: &Bed) {
    let mut twins = tasks(DOCS, 2);
    for twin in &mut twins {
        twin.unique_key = Some("k".to_owned());
    }
    let answer = bed.store.enqueue(&twins).await.unwrap();
    let expected = [Enqueued::New(twins[0].id), Enqueued::Existing(twins[0].id)];
    assert_eq!(answer, expected);
}

async fn a_unique_key_is_free_again_after_the_end(bed: &Bed) {
    let mut first = task(DOCS);
    first.unique_key = Some("k".to_owned());
    bed.store.enqueue(&[first]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    hand.end(&*bed.store, &claim, done()).await;
    let mut second = task(DOCS);
    second.unique_key = Some("k".to_owned());
    let answer = bed
        .store
        .enqueue(std::slice::from_ref(&second))
        .await
        .unwrap();
    assert_eq!(answer, [Enqueued::New(second.id)]);
}

async fn a_delayed_task_is_due_later(bed: &Bed) {
    let mut new = task(DOCS);
    new.delay = Duration::from_secs(600);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let hand = Hand::new();
    assert!(hand.claim(&*bed.store, DOCS, 10).await.is_empty());
    let next = bed.store.next_due(&[want(DOCS)]).await.unwrap().unwrap();
    assert!(next > Duration::from_secs(590) && next <= Duration::from_secs(600));

    bed.age_task(new.id, "retry_at", Duration::from_secs(600))
        .await;
    let next = bed.store.next_due(&[want(DOCS)]).await.unwrap();
    assert_eq!(next, Some(Duration::ZERO));
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    // Its wait counts from when it was due, its age from when it was made.
    assert!(claim.wait < Duration::from_secs(60), "{:?}", claim.wait);
}

async fn the_same_id_again_is_the_same_task(bed: &Bed) {
    let new = task(DOCS);
    bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let answer = bed.store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(answer, [Enqueued::Existing(new.id)]);
}

async fn routes_lists_what_has_not_ended(bed: &Bed) {
    let mut sharded = task(DOCS);
    sharded.route.shard = 2;
    bed.store
        .enqueue(&[task(DOCS), sharded, task(BUILD_TEST)])
        .await
        .unwrap();
    bed.foreign("no route/at all", "{}").await;
    let ended = task("ended/thing");
    bed.store
        .enqueue(std::slice::from_ref(&ended))
        .await
        .unwrap();
    bed.store.cancel(ended.id, "me").await.unwrap();
    Hand::new().claim_one(&*bed.store, BUILD_TEST).await;
    let routes = bed.store.routes().await.unwrap();
    let shown: Vec<_> = routes.iter().map(|r| (r.key.clone(), r.shard)).collect();
    assert_eq!(
        shown,
        [(key(BUILD_TEST), 0), (key(DOCS), 0), (key(DOCS), 2)]
    );
}

async fn nothing_is_no_trouble(bed: &Bed) {
    assert!(bed.store.enqueue(&[]).await.unwrap().is_empty());
    bed.store.record(&[]).await.unwrap();
    let hand = Hand::new();
    assert!(bed.store.settle(&hand.id, &[]).await.unwrap().is_empty());
    assert!(
        hand.claim_wants(&*bed.store, Vec::new(), 5)
            .await
            .is_empty()
    );
    assert!(hand.claim(&*bed.store, DOCS, 5).await.is_empty());
    assert_eq!(bed.store.next_due(&[want(DOCS)]).await.unwrap(), None);
    bed.store.ping().await.unwrap();
    bed.store.check_schema().await.unwrap();
}
