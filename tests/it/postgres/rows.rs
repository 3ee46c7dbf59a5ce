//! Values that only Postgres holds, or does not.

use cogo_host::event::NewEvent;
use cogo_host::ids::TraceId;
use cogo_host::store::{Settled, Store};
use cogo_host::task::Next;
use serde_json::json;

use crate::support::hand::{BUILD_TEST, DOCS, Hand, done, settlement, task, tasks, want};
use crate::support::postgres::{bed, connect, execute, migrated, open};

#[tokio::test]
async fn instants_without_an_end_wedge_nothing() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        "INSERT INTO agent_messages (service, role, created_at, retry_at, payload) VALUES
           ('docs', 'render', '-infinity', NULL, '{\"__assignment\": {\"ttl_ms\": 60000}}'),
           ('docs', 'render', 'infinity', '-infinity', '{\"__assignment\": {\"ttl_ms\": 1}}'),
           ('docs', 'render', '4713-01-01 BC', '290000-01-01', '{}'),
           ('docs', 'render', now(), 'infinity', '{}')",
    )
    .await;
    let store = open(&url).await;
    assert_eq!(
        store.next_due(&[want(DOCS)]).await.unwrap(),
        Some(std::time::Duration::ZERO)
    );
    store.depth().await.unwrap();
    store.tasks(&crate::support::all_tasks()).await.unwrap();
    assert_eq!(store.expire(&[want(DOCS)], 10).await.unwrap().len(), 1);
    let claims = Hand::new().claim(&store, DOCS, 10).await;
    assert_eq!(claims.len(), 1, "the two others are not due");
}

#[tokio::test]
async fn a_nul_is_replaced_wherever_it_comes_from() {
    let bed = bed().await;
    let mut new = task(DOCS);
    new.task_id = Some("la\u{0}bel".to_owned());
    new.payload = json!({ "a\u{0}": "b\u{0}", "escaped": "\\u0000" });
    bed.store.enqueue(&[new.clone()]).await.unwrap();
    let row = bed.store.task(new.id).await.unwrap().unwrap();
    assert_eq!(row.task_id.as_deref(), Some("la\u{FFFD}bel"));
    let kept = json!({ "a\u{FFFD}": "b\u{FFFD}", "escaped": "\\u0000" });
    assert_eq!(row.payload, Some(kept));
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    let next = Next::Done {
        result: json!({ "stdout": "\u{0}\u{0}" }),
        snippet: "\u{0}".to_owned(),
        url: None,
    };
    hand.end(&*bed.store, &claim, next).await;
    let event = NewEvent {
        event_type: "flag_changed".into(),
        message_id: None,
        route: None,
        trace_id: TraceId::generate(),
        reason: Some("\u{0}".to_owned()),
        payload: json!({}).into(),
    };
    bed.store.record(&[event]).await.unwrap();
    assert!(bed.store.artifact("\u{0}", "x").await.unwrap().is_none());
    let filter = cogo_host::store::TaskFilter {
        task_id: Some("\u{0}".to_owned()),
        limit: 1,
        ..Default::default()
    };
    assert!(bed.store.tasks(&filter).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_end_whose_answer_was_lost_counts_as_written() {
    let bed = bed().await;
    bed.store.enqueue(&tasks(BUILD_TEST, 2)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, BUILD_TEST, 2).await;
    let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
    let answer = bed.store.settle(&hand.id, &ends[..1]).await.unwrap();
    assert_eq!(answer, [Settled::Applied]);
    let answer = bed.store.settle(&hand.id, &ends).await.unwrap();
    assert_eq!(answer, [Settled::Applied, Settled::Applied]);
    let other = Hand::new();
    let answer = bed.store.settle(&other.id, &ends[..1]).await.unwrap();
    assert_eq!(answer, [Settled::LeaseLost]);
    let lost = "SELECT count(*) FROM bus_events WHERE event_type = 'lease_lost'";
    assert_eq!(bed.door.number(lost).await, 1);
    bed.check().await;
}

#[tokio::test]
async fn a_payload_at_the_limit_survives_the_spaces_that_jsonb_puts_in() {
    let bed = bed().await;
    let mut new = task(DOCS);
    // Ten bytes an element as its producer writes it, eleven in the database.
    let element = "12345678";
    let room = cogo_host::payload::MAX_BYTES - 64;
    let elements: Vec<&str> = std::iter::repeat_n(element, room / (element.len() + 3)).collect();
    new.payload = json!({ "a": elements });
    assert!(new.payload.to_string().len() <= cogo_host::payload::MAX_BYTES);
    bed.store.enqueue(&[new.clone()]).await.unwrap();
    let claim = Hand::new().claim_one(&*bed.store, DOCS).await;
    let cogo_host::task::ClaimedPayload::Text(text) = claim.payload else {
        panic!("refused as too large");
    };
    assert_eq!(text, new.payload.to_string());
}

#[tokio::test]
async fn a_claim_stays_within_its_limit_whatever_the_planner_believes() {
    let bed = bed().await;
    // Statistics of before there was anything.
    bed.door.execute("ANALYZE agent_messages").await;
    bed.store.enqueue(&tasks(DOCS, 2000)).await.unwrap();
    let hand = Hand::new();
    for _ in 0..8 {
        assert_eq!(hand.claim(&*bed.store, DOCS, 7).await.len(), 7);
    }
    bed.door.execute("ANALYZE agent_messages").await;
    assert_eq!(hand.claim(&*bed.store, DOCS, 7).await.len(), 7);
    let claimed = "SELECT count(*) FROM agent_messages WHERE status = 'claimed'";
    assert_eq!(bed.door.number(claimed).await, 63);
}

#[tokio::test]
async fn a_large_bus_is_told_by_estimate_and_a_small_one_exactly() {
    let url = migrated().await;
    let store = open(&url).await;
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        "INSERT INTO agent_messages (service, role, created_at)
         SELECT 'docs', 'r' || i % 3, now() - i * interval '1 second'
         FROM generate_series(1, 25000) AS i;
         INSERT INTO agent_messages (service, role, status)
         SELECT 'docs', 'render', 'failed' FROM generate_series(1, 7);
         ANALYZE agent_messages",
    )
    .await;
    let depth = store.depth().await.unwrap();
    assert!((20_000..30_000).contains(&depth.queued), "{depth:?}");
    assert_eq!((depth.claimed, depth.done, depth.failed), (0, 0, 7));
    let oldest = depth.oldest_due_ms.unwrap();
    assert!((25_000_000..26_000_000).contains(&oldest), "{depth:?}");
}
