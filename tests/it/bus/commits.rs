//! How many commits are under way at once, and what each of them settles.

use std::collections::HashMap;

use cogo_host::attempt::Fence;
use cogo_host::ids::MessageId;
use cogo_host::task::Status;

use super::faults::{Faults, Op, Side};
use super::harness::{Bench, served};
use crate::support::hand::{DOCS, tasks};

/// The most that one commit takes.
const FULL: usize = 256;

async fn end(bench: &mut Bench, attempts: usize) {
    for _ in 0..attempts {
        bench.call().await.done();
    }
}

/// Ends one attempt alone, whose commit stays open; its task.
async fn open_the_first(bench: &mut Bench) -> MessageId {
    let call = bench.call().await;
    let id = call.id();
    call.done();
    bench.when(|faults| faults.begun(Op::Settle) == 1).await;
    id
}

/// Waits until what has ended stands in line: the database has answered others
/// since, and one thread runs it all.
async fn stand_in_line(bench: &Bench) {
    let rounds = bench.faults.ended(Op::Expire) + 2;
    bench
        .when(|faults| faults.ended(Op::Expire) >= rounds)
        .await;
}

fn sizes(faults: &Faults) -> Vec<usize> {
    faults.settles().iter().map(Vec::len).collect()
}

/// How often each attempt was handed to the database.
fn times(faults: &Faults) -> HashMap<Fence, usize> {
    let mut times = HashMap::new();
    for fence in faults.settles().into_iter().flatten() {
        *times.entry(fence).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn only_a_full_batch_does_not_wait_for_the_commit_under_way() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 1 + FULL)).await;
    bench.faults.hold(Op::Settle, 1);
    let bus = bench.start();
    let first = open_the_first(&mut bench).await;
    end(&mut bench, FULL - 1).await;
    stand_in_line(&bench).await;
    assert_eq!(sizes(&bench.faults), [1], "it begins before it is full");
    end(&mut bench, 1).await;
    // While the first is still open, the second settles its own, and no more.
    bench.when(|faults| faults.commits() == [FULL]).await;
    assert_eq!(bench.row(first).await.status, Status::Claimed);
    assert_eq!(bench.bed.store.depth().await.unwrap().done, FULL as u64);
    stand_in_line(&bench).await;
    assert_eq!(bus.in_flight(), 1);
    bench.faults.let_go(Op::Settle, 1);
    assert_eq!(bench.ended(first).await.status, Status::Done);
    bench.stop(&bus).await;
    assert_eq!(sizes(&bench.faults), [1, FULL]);
    assert!(times(&bench.faults).values().all(|times| *times == 1));
}

#[tokio::test]
async fn two_commits_are_under_way_at_once_and_never_a_third() {
    const TASKS: usize = 1 + FULL + FULL;
    let mut bench = Bench::new().await;
    // So many may wait to be settled, and one batch more.
    bench.settings.concurrency = 200;
    bench.routes.serve(vec![served(DOCS, 200, "docs", 200)]);
    bench.submit_all(tasks(DOCS, TASKS)).await;
    bench.faults.block(Op::Settle, Side::Before);
    let bus = bench.start();
    open_the_first(&mut bench).await;
    end(&mut bench, FULL).await;
    bench.when(|faults| faults.begun(Op::Settle) == 2).await;
    end(&mut bench, FULL).await;
    stand_in_line(&bench).await;
    assert_eq!(sizes(&bench.faults), [1, FULL], "a third begins");
    assert_eq!(bus.in_flight(), TASKS);
    bench.faults.release(Op::Settle, Side::Before);
    bench.stop(&bus).await;
    assert_eq!(sizes(&bench.faults), [1, FULL, FULL]);
    let times = times(&bench.faults);
    assert_eq!(times.len(), TASKS);
    assert!(times.values().all(|times| *times == 1));
    assert_eq!(bench.bed.store.depth().await.unwrap().done, TASKS as u64);
}

#[tokio::test]
async fn a_commit_that_fails_is_tried_again_without_what_the_other_settled() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 1 + FULL)).await;
    bench.faults.hold(Op::Settle, 1);
    let bus = bench.start();
    let first = open_the_first(&mut bench).await;
    end(&mut bench, FULL).await;
    bench.when(|faults| faults.commits() == [FULL]).await;
    bench.faults.lock(first);
    bench.faults.let_go(Op::Settle, 1);
    bench.when(|faults| faults.begun(Op::Settle) >= 3).await;
    bench.faults.unlock();
    assert_eq!(bench.ended(first).await.attempts, 1);
    bench.stop(&bus).await;
    for (fence, times) in times(&bench.faults) {
        assert_eq!(times > 1, fence.id == first, "{}: {times} times", fence.id);
        assert_eq!(bench.attempts(fence.id).await.len(), 1);
    }
}
