//! A drain burns no attempt, leaves nothing held, and ends in its time.

use std::time::Duration;

use cogo_host::attempt::StopReason;
use cogo_host::task::Status;

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
