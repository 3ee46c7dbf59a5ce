//! What a busy host asks of the server besides its statements.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cogo_host::store::{PostgresStore, Store as _};

use crate::bus::faults::{Faults, Op, Side};
use crate::bus::harness::{Bench, served};
use crate::support::bed::Bed;
use crate::support::hand::{DOCS, Hand, tasks};
use crate::support::invariants::Watch;
use crate::support::postgres::{
    ServerDoor, cluster, connect, execute, logged, migrated, open, open_as_shipped, texts,
};

/// What a host keeps open: its pool, and one to listen on.
const KEPT: usize = 5 + 1;

fn bench(store: PostgresStore, url: &str) -> Bench {
    Bench::on(Bed {
        store: Arc::new(store),
        door: Box::new(ServerDoor::open(url)),
        watch: Watch::default(),
    })
}

/// A server that has to let in a host again and again starts processes all the
/// time, and forgets what it had prepared.
#[tokio::test]
async fn a_host_under_load_keeps_its_connections() {
    const TASKS: usize = 3_000;
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let mut bench = bench(open_as_shipped(&url).await, &url);
    bench.settings.concurrency = 64;
    bench.settings.poll = Duration::from_millis(20);
    bench.routes.serve(vec![served(DOCS, 64, "docs", 64)]);
    bench.submit_all(tasks(DOCS, TASKS)).await;
    let before = cluster().let_in(database);
    assert!(before > 0, "the log does not tell");
    let bus = bench.start();
    for _ in 0..TASKS {
        bench.call().await.done();
    }
    bench.when(|_| bus.in_flight() == 0).await;
    // With nothing to do it looks, asks what is due, and waits to be told.
    let looks = bench.faults.begun(Op::Claim) + 20;
    bench.when(|faults| faults.begun(Op::Claim) >= looks).await;
    let new = cluster().let_in(database) - before;
    assert!(new <= KEPT, "{new} connections for {TASKS} tasks");
    bench.stop(&bus).await;
    bench.bed.door.discard().await;
}

/// Whether a statement of this database waits for a lock.
const WAITING: &str = "
SELECT count(*) > 0
FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE NOT l.granted AND d.datname = current_database()";

/// Waits until the host has looked, and has asked so often what is due next.
async fn at_rest(bench: &Bench, asked: u64) {
    let is_so = |faults: &Faults| {
        faults.begun(Op::NextDue) >= asked && faults.begun(Op::Claim) == faults.ended(Op::Claim)
    };
    bench.when(is_so).await;
}

/// A question that is dropped before its answer has to close its connection.
#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_keeps_its_connection() {
    const ROUNDS: usize = 20;
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let bench = bench(open(&url).await, &url);
    let mut keeper = connect(&url).await;
    let before = cluster().let_in(database);
    let bus = bench.start();
    for _ in 0..ROUNDS {
        at_rest(&bench, 1).await;
        let asked = bench.faults.begun(Op::NextDue);
        bench.faults.block(Op::NextDue, Side::Before);
        bus.wake();
        at_rest(&bench, asked + 1).await;
        // The server gives no answer now.
        execute(&mut keeper, "BEGIN; LOCK TABLE agent_messages").await;
        bench.faults.release(Op::NextDue, Side::Before);
        while texts(&mut keeper, WAITING).await != [Some("true".to_owned())] {}
        let claims = bench.faults.begun(Op::Claim);
        bus.wake();
        bench.when(|faults| faults.begun(Op::Claim) > claims).await;
        execute(&mut keeper, "COMMIT").await;
        at_rest(&bench, asked + 2).await;
    }
    let new = cluster().let_in(database) - before;
    // With some to spare for a server that takes so long that it gives up.
    assert!(new < ROUNDS, "{new} connections for {ROUNDS} questions");
    bench.stop(&bus).await;
    bench.bed.door.discard().await;
}

/// What a connection has prepared, and what the server has at hand of it, serves
/// the next statement only if that comes by the same one.
#[tokio::test]
async fn a_host_that_does_one_thing_at_a_time_keeps_to_one_connection() {
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let store = Arc::new(open_as_shipped(&logged(&url)).await);
    let mut keeper = connect(&url).await;
    execute(&mut keeper, "BEGIN; LOCK TABLE agent_messages").await;
    let opened = cluster().executions(database).len();
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.depth().await.unwrap() })
        })
        .collect();
    let waiting = WAITING.replace("count(*) > 0", "count(*)");
    while texts(&mut keeper, &waiting).await != [Some("3".to_owned())] {}
    execute(&mut keeper, "COMMIT").await;
    for asked in asking {
        asked.await.unwrap();
    }
    let used = |after: usize| -> HashSet<String> {
        let all = cluster().executions(database);
        all.into_iter().skip(after).collect()
    };
    assert_eq!(used(opened).len(), 3);
    let before = cluster().executions(database).len();
    let hand = Hand::new();
    for _ in 0..5 {
        store.enqueue(&tasks(DOCS, 1)).await.unwrap();
        hand.claim_one(&*store, DOCS).await;
    }
    assert!(cluster().executions(database).len() - before >= 10);
    assert_eq!(used(before).len(), 1);
}
