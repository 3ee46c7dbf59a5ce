//! Runs of the pipeline: begun once, moved by one, ended with all that belongs
//! to them.

use std::time::Duration;

use cogo_host::attempt::{StagedArtifact, Usage};
use cogo_host::ids::Digest;
use cogo_host::pipeline::{NewRun, Order, Run, State};
use cogo_host::route::KnownRole;
use cogo_host::store::{EventFilter, RunCancelled, RunMove, Started};
use cogo_host::task::{NewTask, Status};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{Hand, done, failed};

const CODEGEN: &str = "codegen/generate";

conformance!(
    a_run_begins_with_its_first_task,
    the_same_name_is_the_same_run,
    a_run_is_due_once_its_task_has_ended,
    a_lost_task_makes_its_run_due,
    a_move_brings_all_that_belongs_to_it,
    one_move_of_a_revision_goes_through,
    a_run_that_is_to_end_is_due_until_its_task_knows,
    figures_tell_how_runs_went,
    runs_that_ended_long_ago_are_retired,
);

fn new_run(task_id: &str) -> NewRun {
    let order: Order = serde_json::from_value(json!({
        "taskId": task_id, "spec": "do 'é\"\\ it", "repo": "r", "codegen": { "n": 1.5 },
    }))
    .unwrap();
    let handled = KnownRole::ALL.map(KnownRole::key);
    order.accept("me", &handled).unwrap()
}

async fn begun(bed: &Bed, task_id: &str) -> Run {
    match bed.store.start_run(&new_run(task_id)).await.unwrap() {
        Started::New(run) => *run,
        Started::Existing(run) => panic!("{run:?} was there"),
    }
}

async fn due(bed: &Bed) -> Vec<String> {
    let due = bed.store.due_runs(10).await.unwrap();
    due.into_iter().map(|run| run.task_id).collect()
}

async fn events(bed: &Bed, run: &Run) -> Vec<String> {
    let filter = EventFilter {
        trace_id: Some(run.trace_id.to_string()),
        limit: 100,
        ..EventFilter::default()
    };
    let events = bed.store.events(&filter).await.unwrap();
    events.into_iter().map(|event| event.event_type).collect()
}

fn moving<'a>(run: &'a Run, to: State) -> RunMove<'a> {
    RunMove {
        run,
        to,
        build_test: None,
        error: None,
        decision: None,
        artifact: None,
        events: &[],
    }
}

async fn a_run_begins_with_its_first_task(bed: &Bed) {
    let new = new_run("t-1");
    let Started::New(run) = bed.store.start_run(&new).await.unwrap() else {
        panic!("it is new");
    };
    assert_eq!((run.state, run.revision), (State::Codegen, 1));
    assert_eq!((&run.order, run.actor.as_str()), (&new.order, "me"));
    assert_eq!(run.codegen, Some(new.codegen.id));
    let task = bed.store.task(new.codegen.id).await.unwrap().unwrap();
    assert_eq!(task.status, Status::Queued);
    assert_eq!(task.task_id.as_deref(), Some("t-1"));
    assert_eq!(
        events(bed, &run).await,
        ["execute_enqueued", "pipeline_started"]
    );
    let found = bed.store.run("t-1").await.unwrap().unwrap();
    assert_eq!(found.order, new.order);
    assert_eq!(bed.store.run("t-2").await.unwrap(), None);
}

async fn the_same_name_is_the_same_run(bed: &Bed) {
    let first = begun(bed, "t-1").await;
    let again = new_run("t-1");
    let Started::Existing(found) = bed.store.start_run(&again).await.unwrap() else {
        panic!("it was there");
    };
    assert_eq!(
        (&found.trace_id, found.codegen),
        (&first.trace_id, first.codegen)
    );
    assert!(bed.store.task(again.codegen.id).await.unwrap().is_none());
    begun(bed, "t-2").await;
    let all = bed.store.runs(10).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(bed.store.runs(1).await.unwrap().len(), 1);
}

async fn a_run_is_due_once_its_task_has_ended(bed: &Bed) {
    let hand = Hand::new();
    begun(bed, "t-1").await;
    assert!(due(bed).await.is_empty());
    let claim = hand.claim_one(&*bed.store, CODEGEN).await;
    assert!(due(bed).await.is_empty());
    hand.end(&*bed.store, &claim, failed("x")).await;
    assert_eq!(due(bed).await, ["t-1"]);
}

async fn a_lost_task_makes_its_run_due(bed: &Bed) {
    let hand = Hand::new();
    begun(bed, "t-1").await;
    let claim = hand.claim_one(&*bed.store, CODEGEN).await;
    hand.end(&*bed.store, &claim, done()).await;
    let retention = cogo_host::store::Retention {
        tasks: Some(Duration::ZERO),
        events: None,
        batch: 10,
    };
    bed.age_task(claim.id, "done_at", Duration::from_secs(60))
        .await;
    bed.store.retire(&retention).await.unwrap();
    bed.watch.retired(claim.id);
    assert!(bed.store.task(claim.id).await.unwrap().is_none());
    assert_eq!(due(bed).await, ["t-1"]);
}

async fn a_move_brings_all_that_belongs_to_it(bed: &Bed) {
    let hand = Hand::new();
    let run = begun(bed, "t-1").await;
    let claim = hand.claim_one(&*bed.store, CODEGEN).await;
    hand.end(&*bed.store, &claim, done()).await;
    let artifact = StagedArtifact {
        path: "build-test/report.json".to_owned(),
        content_type: "application/json".to_owned(),
        digest: Digest::of(b"{}"),
        bytes: 2,
    };
    let decision = json!({ "verdict": "fail" });
    let cancelled = run.cancelled();
    let change = RunMove {
        error: Some("codegen: x"),
        decision: Some(&decision),
        artifact: run.codegen.map(|id| (id, &artifact)),
        events: std::slice::from_ref(&cancelled),
        ..moving(&run, State::Done)
    };
    assert!(bed.store.move_run(&change).await.unwrap());
    let ended = bed.store.run("t-1").await.unwrap().unwrap();
    assert_eq!((ended.state, ended.revision), (State::Done, 2));
    assert_eq!(ended.error.as_deref(), Some("codegen: x"));
    assert_eq!(ended.decision, Some(decision));
    assert!(ended.ended_at.is_some());
    let report = bed
        .store
        .artifact("t-1", "build-test/report.json")
        .await
        .unwrap();
    let report = report.unwrap();
    assert_eq!((report.digest, report.bytes), (artifact.digest, 2));
    assert_eq!(report.trace_id, run.trace_id);
    assert_eq!(
        events(bed, &run).await.last().unwrap(),
        "pipeline_cancelled"
    );
    assert!(due(bed).await.is_empty());
}

async fn one_move_of_a_revision_goes_through(bed: &Bed) {
    let hand = Hand::new();
    let run = begun(bed, "t-1").await;
    let claim = hand.claim_one(&*bed.store, CODEGEN).await;
    hand.end(&*bed.store, &claim, done()).await;
    let tasks: Vec<NewTask> = (0..4)
        .map(|_| {
            let spent = Usage::default();
            run.build_test_task("http://h/e.json", &spent).unwrap()
        })
        .collect();
    let moves = tasks.iter().map(|task| {
        let run = &run;
        async move {
            let change = RunMove {
                build_test: Some(task),
                ..moving(run, State::BuildTest)
            };
            bed.store.move_run(&change).await.unwrap()
        }
    });
    let moved = futures::future::join_all(moves).await;
    assert_eq!(moved.iter().filter(|moved| **moved).count(), 1, "{moved:?}");
    let mut enqueued = Vec::new();
    for task in &tasks {
        enqueued.extend(bed.store.task(task.id).await.unwrap());
    }
    assert_eq!(enqueued.len(), 1);
    let now = bed.store.run("t-1").await.unwrap().unwrap();
    assert_eq!(now.build_test, Some(enqueued[0].id));
}

async fn a_run_that_is_to_end_is_due_until_its_task_knows(bed: &Bed) {
    let hand = Hand::new();
    let run = begun(bed, "t-1").await;
    assert_eq!(bed.store.cancel_run("t-2", "me").await.unwrap(), None);
    let claim = hand.claim_one(&*bed.store, CODEGEN).await;
    for actor in ["first", "second"] {
        let asked = bed.store.cancel_run("t-1", actor).await.unwrap();
        assert_eq!(asked, Some(RunCancelled::Requested));
    }
    assert_eq!(due(bed).await, ["t-1"]);
    bed.store.cancel(claim.id, "first").await.unwrap();
    assert!(due(bed).await.is_empty());
    let asked = bed.store.run("t-1").await.unwrap().unwrap();
    assert!(asked.cancel_requested_at.is_some());
    assert_eq!(asked.cancelled_by.as_deref(), Some("first"));
    // The wish is no move of its own: the revision stands.
    assert!(
        bed.store
            .move_run(&moving(&run, State::Cancelled))
            .await
            .unwrap()
    );
    assert!(
        !bed.store
            .move_run(&moving(&asked, State::Done))
            .await
            .unwrap()
    );
    let asked = bed.store.cancel_run("t-1", "me").await.unwrap();
    assert_eq!(asked, Some(RunCancelled::Ended(State::Cancelled)));
    hand.end(&*bed.store, &claim, failed("cancelled")).await;
}

async fn figures_tell_how_runs_went(bed: &Bed) {
    let hour = Duration::from_secs(3600);
    let none = bed.store.run_figures(hour).await.unwrap();
    assert_eq!((none.running, none.p50_ms), (0, None));
    for (name, verdict) in [
        ("a", "pass"),
        ("b", "pass"),
        ("c", "fail"),
        ("d", "inconclusive"),
    ] {
        let run = begun(bed, name).await;
        let decision = json!({ "verdict": verdict });
        let change = RunMove {
            decision: Some(&decision),
            ..moving(&run, State::Done)
        };
        assert!(bed.store.move_run(&change).await.unwrap());
    }
    let run = begun(bed, "e").await;
    assert!(
        bed.store
            .move_run(&moving(&run, State::Cancelled))
            .await
            .unwrap()
    );
    begun(bed, "f").await;
    let figures = bed.store.run_figures(hour).await.unwrap();
    assert_eq!(
        (figures.passed, figures.failed, figures.inconclusive),
        (2, 1, 1)
    );
    assert_eq!((figures.cancelled, figures.running), (1, 1));
    assert!(figures.p50_ms.is_some() && figures.p50_ms <= figures.p90_ms);
}

async fn runs_that_ended_long_ago_are_retired(bed: &Bed) {
    let ended = begun(bed, "ended").await;
    assert!(
        bed.store
            .move_run(&moving(&ended, State::Cancelled))
            .await
            .unwrap()
    );
    begun(bed, "open").await;
    let retention = cogo_host::store::Retention {
        tasks: Some(Duration::ZERO),
        events: None,
        batch: 10,
    };
    bed.store.retire(&retention).await.unwrap();
    assert_eq!(bed.store.run("ended").await.unwrap(), None);
    assert!(bed.store.run("open").await.unwrap().is_some());
}
