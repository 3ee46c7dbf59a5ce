//! The breakers on the bus: what counts against a path, and who may change one.

use std::sync::Arc;
use std::time::Duration;

use cogo_host::attempt::{AttemptOutcome, AttemptRecord, Blame, Kind, Problem};
use cogo_host::breaker::{BreakerRow, Cause, Change, Evidence, RealPath, State, Timing};
use cogo_host::control;
use cogo_host::ids::MessageId;
use cogo_host::selection::Path;
use cogo_host::store::{BreakerMove, EventFilter};
use cogo_host::task::{Claim, Next, Refund};

use crate::support::bed::Bed;
use crate::support::hand::{self, BUILD_TEST, DOCS, Hand, key};

conformance!(
    a_bus_without_failures_has_no_evidence,
    failures_and_answers_of_the_real_path_are_counted,
    what_says_nothing_of_the_worker_does_not_count,
    what_fails_on_purpose_does_not_count,
    failed_connections_in_a_row_are_counted_from_two_tasks_on,
    an_answer_in_between_breaks_the_row,
    what_began_before_the_breaker_closed_is_history,
    a_breaker_goes_round_by_compare_and_set,
    of_many_hosts_one_opens_a_breaker,
    a_probe_is_kept_while_its_revision_stands,
    a_probe_that_is_given_back_costs_no_attempt,
);

const TIMING: Timing = Timing {
    probe_after: Duration::from_secs(5),
    probe_lease: Duration::from_secs(5),
};
const CAUSE: Cause = Cause::Unreachable {
    attempts: 5,
    tasks: 2,
};

fn path() -> RealPath {
    RealPath {
        plugin: "cogo-worker".parse().unwrap(),
        route: key(BUILD_TEST),
    }
}

/// Claims the task that is due and ends its attempt so; its id.
async fn end(bed: &Bed, next: Next, change: impl FnOnce(&mut AttemptRecord)) -> MessageId {
    let host = Hand::new();
    let claim = host.claim_one(&*bed.store, BUILD_TEST).await;
    settle(bed, &host, &claim, next, change).await;
    claim.id
}

async fn settle(
    bed: &Bed,
    host: &Hand,
    claim: &Claim,
    next: Next,
    change: impl FnOnce(&mut AttemptRecord),
) {
    let mut record = hand::record(claim, &next);
    change(&mut record);
    let settlement = hand::with_record(claim, next, record);
    bed.store.settle(&host.id, &[settlement]).await.unwrap();
}

fn again(code: &str, blame: Blame) -> Next {
    Next::Queued {
        delay: Duration::ZERO,
        refund: Refund::None,
        problem: Some(Problem::new(code, "as told", blame)),
    }
}

fn unreachable() -> Next {
    again("worker_unreachable", Blame::Worker)
}

/// A new task of which one attempt ends so.
async fn one(bed: &Bed, next: Next) -> MessageId {
    let mut task = hand::task(BUILD_TEST);
    task.priority = 9;
    bed.store.enqueue(&[task]).await.unwrap();
    end(bed, next, |_| {}).await
}

async fn what_fails_on_purpose_does_not_count(bed: &Bed) {
    for _ in 0..30 {
        let mut task = hand::task(BUILD_TEST);
        task.trace_id = cogo_host::ids::TraceId::generate_smoke();
        task.priority = 9;
        bed.store.enqueue(&[task]).await.unwrap();
        end(bed, hand::failed("worker_unreachable"), |_| {}).await;
    }
    assert_eq!(evidence(bed).await, None);
    one(bed, unreachable()).await;
    assert_eq!(evidence(bed).await.map(|met| met.failures), Some(1));
}

async fn evidence(bed: &Bed) -> Option<Evidence> {
    let mut all = bed.store.path_evidence().await.unwrap();
    assert!(all.len() <= 1, "{all:?}");
    let met = all.pop()?;
    assert_eq!(met.path, path());
    Some(met.evidence)
}

async fn breaker(bed: &Bed) -> BreakerRow {
    let mut all = bed.store.controls().await.unwrap().breakers;
    assert!(all.len() <= 1, "{all:?}");
    all.pop().unwrap_or(BreakerRow {
        path: path(),
        revision: 0,
        state: State::Closed,
    })
}

/// Makes a change of what the bus holds; whether nobody was faster.
async fn change(bed: &Bed, from: &BreakerRow, change: Change) -> bool {
    let to = from.state.clone().after(change, &TIMING, 0.0).unwrap();
    let change = BreakerMove {
        path: &from.path,
        revision: from.revision,
        to: &to,
        events: &[],
    };
    bed.store.move_breaker(&change).await.unwrap()
}

/// Lets the wait for the next probe be over.
async fn probe_is_due(bed: &Bed) {
    let by = Duration::from_secs(3600);
    bed.door
        .age("executor_breakers", "probe_at", by, "1 = 1")
        .await;
}

async fn a_bus_without_failures_has_no_evidence(bed: &Bed) {
    assert_eq!(evidence(bed).await, None);
    one(bed, hand::done()).await;
    assert_eq!(evidence(bed).await, None);
}

async fn failures_and_answers_of_the_real_path_are_counted(bed: &Bed) {
    for _ in 0..10 {
        one(bed, again("worker_error", Blame::Worker)).await;
    }
    for _ in 0..4 {
        one(bed, hand::done()).await;
    }
    // The worker is there, and says so.
    one(bed, hand::failed("worker_rejected")).await;
    one(bed, again("worker_busy", Blame::Worker)).await;
    let met = evidence(bed).await.unwrap();
    assert_eq!((met.failures, met.answers), (10, 6));
    // What is a minute old counts no more.
    let minute = Duration::from_secs(61);
    let which = "outcome = 'done'";
    bed.door
        .age("executor_attempts", "ended_at", minute, which)
        .await;
    let met = evidence(bed).await.unwrap();
    assert_eq!((met.failures, met.answers), (10, 2));
}

async fn what_says_nothing_of_the_worker_does_not_count(bed: &Bed) {
    one(bed, again("worker_error", Blame::Worker)).await;
    one(bed, again("plugin_trap", Blame::Guest)).await;
    one(bed, again("database", Blame::Host)).await;
    one(bed, hand::drained()).await;
    one(bed, hand::failed(cogo_host::task::CANCELLED)).await;
    let mut task = hand::task(BUILD_TEST);
    task.priority = 10;
    bed.store.enqueue(&[task]).await.unwrap();
    // The mock's failures are nobody's but its own.
    let mock = |record: &mut AttemptRecord| {
        record.plugin = Some(hand::plugin("mock", Kind::Mock));
        record.why.as_mut().unwrap().path = Path::Mock;
    };
    end(bed, again("worker_error", Blame::Worker), mock).await;
    let met = evidence(bed).await.unwrap();
    assert_eq!((met.failures, met.answers), (1, 0));
}

async fn failed_connections_in_a_row_are_counted_from_two_tasks_on(bed: &Bed) {
    let mut first = hand::task(BUILD_TEST);
    first.priority = 9;
    bed.store.enqueue(&[first]).await.unwrap();
    for _ in 0..6 {
        end(bed, unreachable(), |_| {}).await;
    }
    // One task alone may be to blame itself.
    let met = evidence(bed).await.unwrap();
    assert_eq!((met.failures, met.streak), (6, 0));
    let mut second = hand::task(BUILD_TEST);
    second.priority = 10;
    bed.store.enqueue(&[second]).await.unwrap();
    end(bed, unreachable(), |_| {}).await;
    let met = evidence(bed).await.unwrap();
    assert!(met.streak >= 5, "{met:?}");
    assert_eq!(met.streak_tasks, 2);
    assert!(cogo_host::breaker::trips(&met).is_some());
    // They may be minutes apart, though not for ever.
    let age = async |by| {
        bed.door
            .age("executor_attempts", "ended_at", by, "1 = 1")
            .await
    };
    age(Duration::from_secs(300)).await;
    let met = evidence(bed).await.unwrap();
    assert_eq!((met.failures, met.streak_tasks), (0, 2));
    age(Duration::from_secs(301)).await;
    assert_eq!(evidence(bed).await, None);
}

async fn an_answer_in_between_breaks_the_row(bed: &Bed) {
    for _ in 0..3 {
        one(bed, unreachable()).await;
    }
    one(bed, hand::done()).await;
    for _ in 0..4 {
        one(bed, unreachable()).await;
    }
    assert_eq!(evidence(bed).await.unwrap().streak, 0);
    one(bed, unreachable()).await;
    assert_eq!(evidence(bed).await.unwrap().streak, 5);
    // Another failure is no failed connection.
    one(bed, again("worker_error", Blame::Worker)).await;
    assert_eq!(evidence(bed).await.unwrap().streak, 0);
}

async fn what_began_before_the_breaker_closed_is_history(bed: &Bed) {
    for _ in 0..5 {
        one(bed, unreachable()).await;
    }
    let host = Hand::new();
    let mut late = hand::task(BUILD_TEST);
    late.priority = 10;
    bed.store.enqueue(&[late]).await.unwrap();
    let late = host.claim_one(&*bed.store, BUILD_TEST).await;

    assert!(change(bed, &breaker(bed).await, Change::Tripped(CAUSE)).await);
    // While it is open, nothing more is held against it.
    assert_eq!(evidence(bed).await, None);
    probe_is_due(bed).await;
    let holder = "h".to_owned();
    assert!(change(bed, &breaker(bed).await, Change::Taken { holder }).await);
    assert!(change(bed, &breaker(bed).await, Change::Answered).await);
    assert_eq!(breaker(bed).await.state, State::Closed);
    settle(bed, &host, &late, unreachable(), |_| {}).await;
    assert_eq!(evidence(bed).await, None);
    one(bed, unreachable()).await;
    assert_eq!(evidence(bed).await.unwrap().failures, 1);
}

async fn a_breaker_goes_round_by_compare_and_set(bed: &Bed) {
    let closed = breaker(bed).await;
    assert!(change(bed, &closed, Change::Tripped(CAUSE)).await);
    assert!(!change(bed, &closed, Change::Tripped(CAUSE)).await);
    let open = breaker(bed).await;
    assert_eq!(open.revision, 1);
    assert_eq!(open.state.outage().unwrap().cause, CAUSE);
    let State::Open { probe_in_ms, .. } = open.state else {
        panic!("{open:?}");
    };
    assert!((4_000..=5_000).contains(&probe_in_ms), "{probe_in_ms}");
    probe_is_due(bed).await;
    let due = breaker(bed).await;
    let holder = "host:1".to_owned();
    assert!(change(bed, &due, Change::Taken { holder }).await);
    let probing = breaker(bed).await;
    match &probing.state {
        State::Probing {
            holder, left_ms, ..
        } => {
            assert_eq!(holder, "host:1");
            assert!((4_000..=5_000).contains(left_ms), "{left_ms}");
        }
        other => panic!("{other:?}"),
    }
    assert!(change(bed, &probing, Change::Failed).await);
    assert!(!change(bed, &probing, Change::Answered).await);
    let again = breaker(bed).await;
    assert_eq!(again.state.outage().unwrap().failed_probes, 1);
    assert_eq!(again.revision, 3);
}

async fn of_many_hosts_one_opens_a_breaker(bed: &Bed) {
    let opened = control::breaker_opened(&path(), &CAUSE, "h", true);
    let attempts = (0..6).map(|_| {
        let (store, opened) = (Arc::clone(&bed.store), opened.clone());
        async move {
            let to = State::Closed
                .after(Change::Tripped(CAUSE), &TIMING, 0.0)
                .unwrap();
            let change = BreakerMove {
                path: &path(),
                revision: 0,
                to: &to,
                events: &opened,
            };
            store.move_breaker(&change).await.unwrap()
        }
    });
    let won = futures::future::join_all(attempts).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    for event_type in ["breaker_opened", "route_held"] {
        let filter = EventFilter {
            event_type: Some(event_type.to_owned()),
            limit: 10,
            ..EventFilter::default()
        };
        assert_eq!(bed.store.events(&filter).await.unwrap().len(), 1);
    }
}

async fn a_probe_is_kept_while_its_revision_stands(bed: &Bed) {
    assert!(change(bed, &breaker(bed).await, Change::Tripped(CAUSE)).await);
    probe_is_due(bed).await;
    let holder = "h".to_owned();
    assert!(change(bed, &breaker(bed).await, Change::Taken { holder }).await);
    let probing = breaker(bed).await;
    let long = Duration::from_secs(500);
    let keep = async || bed.store.keep_probe(&path(), probing.revision, long).await;
    assert!(keep().await.unwrap());
    match breaker(bed).await.state {
        State::Probing { left_ms, .. } => assert!(left_ms > 400_000, "{left_ms}"),
        other => panic!("{other:?}"),
    }
    assert!(change(bed, &probing, Change::Gone).await);
    assert!(!keep().await.unwrap());
}

async fn a_probe_that_is_given_back_costs_no_attempt(bed: &Bed) {
    let next = Next::Queued {
        delay: Duration::from_secs(60),
        refund: Refund::Probe,
        problem: Some(Problem::new("worker_unreachable", "as told", Blame::Worker)),
    };
    let id = one(bed, next).await;
    let row = bed.store.task(id).await.unwrap().unwrap();
    assert_eq!((row.attempts, row.host_faults), (0, 0));
    assert!(row.error.unwrap().starts_with("worker_unreachable: "));
    let attempts = bed.store.attempts(id).await.unwrap();
    assert_eq!(attempts[0].outcome, AttemptOutcome::Probe.as_str());
    // It was a probe: the breaker knows already.
    assert_eq!(evidence(bed).await, None);
    assert!(Hand::new().claim(&*bed.store, DOCS, 1).await.is_empty());
}
