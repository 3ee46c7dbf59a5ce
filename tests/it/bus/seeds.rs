//! Whatever call fails, before or after its effect, and whatever executors do:
//! every task ends once, and the invariants hold.

use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Blame, Problem};
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::harness::{Bench, Call, problem, soon};
use crate::support::hand::{DOCS, tasks};

const SEEDS: u64 = 50;
/// At once: most of a history is waiting for leases to expire.
const AT_ONCE: usize = 10;
const TASKS: usize = 12;
const FAILS: f64 = 0.1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_and_double_nothing() {
    let histories = futures::stream::iter(0..SEEDS).map(|seed| async move {
        let history = tokio::spawn(history(seed));
        history
            .await
            .unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
    });
    histories.buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn history(seed: u64) {
    let mut bench = Bench::new().await;
    bench.settings.lease = Duration::from_millis(500);
    bench.settings.poll = Duration::from_millis(50);
    bench.settings.retry.max_attempts = 5;
    bench.routes.deadline(Duration::from_millis(100));
    let ids = bench.submit_all(tasks(DOCS, TASKS)).await;
    bench.faults.random(seed, FAILS);
    let bus = bench.start();
    let mut random = StdRng::seed_from_u64(seed);
    let mut changed = bench.faults.watch();
    soon(async {
        let mut left = ids;
        while let Some(id) = left.last().copied() {
            if bench.row(id).await.status.is_terminal() {
                left.pop();
                continue;
            }
            tokio::select! {
                call = bench.any_call() => act(call.unwrap(), &mut random),
                _ = changed.changed() => {}
            }
        }
    })
    .await;
    bench.stop(&bus).await;
}

fn act(call: Call, random: &mut StdRng) {
    match random.random_range(0..20) {
        0..12 => call.done(),
        12..15 => call.retry("worker_error"),
        15 => call.end(AttemptEnd::Permanent(problem("no"))),
        16 => call.end(AttemptEnd::HostFault(Problem::new(
            "plugin_gone",
            "as told",
            Blame::Host,
        ))),
        17 | 18 => call.panic(),
        _ => drop(call.hang()),
    }
}
