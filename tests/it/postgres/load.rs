//! What a busy host asks of the server besides its statements.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::faults::Op;
use crate::bus::harness::{Bench, served};
use crate::support::bed::Bed;
use crate::support::hand::{DOCS, tasks};
use crate::support::invariants::Watch;
use crate::support::postgres::{ServerDoor, cluster, migrated, open_as_shipped};

/// What a host keeps open: its pool, and one to listen on.
const KEPT: usize = 5 + 1;

/// A question that is dropped before its answer has to close its connection: a
/// loop that drops them as it goes makes the server start processes all the
/// time, and forget what it had prepared.
#[tokio::test]
async fn a_host_under_load_keeps_its_connections() {
    const TASKS: usize = 3_000;
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let mut bench = Bench::on(Bed {
        store: Arc::new(open_as_shipped(&url).await),
        door: Box::new(ServerDoor::open(&url)),
        watch: Watch::default(),
    });
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
