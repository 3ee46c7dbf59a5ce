//! Routes that are held, and attempts that find out whether they still must be.

use std::time::Duration;

use cogo_host::breaker::{Probe, RealPath, Said};
use cogo_host::routing::EndedAttempt;
use cogo_host::task::Status;
use serde_json::json;

use super::harness::{Bench, served, soon};
use crate::support::hand::{self, DOCS, key};

#[tokio::test]
async fn a_task_of_a_held_route_still_runs_out_of_time() {
    let bench = Bench::new().await;
    bench.routes.hold();
    let bus = bench.start();
    let mut task = hand::task(DOCS);
    task.payload = json!({ "__assignment": { "ttl_ms": 1 } });
    let id = bench.submit(task).await;
    let row = bench.ended(id).await;
    assert_eq!(row.status, Status::Failed);
    assert!(row.error.unwrap().starts_with("ttl_exceeded: "));
    assert_eq!((row.attempts, row.lease_epoch), (0, 0));
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_probe_that_fails_is_given_back_and_told_of() {
    let mut bench = Bench::new().await;
    let stay_back = Some(Duration::from_secs(600));
    bench.routes.probe(Some(Probe { stay_back }));
    let bus = bench.start();
    let mut task = hand::task(DOCS);
    // Whatever attempt it would have been.
    task.max_attempts = Some(1);
    let id = bench.submit(task).await;
    bus.wake();
    bench.call().await.retry("worker_unreachable");
    let row = bench
        .until(id, |row| {
            row.status == Status::Queued && row.lease_epoch == 1
        })
        .await;
    assert_eq!((row.attempts, row.host_faults), (0, 0));
    let waits = row.retry_at.unwrap() - row.created_at;
    assert!(waits >= chrono::Duration::seconds(600), "{waits}");
    assert_eq!(bench.attempts(id).await[0].outcome, "probe");
    let again = bench.event(id, "execute_retry").await;
    assert_eq!(again.payload["outcome"], "probe");

    // The next task's probe comes through.
    let other = bench.submit(hand::task(DOCS)).await;
    bus.wake();
    bench.call().await.done();
    bench.ended(other).await;
    bench.stop(&bus).await;
    let path = || RealPath {
        plugin: "docs".parse().unwrap(),
        route: key(DOCS),
    };
    let told = |said| EndedAttempt {
        path: path(),
        probe: true,
        said,
    };
    let ended = bench.routes.ended_attempts();
    assert_eq!(ended, [told(Said::Failed), told(Said::Answered)]);
}

#[tokio::test]
async fn a_route_that_only_probes_claims_one_task_beside_what_still_runs() {
    let mut bench = Bench::new().await;
    let bus = bench.start();
    bench.submit_all(hand::tasks(DOCS, 4)).await;
    bus.wake();
    let running = bench.calls(4).await;
    // All places of the route are taken; the probe has one of its own.
    let mut only_probe = served(DOCS, 1, "probe", 4);
    only_probe.only_probe = true;
    bench.routes.serve(vec![only_probe]);
    let waiting = bench.submit_all(hand::tasks(DOCS, 3)).await;
    bus.wake();
    let probe = bench.call().await;
    assert!(waiting.contains(&probe.id()));
    assert_eq!(bench.claimed().await, 5);
    bench.routes.hold();
    probe.done();
    for call in running {
        call.done();
    }
    soon(async {
        while bus.in_flight() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    bench.stop(&bus).await;
}
