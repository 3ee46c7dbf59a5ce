//! What is claimed, when, and for whom.

use std::time::Duration;

use cogo_host::attempt::AttemptEnd;
use cogo_host::routing::Unassigned;
use cogo_host::task::Status;

use super::faults::{Op, Side};
use super::harness::{Bench, problem, served, soon};
use crate::support::hand::{DOCS, Hand, task, tasks};

const PAGES: &str = "docs/pages";

#[tokio::test]
async fn claims_are_sized_to_free_places() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 10)).await;
    let bus = bench.start();
    let mut running = bench.calls(4).await;
    assert_eq!(bench.claimed().await, 4);
    assert_eq!(bus.in_flight(), 4);
    for _ in 0..6 {
        let first = running.remove(0);
        let id = first.id();
        first.done();
        bench.ended(id).await;
        running.push(bench.call().await);
        assert_eq!(bench.claimed().await, 4);
    }
    for call in running {
        call.done();
    }
    bench.stop(&bus).await;
    for (limit, wants) in bench.faults.asked() {
        assert!(limit.min(wants[0].limit) <= 4, "{limit} {wants:?}");
    }
    assert_eq!(bench.bed.store.depth().await.unwrap().done, 10);
}

#[tokio::test]
async fn a_tenant_waits_for_one_turn_of_the_others_and_no_longer() {
    let mut bench = Bench::new().await;
    bench.routes.serve(vec![served(DOCS, 1, "docs", 1)]);
    let of = |tenant: &str, n: usize| {
        let mut new = tasks(DOCS, n);
        for task in &mut new {
            task.route.tenant = Some(tenant.to_owned());
        }
        new
    };
    bench.submit_all(of("flood", 60)).await;
    let bus = bench.start();
    let mut running = bench.call().await;
    for _ in 0..5 {
        // One that runs, and one of the flood that may have its turn first.
        let small = bench.submit_all(of("small", 1)).await[0];
        let mut turns = 0;
        while running.id() != small {
            turns += 1;
            running.done();
            running = bench.call().await;
        }
        assert!(turns <= 2, "the small tenant waited for {turns} others");
    }
    bus.drain();
    running.done();
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_wake_up_is_enough() {
    let mut bench = Bench::new().await;
    let bus = bench.start();
    bench.when(|faults| faults.ended(Op::NextDue) > 0).await;
    bench.submit(task(DOCS)).await;
    bus.wake();
    bench.call().await.done();
    bench.stop(&bus).await;
}

/// With one thread, what comes first is done first.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_attempt_begins_before_its_host_asks_for_more() {
    let mut bench = Bench::new().await;
    bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let call = bench.call().await;
    assert_eq!(call.claims, 1);
    call.done();
    bench.stop(&bus).await;
}

#[tokio::test]
async fn polling_is_enough() {
    let mut bench = Bench::new().await;
    bench.settings.poll = Duration::from_millis(20);
    let bus = bench.start();
    bench.when(|faults| faults.ended(Op::NextDue) > 0).await;
    bench.submit(task(DOCS)).await;
    bench.call().await.done();
    bench.stop(&bus).await;
}

/// With an hour between polls, every wake-up that is missed would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_comes_free_is_never_missed() {
    const TASKS: usize = 300;
    for (concurrency, plugin) in [(1, 4), (4, 1), (8, 3)] {
        let mut bench = Bench::new().await;
        bench.settings.concurrency = concurrency;
        let routes = vec![served(DOCS, 8, "docs", plugin)];
        bench.routes.serve(routes);
        bench.submit_all(tasks(DOCS, TASKS)).await;
        let bus = bench.start();
        for _ in 0..TASKS {
            bench.call().await.done();
        }
        bench.stop(&bus).await;
        assert_eq!(bench.bed.store.depth().await.unwrap().done, TASKS as u64);
    }
}

#[tokio::test]
async fn routes_that_share_a_plugin_share_its_places() {
    let mut bench = Bench::new().await;
    let routes = vec![served(DOCS, 4, "docs", 1), served(PAGES, 4, "docs", 1)];
    bench.routes.serve(routes);
    bench.submit_all(tasks(DOCS, 6)).await;
    bench.submit_all(tasks(PAGES, 6)).await;
    let bus = bench.start();
    let mut order = Vec::new();
    for _ in 0..12 {
        let call = bench.call().await;
        assert!(bench.call_now().is_none(), "two at once on one place");
        order.push(call.attempt.route.key.to_string());
        call.done();
    }
    let docs = order.iter().take(6).filter(|key| *key == DOCS).count();
    assert_eq!(docs, 3, "{order:?}");
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_route_without_tasks_keeps_no_place_from_its_neighbour() {
    let mut bench = Bench::new().await;
    let routes = vec![served(PAGES, 4, "docs", 2), served(DOCS, 4, "docs", 2)];
    bench.routes.serve(routes);
    bench.submit_all(tasks(DOCS, 2)).await;
    let bus = bench.start();
    let running = bench.calls(2).await;
    assert_eq!(bench.faults.begun(Op::Claim), 1);
    for call in running {
        call.done();
    }
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_full_route_neither_spins_nor_holds_up_the_others() {
    let mut bench = Bench::new().await;
    let routes = vec![served(DOCS, 1, "docs", 4), served(PAGES, 1, "pages", 4)];
    bench.routes.serve(routes);
    bench.submit_all(tasks(DOCS, 2)).await;
    let bus = bench.start();
    let first = bench.call().await;
    // Two rounds of housekeeping are time enough to spin in.
    let rounds = bench.faults.ended(Op::Expire) + 2;
    bench
        .when(|faults| faults.ended(Op::Expire) >= rounds)
        .await;
    let looks = bench.faults.begun(Op::Claim) + bench.faults.begun(Op::NextDue);
    assert!(looks < 20, "{looks} looks at a bus without work to do");
    bench.submit(task(PAGES)).await;
    bus.wake();
    let page = bench.call().await;
    assert_eq!(page.attempt.route.key.to_string(), PAGES);
    page.done();
    first.done();
    bench.call().await.done();
    bench.stop(&bus).await;
}

#[tokio::test]
async fn places_follow_the_configuration_down_and_up() {
    let mut bench = Bench::new().await;
    bench.submit_all(tasks(DOCS, 12)).await;
    let bus = bench.start();
    let mut running = bench.calls(4).await;
    bench.routes.serve(vec![served(DOCS, 2, "docs", 4)]);
    for _ in 0..2 {
        let first = running.remove(0);
        let id = first.id();
        first.done();
        bench.ended(id).await;
    }
    // Only the third that ends makes room.
    assert!(bench.call_now().is_none());
    running.remove(0).done();
    running.push(bench.call().await);
    assert_eq!(running.len(), 2);
    assert!(bench.call_now().is_none());
    bench.routes.serve(vec![served(DOCS, 4, "docs", 4)]);
    bus.wake();
    running.extend(bench.calls(2).await);
    assert!(bench.call_now().is_none());
    for call in running {
        call.done();
    }
    for _ in 0..5 {
        bench.call().await.done();
    }
    bench.stop(&bus).await;
    assert_eq!(bench.bed.store.depth().await.unwrap().done, 12);
}

#[tokio::test]
async fn a_route_that_comes_to_be_held_gives_its_claims_back() {
    let mut bench = Bench::new().await;
    let held = Unassigned::Held("the real path is down".to_owned());
    bench.routes.assign_nothing(Some(held));
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    let row = bench.until(id, |row| {
        row.lease_epoch == 1 && row.status == Status::Queued
    });
    let row = row.await;
    assert_eq!((row.attempts, row.error), (0, None));
    let event = bench.event(id, "execute_retry").await;
    assert_eq!(event.payload["code"], "route_held");
    assert_eq!(event.reason.as_deref(), Some("the route is held"));
    bench.routes.assign_nothing(None);
    let call = bench.call().await;
    assert_eq!(call.attempt.number, 1);
    call.done();
    bench.ended(id).await;
    bench.stop(&bus).await;
}

#[tokio::test]
async fn rows_of_unknown_routes_stay_untouched() {
    let mut bench = Bench::new().await;
    bench.bed.watch.unknown("other/work");
    let foreign = bench.bed.foreign("other/work", "no JSON at all").await;
    let ours = bench.submit(task("other/work")).await;
    let known = bench.submit(task(DOCS)).await;
    bench.bed.check().await;
    let bus = bench.start();
    bench.call().await.done();
    bench.ended(known).await;
    let rounds = bench.faults.ended(Op::Expire) + 1;
    bench
        .when(|faults| faults.ended(Op::Expire) >= rounds)
        .await;
    assert_eq!(bench.row(foreign).await.attempts, 0);
    assert_eq!(bench.event_types(ours).await, ["execute_enqueued"]);
    assert!(bench.event_types(foreign).await.is_empty());
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_foreign_row_is_adopted_at_its_first_claim() {
    let mut bench = Bench::new().await;
    let id = bench.bed.foreign(DOCS, r#"{"task_id":"theirs"}"#).await;
    let bus = bench.start();
    let call = bench.call().await;
    assert_eq!(call.attempt.task_id, "theirs");
    let trace_id = call.attempt.trace_id.to_string();
    call.retry("worker_error");
    bench.call().await.done();
    let row = bench.ended(id).await;
    assert_eq!(row.trace_id.as_ref(), Some(&trace_id));
    let events = bench.events(id).await;
    let types: Vec<&str> = events.iter().map(|e| &*e.event_type).collect();
    let expected = [
        "execute_enqueued",
        "execute_retry",
        "docs_render_retry",
        "execute_done",
        "docs_render_done",
    ];
    assert_eq!(types, expected);
    assert!(
        events
            .iter()
            .all(|e| e.trace_id.as_ref() == Some(&trace_id))
    );
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_claim_that_comes_too_late_is_given_back() {
    let mut bench = Bench::new().await;
    bench.settings.lease = Duration::from_secs(4);
    let id = bench.submit(task(DOCS)).await;
    bench.faults.block(Op::Claim, Side::After);
    let bus = bench.start();
    bench.until(id, |row| row.status == Status::Claimed).await;
    bench.when(|faults| faults.begun(Op::Claim) >= 2).await;
    bench.faults.release(Op::Claim, Side::After);
    let call = bench.call().await;
    // Nobody ran it yet, and the delay was no crash.
    assert_eq!((call.attempt.number, call.attempt.fence.epoch.0), (1, 2));
    call.done();
    let row = bench.ended(id).await;
    assert_eq!((row.attempts, row.host_faults), (1, 1));
    let event = bench.event(id, "execute_retry").await;
    assert_eq!(event.payload["code"], "claim_late");
    bench.stop(&bus).await;
}

#[tokio::test]
async fn a_claimer_that_panics_starts_again() {
    let mut bench = Bench::new().await;
    bench.faults.panic_at(Op::NextDue);
    let bus = bench.start();
    bench.when(|faults| faults.begun(Op::NextDue) == 1).await;
    let id = bench.submit(task(DOCS)).await;
    bench.call().await.done();
    bench.ended(id).await;
    bench.stop(&bus).await;
}

#[tokio::test]
async fn until_idle_waits_for_retries() {
    let mut bench = Bench::new().await;
    bench.settings.until_idle = true;
    bench.settings.retry.base = Duration::from_millis(200);
    bench.settings.retry.cap = Duration::from_millis(200);
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    for _ in 0..2 {
        bench.call().await.end(AttemptEnd::Retryable {
            problem: problem("worker_error"),
            after: Some(Duration::from_millis(200)),
        });
    }
    bench.call().await.done();
    soon(bus.finished()).await;
    assert_eq!(bench.row(id).await.status, Status::Done);
    bench.bed.check().await;
}

#[tokio::test]
async fn until_idle_takes_back_what_a_dead_host_left() {
    let mut bench = Bench::new().await;
    bench.settings.until_idle = true;
    let id = bench.submit(task(DOCS)).await;
    Hand::new().claim_one(&*bench.bed.store, DOCS).await;
    bench.bed.end_lease(id).await;
    let bus = bench.start();
    bench.call().await.done();
    soon(bus.finished()).await;
    assert_eq!(bench.row(id).await.status, Status::Done);
    bench.bed.check().await;
}

#[tokio::test]
async fn until_idle_ends_where_every_route_is_held() {
    let mut bench = Bench::new().await;
    bench.settings.until_idle = true;
    bench.routes.serve(Vec::new());
    let id = bench.submit(task(DOCS)).await;
    let bus = bench.start();
    soon(bus.finished()).await;
    assert_eq!(bench.row(id).await.status, Status::Queued);
}
