//! A drain burns no attempt, leaves nothing held, and ends in its time.

use std::time::Duration;

use cogo_host::attempt::StopReason;
use cogo_host::task::Status;

use super::faults::{Op, Side};
use super::harness::{Bench, soon};
use crate::support::hand::{DOCS, task, tasks};

/// Nothing but what giving way takes.
const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test]
async fn what_runs_may_finish() {
    let mut bench = Bench::new().await;
    let ids = bench.submit_all(tasks(DOCS, 2)).await;
    let bus = bench.start();
    let running = bench.calls(2).await;
    let waiting = bench.submit(task(DOCS)).await;
    bus.drain();
    bus.wake();
    for call in running {
        assert_eq!(*call.control.stop.borrow(), None);
        call.done();
    }
    bench.stop(&bus).await;
    for id in ids {
        assert_eq!(bench.row(id).await.status, Status::Done);
    }
    assert_eq!(bench.row(waiting).await.attempts, 0);
    assert!(bench.call_now().is_none());
}

#[tokio::test]
async fn what_does_not_finish_is_given_back() {
    let mut bench = Bench::new().await;
    bench.settings.drain = AT_ONCE;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let call = bench.call().await;
    bus.drain();
    assert_eq!(call.give_way().await, StopReason::Draining);
    bench.stop(&bus).await;
    let row = bench.row(id).await;
    assert_eq!((row.status, row.attempts), (Status::Queued, 0));
    assert!(row.retry_at.is_some());
    let event = bench.event(id, "execute_retry").await;
    assert_eq!(event.payload["code"], "drained");
    assert_eq!(event.payload["delay_ms"], 0);
    assert_eq!(bench.attempts(id).await[0].outcome, "drained");
}

#[tokio::test]
async fn an_executor_that_never_returns_is_dropped() {
    let mut bench = Bench::new().await;
    bench.settings.drain = AT_ONCE;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let gone = bench.call().await.hang();
    bus.drain();
    soon(gone.cancelled()).await;
    bench.stop(&bus).await;
    let row = bench.row(id).await;
    assert_eq!((row.status, row.attempts), (Status::Queued, 0));
}

#[tokio::test]
async fn a_claim_under_way_is_given_back() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    bench.faults.block(Op::Claim, Side::After);
    let bus = bench.start();
    bench.until(id, |row| row.status == Status::Claimed).await;
    bus.drain();
    bench.faults.release(Op::Claim, Side::After);
    bench.stop(&bus).await;
    let row = bench.row(id).await;
    assert_eq!((row.status, row.attempts), (Status::Queued, 0));
    assert!(bench.call_now().is_none(), "it was run all the same");
}

#[tokio::test]
async fn a_claim_that_never_returns_does_not_keep_it() {
    let mut bench = Bench::new().await;
    bench.settings.drain = AT_ONCE;
    bench.faults.block(Op::Claim, Side::Before);
    let bus = bench.start();
    bench.when(|faults| faults.begun(Op::Claim) == 1).await;
    bus.drain();
    soon(bus.finished()).await;
}

#[tokio::test]
async fn a_database_that_is_away_does_not_keep_it() {
    for op in [Op::Settle, Op::Renew, Op::Expire, Op::NextDue] {
        let mut bench = Bench::new().await;
        bench.settings.drain = AT_ONCE;
        bench.settings.lease = Duration::from_millis(600);
        let id = bench.submit(task(DOCS)).await;
        let bus = bench.start();
        let call = bench.call().await;
        bench.faults.away(true);
        bench.faults.block(op, Side::Before);
        call.done();
        bus.drain();
        soon(bus.finished()).await;
        // What could not be written is rescued later.
        assert_eq!(bench.row(id).await.status, Status::Claimed);
        assert_eq!(bus.in_flight(), 0, "{op:?}");
        bench.bed.check().await;
    }
}
