//! Reading events costs what is read, however many there are.

use cogo_host::store::{EventFilter, Order, Store};

use super::migration::ORIGINAL;
use super::{reads, reconnect};
use crate::support::postgres::{connect, empty, execute, migrated, open};

const EVENTS: usize = 30_000;
const LIMIT: u32 = 10;

/// Fills a bus, reads the newest events and those after one, and counts.
async fn read_a_few(url: &str) {
    let mut conn = connect(url).await;
    let fill = format!(
        "INSERT INTO bus_events (event_type)
         SELECT CASE WHEN i = {EVENTS} THEN 'last' ELSE 'x' END
         FROM generate_series(1, {EVENTS}) AS i"
    );
    execute(&mut conn, &fill).await;
    execute(&mut conn, "ANALYZE bus_events").await;
    conn = reconnect(conn, url).await;
    let before = reads(&mut conn, "bus_events").await;
    let store = open(url).await;
    let newest = EventFilter {
        order: Order::NewestFirst,
        limit: LIMIT,
        ..EventFilter::default()
    };
    let found = store.events(&newest).await.unwrap();
    assert_eq!(found.len(), LIMIT as usize);
    assert_eq!(found[0].event_type, "last");
    assert!(found.is_sorted_by(|one, other| one.id > other.id));
    let following = EventFilter {
        after_id: Some(found[0].id - EVENTS as i64 / 2),
        order: Order::OldestFirst,
        limit: LIMIT,
        ..EventFilter::default()
    };
    let found = store.events(&following).await.unwrap();
    assert_eq!(Some(found[0].id - 1), following.after_id);
    assert!(found.is_sorted_by(|one, other| one.id < other.id));
    store.close().await.unwrap();
    conn = reconnect(conn, url).await;
    let after = reads(&mut conn, "bus_events").await;
    let entries = after.0 - before.0;
    assert!(entries <= 100, "{entries} entries read for twice {LIMIT}");
    assert_eq!(after.1, before.1, "the table was read from end to end");
}

#[tokio::test]
async fn a_few_events_are_read_as_quickly_out_of_many() {
    read_a_few(&migrated().await).await;
}

#[tokio::test]
async fn so_they_are_where_the_oldest_have_no_number() {
    let url = empty().await;
    let mut conn = connect(&url).await;
    execute(&mut conn, ORIGINAL).await;
    let store = open(&url).await;
    store.migrate(false).await.unwrap();
    // Fewer than are asked for: the oldest is among them, and the last.
    execute(
        &mut conn,
        "INSERT INTO bus_events (event_type) VALUES ('x')",
    )
    .await;
    let newest = EventFilter {
        order: Order::NewestFirst,
        limit: LIMIT,
        ..EventFilter::default()
    };
    let found = store.events(&newest).await.unwrap();
    let types: Vec<_> = found.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types.last(), Some(&"theirs"));
    assert_eq!(types.iter().rev().nth(1), Some(&"x"));
    store.close().await.unwrap();
    reconnect(conn, &url).await;
    read_a_few(&url).await;
}
