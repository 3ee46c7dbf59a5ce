//! Hints: they come while somebody waits, and cost nothing while nobody does.

use std::sync::Arc;
use std::time::Duration;

use cogo_host::store::Store;
use futures::FutureExt;
use sqlx::PgConnection;

use crate::support::hand::{DOCS, Hand, task, tasks};
use crate::support::postgres::{connect, execute, migrated, open, texts};

const PATIENCE: Duration = Duration::from_secs(30);
const WAITERS: &str = "SELECT count(*) FROM executor_waiters WHERE until > now()";

/// Waits until a host listens, has said that it waits, and has had the hints of
/// that.
async fn settled(waiting: &impl Store, hand: &Hand, conn: &mut PgConnection) {
    while texts(conn, WAITERS).await == [Some("0".to_owned())] {
        tokio::time::timeout(PATIENCE, waiting.hint(&hand.id))
            .await
            .unwrap();
    }
    let listens = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    while texts(conn, listens).await == [Some("0".to_owned())] {}
    while waiting.hint(&hand.id).now_or_never().is_some() {}
}

#[tokio::test]
async fn a_host_that_waits_is_woken_by_an_insert_of_another() {
    let url = migrated().await;
    let waiting = open(&url).await;
    let hand = Hand::new();
    let mut conn = connect(&url).await;
    settled(&waiting, &hand, &mut conn).await;

    let hint = tokio::spawn({
        let waiting = Arc::new(waiting);
        let id = hand.id.clone();
        async move {
            waiting.hint(&id).await;
            waiting
        }
    });
    let producer = open(&url).await;
    producer.enqueue(&tasks(DOCS, 5)).await.unwrap();
    let waiting = tokio::time::timeout(PATIENCE, hint).await.unwrap().unwrap();
    assert_eq!(hand.claim(&*waiting, DOCS, 9).await.len(), 5);
    waiting.leave(&hand.id).await.unwrap();
    assert_eq!(texts(&mut conn, WAITERS).await, [Some("0".to_owned())]);
}

#[tokio::test]
async fn nobody_is_notified_while_nobody_waits() {
    let url = migrated().await;
    let mut listener = sqlx::postgres::PgListener::connect(&url).await.unwrap();
    listener.listen("cogo_bus").await.unwrap();
    let store = open(&url).await;
    store.enqueue(&[task(DOCS)]).await.unwrap();
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        "INSERT INTO executor_waiters (holder, until) VALUES ('h', now() + interval '1 hour')",
    )
    .await;
    // One for the whole batch, and so the first that arrives.
    store.enqueue(&tasks(DOCS, 50)).await.unwrap();
    // A single task is for a single host.
    store.enqueue(&[task(DOCS)]).await.unwrap();
    execute(&mut conn, "SELECT pg_notify('cogo_bus', 'end')").await;
    let mut payloads = Vec::new();
    for _ in 0..3 {
        payloads.push(listener.recv().await.unwrap().payload().to_owned());
    }
    assert_eq!(payloads, ["", "h", "end"]);
}

/// The host that was named may be full, or gone.
#[tokio::test]
async fn a_hint_that_names_another_host_is_one_all_the_same() {
    let url = migrated().await;
    let waiting = open(&url).await;
    let hand = Hand::new();
    let mut conn = connect(&url).await;
    settled(&waiting, &hand, &mut conn).await;
    let waits = async { waiting.hint(&hand.id).await };
    let named = execute(&mut conn, "SELECT pg_notify('cogo_bus', 'another')");
    tokio::time::timeout(PATIENCE, futures::future::join(waits, named))
        .await
        .unwrap();
}

/// Commits that notify queue for one lock, so that a second notification would
/// make its task wait for the first one's commit.
#[tokio::test]
async fn an_insert_keeps_silent_while_another_is_about_to_notify() {
    let url = migrated().await;
    let mut listener = sqlx::postgres::PgListener::connect(&url).await.unwrap();
    listener.listen("cogo_bus").await.unwrap();
    let mut other = connect(&url).await;
    execute(
        &mut other,
        "INSERT INTO executor_waiters (holder, until) VALUES ('h', now() + interval '1 hour')",
    )
    .await;
    execute(&mut other, "BEGIN").await;
    let about_to = "SELECT pg_try_advisory_xact_lock(hashtextextended('cogo_bus', 0))::text";
    assert_eq!(texts(&mut other, about_to).await, [Some("true".to_owned())]);
    let store = open(&url).await;
    store.enqueue(&[task(DOCS)]).await.unwrap();
    execute(&mut other, "SELECT pg_notify('cogo_bus', 'other')").await;
    execute(&mut other, "COMMIT").await;
    store.enqueue(&[task(DOCS)]).await.unwrap();
    let mut payloads = Vec::new();
    for _ in 0..2 {
        payloads.push(listener.recv().await.unwrap().payload().to_owned());
    }
    assert_eq!(payloads, ["other", "h"]);
}

/// What kept silent because of this hint is committed somewhat later.
#[tokio::test]
async fn a_hint_is_followed_by_a_second_look() {
    let url = migrated().await;
    let waiting = open(&url).await;
    let hand = Hand::new();
    let mut conn = connect(&url).await;
    settled(&waiting, &hand, &mut conn).await;
    let waits = async {
        waiting.hint(&hand.id).await;
        waiting.hint(&hand.id).await;
    };
    let named = format!("SELECT pg_notify('cogo_bus', '{}')", hand.id);
    let named = execute(&mut conn, &named);
    tokio::time::timeout(PATIENCE, futures::future::join(waits, named))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_listener_that_is_cut_off_listens_again() {
    let url = migrated().await;
    let waiting = open(&url).await;
    let hand = Hand::new();
    let mut conn = connect(&url).await;
    settled(&waiting, &hand, &mut conn).await;
    let listeners = "FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let before = texts(&mut conn, &format!("SELECT pid::text {listeners}")).await;
    let cut = format!("SELECT pg_terminate_backend(pid) {listeners}");
    execute(&mut conn, &cut).await;
    // What came meanwhile may have been missed.
    tokio::time::timeout(PATIENCE, waiting.hint(&hand.id))
        .await
        .unwrap();
    loop {
        let now = texts(&mut conn, &format!("SELECT pid::text {listeners}")).await;
        if !now.is_empty() && now != before {
            break;
        }
        let _ = tokio::time::timeout(Duration::ZERO, waiting.hint(&hand.id)).await;
    }
    settled(&waiting, &hand, &mut conn).await;
    let waits = async { waiting.hint(&hand.id).await };
    let told = execute(&mut conn, "SELECT pg_notify('cogo_bus', '')");
    tokio::time::timeout(PATIENCE, futures::future::join(waits, told))
        .await
        .unwrap();
}
