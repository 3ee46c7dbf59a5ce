//! A database that goes away and comes back.

use super::faults::Op;
use super::harness::Bench;
use crate::support::hand::{DOCS, task};

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
