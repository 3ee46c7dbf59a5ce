//! A database that goes away and comes back.

use std::time::Duration;

use cogo_host::task::Status;

use super::faults::{Op, Side};
use super::harness::Bench;
use crate::support::hand::{DOCS, task, tasks};

/// Long enough for a busy machine to renew in time.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn what_ended_meanwhile_is_settled_once_when_it_is_back() {
    let mut bench = Bench::new().await;
    bench.settings.lease = SHORT;
    let ids = bench.submit_all(tasks(DOCS, 4)).await;
    let bus = bench.start();
    let running = bench.calls(4).await;
    bench.faults.away(true);
    running.into_iter().for_each(|call| call.done());
    // So many rounds take longer than the leases.
    let rounds = bench.faults.begun(Op::Expire) + 5;
    bench
        .when(|faults| faults.begun(Op::Expire) >= rounds)
        .await;
    bench.faults.away(false);
    for id in ids {
        let row = bench.ended(id).await;
        assert_eq!((row.status, row.attempts), (Status::Done, 1));
        assert_eq!(bench.attempts(id).await.len(), 1);
    }
    bench.stop(&bus).await;
    assert!(bench.call_now().is_none(), "it was run again");
}

#[tokio::test]
async fn claims_go_on_when_it_is_back() {
    let mut bench = Bench::new().await;
    bench.faults.away(true);
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    bench.when(|faults| faults.begun(Op::Claim) >= 3).await;
    bench.faults.away(false);
    bench.call().await.done();
    assert_eq!(bench.ended(id).await.attempts, 1);
    bench.stop(&bus).await;
}

/// Otherwise a host would go on and on, and all of it for nothing.
#[tokio::test]
async fn what_cannot_be_settled_does_not_pile_up() {
    const TASKS: usize = 300;
    let mut bench = Bench::new().await;
    bench.settings.concurrency = 4;
    bench.submit_all(tasks(DOCS, TASKS)).await;
    bench.faults.block(Op::Settle, Side::Before);
    let bus = bench.start();
    let most = 4 * 2 + 256;
    for _ in 0..most {
        bench.call().await.done();
    }
    let rounds = bench.faults.ended(Op::Expire) + 1;
    bench
        .when(|faults| faults.ended(Op::Expire) >= rounds)
        .await;
    assert!(bench.call_now().is_none());
    assert_eq!(bus.in_flight(), most);
    bench.faults.release(Op::Settle, Side::Before);
    for _ in most..TASKS {
        bench.call().await.done();
    }
    bench.stop(&bus).await;
    assert_eq!(bench.bed.store.depth().await.unwrap().done, TASKS as u64);
}
