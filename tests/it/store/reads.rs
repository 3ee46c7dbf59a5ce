//! What people, gates and other hosts read.

use std::time::Duration;

use cogo_host::attempt::Kind;
use cogo_host::event::NewEvent;
use cogo_host::gate::{Ended, How, Scope};
use cogo_host::ids::{Digest, HolderId, TraceId};
use cogo_host::stage::Stage;
use cogo_host::store::{EventFilter, HostBeat, Order, TaskFilter};
use cogo_host::task::{NewTask, Next, Status};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{
    BUILD_TEST, DOCS, Hand, done, failed, key, plugin, record, retry, task, tasks, with_record,
};

conformance!(
    tasks_are_listed_newest_first_by_filter,
    tasks_are_found_alike_in_every_state,
    events_are_listed_by_filter_and_followed_by_id,
    latency_is_by_nearest_rank_within_route_and_time,
    depth_counts_each_status_and_the_oldest_due,
    what_waits_is_told_by_route,
    evidence_of_a_trace_groups_what_ended_alike,
    evidence_of_a_window_is_what_ended_in_it,
    smoke_tests_speak_of_their_own_trace_alone,
    evidence_tells_when_a_choice_did_not_hold,
    hosts_show_themselves_until_they_leave,
);

async fn tasks_are_listed_newest_first_by_filter(bed: &Bed) {
    let mut new = tasks(DOCS, 3);
    new.push(task(BUILD_TEST));
    new[1].task_id = Some("other".to_owned());
    bed.store.enqueue(&new).await.unwrap();
    for (i, task) in (1_u32..).zip(&new) {
        bed.age_task(task.id, "created_at", Duration::from_secs(10) * i)
            .await;
    }
    let list = async |filter: TaskFilter| {
        let rows = bed.store.tasks(&filter).await.unwrap();
        assert!(rows.iter().all(|row| row.payload.is_none()));
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    let ids: Vec<_> = new.iter().map(|t| t.id).collect();
    assert_eq!(list(all.clone()).await, ids);
    let two = TaskFilter {
        limit: 2,
        ..all.clone()
    };
    assert_eq!(list(two).await, ids[..2]);
    let route = TaskFilter {
        route: Some(key(BUILD_TEST)),
        ..all.clone()
    };
    assert_eq!(list(route).await, ids[3..]);
    let label = TaskFilter {
        task_id: Some("other".to_owned()),
        ..all.clone()
    };
    assert_eq!(list(label).await, ids[1..2]);
    let trace = TaskFilter {
        trace_id: Some(new[2].trace_id.clone()),
        ..all.clone()
    };
    assert_eq!(list(trace).await, ids[2..3]);
    let status = TaskFilter {
        status: Some(Status::Done),
        ..all
    };
    assert!(list(status).await.is_empty());
}

async fn tasks_are_found_alike_in_every_state(bed: &Bed) {
    let trace = TraceId::generate();
    let mut new = tasks(DOCS, 5);
    for task in &mut new {
        task.trace_id = trace.clone();
        task.task_id = Some("T-1".to_owned());
    }
    bed.store.enqueue(&new).await.unwrap();
    for (i, task) in (1_u32..).zip(&new) {
        bed.age_task(task.id, "created_at", Duration::from_secs(10) * i)
            .await;
    }
    // The oldest first: one ends, one fails, one stays claimed, and a foreign
    // worker takes the next; the newest waits.
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, DOCS, 3).await;
    hand.end(&*bed.store, &claims[0], done()).await;
    hand.end(&*bed.store, &claims[1], failed("plugin.trap"))
        .await;
    bed.steal(new[1].id).await;
    let list = async |filter: TaskFilter| {
        let rows = bed.store.tasks(&filter).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    let by_trace = TaskFilter {
        trace_id: Some(trace),
        ..all.clone()
    };
    let by_label = TaskFilter {
        task_id: Some("T-1".to_owned()),
        ..all.clone()
    };
    let ids: Vec<_> = new.iter().map(|t| t.id).collect();
    for filter in [&all, &by_trace, &by_label] {
        assert_eq!(list(filter.clone()).await, ids);
        let fewer = TaskFilter {
            limit: 3,
            ..filter.clone()
        };
        assert_eq!(list(fewer).await, ids[..3]);
        for (status, found) in [
            (Status::Queued, &ids[..1]),
            (Status::Claimed, &ids[1..3]),
            (Status::Failed, &ids[3..4]),
            (Status::Done, &ids[4..]),
        ] {
            let status = TaskFilter {
                status: Some(status),
                ..filter.clone()
            };
            assert_eq!(list(status).await, found);
        }
    }
}

fn event(event_type: &str, trace: &TraceId) -> NewEvent {
    NewEvent {
        event_type: event_type.to_owned().into(),
        message_id: None,
        route: None,
        trace_id: trace.clone(),
        reason: Some("why 'not'".to_owned()),
        payload: json!({ "a": [1, null] }).into(),
    }
}

async fn events_are_listed_by_filter_and_followed_by_id(bed: &Bed) {
    let [one, two] = [TraceId::generate(), TraceId::generate()];
    let new = [event("x", &one), event("y", &one), event("x", &two)];
    bed.store.record(&new).await.unwrap();
    let all = EventFilter {
        limit: 10,
        ..EventFilter::default()
    };
    let events = bed.store.events(&all).await.unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].payload, json!({ "a": [1, null] }));
    assert_eq!(events[0].reason.as_deref(), Some("why 'not'"));
    assert_eq!(events[0].message_id, None);
    let list = async |filter: EventFilter| {
        let events = bed.store.events(&filter).await.unwrap();
        events.into_iter().map(|e| e.id).collect::<Vec<_>>()
    };
    let ids: Vec<_> = events.iter().map(|e| e.id).collect();
    let trace = EventFilter {
        trace_id: Some(one.to_string()),
        ..all.clone()
    };
    assert_eq!(list(trace).await, ids[..2]);
    let kind = EventFilter {
        event_type: Some("x".to_owned()),
        ..all.clone()
    };
    assert_eq!(list(kind).await, [ids[0], ids[2]]);
    let after = EventFilter {
        after_id: Some(ids[0]),
        ..all.clone()
    };
    assert_eq!(list(after).await, ids[1..]);
    let newest = EventFilter {
        order: Order::NewestFirst,
        limit: 2,
        ..all.clone()
    };
    assert_eq!(list(newest).await, [ids[2], ids[1]]);
    let which = format!("id = {}", ids[0]);
    let hour = Duration::from_secs(3600);
    bed.door.age("bus_events", "created_at", hour, &which).await;
    let since = EventFilter {
        since: Some(Duration::from_secs(60)),
        ..all
    };
    assert_eq!(list(since).await, ids[1..]);
}

/// Ends tasks of a route with these waits.
async fn end_with_waits(bed: &Bed, route: &str, waits: impl Iterator<Item = u64>) {
    let hand = Hand::new();
    let waits: Vec<u64> = waits.collect();
    bed.store.enqueue(&tasks(route, waits.len())).await.unwrap();
    let claims = hand.claim(&*bed.store, route, 1000).await;
    let ends: Vec<_> = claims
        .iter()
        .zip(waits)
        .map(|(claim, wait_ms)| {
            let mut attempt = record(claim, &done());
            attempt.wait_ms = wait_ms;
            with_record(claim, done(), attempt)
        })
        .collect();
    bed.store.settle(&hand.id, &ends).await.unwrap();
}

async fn latency_is_by_nearest_rank_within_route_and_time(bed: &Bed) {
    let hour = Duration::from_secs(3600);
    let none = bed.store.latency(None, None, hour).await.unwrap();
    assert_eq!((none.p50_ms, none.p90_ms, none.n), (None, None, 0));
    end_with_waits(bed, DOCS, (1..=10).rev()).await;
    end_with_waits(bed, BUILD_TEST, [1000].into_iter()).await;
    let docs = bed
        .store
        .latency(Some("docs"), Some("render"), hour)
        .await
        .unwrap();
    assert_eq!((docs.p50_ms, docs.p90_ms, docs.n), (Some(5), Some(9), 10));
    let all = bed.store.latency(None, None, hour).await.unwrap();
    assert_eq!((all.p50_ms, all.p90_ms, all.n), (Some(6), Some(10), 11));
    let which = "wait_ms < 1000";
    bed.door
        .age("executor_attempts", "ended_at", hour * 2, which)
        .await;
    let young = bed.store.latency(None, None, hour).await.unwrap();
    assert_eq!((young.p50_ms, young.n), (Some(1000), 1));
    // `ended_at` was moved: what follows from it is no longer so.
    bed.door
        .age("executor_attempts", "ended_at", Duration::ZERO, which)
        .await;
}

async fn depth_counts_each_status_and_the_oldest_due(bed: &Bed) {
    assert_eq!(bed.store.depth().await.unwrap(), Default::default());
    let new = tasks(DOCS, 6);
    bed.store.enqueue(&new).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, DOCS, 4).await;
    hand.end(&*bed.store, &claims[0], done()).await;
    hand.end(&*bed.store, &claims[1], failed("no")).await;
    hand.end(&*bed.store, &claims[2], retry(Duration::from_secs(500)))
        .await;
    bed.age_task(new[5].id, "created_at", Duration::from_secs(10))
        .await;
    let depth = bed.store.depth().await.unwrap();
    assert_eq!((depth.queued, depth.claimed), (3, 1));
    assert_eq!((depth.done, depth.failed), (1, 1));
    let oldest = depth.oldest_due_ms.unwrap();
    assert!((10_000..60_000).contains(&oldest), "{oldest}");
}

async fn what_waits_is_told_by_route(bed: &Bed) {
    assert_eq!(bed.store.waiting().await.unwrap(), []);
    let new = tasks(DOCS, 3);
    bed.store.enqueue(&new).await.unwrap();
    bed.age_task(new[2].id, "created_at", Duration::from_secs(10))
        .await;
    let mut later = tasks(BUILD_TEST, 2);
    for task in &mut later {
        task.delay = Duration::from_secs(500);
    }
    bed.store.enqueue(&later).await.unwrap();
    Hand::new().claim(&*bed.store, DOCS, 1).await;
    let waiting = bed.store.waiting().await.unwrap();
    let seen: Vec<_> = waiting
        .iter()
        .map(|one| {
            (
                one.route.to_string(),
                one.queued,
                one.oldest_due_ms.is_some(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (BUILD_TEST.to_owned(), 2, false),
            (DOCS.to_owned(), 2, true)
        ]
    );
}

fn in_trace(trace: &TraceId, route: &str) -> NewTask {
    NewTask {
        trace_id: trace.clone(),
        ..task(route)
    }
}

fn ended(route: &str, how: How) -> Ended {
    Ended {
        route: key(route),
        how,
        kind: Some(Kind::Real),
        fallback: false,
        held: how == How::Done,
        passed: None,
        tasks: 1,
    }
}

async fn evidence_of_a_trace_groups_what_ended_alike(bed: &Bed) {
    let trace = TraceId::generate();
    let mut new: Vec<_> = (0..4).map(|_| in_trace(&trace, BUILD_TEST)).collect();
    new.extend([in_trace(&trace, DOCS), in_trace(&trace, DOCS), task(DOCS)]);
    bed.store.enqueue(&new).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, BUILD_TEST, 9).await;
    hand.end(&*bed.store, &claims[0], done()).await;
    hand.end(&*bed.store, &claims[1], done()).await;
    hand.end(&*bed.store, &claims[2], failed("no")).await;
    bed.store.cancel(new[4].id, "me").await.unwrap();
    let red = Next::Done {
        result: json!({ "type": "build-test", "passed": false }),
        snippet: "1 of 1 tests failed".to_owned(),
        url: None,
    };
    hand.end(&*bed.store, &claims[3], red).await;
    let mut evidence = bed.store.evidence(&Scope::Trace(trace)).await.unwrap();
    assert_eq!((evidence.unsettled, evidence.waits), (1, 4));
    assert_eq!(
        (evidence.wait_p90_ms, evidence.buildtest_done),
        (Some(7), 3)
    );
    let passed = |passed| Ended {
        passed: Some(passed),
        ..ended(BUILD_TEST, How::Done)
    };
    let mut expected = vec![
        Ended {
            tasks: 2,
            ..passed(true)
        },
        passed(false),
        ended(BUILD_TEST, How::Failed),
        Ended {
            kind: None,
            ..ended(DOCS, How::Cancelled)
        },
    ];
    let order = |e: &Ended| format!("{e:?}");
    evidence.ended.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(evidence.ended, expected);
    let nowhere = Scope::Trace(TraceId::generate());
    let nothing = bed.store.evidence(&nowhere).await.unwrap();
    assert_eq!(nothing, Default::default());
}

async fn evidence_of_a_window_is_what_ended_in_it(bed: &Bed) {
    bed.store.enqueue(&tasks(BUILD_TEST, 3)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, BUILD_TEST, 9).await;
    hand.end(&*bed.store, &claims[0], done()).await;
    hand.end(&*bed.store, &claims[1], done()).await;
    let hour = Duration::from_secs(3600);
    let old = claims[0].id;
    bed.age_task(old, "done_at", hour).await;
    let which = format!("message_id = '{old}'");
    bed.door
        .age("executor_attempts", "ended_at", hour, &which)
        .await;
    bed.door
        .age("executor_attempts", "claimed_at", hour, &which)
        .await;
    bed.door.age("bus_events", "created_at", hour, &which).await;
    let evidence = async |minutes| bed.store.evidence(&Scope::Window { minutes }).await;
    let young = evidence(30).await.unwrap();
    assert_eq!(
        (young.unsettled, young.waits, young.buildtest_done),
        (0, 1, 1)
    );
    assert_eq!(young.ended.iter().map(|e| e.tasks).sum::<u64>(), 1);
    let all = evidence(90).await.unwrap();
    assert_eq!((all.waits, all.buildtest_done), (2, 2));
    assert_eq!(all.ended.iter().map(|e| e.tasks).sum::<u64>(), 2);
}

async fn smoke_tests_speak_of_their_own_trace_alone(bed: &Bed) {
    let smoke = TraceId::generate_smoke();
    let mut tasks = tasks(BUILD_TEST, 4);
    for task in &mut tasks[1..] {
        task.trace_id = smoke.clone();
    }
    bed.store.enqueue(&tasks).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, BUILD_TEST, 9).await;
    assert_eq!(claims.len(), 4);
    for claim in &claims {
        let next = match claim.id == tasks[3].id {
            true => failed("worker_error"),
            false => done(),
        };
        hand.end(&*bed.store, claim, next).await;
    }
    let count = |all: &[Ended]| all.iter().map(|e| e.tasks).sum::<u64>();
    let hour = Scope::Window { minutes: 60 };
    let window = bed.store.evidence(&hour).await.unwrap();
    assert_eq!((window.waits, window.buildtest_done), (1, 1));
    assert_eq!(count(&window.ended), 1);
    let hour = Duration::from_secs(3600);
    let waits = bed.store.latency(None, None, hour).await.unwrap();
    assert_eq!(waits.n, 1);
    let own = bed.store.evidence(&Scope::Trace(smoke)).await.unwrap();
    assert_eq!((own.waits, own.buildtest_done), (3, 2));
    assert_eq!(count(&own.ended), 3);
}

/// A docs task, done after attempts by these plugins, the last without a
/// fallback or with one.
async fn done_by(bed: &Bed, trace: &TraceId, plugins: &[(&str, Kind, bool)]) {
    bed.store.enqueue(&[in_trace(trace, DOCS)]).await.unwrap();
    let hand = Hand::new();
    let custom = Next::Done {
        result: json!({ "type": "custom", "value": {} }),
        snippet: "done".to_owned(),
        url: None,
    };
    for (i, (name, kind, fallback)) in plugins.iter().enumerate() {
        let claim = hand.claim_one(&*bed.store, DOCS).await;
        let next = match i + 1 == plugins.len() {
            true => custom.clone(),
            false => retry(Duration::ZERO),
        };
        let mut attempt = record(&claim, &next);
        attempt.plugin = Some(plugin(name, *kind));
        attempt.why.as_mut().unwrap().fallback = *fallback;
        let end = with_record(&claim, next, attempt);
        bed.store.settle(&hand.id, &[end]).await.unwrap();
    }
}

async fn evidence_tells_when_a_choice_did_not_hold(bed: &Bed) {
    let real = ("cogo-worker", Kind::Real, false);
    let mock = ("mock", Kind::Mock, true);
    // Which attempts, and then: held, last was a fallback, kind.
    let table = [
        (vec![real], (true, false, Kind::Real)),
        (vec![real, real], (true, false, Kind::Real)),
        (vec![real, mock], (false, true, Kind::Mock)),
        (vec![mock, real], (false, false, Kind::Real)),
        (vec![mock], (false, true, Kind::Mock)),
        (
            vec![("a", Kind::Real, false), real],
            (false, false, Kind::Real),
        ),
    ];
    for (plugins, (held, fallback, kind)) in table {
        let trace = TraceId::generate();
        done_by(bed, &trace, &plugins).await;
        let evidence = bed.store.evidence(&Scope::Trace(trace)).await.unwrap();
        let [ended] = evidence.ended.as_slice() else {
            panic!("{evidence:?}");
        };
        let found = (ended.held, ended.fallback, ended.kind.unwrap());
        assert_eq!(found, (held, fallback, kind), "{plugins:?}");
    }
    // A report of another role's case is not what the route promises.
    let trace = TraceId::generate();
    bed.store.enqueue(&[in_trace(&trace, DOCS)]).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&*bed.store, DOCS).await;
    hand.end(&*bed.store, &claim, done()).await;
    let evidence = bed.store.evidence(&Scope::Trace(trace)).await.unwrap();
    assert!(!evidence.ended[0].held);
}

async fn hosts_show_themselves_until_they_leave(bed: &Bed) {
    let holders = [HolderId::generate("a"), HolderId::generate("b")];
    let digests = [Digest::of(b"one"), Digest::of(b"two")];
    let beat = |i: usize, api| HostBeat {
        holder: &holders[i],
        name: ["a", "b"][i],
        stage: Stage::Staging,
        version: "0.1.0",
        api,
        digests: &digests[..=i],
    };
    bed.store.beat(&beat(0, None)).await.unwrap();
    bed.store.beat(&beat(1, None)).await.unwrap();
    let minute = Duration::from_secs(60);
    bed.door
        .age("executor_hosts", "seen_at", minute, "1 = 1")
        .await;
    bed.door
        .age("executor_hosts", "started_at", minute, "1 = 1")
        .await;
    bed.store.beat(&beat(0, Some("http://h:1"))).await.unwrap();
    let hosts = bed.store.hosts().await.unwrap();
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0].api.as_deref(), Some("http://h:1"));
    assert_eq!(hosts[0].stage, "staging");
    assert!(hosts[0].started_at < hosts[0].seen_at);
    assert!(hosts[0].silent_ms < 60_000 && hosts[1].silent_ms >= 60_000);
    assert_eq!(hosts[0].digests, digests[..1]);
    assert_eq!(hosts[1].digests, digests);

    // One that has been silent for long needs nothing.
    let lacking = async |digest| {
        let rows = bed.store.hosts_lacking(digest).await.unwrap();
        rows.into_iter().map(|row| row.holder).collect::<Vec<_>>()
    };
    assert_eq!(lacking(digests[1]).await, [hosts[0].holder.clone()]);
    bed.store.beat(&beat(1, None)).await.unwrap();
    assert_eq!(lacking(digests[1]).await.len(), 1);
    assert!(lacking(digests[0]).await.is_empty());
    assert_eq!(lacking(Digest::of(b"three")).await.len(), 2);

    bed.store.leave(&holders[0]).await.unwrap();
    let day = Duration::from_secs(25 * 3600);
    bed.door
        .age("executor_hosts", "seen_at", day, "1 = 1")
        .await;
    bed.store.beat(&beat(0, None)).await.unwrap();
    let hosts = bed.store.hosts().await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].holder, holders[0].as_str());
}
