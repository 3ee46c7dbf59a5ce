//! What the evidence of a step is worth: the checks of [`crate::gate`] over the
//! candidate's results, and the candidate against stable.
//!
//! **Two questions, one asymmetry.** To go on, every check must pass on enough
//! samples. To roll back, one check must fail *beyond chance*: the whole interval
//! of what was measured lies on the wrong side of its limit. What lies between
//! holds the step, which costs patience and nothing else.
//!
//! **Looking all the time.** A running rollout is judged every second or so, and
//! whoever looks often enough sees every coincidence once (R. Johari and others,
//! "Peeking at A/B Tests", KDD 2017). Failing therefore wants [`SURE`] standard
//! deviations, far more than one look would; what that leaves of false alarms is
//! counted by the simulation in the tests. Passing is looked at only after the
//! interval, and a false pass is met again at the next step: [`PROBABLE`] does.
//!
//! **What is counted.** Against stable, a task counts once, by its first attempt:
//! attempts at one task hang together, and a last attempt runs on stable whatever
//! the side, so later ones would favour the candidate. Cancelled, drained and
//! probing attempts and the host's own faults say nothing. The gate's checks look
//! at how the tasks of a side ended; one that stable had to end is no success of
//! the candidate.
//!
//! **A shadow** that came to other results holds the step: whether they are meant
//! to be other is for people to say.
//!
//! **What stable fails, too, is not the candidate's doing**: a full queue or a
//! worker that is away. It holds the step and rolls nothing back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Share;
use super::interval::{Part, difference, wilson};
use crate::gate::{self, Check, Comparison, GateReport, Thresholds, Unit, Verdict};
use crate::route::RouteKey;

/// Standard deviations of a bound that rolls back: one look in 740 beyond it by
/// chance.
pub const SURE: f64 = 4.0;
/// Standard deviations of a bound that lets a step pass: 95 % on its one side.
pub const PROBABLE: f64 = 1.645;
/// Failing more often than stable by no more than this is no reason to roll back.
pub const WORSE: f64 = 0.01;
/// A step passes only once the candidate probably fails no more often than stable
/// by this.
pub const TOLERATED: f64 = 0.10;
/// Runs of the candidate are slow from so many times stable's 90th percentile on.
pub const SLOWER: u64 = 2;
/// Below so many milliseconds more, a run is not slow.
pub const SLOWER_BY_MS: u64 = 100;
/// No evidence is older: a candidate that was good for a day must not hide that it
/// is so no more.
pub const WINDOW: Duration = Duration::from_secs(6 * 3600);
/// The share of runs that may be slow; of waits that may be long, since a 90th
/// percentile leaves so many above it.
pub const TENTH: f64 = 0.10;
/// The share of compared shadow runs that must come to the same.
pub const AGREED: f64 = 0.95;

/// What was met since the present step began. Of stable, at a share of 100, since
/// the rollout began: nothing has run on it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    pub candidate: Tally,
    pub stable: Tally,
    /// Where the candidate ran on tasks beside what served, on this route.
    #[serde(default)]
    pub shadow: Part,
}

/// What the attempts and tasks of one side came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// First attempts that say something, and how many of them failed.
    pub tried: u64,
    pub failed: u64,
    /// Tasks that ended, how many of them failed, and of how many the first
    /// routing decision held to the end.
    pub ended: u64,
    pub ended_failed: u64,
    pub ended_held: u64,
    /// Waits of attempts, and how many were over the limit.
    pub waits: u64,
    pub waits_long: u64,
    pub wait_p90_ms: Option<u64>,
    /// First attempts that were done, and how many of them were slow by the
    /// measure of stable.
    pub runs: u64,
    pub runs_slow: u64,
    pub run_p90_ms: Option<u64>,
}

impl Tally {
    const fn failures(&self) -> Part {
        Part {
            part: self.failed,
            whole: self.tried,
        }
    }

    /// The part of a check of the gate that speaks against this side.
    const fn against(&self, name: &str) -> Option<Part> {
        Some(match name.as_bytes() {
            b"failure_rate" => Part {
                part: self.ended_failed,
                whole: self.ended,
            },
            b"decision_quality" => Part {
                part: self.ended.saturating_sub(self.ended_held),
                whole: self.ended,
            },
            b"wait_p90" => Part {
                part: self.waits_long,
                whole: self.waits,
            },
            _ => return None,
        })
    }

    /// The same as the gate reads it. The operator's word for a plugin's kind is
    /// left out: a candidate that nobody pinned yet has none.
    fn evidence(&self, route: &RouteKey) -> gate::Evidence {
        let ended = |how, held, tasks| gate::Ended {
            route: route.clone(),
            how,
            kind: None,
            fallback: false,
            held,
            passed: None,
            tasks,
        };
        let done = self.ended.saturating_sub(self.ended_failed);
        let held = self.ended_held.min(done);
        gate::Evidence {
            ended: vec![
                ended(gate::How::Done, true, held),
                ended(gate::How::Done, false, done - held),
                ended(gate::How::Failed, false, self.ended_failed),
            ],
            wait_p90_ms: self.wait_p90_ms,
            waits: self.waits,
            ..gate::Evidence::default()
        }
    }
}

/// The verdict over a step.
pub fn judge(
    evidence: &Evidence,
    route: &RouteKey,
    share: Share,
    thresholds: &Thresholds,
) -> GateReport {
    let Evidence {
        candidate,
        stable,
        shadow,
    } = evidence;
    let of = |tally: &Tally| gate::judge_results(&tally.evidence(route), thresholds);
    let mut checks = of(candidate);
    for (check, same) in checks.iter_mut().zip(of(stable)) {
        if check.verdict == Verdict::Fail {
            doubt(check, candidate, &same, thresholds);
        }
    }
    // Nothing runs on stable any more; where nothing ever did, the gate's own
    // checks are all there is.
    let comparable = share != Share::ALL || stable.tried >= thresholds.min_samples;
    if comparable {
        checks.push(failures(candidate, stable, thresholds));
        checks.push(run_time(candidate, stable, thresholds));
    }
    checks.extend(shadowed(*shadow, thresholds));
    GateReport {
        verdict: gate::verdict(&checks),
        checks,
    }
}

/// Softens a failed check that chance or stable may account for.
fn doubt(check: &mut Check, candidate: &Tally, stable: &Check, thresholds: &Thresholds) {
    let limit = match &*check.name {
        "failure_rate" => thresholds.fail_rate_max,
        "decision_quality" => 1.0 - thresholds.decision_quality_min / 100.0,
        _ => TENTH,
    };
    let against = candidate.against(&check.name).unwrap_or_default();
    if stable.verdict == Verdict::Fail {
        check.verdict = Verdict::Inconclusive;
        check.note = Some("stable is over the limit, too".to_owned());
    } else if wilson(against, SURE).low <= limit {
        check.verdict = Verdict::Inconclusive;
        check.note = Some("over the limit, which so few may be by chance".to_owned());
    }
}

/// What a shadow found, once it found enough. A version that comes to other
/// results harms no task by that, and may be meant to: people decide.
fn shadowed(shadow: Part, thresholds: &Thresholds) -> Option<Check> {
    if shadow.whole < thresholds.min_samples.max(1) {
        return None;
    }
    let mut check = agreement("shadow_agreement", shadow, thresholds);
    if check.verdict == Verdict::Fail {
        check.verdict = Verdict::Inconclusive;
        check.note = Some(format!(
            "{} shadow runs came to something else; promote by hand if that is meant",
            shadow.whole.saturating_sub(shadow.part)
        ));
    }
    Some(check)
}

/// Whether enough of what was compared comes to the same.
pub fn agreement(name: &'static str, agreed: Part, thresholds: &Thresholds) -> Check {
    let missing = thresholds.min_samples.max(1).saturating_sub(agreed.whole);
    let (verdict, note) = match agreed.share() {
        Some(share) if missing == 0 => {
            if share >= AGREED {
                (Verdict::Pass, None)
            } else if wilson(agreed, SURE).high < AGREED {
                (Verdict::Fail, None)
            } else {
                let note = "below the limit, which so few may be by chance";
                (Verdict::Inconclusive, Some(note.to_owned()))
            }
        }
        _ => {
            let note = format!("needs {} more runs that can be compared", missing.max(1));
            (Verdict::Inconclusive, Some(note))
        }
    };
    Check {
        name: name.into(),
        verdict,
        value: agreed.share(),
        threshold: AGREED,
        comparison: Comparison::AtLeast,
        unit: Unit::Share,
        n: agreed.whole,
        note,
    }
}

/// How much more often the candidate fails than stable.
fn failures(candidate: &Tally, stable: &Tally, thresholds: &Thresholds) -> Check {
    let (one, other) = (candidate.failures(), stable.failures());
    let surely = difference(one, other, SURE);
    let probably = difference(one, other, PROBABLE);
    let n = one.whole.min(other.whole);
    let value = one.share().zip(other.share()).map(|(a, b)| a - b);
    let missing = thresholds.min_samples.max(1).saturating_sub(n);
    let (verdict, note) = if missing > 0 {
        let side = match one.whole <= other.whole {
            true => "the candidate",
            false => "stable",
        };
        let note = format!("needs {missing} more first attempts on {side}");
        (Verdict::Inconclusive, Some(note))
    } else if surely.low > WORSE {
        let note = format!("worse by at least {} beyond chance", points(surely.low));
        (Verdict::Fail, Some(note))
    } else if probably.high > TOLERATED {
        let note = format!(
            "may be worse by {}; more first attempts will tell",
            points(probably.high)
        );
        (Verdict::Inconclusive, Some(note))
    } else {
        (Verdict::Pass, None)
    };
    Check {
        name: "failures_against_stable".into(),
        verdict,
        value,
        threshold: TOLERATED,
        comparison: Comparison::AtMost,
        unit: Unit::Share,
        n,
        note,
    }
}

/// How many of the candidate's runs are slow by the measure of stable.
fn run_time(candidate: &Tally, stable: &Tally, thresholds: &Thresholds) -> Check {
    let slow = Part {
        part: candidate.runs_slow,
        whole: candidate.runs,
    };
    let n = candidate.runs.min(stable.runs);
    slowness(
        slow,
        n,
        (candidate.run_p90_ms, stable.run_p90_ms),
        thresholds,
    )
}

/// Whether few enough runs are slow by the measure of stable, given the 90th
/// percentiles of both.
pub fn slowness(
    slow: Part,
    n: u64,
    (p90_ms, stable_p90_ms): (Option<u64>, Option<u64>),
    thresholds: &Thresholds,
) -> Check {
    let missing = thresholds.min_samples.max(1).saturating_sub(n);
    let (verdict, note) = match slow.share() {
        Some(share) if missing == 0 => {
            if share <= TENTH {
                (Verdict::Pass, None)
            } else if wilson(slow, SURE).low > TENTH {
                let note = format!(
                    "p90 {} ms, stable's {} ms",
                    p90_ms.unwrap_or_default(),
                    stable_p90_ms.unwrap_or_default()
                );
                (Verdict::Fail, Some(note))
            } else {
                let note = "over the limit, which so few may be by chance";
                (Verdict::Inconclusive, Some(note.to_owned()))
            }
        }
        _ => {
            let note = format!("needs {} more runs that end well", missing.max(1));
            (Verdict::Inconclusive, Some(note))
        }
    };
    Check {
        name: "slow_against_stable".into(),
        verdict,
        value: slow.share(),
        threshold: TENTH,
        comparison: Comparison::AtMost,
        unit: Unit::Share,
        n,
        note,
    }
}

/// What tipped a verdict, in one line.
pub fn said(report: &GateReport) -> String {
    let telling = report
        .checks
        .iter()
        .filter(|check| check.verdict == report.verdict);
    let lines: Vec<String> = match report.verdict {
        Verdict::Inconclusive => missing(telling),
        Verdict::Pass | Verdict::Fail => telling.map(line).collect(),
    };
    match lines.is_empty() {
        true => report.verdict.to_string(),
        false => lines.join("; "),
    }
}

/// What is missing, and for which checks: most of them lack the same.
fn missing<'c>(checks: impl Iterator<Item = &'c Check>) -> Vec<String> {
    let mut lacks: Vec<(&str, Vec<&str>)> = Vec::new();
    for check in checks {
        let note = check.note.as_deref().unwrap_or("inconclusive");
        match lacks.iter_mut().find(|(known, _)| *known == note) {
            Some((_, names)) => names.push(&*check.name),
            None => lacks.push((note, vec![&*check.name])),
        }
    }
    let lines = lacks.into_iter();
    lines
        .map(|(note, names)| format!("{note} ({})", names.join(", ")))
        .collect()
}

fn line(check: &Check) -> String {
    let shown = |value: f64| match check.unit {
        Unit::Share => points(value),
        Unit::Milliseconds => format!("{value} ms"),
        Unit::Percent => format!("{value:.1} %"),
        Unit::Count => format!("{value}"),
    };
    let value = check.value.map_or_else(|| "nothing".to_owned(), shown);
    let note = check.note.as_deref().map(|note| format!(", {note}"));
    format!(
        "{} {value} of {} (limit {}){}",
        check.name,
        check.n,
        shown(check.threshold),
        note.unwrap_or_default()
    )
}

/// A share in percent.
fn points(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
