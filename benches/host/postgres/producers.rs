//! What it costs those who submit single tasks that hosts wait to be told: the
//! rate of many producers at once, with and without. Commits that notify queue
//! for one lock of the server.

use std::time::Instant;

use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use super::{Bench, open};
use crate::bus;

const PRODUCERS: usize = 8;
const SUBMISSIONS: usize = 1_000;
/// As long as this lasts, so that none of them has to say it again.
const WAITERS: &str = "
    INSERT INTO executor_waiters (holder, until)
    VALUES ('one', now() + interval '1 hour'), ('other', now() + interval '1 hour')";

/// Tasks a second that reach a bus, where two hosts wait for them or none does.
pub async fn rate(bench: &Bench, waited_for: bool) -> f64 {
    let url = bench.filled(0).await;
    let mut hosts = JoinSet::new();
    if waited_for {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        sqlx::query(WAITERS).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        for _ in 0..2 {
            let mut listener = PgListener::connect(&url).await.unwrap();
            listener.listen("cogo_bus").await.unwrap();
            hosts.spawn(async move { while listener.recv().await.is_ok() {} });
        }
    }
    let mut stores = Vec::with_capacity(PRODUCERS);
    for _ in 0..PRODUCERS {
        let store = open(&url).await;
        // Connected, and its statement prepared.
        store.enqueue(&[bus::task()]).await.unwrap();
        stores.push(store);
    }
    let begun = Instant::now();
    let mut producers = JoinSet::new();
    for store in stores {
        producers.spawn(async move {
            for _ in 0..SUBMISSIONS {
                store.enqueue(&[bus::task()]).await.unwrap();
            }
            store
        });
    }
    let stores = producers.join_all().await;
    let rate = (PRODUCERS * SUBMISSIONS) as f64 / begun.elapsed().as_secs_f64();
    hosts.shutdown().await;
    for store in stores {
        store.close().await.unwrap();
    }
    rate
}
