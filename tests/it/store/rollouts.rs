//! Rollouts on the bus: who may change one, the sides of tasks, and what the
//! attempts of a step came to.

use std::time::Duration;

use cogo_host::attempt::{AttemptOutcome, Blame, Problem};
use cogo_host::control::{Decider, Decision, ServingCause};
use cogo_host::ids::{Digest, TraceId};
use cogo_host::rollout::verdict::{Evidence, Tally};
use cogo_host::rollout::{Change, Draw, RolloutRow, Share, State};
use cogo_host::selection::{RolloutWhy, Side};
use cogo_host::store::{EventFilter, NewRollout, RolloutMove, StartedRollout, Want};
use cogo_host::task::{Claim, NewTask, Next, Refund};

use crate::support::bed::Bed;
use crate::support::hand::{self, BUILD_TEST, DOCS, Hand, key};

conformance!(
    a_rollout_goes_its_way_to_what_serves,
    of_many_hosts_one_makes_a_change,
    one_rollout_at_a_time_on_a_route_and_of_a_plugin,
    a_pause_leaves_the_time_of_a_step_alone,
    what_a_state_does_not_know_is_not_written,
    a_side_is_drawn_at_the_first_claim_and_stays,
    a_rollback_is_told_with_its_verdict,
    a_step_counts_what_ended_in_it,
    what_says_nothing_of_a_version_does_not_count,
    smoke_tests_say_nothing_of_a_version,
    stable_is_remembered_once_nothing_runs_on_it,
);

fn new(route: &str, plugin: &str) -> NewRollout {
    NewRollout {
        route: key(route),
        plugin: plugin.parse().unwrap(),
        candidate: Digest::of(b"new"),
        stable: Some(Digest::of(b"old")),
        steps: "50,100".parse().unwrap(),
        interval: Duration::from_secs(600),
        by: Decider::Named("anna".to_owned()),
        reason: Some("faster".parse().unwrap()),
    }
}

async fn started(bed: &Bed) -> RolloutRow {
    let new = new(BUILD_TEST, "cogo-worker");
    match bed.store.start_rollout(&new).await.unwrap() {
        StartedRollout::Now(row) => row,
        StartedRollout::Busy(row) => panic!("{row:?}"),
    }
}

async fn change(bed: &Bed, row: &RolloutRow, change: Change) -> Option<RolloutRow> {
    let decision = Decision {
        by: Decider::Named("host".to_owned()),
        reason: Some("as told".parse().unwrap()),
    };
    let wanted = RolloutMove {
        row,
        change: &change,
        decision: &decision,
        report: None,
    };
    bed.store.move_rollout(&wanted).await.unwrap()
}

/// A rollout at its first step.
async fn begun(bed: &Bed) -> RolloutRow {
    let row = started(bed).await;
    change(bed, &row, Change::HostsReady).await.unwrap()
}

async fn under_way(bed: &Bed) -> Vec<RolloutRow> {
    let controls = bed.store.controls().await.unwrap();
    assert!(controls.unreadable.is_empty(), "{:?}", controls.unreadable);
    controls.rollouts
}

/// The events of a trace, oldest first.
async fn events(bed: &Bed, trace: &TraceId) -> Vec<(String, serde_json::Value)> {
    let filter = EventFilter {
        trace_id: Some(trace.to_string()),
        limit: 100,
        ..EventFilter::default()
    };
    let events = bed.store.events(&filter).await.unwrap();
    let told = events.into_iter().map(|e| (e.event_type, e.payload));
    told.collect()
}

fn at_step(row: &RolloutRow) -> Option<u32> {
    match row.state {
        State::Step { step, .. } => Some(step),
        _ => None,
    }
}

async fn a_rollout_goes_its_way_to_what_serves(bed: &Bed) {
    assert!(bed.store.rollouts(10).await.unwrap().is_empty());
    let row = started(bed).await;
    assert_eq!((row.revision, &row.state), (1, &State::Waiting));
    assert_eq!((row.started_by.as_str(), row.draw()), ("anna", None));
    assert_eq!(under_way(bed).await, std::slice::from_ref(&row));
    let row = change(bed, &row, Change::HostsReady).await.unwrap();
    assert_eq!((row.revision, at_step(&row)), (2, Some(0)));
    assert_eq!(row.share().map(Share::percent), Some(50));
    let row = change(bed, &row, Change::Passed).await.unwrap();
    assert_eq!(at_step(&row), Some(1));
    let row = change(bed, &row, Change::Passed).await.unwrap();
    let promoted = State::Promoted {
        by: "host".to_owned(),
    };
    assert_eq!(row.state, promoted);
    assert!(under_way(bed).await.is_empty());
    assert_eq!(bed.store.rollout(&row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(
        bed.store.rollouts(10).await.unwrap(),
        std::slice::from_ref(&row)
    );

    // Every host follows, also one that starts later.
    let mut serving = bed.store.controls().await.unwrap().serving;
    let serving = serving.remove(&row.plugin).unwrap();
    assert_eq!(serving.digest, row.candidate);
    assert_eq!(serving.cause, ServingCause::Promotion);
    assert_eq!(serving.trace_id, row.trace_id);

    let told = events(bed, &row.trace_id).await;
    let types: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        types,
        [
            "rollout_started",
            "rollout_step",
            "rollout_step",
            "plugin_promoted",
            "rollout_promoted"
        ]
    );
    let shares: Vec<_> = told.iter().map(|(_, payload)| &payload["share"]).collect();
    assert_eq!((shares[1], shares[2]), (&50.into(), &100.into()));
    assert_eq!(told[4].1["actor"], "host");
    assert_eq!(told[0].1["actor"], "anna");
}

async fn of_many_hosts_one_makes_a_change(bed: &Bed) {
    let row = begun(bed).await;
    let hosts = (0..8).map(|_| change(bed, &row, Change::Passed));
    let made = futures::future::join_all(hosts).await;
    assert_eq!(made.iter().flatten().count(), 1);
    let told = events(bed, &row.trace_id).await;
    let steps = told.iter().filter(|(name, _)| name == "rollout_step");
    assert_eq!(steps.count(), 2);
    // Nor does who comes late, whatever it wants.
    assert_eq!(change(bed, &row, Change::Abort).await, None);
    assert_eq!(at_step(&under_way(bed).await[0]), Some(1));
}

async fn one_rollout_at_a_time_on_a_route_and_of_a_plugin(bed: &Bed) {
    let row = started(bed).await;
    for (route, plugin) in [(BUILD_TEST, "mock"), (DOCS, "cogo-worker")] {
        let again = bed.store.start_rollout(&new(route, plugin)).await.unwrap();
        assert_eq!(again, StartedRollout::Busy(row.clone()));
    }
    let other = bed.store.start_rollout(&new(DOCS, "render")).await.unwrap();
    assert!(matches!(other, StartedRollout::Now(_)));
    let aborted = change(bed, &row, Change::Abort).await.unwrap();
    assert!(matches!(aborted.state, State::Aborted { .. }));
    let next = started(bed).await;
    assert_ne!(next.id, row.id);
    assert_eq!(bed.store.rollouts(10).await.unwrap().len(), 3);
    assert_eq!(under_way(bed).await.len(), 2);
}

async fn a_pause_leaves_the_time_of_a_step_alone(bed: &Bed) {
    let row = begun(bed).await;
    let hour = Duration::from_secs(3600);
    bed.door
        .age("executor_rollouts", "step_began_at", hour, "1 = 1")
        .await;
    let lasted = async || match under_way(bed).await[0].state {
        State::Step { for_ms, .. } | State::Paused { for_ms, .. } => for_ms,
        ref other => panic!("{other:?}"),
    };
    assert!(lasted().await >= 3_600_000);
    let row = change(bed, &row, Change::Pause).await.unwrap();
    assert_eq!(row.share().map(Share::percent), Some(50));
    assert!(lasted().await >= 3_600_000);
    let row = change(bed, &row, Change::Resume).await.unwrap();
    assert_eq!(at_step(&row), Some(0));
    assert!(lasted().await >= 3_600_000);
    // The next step begins with its own.
    change(bed, &row, Change::Promote).await.unwrap();
    assert!(lasted().await < 3_600_000);
}

async fn what_a_state_does_not_know_is_not_written(bed: &Bed) {
    let row = started(bed).await;
    for unknown in [Change::Passed, Change::Resume, Change::Promote] {
        assert_eq!(change(bed, &row, unknown).await, None);
    }
    assert_eq!(under_way(bed).await, std::slice::from_ref(&row));
    assert_eq!(events(bed, &row.trace_id).await.len(), 1);
    let nobody = "ro-0".parse().unwrap();
    assert_eq!(bed.store.rollout(&nobody).await.unwrap(), None);
}

fn wants(draw: Option<Draw>) -> Vec<Want> {
    vec![Want {
        draw,
        ..hand::want(BUILD_TEST)
    }]
}

/// Puts tasks on the bus and claims them, each with its side.
async fn claimed(bed: &Bed, host: &Hand, row: &RolloutRow, n: usize) -> Vec<Claim> {
    let tasks = hand::tasks(BUILD_TEST, n);
    bed.store.enqueue(&tasks).await.unwrap();
    let claims = host
        .claim_wants(&*bed.store, wants(row.draw()), 1_000)
        .await;
    assert_eq!(claims.len(), n);
    claims
}

fn side(claim: &Claim) -> Option<Side> {
    claim.side.as_ref().map(|side| side.side)
}

async fn a_side_is_drawn_at_the_first_claim_and_stays(bed: &Bed) {
    let host = Hand::new();
    let plain = hand::tasks(BUILD_TEST, 1);
    bed.store.enqueue(&plain).await.unwrap();
    let before = host.claim_one(&*bed.store, BUILD_TEST).await;
    assert_eq!(before.side, None);
    host.end(&*bed.store, &before, hand::done()).await;
    let unmarked = "SELECT count(*) FROM agent_messages WHERE rollout_side IS NOT NULL";
    assert_eq!(bed.door.number(unmarked).await, 0);

    let row = begun(bed).await;
    let draw = row.draw().unwrap();
    let claims = claimed(bed, &host, &row, 40).await;
    for claim in &claims {
        assert_eq!(side(claim), Some(draw.side(claim.id)));
        assert_eq!(claim.side.as_ref().unwrap().rollout, row.id);
        host.end(&*bed.store, claim, hand::retry(Duration::ZERO))
            .await;
    }
    let drawn = |of| {
        claims
            .iter()
            .filter(|claim| side(claim) == Some(of))
            .count()
    };
    assert!(drawn(Side::Stable) > 0 && drawn(Side::Candidate) > 0);
    assert_eq!(bed.door.number(unmarked).await, 40);

    // At a larger share, a retry keeps what its task drew.
    let row = change(bed, &row, Change::Passed).await.unwrap();
    let again = host
        .claim_wants(&*bed.store, wants(row.draw()), 1_000)
        .await;
    assert_eq!(again.len(), 40);
    for claim in &again {
        let first = claims.iter().find(|first| first.id == claim.id).unwrap();
        assert_eq!(claim.side, first.side);
        host.end(&*bed.store, claim, hand::retry(Duration::ZERO))
            .await;
    }
    // In another rollout it draws anew.
    change(bed, &row, Change::Abort).await.unwrap();
    let next = begun(bed).await;
    let third = host
        .claim_wants(&*bed.store, wants(next.draw()), 1_000)
        .await;
    for claim in &third {
        assert_eq!(claim.side.as_ref().unwrap().rollout, next.id);
        host.end(&*bed.store, claim, hand::done()).await;
    }
    // A row by another program draws as any other.
    let foreign = bed.foreign(BUILD_TEST, "{}").await;
    let claims = host
        .claim_wants(&*bed.store, wants(next.draw()), 1_000)
        .await;
    let drawn = next.draw().unwrap().side(foreign);
    assert_eq!(claims.iter().map(side).collect::<Vec<_>>(), [Some(drawn)]);
    host.end(&*bed.store, &claims[0], hand::done()).await;
}

async fn a_rollback_is_told_with_its_verdict(bed: &Bed) {
    let row = begun(bed).await;
    let failed = Change::Failed {
        why: "12 of 40 failed".to_owned(),
    };
    let row = change(bed, &row, failed).await.unwrap();
    let expected = State::RolledBack {
        step: 0,
        why: "12 of 40 failed".to_owned(),
    };
    assert_eq!(row.state, expected);
    assert_eq!(change(bed, &row, Change::Promote).await, None);
    let told = events(bed, &row.trace_id).await;
    let (name, payload) = told.last().unwrap();
    assert_eq!(
        (name.as_str(), &payload["from"]),
        ("rollout_rolled_back", &"step".into())
    );
    let serving = bed.store.controls().await.unwrap().serving;
    assert!(
        serving.is_empty(),
        "nothing but a promotion says what serves"
    );
}

/// Ends an attempt that ran on its drawn side.
async fn end(bed: &Bed, host: &Hand, claim: &Claim, next: Next, run_ms: u64) {
    end_on(bed, host, claim, next, run_ms, side(claim).unwrap()).await;
}

async fn end_on(bed: &Bed, host: &Hand, claim: &Claim, next: Next, run_ms: u64, ran: Side) {
    let mut record = hand::record(claim, &next);
    let rollout = claim.side.as_ref().unwrap().rollout.clone();
    record.measured.run = Duration::from_millis(run_ms);
    if let Some(why) = &mut record.why {
        why.rollout = Some(RolloutWhy {
            id: rollout,
            side: ran,
        });
    }
    if let Some(plugin) = &mut record.plugin {
        plugin.digest = Digest::of(match ran {
            Side::Stable => b"old",
            Side::Candidate => b"new",
        });
    }
    let settlement = hand::with_record(claim, next, record);
    bed.store.settle(&host.id, &[settlement]).await.unwrap();
}

/// As many claims of each side; the rest is given back.
async fn of_each(bed: &Bed, host: &Hand, row: &RolloutRow, n: usize) -> [Vec<Claim>; 2] {
    let mut sides = [Vec::new(), Vec::new()];
    let draw = row.draw().unwrap();
    let mut tasks: Vec<NewTask> = Vec::new();
    while tasks.len() < 2 * n {
        let task = hand::task(BUILD_TEST);
        let known = tasks
            .iter()
            .filter(|known| draw.side(known.id) == draw.side(task.id));
        if known.count() < n {
            tasks.push(task);
        }
    }
    bed.store.enqueue(&tasks).await.unwrap();
    for claim in host
        .claim_wants(&*bed.store, wants(row.draw()), 1_000)
        .await
    {
        sides[usize::from(side(&claim) == Some(Side::Candidate))].push(claim);
    }
    assert_eq!(sides.each_ref().map(Vec::len), [n, n]);
    sides
}

async fn evidence(bed: &Bed, row: &RolloutRow) -> Evidence {
    bed.store.rollout_evidence(row, 6).await.unwrap()
}

async fn a_step_counts_what_ended_in_it(bed: &Bed) {
    let (host, row) = (Hand::new(), begun(bed).await);
    assert_eq!(evidence(bed, &row).await, Evidence::default());
    let [stable, candidate] = of_each(bed, &host, &row, 10).await;
    for (i, claim) in stable.iter().enumerate() {
        // The ninth of ten is the 90th percentile.
        let run = if i == 9 { 5_000 } else { 100 };
        end(bed, &host, claim, hand::done(), run).await;
    }
    for (i, claim) in candidate.iter().enumerate() {
        match i {
            0..=3 => end(bed, &host, claim, hand::done(), 200).await,
            // Twice as long as stable, and a tenth of a second more.
            4 => end(bed, &host, claim, hand::done(), 201).await,
            5 | 6 => end(bed, &host, claim, hand::failed("bad"), 1).await,
            _ => end(bed, &host, claim, hand::retry(Duration::ZERO), 1).await,
        }
    }
    let first = evidence(bed, &row).await;
    let expected = Tally {
        tried: 10,
        failed: 5,
        ended: 7,
        ended_failed: 2,
        ended_held: 5,
        waits: 10,
        waits_long: 10,
        wait_p90_ms: Some(7),
        runs: 5,
        runs_slow: 1,
        run_p90_ms: Some(201),
    };
    assert_eq!(first.candidate, expected);
    let expected = Tally {
        tried: 10,
        failed: 0,
        ended: 10,
        ended_failed: 0,
        ended_held: 10,
        waits: 10,
        waits_long: 10,
        wait_p90_ms: Some(7),
        runs: 10,
        runs_slow: 1,
        run_p90_ms: Some(100),
    };
    assert_eq!(first.stable, expected);

    // Later attempts end tasks, and are tried no more; the last one runs on stable,
    // which is no success of the candidate.
    let again = host
        .claim_wants(&*bed.store, wants(row.draw()), 1_000)
        .await;
    assert_eq!(again.len(), 3);
    end(bed, &host, &again[0], hand::done(), 1).await;
    end_on(bed, &host, &again[1], hand::done(), 1, Side::Stable).await;
    end_on(bed, &host, &again[2], hand::failed("bad"), 1, Side::Stable).await;
    let then = evidence(bed, &row).await;
    assert_eq!((then.candidate.tried, then.candidate.failed), (10, 5));
    let ended = |tally: Tally| (tally.ended, tally.ended_failed, tally.ended_held);
    assert_eq!(ended(then.candidate), (10, 3, 6));
    assert_eq!(ended(then.stable), (10, 0, 10));
    assert_eq!((then.stable.tried, then.stable.waits), (10, 12));

    // Another step begins with nothing.
    let row = change(bed, &row, Change::Passed).await.unwrap();
    assert_eq!(evidence(bed, &row).await.candidate, Tally::default());
}

async fn what_says_nothing_of_a_version_does_not_count(bed: &Bed) {
    let (host, row) = (Hand::new(), begun(bed).await);
    let [stable, candidate] = of_each(bed, &host, &row, 4).await;
    let by_host = Next::Failed {
        problem: Problem::new("lease", "gone", Blame::Host),
    };
    end(bed, &host, &candidate[0], by_host, 1).await;
    end(bed, &host, &candidate[1], hand::failed("cancelled"), 1).await;
    end(bed, &host, &candidate[2], hand::drained(), 1).await;
    end(bed, &host, &candidate[3], hand::host_fault(), 1).await;
    // A probe is given back, whatever it met.
    let probe = Next::Queued {
        delay: Duration::ZERO,
        refund: Refund::Probe,
        problem: Some(hand::problem("worker_unreachable")),
    };
    assert_eq!(
        hand::record(&stable[0], &probe).outcome,
        AttemptOutcome::Probe
    );
    end(bed, &host, &stable[0], probe, 1).await;
    for claim in &stable[1..] {
        host.end(&*bed.store, claim, hand::done()).await;
    }
    let found = evidence(bed, &row).await;
    for tally in [found.candidate, found.stable] {
        assert_eq!((tally.tried, tally.ended, tally.runs), (0, 0, 0));
    }
    // Attempts that know of no rollout are none of it.
    assert_eq!(found.stable.waits, 1);
    let other = begun_other(bed).await;
    assert_eq!(evidence(bed, &other).await, Evidence::default());
}

async fn smoke_tests_say_nothing_of_a_version(bed: &Bed) {
    let (host, row) = (Hand::new(), begun(bed).await);
    let mut tasks = hand::tasks(BUILD_TEST, 16);
    for task in &mut tasks {
        task.trace_id = TraceId::generate_smoke();
    }
    bed.store.enqueue(&tasks).await.unwrap();
    let claims = host
        .claim_wants(&*bed.store, wants(row.draw()), 1_000)
        .await;
    assert_eq!(claims.len(), 16);
    for claim in &claims {
        end(bed, &host, claim, hand::failed("bad"), 1).await;
    }
    assert_eq!(evidence(bed, &row).await, Evidence::default());
}

async fn begun_other(bed: &Bed) -> RolloutRow {
    let new = new(DOCS, "render");
    let StartedRollout::Now(row) = bed.store.start_rollout(&new).await.unwrap() else {
        panic!("it is the only one on its route");
    };
    change(bed, &row, Change::HostsReady).await.unwrap()
}

async fn stable_is_remembered_once_nothing_runs_on_it(bed: &Bed) {
    let (host, row) = (Hand::new(), begun(bed).await);
    let [stable, candidate] = of_each(bed, &host, &row, 3).await;
    for claim in stable.iter().chain(&candidate) {
        end(bed, &host, claim, hand::done(), 10).await;
    }
    let hour = Duration::from_secs(3600);
    bed.door
        .age("executor_attempts", "ended_at", hour, "1 = 1")
        .await;
    assert_eq!(evidence(bed, &row).await, Evidence::default());
    let day = Duration::from_secs(5 * 3600);
    bed.door
        .age("executor_rollouts", "began_at", day, "1 = 1")
        .await;
    let row = change(bed, &row, Change::Passed).await.unwrap();
    assert_eq!(row.share(), Some(Share::ALL));
    let all = evidence(bed, &row).await;
    assert_eq!((all.stable.tried, all.candidate.tried), (3, 0));
    // Not for ever.
    bed.door
        .age("executor_attempts", "ended_at", 2 * day, "1 = 1")
        .await;
    assert_eq!(evidence(bed, &row).await, Evidence::default());
}
