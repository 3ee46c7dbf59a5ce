//! What a store remembers of the lanes is a hint: nothing that waits is missed,
//! and a claim reads no more than it takes.

use std::time::Duration;

use cogo_host::ids::MessageId;
use cogo_host::store::{PostgresStore, Store};
use cogo_host::task::NewTask;

use super::{reads, reconnect};
use crate::support::hand::{DOCS, Hand, done, retry, settlement, task, tasks};
use crate::support::postgres::{
    cluster, connect, execute, logged, migrated, open_as_shipped, texts,
};

/// The longest that a look is trusted.
const LONGEST: Duration = Duration::from_secs(5);

/// A store that trusts its looks, with a lane that it knows: some of its tasks
/// are taken, the rest is newer than what is remembered.
async fn remembering(url: &str) -> (PostgresStore, Hand) {
    let store = open_as_shipped(url).await;
    store.trust_looks_for(LONGEST);
    store.enqueue(&tasks(DOCS, 6)).await.unwrap();
    let hand = Hand::new();
    let first = hand.claim(&store, DOCS, 3).await;
    assert_eq!(first.len(), 3);
    (store, hand)
}

async fn drain(store: &PostgresStore, hand: &Hand) -> Vec<MessageId> {
    let mut all = Vec::new();
    loop {
        let claims = hand.claim(store, DOCS, 2).await;
        if claims.is_empty() {
            return all;
        }
        let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
        store.settle(&hand.id, &ends).await.unwrap();
        all.extend(claims.iter().map(|claim| claim.id));
    }
}

/// Tasks that a store which trusts its looks does not know of.
fn strays() -> Vec<NewTask> {
    let mut new = tasks(DOCS, 4);
    new[1].priority = 9;
    new[2].route.tenant = Some("new".to_owned());
    new[3].route.shard = 7;
    new
}

#[tokio::test]
async fn before_a_store_says_that_nothing_waits_it_looks_at_everything() {
    let url = migrated().await;
    let (store, hand) = remembering(&url).await;
    let strays = strays();
    store.enqueue(&strays).await.unwrap();
    // Below what is remembered of a lane that is known.
    let mut conn = connect(&url).await;
    let below = strays[0].id;
    let sql = format!(
        "UPDATE agent_messages SET created_at = created_at - interval '1 hour' WHERE id = '{below}'"
    );
    execute(&mut conn, &sql).await;
    let drained = drain(&store, &hand).await;
    assert_eq!(drained.len(), 3 + strays.len());
    for stray in &strays {
        assert!(drained.contains(&stray.id));
    }
    assert_eq!(store.depth().await.unwrap().queued, 0);
}

#[tokio::test]
async fn a_store_that_idles_guesses_where_the_next_task_is_and_then_looks() {
    let url = migrated().await;
    let store = open_as_shipped(&url).await;
    let hand = Hand::new();
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    assert_eq!(drain(&store, &hand).await.len(), 1);
    let mut urgent = tasks(DOCS, 1);
    urgent[0].priority = 9;
    let usual = tasks(DOCS, 2);
    store.enqueue(&usual).await.unwrap();
    store.enqueue(&urgent).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(
            hand.claim(&store, DOCS, 1)
                .await
                .iter()
                .map(|claim| claim.id),
        );
    }
    // One guess, and no second one before a look.
    assert_eq!(order, [usual[0].id, urgent[0].id, usual[1].id]);
}

/// Of all hosts that a hint wakes, one gets the task. The others compete with it
/// for the server while it does.
#[tokio::test]
async fn a_store_that_guesses_too_late_only_looks() {
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let store = open_as_shipped(&logged(&url)).await;
    let hand = Hand::new();
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    assert_eq!(drain(&store, &hand).await.len(), 1);
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    let mut faster = connect(&url).await;
    let lock = "BEGIN; SELECT FROM agent_messages WHERE status = 'queued' FOR UPDATE";
    execute(&mut faster, lock).await;
    let before = cluster().executions(database).len();
    assert!(before > 0, "the log does not tell");
    assert!(hand.claim(&store, DOCS, 2).await.is_empty());
    // The guess, and the look.
    let after = cluster().executions(database).len();
    assert_eq!(after - before, 2);
    execute(&mut faster, "ROLLBACK").await;
    // What it saw there does not keep it from guessing again.
    assert_eq!(hand.claim(&store, DOCS, 2).await.len(), 1);
    assert_eq!(cluster().executions(database).len() - after, 1);
}

#[tokio::test]
async fn a_guess_without_room_for_every_lane_says_nothing_of_the_others() {
    let url = migrated().await;
    let store = open_as_shipped(&url).await;
    let hand = Hand::new();
    let of = |tenant: &str| {
        let mut new = task(DOCS);
        new.route.tenant = Some(tenant.to_owned());
        new
    };
    store.enqueue(&[of("a"), of("b")]).await.unwrap();
    assert_eq!(drain(&store, &hand).await.len(), 2);
    // It is the turn of `a`, and there is room for one.
    let new = of("b");
    store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(hand.claim_one(&store, DOCS).await.id, new.id);
}

#[tokio::test]
async fn the_next_look_finds_what_came_in_below() {
    let url = migrated().await;
    let (store, hand) = remembering(&url).await;
    let below = task(DOCS);
    let mut urgent = task(DOCS);
    urgent.priority = 3;
    store
        .enqueue(&[below.clone(), urgent.clone()])
        .await
        .unwrap();
    let mut conn = connect(&url).await;
    let sql = format!(
        "UPDATE agent_messages SET created_at = '-infinity' WHERE id = '{}'",
        below.id
    );
    execute(&mut conn, &sql).await;
    // The look is due, as it is by itself after five seconds at the latest.
    store.trust_looks_for(Duration::ZERO);
    let claims = hand.claim(&store, DOCS, 2).await;
    let ids: Vec<MessageId> = claims.iter().map(|claim| claim.id).collect();
    assert_eq!(ids, [urgent.id, below.id]);
}

#[tokio::test]
async fn a_row_that_another_claim_had_locked_is_not_forgotten() {
    let url = migrated().await;
    let store = open_as_shipped(&url).await;
    store.trust_looks_for(LONGEST);
    let new = tasks(DOCS, 3);
    store.enqueue(&new).await.unwrap();
    let mut other = connect(&url).await;
    let apart = "UPDATE agent_messages SET created_at = now() - random() * interval '1 hour'";
    execute(&mut other, apart).await;
    let oldest = "SELECT id FROM agent_messages ORDER BY created_at, id LIMIT 1";
    let locked = texts(&mut other, oldest).await;
    let locked = locked[0].clone().unwrap();
    let lock = format!("BEGIN; SELECT FROM agent_messages WHERE id = '{locked}' FOR UPDATE");
    execute(&mut other, &lock).await;
    let hand = Hand::new();
    // What is remembered goes past the row that is locked.
    let claims = hand.claim(&store, DOCS, 2).await;
    assert!(claims.iter().all(|claim| claim.id.to_string() != locked));
    assert_eq!(claims.len(), 2);
    execute(&mut other, "ROLLBACK").await;
    let claims = hand.claim(&store, DOCS, 2).await;
    assert_eq!(claims[0].id.to_string(), locked);
}

#[tokio::test]
async fn a_retry_that_is_due_comes_back_to_a_store_that_trusts_its_looks() {
    let url = migrated().await;
    let (store, hand) = remembering(&url).await;
    let claim = hand.claim_one(&store, DOCS).await;
    hand.end(&store, &claim, retry(Duration::ZERO)).await;
    assert!(drain(&store, &hand).await.contains(&claim.id));
}

#[tokio::test]
async fn a_claim_reads_what_it_takes_however_much_waits() {
    const QUEUED: i64 = 30_000;
    const CLAIMS: i64 = 20;
    let url = migrated().await;
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        &format!(
            "INSERT INTO agent_messages
               (service, role, tenant, priority, payload, lease_epoch, trace_id)
             SELECT 'docs', 'render', 'tenant ' || i % 5, i % 2, '{{}}', 0, 'trace'
             FROM generate_series(1, {QUEUED}) AS i"
        ),
    )
    .await;
    // A connection reports what it has read when it ends, at the latest.
    conn = reconnect(conn, &url).await;
    let before = reads(&mut conn, "agent_messages").await;
    let store = open_as_shipped(&url).await;
    let hand = Hand::new();
    for _ in 0..CLAIMS {
        assert_eq!(hand.claim(&store, DOCS, 10).await.len(), 10);
    }
    store.close().await.unwrap();
    conn = reconnect(conn, &url).await;
    let after = reads(&mut conn, "agent_messages").await;
    let taken = CLAIMS * 10;
    let entries = after.0 - before.0;
    // Each row by the order of the claim and by its id, and a look's hops.
    assert!(
        (taken..taken * 15).contains(&entries),
        "{entries} entries read to take {taken} of {QUEUED}"
    );
    assert_eq!(after.1, before.1, "the table was read from end to end");
}
