//! A thousand rollouts of good and of bad candidates by a clock of their own: how
//! often the verdicts are wrong, and whom a bad candidate reaches before its end.
//!
//! Every seed is fixed: the counts are the same on every machine.

use chrono::DateTime;
use cogo_host::gate::Thresholds;
use cogo_host::ids::{Digest, MessageId, TraceId};
use cogo_host::rollout::verdict::{Evidence, Tally, judge};
use cogo_host::rollout::{RolloutRow, Share, State};
use cogo_host::selection::Side;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

fn rollout(seed: u64) -> RolloutRow {
    RolloutRow {
        id: format!("ro-{seed}").parse().unwrap(),
        route: "code/build-test".parse().unwrap(),
        plugin: "cogo-worker".parse().unwrap(),
        candidate: Digest::of(b"new"),
        stable: Some(Digest::of(b"old")),
        steps: "5,25,50,100".parse().unwrap(),
        interval_ms: 600 * SECOND,
        revision: 1,
        state: State::Step { step: 0, for_ms: 0 },
        started_by: "anna".to_owned(),
        reason: None,
        trace_id: TraceId::generate(),
        started_at: DateTime::UNIX_EPOCH,
        changed_at: DateTime::UNIX_EPOCH,
    }
}

const SECOND: u64 = 1_000;

/// How a simulated rollout ended, and whom the candidate ran for.
#[derive(Debug, Clone, Copy)]
struct Ended {
    promoted: bool,
    rolled_back: bool,
    /// Tasks while the candidate had a share, and those that it ran.
    tasks: u64,
    exposed: u64,
    /// The largest share that it had.
    share: u8,
}

/// One rollout of `5,25,50,100`: a task a second, a judgement after each of the
/// candidate's, a step of ten minutes, for half a day at most.
fn simulate(seed: u64, bad: f64, stable_bad: f64) -> Ended {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rollout = rollout(seed);
    let mut since_step = Evidence::default();
    let mut stable_in_all = Tally::default();
    let mut ended = Ended {
        promoted: false,
        rolled_back: false,
        tasks: 0,
        exposed: 0,
        share: 0,
    };
    for _ in 0..12 * 3_600 {
        let Some(draw) = rollout.draw() else { break };
        ended.share = draw.share.percent();
        ended.tasks += 1;
        match draw.side(MessageId(uuid::Uuid::from_u128(rng.random()))) {
            Side::Candidate => {
                ended.exposed += 1;
                meet(&mut since_step.candidate, rng.random_bool(bad), &mut rng);
            }
            Side::Stable => {
                let failed = rng.random_bool(stable_bad);
                meet(&mut since_step.stable, failed, &mut rng);
                meet(&mut stable_in_all, failed, &mut rng);
                rollout.state.aged(SECOND);
                continue;
            }
        }
        rollout.state.aged(SECOND);
        let mut evidence = since_step;
        if draw.share == Share::ALL {
            evidence.stable = stable_in_all;
        }
        let report = judge(
            &evidence,
            &rollout.route,
            draw.share,
            &Thresholds::default(),
        );
        let Some(change) = rollout.wanted(&report) else {
            continue;
        };
        let step = rollout.state.step();
        rollout.state = rollout.state.after(&change, &rollout.steps, "h").unwrap();
        if rollout.state.step() != step {
            since_step = Evidence::default();
        }
    }
    ended.promoted = matches!(rollout.state, State::Promoted { .. });
    ended.rolled_back = matches!(rollout.state, State::RolledBack { .. });
    ended
}

/// A first attempt, and the end of its task: half of the failures are for good,
/// the others mend at a second attempt.
fn meet(tally: &mut Tally, failed: bool, rng: &mut StdRng) {
    let for_good = failed && rng.random_bool(0.5);
    tally.tried += 1;
    tally.failed += u64::from(failed);
    tally.ended += 1;
    tally.ended_failed += u64::from(for_good);
    tally.ended_held += u64::from(!for_good);
    tally.waits += 1;
    tally.wait_p90_ms = Some(10);
    if !failed {
        tally.runs += 1;
        tally.run_p90_ms = Some(20);
    }
}

const SEEDS: u64 = 1_000;

fn all(bad: f64, stable_bad: f64) -> Vec<Ended> {
    (0..SEEDS)
        .map(|seed| simulate(seed, bad, stable_bad))
        .collect()
}

fn count(all: &[Ended], is: impl Fn(&Ended) -> bool) -> usize {
    all.iter().filter(|ended| is(ended)).count()
}

#[test]
fn of_a_thousand_good_candidates_nearly_all_are_promoted() {
    for bad in [0.01, 0.03] {
        let all = all(bad, bad);
        let rolled_back = count(&all, |ended| ended.rolled_back);
        assert!(rolled_back <= 5, "false rollbacks at {bad}: {rolled_back}");
        assert_eq!(count(&all, |ended| ended.promoted), 1_000 - rolled_back);
    }
}

#[test]
fn of_a_thousand_bad_candidates_none_is_promoted_nor_gets_far() {
    let all = all(0.2, 0.01);
    assert_eq!(count(&all, |ended| ended.promoted), 0);
    assert_eq!(count(&all, |ended| ended.rolled_back), 1_000);
    // Twice the minimum of samples.
    let soon = count(&all, |ended| ended.exposed <= 40);
    assert!(soon >= 930, "within twice the minimum: {soon}");
    assert!(count(&all, |ended| ended.share > 5) <= 10);
    assert_eq!(count(&all, |ended| ended.share > 25), 0);
    // The blast radius: a twentieth, but for the few that got to the next step.
    let sum = |of: fn(&Ended) -> u64| all.iter().map(of).sum::<u64>() as f64;
    let radius = sum(|ended| ended.exposed) / sum(|ended| ended.tasks);
    assert!(radius <= 0.06, "{radius}");
}

#[test]
fn a_rollout_without_tasks_goes_nowhere() {
    let mut rollout = rollout(0);
    for _ in 0..10 {
        rollout.state.aged(rollout.interval_ms);
        let share = rollout.share().unwrap();
        let none = Evidence::default();
        let report = judge(&none, &rollout.route, share, &Thresholds::default());
        if let Some(change) = rollout.wanted(&report) {
            rollout.state = rollout.state.after(&change, &rollout.steps, "h").unwrap();
        }
        assert!(matches!(rollout.state, State::Held { step: 0, .. }));
    }
}
