//! Leases are kept while an attempt runs, and an attempt ends with its lease.

use std::time::Duration;

use cogo_host::attempt::StopReason;
use cogo_host::task::Status;

use super::faults::{Op, Side};
use super::harness::Bench;
use crate::support::hand::{DOCS, task};

/// Long enough for a busy machine to renew in time.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_heartbeat_keeps_an_attempt_longer_than_its_lease() {
    let mut bench = Bench::new().await;
    bench.settings.lease = SHORT;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let call = bench.call().await;
    // Renewed every third of a lease.
    bench.when(|faults| faults.ended(Op::Renew) >= 4).await;
    let row = bench.row(id).await;
    assert_eq!((row.status, row.lease_epoch), (Status::Claimed, 1));
    assert_eq!(*call.control.stop.borrow(), None);
    call.done();
    assert_eq!(bench.ended(id).await.attempts, 1);
    bench.stop(&bus).await;
}

/// Also for every other attempt meanwhile: one slow call renews for all.
#[tokio::test]
async fn an_attempt_whose_lease_cannot_be_confirmed_ends_in_time() {
    let mut bench = Bench::new().await;
    bench.settings.lease = SHORT;
    let id = bench.submit(task(DOCS)).await;
    // Nobody else takes it, so that the test shows what this host does.
    bench.faults.block(Op::Rescue, Side::Before);
    bench.faults.block(Op::Renew, Side::Before);
    let bus = bench.start();
    let call = bench.call().await;
    assert_eq!(call.give_way().await, StopReason::LeaseLost);
    let again = bench.call().await;
    // The host lives, so the attempt is given back.
    assert_eq!(again.attempt.number, 1);
    let retry = bench.event(id, "execute_retry").await;
    assert_eq!(retry.payload["code"], "lease_unconfirmed");
    assert_eq!(bench.row(id).await.host_faults, 1);
    bench.faults.release(Op::Renew, Side::Before);
    again.done();
    bench.ended(id).await;
    bench.faults.release(Op::Rescue, Side::Before);
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_lost_lease_stops_the_attempt_and_refuses_what_it_made() {
    for finishes in [false, true] {
        let mut bench = Bench::new().await;
        bench.settings.lease = SHORT;
        let id = bench.submit(task(DOCS)).await;
        let bus = bench.start();
        let mut call = bench.call().await;
        bench.routes.serve(Vec::new());
        // Somebody else finds the lease expired.
        while bench.row(id).await.status == Status::Claimed {
            bench.bed.end_lease(id).await;
            bench.bed.store.rescue(10, 3).await.unwrap();
        }
        let before = bench.row(id).await;
        assert_eq!(call.stopped().await, StopReason::LeaseLost);
        if finishes {
            call.done();
        } else {
            call.give_way().await;
        }
        bench.when(|faults| !faults.commits().is_empty()).await;
        bench.stop(&bus).await;
        let after = bench.row(id).await;
        assert_eq!((after.status, after.result), (Status::Queued, None));
        assert_eq!((after.lease_epoch, after.attempts), (before.lease_epoch, 1));
        let attempts = bench.attempts(id).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].outcome, "lost");
        let types = bench.event_types(id).await;
        let expected = [
            "execute_enqueued",
            "task_rescued",
            "execute_retry",
            "docs_render_retry",
            "lease_lost",
        ];
        assert_eq!(types, expected);
    }
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_without_an_attempt() {
    let mut bench = Bench::new().await;
    let mut later = task(DOCS);
    later.delay = Duration::from_secs(3600);
    let id = bench.submit(later).await;
    let bus = bench.start();
    bench.bed.store.cancel(id, "operator").await.unwrap();
    bus.wake();
    let row = bench.ended(id).await;
    assert_eq!((row.error.as_deref(), row.attempts), (Some("cancelled"), 0));
    bench.stop(&bus).await;
    assert!(bench.call_now().is_none());
}

#[tokio::test]
async fn a_running_task_learns_of_its_cancellation_by_polling() {
    let mut bench = Bench::new().await;
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let call = bench.call().await;
    bench.bed.store.cancel(id, "operator").await.unwrap();
    assert_eq!(call.give_way().await, StopReason::Cancelled);
    let row = bench.ended(id).await;
    assert_eq!(
        (row.status, row.error.as_deref()),
        (Status::Failed, Some("cancelled"))
    );
    let types = bench.event_types(id).await;
    let expected = ["execute_enqueued", "cancel_requested", "execute_cancelled"];
    assert_eq!(types, expected);
    bench.stop(&bus).await;
}
