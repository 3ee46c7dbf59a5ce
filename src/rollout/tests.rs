//! The state machine in full, the draw, and what the verdicts rest on.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::verdict::{Evidence, Tally, judge};
use super::*;
use crate::gate::Thresholds;

fn steps(text: &str) -> Steps {
    text.parse().unwrap()
}

#[test]
fn steps_are_rising_percents() {
    assert_eq!(steps("5, 25,50 ,100").to_string(), "5,25,50,100");
    assert_eq!(steps("5%,100 %").to_string(), "5,100");
    let bad = |text: &str| text.parse::<Steps>().unwrap_err();
    assert_eq!(bad(""), InvalidSteps::Empty);
    for out_of_range in ["0", "101", "-1", "2.5", "x", "999"] {
        assert_eq!(
            bad(out_of_range),
            InvalidSteps::OutOfRange(out_of_range.to_owned())
        );
    }
    for falling in ["50,25", "5,5"] {
        assert!(matches!(bad(falling), InvalidSteps::NotRising { .. }));
    }
    let many: Vec<String> = (1..=21).map(|n: u32| n.to_string()).collect();
    assert_eq!(bad(&many.join(",")), InvalidSteps::TooMany(21));
    assert!(serde_json::from_str::<Steps>("[25,5]").is_err());
    assert!(serde_json::from_str::<Steps>("[0]").is_err());
}

/// The first of a version 7 id is the time: the draw must not see it.
fn task(rng: &mut StdRng) -> MessageId {
    let mut id = MessageId::generate().0.into_bytes();
    for byte in id.iter_mut().skip(6) {
        *byte = rng.random();
    }
    MessageId(uuid::Uuid::from_bytes(id))
}

fn draw(rollout: &RolloutId, percent: u8) -> Draw {
    Draw {
        rollout: rollout.clone(),
        share: Share::try_from(percent).unwrap(),
    }
}

#[test]
fn a_task_keeps_its_side_as_the_share_grows() {
    let mut rng = StdRng::seed_from_u64(1);
    let (one, other) = (RolloutId::generate(), RolloutId::generate());
    let mut differs = false;
    for _ in 0..1_000 {
        let id = task(&mut rng);
        let mut was_candidate = false;
        for percent in 1..=100 {
            let is_candidate = draw(&one, percent).side(id) == Side::Candidate;
            assert!(is_candidate || !was_candidate);
            was_candidate = is_candidate;
        }
        assert!(was_candidate, "everybody at 100 %");
        differs |= draw(&one, 50).side(id) != draw(&other, 50).side(id);
    }
    assert!(differs, "another rollout draws anew");
}

#[test]
fn the_share_is_kept_within_what_chance_allows() {
    let mut rng = StdRng::seed_from_u64(2);
    let rollout: RolloutId = "ro-1".parse().unwrap();
    const TASKS: u32 = 40_000;
    for percent in [1, 5, 25, 50, 99] {
        let draw = draw(&rollout, percent);
        let drawn = (0..TASKS).filter(|_| draw.side(task(&mut rng)) == Side::Candidate);
        let found = f64::from(u32::try_from(drawn.count()).unwrap()) / f64::from(TASKS);
        let asked = f64::from(percent) / 100.0;
        let sigma = (asked * (1.0 - asked) / f64::from(TASKS)).sqrt();
        assert!((found - asked).abs() < 4.0 * sigma, "{percent}: {found}");
    }
}

/// Other hosts, and later builds, draw the same: these were drawn once.
#[test]
fn the_draw_never_changes() {
    let rollout: RolloutId = "ro-0123456789".parse().unwrap();
    let place = |id: &str| {
        let id = id.parse().unwrap();
        let mut shares = 1..=100;
        shares.find(|share| draw(&rollout, *share).side(id) == Side::Candidate)
    };
    let found = [
        place("00000000-0000-0000-0000-000000000000"),
        place("00000000-0000-0000-0000-000000000001"),
        place("ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ];
    assert_eq!(found, [Some(45), Some(32), Some(17)]);
}

fn by() -> String {
    "anna".to_owned()
}

/// Every state against every change; what is not named is refused.
#[test]
fn the_whole_table() {
    let two = steps("5,50");
    let step = |step| State::Step { step, for_ms: 7 };
    let new = |step| State::Step { step, for_ms: 0 };
    let held = |step| State::Held {
        step,
        for_ms: 7,
        why: "few".to_owned(),
    };
    let paused = |step| State::Paused {
        step,
        for_ms: if step.is_some() { 7 } else { 0 },
        by: by(),
    };
    let promoted = || State::Promoted { by: by() };
    let rolled_back = |step| State::RolledBack {
        step,
        why: "bad".to_owned(),
    };
    let aborted = || State::Aborted { by: by() };
    let ready = Change::HostsReady;
    let passed = Change::Passed;
    let inconclusive = Change::Inconclusive {
        why: "few".to_owned(),
    };
    let failed = Change::Failed {
        why: "bad".to_owned(),
    };
    let promote = Change::Promote;
    let pause = Change::Pause;
    let resume = Change::Resume;
    let abort = Change::Abort;

    let legal = [
        (State::Waiting, &ready, new(0)),
        (State::Waiting, &pause, paused(None)),
        (State::Waiting, &abort, aborted()),
        (step(0), &passed, new(1)),
        (step(0), &promote, new(1)),
        (step(0), &inconclusive, held(0)),
        (step(0), &failed, rolled_back(0)),
        (step(0), &pause, paused(Some(0))),
        (step(0), &abort, aborted()),
        (step(1), &passed, promoted()),
        (step(1), &promote, promoted()),
        (step(1), &inconclusive, held(1)),
        (step(1), &failed, rolled_back(1)),
        (step(1), &pause, paused(Some(1))),
        (step(1), &abort, aborted()),
        (held(1), &passed, promoted()),
        (held(1), &promote, promoted()),
        (held(1), &failed, rolled_back(1)),
        (held(1), &pause, paused(Some(1))),
        (held(1), &abort, aborted()),
        (paused(None), &resume, State::Waiting),
        (paused(None), &abort, aborted()),
        (paused(Some(0)), &resume, step(0)),
        (paused(Some(0)), &promote, new(1)),
        (paused(Some(0)), &failed, rolled_back(0)),
        (paused(Some(0)), &abort, aborted()),
    ];
    let states = [
        State::Waiting,
        step(0),
        step(1),
        held(1),
        paused(None),
        paused(Some(0)),
        promoted(),
        rolled_back(1),
        aborted(),
    ];
    let changes = [
        &ready,
        &passed,
        &inconclusive,
        &failed,
        &promote,
        &pause,
        &resume,
        &abort,
    ];
    let mut met = 0;
    for from in &states {
        for change in changes {
            let mut known = legal.iter().filter(|(s, c, _)| s == from && *c == change);
            let after = from.after(change, &two, "anna");
            match known.next() {
                Some((_, _, to)) => {
                    assert_eq!(after.as_ref(), Ok(to), "{from:?} {change:?}");
                    met += 1;
                }
                None => assert!(after.is_err(), "{from:?} {change:?}"),
            }
        }
        let text = serde_json::to_string(from).unwrap();
        assert_eq!(&serde_json::from_str::<State>(&text).unwrap(), from);
    }
    assert_eq!(met, legal.len());
    let refused = rolled_back(1).after(&promote, &two, "anna").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a rollout that is rolled back cannot be promoted"
    );
}

pub(crate) fn row(state: State) -> RolloutRow {
    RolloutRow {
        id: "ro-1".parse().unwrap(),
        route: "code/build-test".parse().unwrap(),
        plugin: "cogo-worker".parse().unwrap(),
        candidate: Digest::of(b"new"),
        stable: Some(Digest::of(b"old")),
        steps: steps("5,25,50,100"),
        interval_ms: 60_000,
        revision: 1,
        state,
        started_by: by(),
        reason: None,
        trace_id: TraceId::generate(),
        started_at: DateTime::UNIX_EPOCH,
        changed_at: DateTime::UNIX_EPOCH,
    }
}

#[test]
fn only_a_step_that_goes_on_has_a_share() {
    let percent = |state| row(state).share().map(Share::percent);
    let step = |step| State::Step { step, for_ms: 0 };
    assert_eq!(percent(State::Waiting), None);
    assert_eq!(percent(step(1)), Some(25));
    assert_eq!(percent(step(9)), None, "a row that somebody wrote by hand");
    let paused = |step| State::Paused {
        step,
        for_ms: 0,
        by: by(),
    };
    assert_eq!(percent(paused(Some(2))), Some(50));
    assert_eq!(percent(paused(None)), None);
    let why = String::new;
    assert_eq!(
        percent(State::RolledBack {
            step: 1,
            why: why()
        }),
        None
    );
    assert_eq!(percent(State::Aborted { by: by() }), None);
    assert_eq!(percent(State::Promoted { by: by() }), None);
}

fn report(verdict: Verdict) -> GateReport {
    GateReport {
        verdict,
        checks: Vec::new(),
    }
}

#[test]
fn failing_does_not_wait_and_passing_does() {
    let wanted = |state, verdict| row(state).wanted(&report(verdict));
    let step = |for_ms| State::Step { step: 0, for_ms };
    let is_failed = |change| matches!(change, Some(Change::Failed { .. }));
    let is_passed = |change| matches!(change, Some(Change::Passed));
    assert!(is_failed(wanted(step(0), Verdict::Fail)));
    assert!(is_failed(wanted(step(60_000), Verdict::Fail)));
    assert_eq!(wanted(step(59_999), Verdict::Pass), None);
    assert_eq!(wanted(step(59_999), Verdict::Inconclusive), None);
    assert!(is_passed(wanted(step(60_000), Verdict::Pass)));
    let held = wanted(step(60_000), Verdict::Inconclusive);
    assert!(matches!(held, Some(Change::Inconclusive { .. })));

    let held = || State::Held {
        step: 0,
        for_ms: 60_000,
        why: String::new(),
    };
    assert!(is_passed(wanted(held(), Verdict::Pass)));
    assert!(is_failed(wanted(held(), Verdict::Fail)));
    assert_eq!(wanted(held(), Verdict::Inconclusive), None);

    // A pause stops promotion, not protection.
    let paused = |step| State::Paused {
        step,
        for_ms: 60_000,
        by: by(),
    };
    assert_eq!(wanted(paused(Some(0)), Verdict::Pass), None);
    assert!(is_failed(wanted(paused(Some(0)), Verdict::Fail)));
    assert_eq!(wanted(paused(None), Verdict::Fail), None);
    for ended in [
        State::Promoted { by: by() },
        State::Aborted { by: by() },
        State::RolledBack {
            step: 0,
            why: String::new(),
        },
    ] {
        for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive] {
            assert_eq!(wanted(ended.clone(), verdict), None);
        }
    }
}

/// What a side met, where all that fails fails for good.
fn tally(failed: u64, tried: u64) -> Tally {
    Tally {
        tried,
        failed,
        ended: tried,
        ended_failed: failed,
        ended_held: tried - failed,
        waits: tried,
        waits_long: 0,
        wait_p90_ms: (tried > 0).then_some(10),
        runs: tried - failed,
        runs_slow: 0,
        run_p90_ms: (tried > failed).then_some(20),
    }
}

fn at(candidate: Tally, stable: Tally, percent: u8) -> GateReport {
    let evidence = Evidence {
        candidate,
        stable,
        ..Evidence::default()
    };
    let route = "code/build-test".parse().unwrap();
    let share = Share::try_from(percent).unwrap();
    judge(&evidence, &route, share, &Thresholds::default())
}

fn verdict_of(candidate: Tally, stable: Tally) -> Verdict {
    at(candidate, stable, 25).verdict
}

#[test]
fn no_data_never_decides() {
    let none = Tally::default();
    for percent in [1, 50, 100] {
        assert_eq!(at(none, none, percent).verdict, Verdict::Inconclusive);
        let stable = tally(0, 1_000);
        assert_eq!(at(none, stable, percent).verdict, Verdict::Inconclusive);
    }
    assert_eq!(verdict_of(tally(0, 1_000), none), Verdict::Inconclusive);
    assert_eq!(
        verdict::said(&at(none, tally(0, 1_000), 25)),
        "needs 20 more samples (failure_rate, wait_p90, decision_quality); \
         needs 20 more first attempts on the candidate (failures_against_stable); \
         needs 20 more runs that end well (slow_against_stable)"
    );
    assert_eq!(
        verdict_of(tally(19, 19), tally(0, 1_000)),
        Verdict::Inconclusive
    );
    // Once everybody has it, there may be nothing to compare with.
    assert_eq!(at(tally(0, 30), none, 100).verdict, Verdict::Pass);
}

#[test]
fn it_passes_when_probably_good_and_fails_when_surely_bad() {
    use Verdict::{Fail, Inconclusive, Pass};
    let stable = tally(5, 500);
    for (failed, tried, expected) in [
        // Enough for the gate, not enough to be probably no worse by a tenth.
        (0, 20, Inconclusive),
        (0, 30, Pass),
        (1, 50, Pass),
        (2, 20, Inconclusive),
        (3, 20, Inconclusive),
        (6, 20, Fail),
        (20, 20, Fail),
        (6, 60, Inconclusive),
        (20, 100, Fail),
        (100, 4_000, Pass),
    ] {
        let report = at(tally(failed, tried), stable, 25);
        assert_eq!(report.verdict, expected, "{failed}/{tried}: {report:?}");
    }
    // Within the limit of the gate, and surely worse than stable.
    let worse = at(tally(196, 4_000), tally(40, 4_000), 50);
    assert_eq!(worse.verdict, Fail);
    assert!(
        verdict::said(&worse).starts_with("failures_against_stable 3.9 % of 4000"),
        "{}",
        verdict::said(&worse)
    );
}

#[test]
fn a_shadow_that_differs_holds_and_never_rolls_back() {
    use Verdict::{Inconclusive, Pass};
    let good = || tally(0, 400);
    for (part, whole, expected) in [
        // Too little to say anything, whatever it says.
        (0, 19, Pass),
        (20, 20, Pass),
        (95, 100, Pass),
        (18, 20, Inconclusive),
        (0, 500, Inconclusive),
    ] {
        let evidence = Evidence {
            candidate: good(),
            stable: good(),
            shadow: interval::Part { part, whole },
        };
        let route = "code/build-test".parse().unwrap();
        let share = Share::try_from(25).unwrap();
        let report = judge(&evidence, &route, share, &Thresholds::default());
        assert_eq!(report.verdict, expected, "{part}/{whole}: {report:?}");
        let told = report.checks.iter().any(|c| c.name == "shadow_agreement");
        assert_eq!(told, whole >= 20);
    }
}

#[test]
fn what_stable_fails_too_is_not_the_candidates_doing() {
    let mut slow_bus = tally(0, 100);
    (slow_bus.waits_long, slow_bus.wait_p90_ms) = (60, Some(60_000));
    assert_eq!(verdict_of(slow_bus, tally(0, 400)), Verdict::Fail);
    let mut stable = tally(0, 400);
    (stable.waits_long, stable.wait_p90_ms) = (240, Some(60_000));
    assert_eq!(verdict_of(slow_bus, stable), Verdict::Inconclusive);
    // The worker behind both is away.
    let both = at(tally(50, 100), tally(200, 400), 25);
    assert_eq!(both.verdict, Verdict::Inconclusive);
    assert!(verdict::said(&both).contains("stable is over the limit, too"));
    // And yet a candidate that is worse still is.
    assert_eq!(verdict_of(tally(90, 100), tally(200, 400)), Verdict::Fail);
}

#[test]
fn a_slow_candidate_fails_beyond_chance() {
    let slow = |runs_slow| Tally {
        runs_slow,
        ..tally(0, 100)
    };
    let stable = tally(0, 400);
    assert_eq!(verdict_of(slow(10), stable), Verdict::Pass);
    assert_eq!(verdict_of(slow(15), stable), Verdict::Inconclusive);
    let report = at(slow(40), stable, 25);
    assert_eq!(report.verdict, Verdict::Fail);
    assert!(verdict::said(&report).starts_with("slow_against_stable 40.0 % of 100"));
}

#[test]
fn a_task_that_stable_had_to_end_is_no_success() {
    let mut rescued = tally(0, 100);
    // Every attempt on the candidate failed, every last one ran on stable.
    (rescued.failed, rescued.ended_failed) = (100, 0);
    (rescued.ended_held, rescued.runs) = (0, 0);
    let report = at(rescued, tally(0, 400), 25);
    assert_eq!(report.verdict, Verdict::Fail);
    let said = verdict::said(&report);
    assert!(said.contains("decision_quality") && said.contains("failures_against_stable"));
}
