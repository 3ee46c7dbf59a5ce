//! Shadows on the bus: who orders and ends one, what their runs came to, and that
//! no task notices.

use std::collections::BTreeMap;
use std::time::Duration;

use cogo_host::attempt::{Kind as PluginKind, SideEffects};
use cogo_host::control::{Decider, Decision};
use cogo_host::ids::{Digest, MessageId, ShadowId, TraceId};
use cogo_host::rollout::interval::Part;
use cogo_host::rollout::{Change, Share};
use cogo_host::route::Route;
use cogo_host::shadow::difference::{End, Found, Kind, Seen, compare};
use cogo_host::shadow::verdict::Tally;
use cogo_host::shadow::{ShadowRow, ShadowRun};
use cogo_host::store::{
    EndedShadow, EventFilter, NewRollout, NewShadow, Retention, RolloutMove, ShadowRunFilter,
    StartedRollout, StartedShadow,
};

use crate::support::bed::Bed;
use crate::support::hand::{self, BUILD_TEST, DOCS, Hand, key, plugin};

conformance!(
    a_shadow_is_ordered_and_ended,
    one_shadow_at_a_time_watches_a_route,
    a_run_is_written_once_with_its_difference,
    runs_are_tallied,
    of_a_task_that_is_gone_nothing_is_kept,
    a_run_goes_with_its_task,
    what_was_dropped_is_counted,
    a_rollout_knows_what_the_shadow_of_its_candidate_found,
);

fn new(route: &str) -> NewShadow {
    NewShadow {
        route: key(route),
        plugin: "cogo-worker".parse().unwrap(),
        candidate: Digest::of(b"new"),
        share: Share::try_from(50).unwrap(),
        side_effects: SideEffects::Refuse,
        by: Decider::Named("anna".to_owned()),
        reason: Some("a look at it".parse().unwrap()),
    }
}

async fn started(bed: &Bed) -> ShadowRow {
    match bed.store.start_shadow(&new(BUILD_TEST)).await.unwrap() {
        StartedShadow::Now(row) => row,
        StartedShadow::Busy(row) => panic!("{row:?}"),
    }
}

fn decision() -> Decision {
    Decision {
        by: Decider::Named("ben".to_owned()),
        reason: Some("seen enough".parse().unwrap()),
    }
}

fn seen(passed: bool, failures: i64, run_ms: u64) -> Seen {
    Seen {
        end: End::Done(Found {
            report: "build-test".to_owned(),
            passed: Some(passed),
            counts: BTreeMap::from([("failures".to_owned(), failures)]),
            content: None,
            snippet: "nul \0 and ümlaut".to_owned(),
        }),
        run_ms,
    }
}

fn failed() -> Seen {
    Seen {
        end: End::Failed {
            code: "plugin_trap".to_owned(),
            message: "m".to_owned(),
            retryable: true,
        },
        run_ms: 5,
    }
}

fn nothing() -> Seen {
    Seen {
        end: End::Nothing {
            code: "effects_refused".to_owned(),
            message: "m".to_owned(),
        },
        run_ms: 5,
    }
}

fn run(shadow: &ShadowId, task: &Ended, stable: Seen, candidate: Seen) -> ShadowRun {
    ShadowRun {
        shadow: shadow.clone(),
        message_id: task.id,
        route: Route {
            shard: 3,
            tenant: Some("acme".to_owned()),
            ..Route::of(key(BUILD_TEST))
        },
        trace_id: task.trace_id.clone(),
        host: "h:1".to_owned(),
        side_effects: SideEffects::Refuse,
        candidate: cogo_host::attempt::PluginVersion {
            digest: Digest::of(b"new"),
            ..plugin("cogo-worker", PluginKind::Real)
        },
        stable: plugin("cogo-worker", PluginKind::Real),
        comparison: compare(&stable, &candidate),
        candidate_seen: candidate,
        stable_seen: stable,
    }
}

/// A task that has ended.
struct Ended {
    id: MessageId,
    trace_id: TraceId,
}

async fn ended(bed: &Bed) -> Ended {
    bed.store.enqueue(&[hand::task(BUILD_TEST)]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, BUILD_TEST).await;
    hand.settle(&*bed.store, &claim, hand::done()).await;
    Ended {
        id: claim.id,
        trace_id: claim.trace_id,
    }
}

async fn of_task(bed: &Bed, task: &Ended) -> Vec<ShadowRun> {
    let filter = ShadowRunFilter {
        task: Some(task.id),
        limit: 10,
        ..ShadowRunFilter::default()
    };
    let rows = bed.store.shadow_runs(&filter).await.unwrap();
    rows.into_iter().map(|row| row.run).collect()
}

async fn told(bed: &Bed, trace: &TraceId) -> Vec<cogo_host::event::Event> {
    let filter = EventFilter {
        trace_id: Some(trace.to_string()),
        limit: 100,
        ..EventFilter::default()
    };
    let mut events = bed.store.events(&filter).await.unwrap();
    events.retain(|event| event.event_type.starts_with("shadow_"));
    events
}

async fn a_shadow_is_ordered_and_ended(bed: &Bed) {
    assert!(bed.store.shadows(10).await.unwrap().is_empty());
    let row = started(bed).await;
    assert_eq!(row.share.percent(), 50);
    assert_eq!(row.started_by, "anna");
    let known = bed.store.controls().await.unwrap();
    assert!(known.unreadable.is_empty(), "{:?}", known.unreadable);
    assert_eq!(known.shadows, std::slice::from_ref(&row));
    assert_eq!(
        bed.store.shadow(&row.id).await.unwrap().as_ref(),
        Some(&row)
    );

    let EndedShadow::Now(over) = bed.store.end_shadow(&row.id, &decision()).await.unwrap() else {
        panic!("it was under way");
    };
    assert_eq!(over.ended_by.as_deref(), Some("ben"));
    let again = bed.store.end_shadow(&row.id, &decision()).await.unwrap();
    assert_eq!(again, EndedShadow::Over(over));
    let other = "sh-none".parse().unwrap();
    let unknown = bed.store.end_shadow(&other, &decision()).await.unwrap();
    assert_eq!(unknown, EndedShadow::Unknown);
    assert!(bed.store.controls().await.unwrap().shadows.is_empty());
    let events = told(bed, &row.trace_id).await;
    let events: Vec<_> = events
        .iter()
        .map(|e| {
            (
                e.event_type.as_str(),
                &e.payload["actor"],
                e.reason.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        events,
        [
            ("shadow_started", &"anna".into(), Some("a look at it")),
            ("shadow_ended", &"ben".into(), Some("seen enough")),
        ]
    );
}

async fn one_shadow_at_a_time_watches_a_route(bed: &Bed) {
    let row = started(bed).await;
    let again = bed.store.start_shadow(&new(BUILD_TEST)).await.unwrap();
    assert_eq!(again, StartedShadow::Busy(row.clone()));
    let other = bed.store.start_shadow(&new(DOCS)).await.unwrap();
    assert!(matches!(other, StartedShadow::Now(_)));
    bed.store.end_shadow(&row.id, &decision()).await.unwrap();
    assert_ne!(started(bed).await.id, row.id);
    assert_eq!(bed.store.shadows(2).await.unwrap().len(), 2);
}

async fn a_run_is_written_once_with_its_difference(bed: &Bed) {
    let row = started(bed).await;
    let task = ended(bed).await;
    let before = bed.store.task(task.id).await.unwrap();
    let attempts = bed.store.attempts(task.id).await.unwrap().len();
    let differs = run(&row.id, &task, seen(true, 0, 10), seen(false, 2, 11));
    assert!(bed.store.record_shadow(&differs).await.unwrap());
    assert!(!bed.store.record_shadow(&differs).await.unwrap());
    // Of another shadow, the same task is another run.
    let compare = ShadowId::compare();
    let alike = run(&compare, &task, seen(true, 0, 10), seen(true, 0, 9));
    assert!(bed.store.record_shadow(&alike).await.unwrap());

    let runs = of_task(bed, &task).await;
    assert_eq!(runs.len(), 2);
    let found = runs.iter().find(|run| run.shadow == row.id).unwrap();
    assert_eq!(found.comparison, differs.comparison);
    assert_eq!((found.route.shard, &found.host), (3, &differs.host));
    assert_eq!(found.candidate, differs.candidate);
    let events = told(bed, &differs.trace_id).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(event.event_type, "shadow_difference");
    assert_eq!((event.message_id, event.shard), (Some(task.id), Some(3)));
    let reason = event.reason.as_deref().unwrap();
    assert_eq!(reason, "verdict: passed → failed; counts: failures 0 → 2");
    assert_eq!(event.payload["shadow"], row.id.as_str());
    // The task and its attempts are as they were.
    let after = bed.store.task(task.id).await.unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(bed.store.attempts(task.id).await.unwrap().len(), attempts);
}

async fn runs_are_tallied(bed: &Bed) {
    let id = started(bed).await.id;
    let empty = bed.store.shadow_tally(&id, None).await.unwrap();
    assert_eq!(empty, Tally::default());
    for (stable, candidate) in [
        (seen(true, 0, 10), seen(true, 0, 20)),
        (seen(true, 0, 20), seen(true, 0, 500)),
        (seen(true, 0, 30), seen(false, 1, 30)),
        (seen(true, 0, 40), failed()),
        (seen(true, 0, 40), nothing()),
        (failed(), failed()),
    ] {
        let task = ended(bed).await;
        let run = run(&id, &task, stable, candidate);
        assert!(bed.store.record_shadow(&run).await.unwrap());
    }
    let route = key(BUILD_TEST);
    let tally = bed.store.shadow_tally(&id, Some(&route)).await.unwrap();
    let expected = Tally {
        runs: 6,
        compared: 5,
        agreed: 3,
        differences: BTreeMap::from([
            (Kind::Outcome, 1),
            (Kind::Verdict, 1),
            (Kind::Counts, 1),
            (Kind::Duration, 1),
        ]),
        timed: 3,
        p50_ms: Some(30),
        p90_ms: Some(500),
        stable_p50_ms: Some(20),
        stable_p90_ms: Some(30),
    };
    assert_eq!(tally, expected);
    assert_eq!(bed.store.shadow_tally(&id, None).await.unwrap(), expected);
    let other = bed.store.shadow_tally(&id, Some(&key(DOCS))).await.unwrap();
    assert_eq!(other, Tally::default());

    let sample = async |differing, limit| {
        let filter = ShadowRunFilter {
            shadow: Some(id.clone()),
            differing,
            limit,
            ..ShadowRunFilter::default()
        };
        bed.store.shadow_runs(&filter).await.unwrap().len()
    };
    assert_eq!((sample(false, 10).await, sample(false, 4).await), (6, 4));
    assert_eq!(sample(true, 10).await, 2);
}

async fn of_a_task_that_is_gone_nothing_is_kept(bed: &Bed) {
    let id = started(bed).await.id;
    let gone = Ended {
        id: MessageId::generate(),
        trace_id: TraceId::generate(),
    };
    let late = run(&id, &gone, seen(true, 0, 1), seen(false, 1, 1));
    assert!(!bed.store.record_shadow(&late).await.unwrap());
    assert!(told(bed, &late.trace_id).await.is_empty());
    assert_eq!(bed.store.shadow_tally(&id, None).await.unwrap().runs, 0);
}

async fn a_run_goes_with_its_task(bed: &Bed) {
    let id = started(bed).await.id;
    let (old, new) = (ended(bed).await, ended(bed).await);
    for task in [&old, &new] {
        let run = run(&id, task, seen(true, 0, 1), seen(true, 0, 1));
        assert!(bed.store.record_shadow(&run).await.unwrap());
    }
    bed.age_task(old.id, "done_at", Duration::from_secs(3 * 24 * 3600))
        .await;
    let retention = Retention {
        tasks: Some(Duration::from_secs(24 * 3600)),
        events: None,
        batch: 100,
    };
    // The row, its attempt and its run.
    assert_eq!(bed.store.retire(&retention).await.unwrap(), 3);
    bed.watch.retired(old.id);
    assert!(of_task(bed, &old).await.is_empty());
    assert_eq!(of_task(bed, &new).await.len(), 1);
}

async fn what_was_dropped_is_counted(bed: &Bed) {
    let id = started(bed).await.id;
    let counts = [(id.clone(), 3), (ShadowId::compare(), 5)];
    bed.store.count_dropped(&counts).await.unwrap();
    bed.store.count_dropped(&counts).await.unwrap();
    let row = bed.store.shadow(&id).await.unwrap().unwrap();
    assert_eq!(row.dropped, 6);
}

async fn a_rollout_knows_what_the_shadow_of_its_candidate_found(bed: &Bed) {
    let id = started(bed).await.id;
    for candidate in [seen(true, 0, 1), seen(false, 1, 1), nothing()] {
        let task = ended(bed).await;
        for shadow in [&id, &ShadowId::compare()] {
            let run = run(shadow, &task, seen(true, 0, 1), candidate.clone());
            assert!(bed.store.record_shadow(&run).await.unwrap());
        }
    }
    let agreed = async |route: &str, name: &str, candidate: &[u8]| {
        let new = NewRollout {
            route: key(route),
            plugin: name.parse().unwrap(),
            candidate: Digest::of(candidate),
            stable: None,
            steps: "50".parse().unwrap(),
            interval: Duration::from_secs(600),
            by: Decider::Named("anna".to_owned()),
            reason: None,
        };
        let StartedRollout::Now(row) = bed.store.start_rollout(&new).await.unwrap() else {
            panic!("another rollout is under way");
        };
        let wanted = RolloutMove {
            row: &row,
            change: &Change::HostsReady,
            decision: &decision(),
            report: None,
        };
        let row = bed.store.move_rollout(&wanted).await.unwrap().unwrap();
        let evidence = bed.store.rollout_evidence(&row, 1_000).await.unwrap();
        evidence.shadow
    };
    let found = agreed(BUILD_TEST, "cogo-worker", b"new").await;
    assert_eq!(found, Part { part: 1, whole: 2 });
    let other = agreed(DOCS, "render", b"new").await;
    assert_eq!(other, Part::default());
}
