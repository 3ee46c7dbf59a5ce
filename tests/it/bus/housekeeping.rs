//! Rescue, expiry and retention go round by themselves: whatever becomes of one
//! of them, what a vanished host held is taken back.

use std::time::Duration;

use super::faults::{Op, Side};
use super::harness::{Bench, LONG};
use crate::support::hand::{DOCS, Hand, task};

/// A task whose holder is gone, once its lease is over.
async fn is_rescued(mut bench: Bench, until_ready: impl AsyncFnOnce(&Bench)) {
    let id = bench.submit(task(DOCS)).await;
    Hand::new().claim_one(&*bench.bed.store, DOCS).await;
    let bus = bench.start();
    until_ready(&bench).await;
    bench.bed.end_lease(id).await;
    let call = bench.call().await;
    assert_eq!(call.attempt.number, 2);
    call.done();
    bench.ended(id).await;
    for op in [Op::Expire, Op::Retire] {
        bench.faults.release(op, Side::Before);
    }
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_retention_with_no_end_to_it_holds_up_no_rescue() {
    let mut bench = Bench::new().await;
    bench.settings.retention.tasks = Some(LONG);
    bench.faults.always_retire();
    is_rescued(bench, async |bench| {
        bench.when(|faults| faults.ended(Op::Retire) >= 3).await;
    })
    .await;
}

#[tokio::test]
async fn statements_that_hang_hold_up_no_rescue() {
    let mut bench = Bench::new().await;
    bench.settings.retention.events = Some(LONG);
    for op in [Op::Expire, Op::Retire] {
        bench.faults.block(op, Side::Before);
    }
    is_rescued(bench, async |bench| {
        let hang = |op| bench.when(move |faults| faults.begun(op) == 1);
        tokio::join!(hang(Op::Expire), hang(Op::Retire));
    })
    .await;
}

/// The leases of the living did not run out in so short a time: nobody waits
/// for them to be renewed.
#[tokio::test]
async fn a_short_outage_puts_off_no_rescue() {
    let bench = Bench::new().await;
    is_rescued(bench, async |bench| {
        bench.when(|faults| faults.ended(Op::Rescue) > 0).await;
        bench.faults.away(true);
        let failed = bench.faults.ended(Op::Rescue) + 2;
        bench
            .when(|faults| faults.ended(Op::Rescue) >= failed)
            .await;
        bench.faults.away(false);
    })
    .await;
}

/// The leases of all ran out with it. Whoever is there again renews, and only
/// then is anything taken back.
#[tokio::test]
async fn after_a_long_outage_the_living_renew_first() {
    let mut bench = Bench::new().await;
    // Half of it is left to a busy machine for one renewal.
    bench.settings.lease = Duration::from_secs(6);
    bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let call = bench.call().await;
    bench.faults.block(Op::Renew, Side::Before);
    bench.faults.away(true);
    bench.when(|faults| faults.ended(Op::Ping) > 0).await;
    let (pings, looks) = (bench.faults.ended(Op::Ping), bench.faults.begun(Op::Rescue));
    bench.faults.away(false);
    bench.when(|faults| faults.ended(Op::Ping) > pings).await;
    let renewals = bench.faults.ended(Op::Renew);
    bench.faults.release(Op::Renew, Side::Before);
    bench
        .when(|faults| faults.ended(Op::Renew) > renewals)
        .await;
    assert_eq!(bench.faults.begun(Op::Rescue), looks);
    call.done();
    bench.stop(&bus).await;
}
