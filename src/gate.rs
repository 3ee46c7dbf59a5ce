//! Gates: the verdict over what the bus recorded, one engine for CI and for the
//! running host.
//!
//! Pure: evidence in, verdict out. No data never passes, and each check shows
//! its value, threshold and sample size, so that a verdict can be argued with.

mod words;

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attempt::Kind;
use crate::ids::TraceId;
use crate::route::{Policy, RouteKey};

/// What a gate looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that happened to one trace.
    Trace(TraceId),
    /// What ended in the last minutes.
    Window { minutes: u32 },
}

/// The limits of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Thresholds {
    /// Share of failed tasks, 0 to 1.
    pub fail_rate_max: f64,
    pub wait_p90_max_ms: u64,
    /// Percent, 0 to 100.
    pub decision_quality_min: f64,
    /// Fewer results than this leave a window inconclusive.
    pub min_samples: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            fail_rate_max: 0.05,
            wait_p90_max_ms: 5_000,
            decision_quality_min: 85.0,
            min_samples: 20,
        }
    }
}

/// What the bus recorded within a scope.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Tasks that have not ended.
    pub unsettled: u64,
    pub ended: Vec<Ended>,
    /// 90th percentile (nearest rank) of the waits of all attempts.
    pub wait_p90_ms: Option<u64>,
    /// How many waits that is of.
    pub waits: u64,
    /// How many `buildtest_done` events there are.
    pub buildtest_done: u64,
}

/// A group of tasks that ended alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub route: RouteKey,
    pub how: How,
    /// Of the executor that ended it, by its attempt row; absent where the task
    /// ended before one was chosen.
    pub kind: Option<Kind>,
    pub fallback: bool,
    /// The first routing decision held to the end: one plugin ran all attempts,
    /// without fallback, and it reported what the role promises.
    pub held: bool,
    /// The verdict of a build-test.
    pub passed: Option<bool>,
    pub tasks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Done,
    Failed,
    Cancelled,
}

/// What the whole gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// One line of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub name: Cow<'static, str>,
    pub verdict: Verdict,
    /// In the unit of the threshold; absent where there is no data.
    pub value: Option<f64>,
    pub threshold: f64,
    pub comparison: Comparison,
    pub unit: Unit,
    /// The sample size.
    pub n: u64,
    /// What is missing, or what tipped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Comparison {
    #[serde(rename = "<=")]
    AtMost,
    #[serde(rename = ">=")]
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A share from 0 to 1.
    Share,
    Milliseconds,
    Percent,
    Count,
}

/// The verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GateReport {
    pub verdict: Verdict,
    pub checks: Vec<Check>,
}

/// What is asked of the evidence besides the thresholds.
pub struct Question<'a> {
    pub scope: &'a Scope,
    pub thresholds: &'a Thresholds,
    /// Results of required routes must come from the real executor.
    pub require_real: bool,
    pub policy: &'a dyn Fn(&RouteKey) -> Policy,
}

/// Judges the evidence.
pub fn judge(evidence: &Evidence, question: &Question<'_>) -> GateReport {
    let judge = Judge { evidence, question };
    let mut checks = vec![
        judge.failure_rate(),
        judge.wait_p90(),
        judge.decision_quality(),
        judge.buildtest_done(),
    ];
    if question.require_real {
        checks.push(judge.real_path());
    }
    if matches!(question.scope, Scope::Trace(_)) {
        checks.extend(judge.settled());
        checks.extend(judge.tests_passed());
    }
    GateReport {
        verdict: verdict(&checks),
        checks,
    }
}

/// The checks of a gate that speak of results alone, of whatever kind and route:
/// `failure_rate`, `wait_p90` and `decision_quality`, over a window.
pub fn judge_results(evidence: &Evidence, thresholds: &Thresholds) -> Vec<Check> {
    let question = Question {
        scope: &Scope::Window { minutes: 0 },
        thresholds,
        require_real: false,
        policy: &|_| Policy::Optional,
    };
    let judge = Judge {
        evidence,
        question: &question,
    };
    vec![
        judge.failure_rate(),
        judge.wait_p90(),
        judge.decision_quality(),
    ]
}

/// What checks come to together: one that fails decides, and all must pass.
pub fn verdict(checks: &[Check]) -> Verdict {
    if checks.iter().any(|c| c.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if checks.iter().all(|c| c.verdict == Verdict::Pass) {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    }
}

struct Judge<'a> {
    evidence: &'a Evidence,
    question: &'a Question<'a>,
}

impl Judge<'_> {
    fn count(&self, keep: impl Fn(&Ended) -> bool) -> u64 {
        // A task that was only sent on is judged where it went.
        let sent_on = |e: &Ended| e.route.is_dispatcher() && e.how == How::Done;
        let ended = self.evidence.ended.iter().filter(|e| !sent_on(e));
        let kept = ended.filter(|e| keep(e));
        kept.map(|e| e.tasks).sum()
    }

    fn required(&self, ended: &Ended) -> bool {
        (self.question.policy)(&ended.route) == Policy::Required
    }

    /// A window needs a minimum of samples; a trace is complete in itself.
    fn min_samples(&self) -> u64 {
        match self.question.scope {
            Scope::Trace(_) => 1,
            Scope::Window { .. } => self.question.thresholds.min_samples.max(1),
        }
    }

    fn measured(
        &self,
        name: &'static str,
        value: Option<f64>,
        (comparison, threshold): (Comparison, f64),
        unit: Unit,
        n: u64,
    ) -> Check {
        let missing = self.min_samples().saturating_sub(n);
        let (verdict, note) = match value {
            Some(value) if missing == 0 => {
                let holds = match comparison {
                    Comparison::AtMost => value <= threshold,
                    Comparison::AtLeast => value >= threshold,
                };
                (if holds { Verdict::Pass } else { Verdict::Fail }, None)
            }
            _ => (
                Verdict::Inconclusive,
                Some(match missing.max(1) {
                    1 => "needs 1 more sample".to_owned(),
                    more => format!("needs {more} more samples"),
                }),
            ),
        };
        Check {
            name: name.into(),
            verdict,
            value,
            threshold,
            comparison,
            unit,
            n,
            note,
        }
    }

    /// Failed over all that ended by the real path. A task that failed before
    /// an executor was chosen counts: to leave it out would hide it.
    fn failure_rate(&self) -> Check {
        let counts = |e: &Ended| e.kind != Some(Kind::Mock) && !e.fallback;
        let failed = self.count(|e| counts(e) && e.how == How::Failed);
        let n = self.count(|e| counts(e) && e.how != How::Cancelled);
        let limit = (Comparison::AtMost, self.question.thresholds.fail_rate_max);
        let mut check = self.measured("failure_rate", share(failed, n), limit, Unit::Share, n);
        if n == 0 && self.count(|e| e.how != How::Cancelled) > 0 {
            check.note = Some("results of a mock do not count".to_owned());
        }
        check
    }

    fn wait_p90(&self) -> Check {
        // A wait in milliseconds is far below 2^53.
        let value = self.evidence.wait_p90_ms.map(|ms| ms as f64);
        let limit = self.question.thresholds.wait_p90_max_ms as f64;
        let limit = (Comparison::AtMost, limit);
        let n = self.evidence.waits;
        self.measured("wait_p90", value, limit, Unit::Milliseconds, n)
    }

    fn decision_quality(&self) -> Check {
        let held = self.count(|e| e.how == How::Done && e.held && !e.fallback);
        let n = self.count(|e| e.how != How::Cancelled);
        let limit = (
            Comparison::AtLeast,
            self.question.thresholds.decision_quality_min,
        );
        let value = share(held, n).map(|s| s * 100.0);
        self.measured("decision_quality", value, limit, Unit::Percent, n)
    }

    fn buildtest_done(&self) -> Check {
        let n = self.evidence.buildtest_done;
        let verdict = match (n, self.evidence.unsettled) {
            (1.., _) => Verdict::Pass,
            (0, 1..) => Verdict::Inconclusive,
            (0, 0) if self.evidence.ended.is_empty() => Verdict::Inconclusive,
            (0, 0) => Verdict::Fail,
        };
        Check {
            name: "buildtest_done".into(),
            verdict,
            value: Some(n as f64),
            threshold: 1.0,
            comparison: Comparison::AtLeast,
            unit: Unit::Count,
            n,
            note: (verdict != Verdict::Pass)
                .then(|| "no `buildtest_done` event in scope".to_owned()),
        }
    }

    fn real_path(&self) -> Check {
        let counts = |e: &Ended| self.required(e) && e.how == How::Done;
        let n = self.count(counts);
        let real = self.count(|e| counts(e) && e.kind == Some(Kind::Real) && !e.fallback);
        let value = share(real, n).map(|s| s * 100.0);
        let verdict = match n {
            0 => Verdict::Inconclusive,
            _ if real == n => Verdict::Pass,
            _ => Verdict::Fail,
        };
        Check {
            name: "real_path".into(),
            verdict,
            value,
            threshold: 100.0,
            comparison: Comparison::AtLeast,
            unit: Unit::Percent,
            n,
            note: match verdict {
                Verdict::Pass => None,
                Verdict::Inconclusive => Some("no result of a required route".to_owned()),
                Verdict::Fail => Some(format!(
                    "{} results did not come from the real executor",
                    n - real
                )),
            },
        }
    }

    /// Only shown while something is missing: a trace whose tasks all ended
    /// needs no line of its own.
    fn settled(&self) -> Option<Check> {
        let ended = self.count(|_| true);
        let note = match (ended, self.evidence.unsettled) {
            (_, open @ 1..) => format!("{open} tasks have not ended"),
            (0, 0) => "no task in this trace".to_owned(),
            (1.., 0) => return None,
        };
        Some(Check {
            name: "settled".into(),
            verdict: Verdict::Inconclusive,
            value: Some(self.evidence.unsettled as f64),
            threshold: 0.0,
            comparison: Comparison::AtMost,
            unit: Unit::Count,
            n: ended,
            note: Some(note),
        })
    }

    fn tests_passed(&self) -> Option<Check> {
        let counts = |e: &Ended| self.required(e) && e.how == How::Done && e.passed.is_some();
        let n = self.count(counts);
        let passed = self.count(|e| counts(e) && e.passed == Some(true));
        let value = share(passed, n)?;
        let verdict = if passed == n {
            Verdict::Pass
        } else {
            Verdict::Fail
        };
        Some(Check {
            name: "tests_passed".into(),
            verdict,
            value: Some(value * 100.0),
            threshold: 100.0,
            comparison: Comparison::AtLeast,
            unit: Unit::Percent,
            n,
            note: (verdict == Verdict::Fail)
                .then(|| format!("{} build-tests found failing tests", n - passed)),
        })
    }
}

/// `part` of `whole` from 0 to 1, and nothing of nothing: never a NaN.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(how: How, kind: Option<Kind>, tasks: u64) -> Ended {
        Ended {
            route: "code/build-test".parse().unwrap(),
            how,
            kind,
            fallback: false,
            held: how == How::Done,
            passed: (how == How::Done).then_some(true),
            tasks,
        }
    }

    fn real(done: u64, failed: u64) -> Evidence {
        Evidence {
            unsettled: 0,
            ended: vec![
                ended(How::Done, Some(Kind::Real), done),
                ended(How::Failed, Some(Kind::Real), failed),
            ],
            wait_p90_ms: Some(10),
            waits: done + failed,
            buildtest_done: done,
        }
    }

    fn window(evidence: &Evidence) -> GateReport {
        ask(evidence, &Scope::Window { minutes: 60 }, true)
    }

    fn trace(evidence: &Evidence) -> GateReport {
        ask(evidence, &Scope::Trace("t".parse().unwrap()), true)
    }

    fn ask(evidence: &Evidence, scope: &Scope, require_real: bool) -> GateReport {
        let question = Question {
            scope,
            thresholds: &Thresholds::default(),
            require_real,
            policy: &|_| Policy::Required,
        };
        judge(evidence, &question)
    }

    fn check(report: &GateReport, name: &str) -> Verdict {
        let found = report.checks.iter().find(|c| c.name == name);
        found.unwrap_or_else(|| panic!("no check {name}")).verdict
    }

    #[test]
    fn nothing_never_passes() {
        assert_eq!(window(&Evidence::default()).verdict, Verdict::Inconclusive);
        assert_eq!(trace(&Evidence::default()).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn the_failure_rate_holds_at_its_limit_and_fails_above() {
        assert_eq!(window(&real(95, 5)).verdict, Verdict::Pass);
        assert_eq!(check(&window(&real(94, 6)), "failure_rate"), Verdict::Fail);
    }

    #[test]
    fn a_window_wants_samples_and_a_trace_does_not() {
        let few = real(3, 0);
        assert_eq!(window(&few).verdict, Verdict::Inconclusive);
        assert_eq!(trace(&few).verdict, Verdict::Pass);
    }

    #[test]
    fn a_slow_bus_fails() {
        let mut slow = real(100, 0);
        slow.wait_p90_ms = Some(5_001);
        assert_eq!(check(&window(&slow), "wait_p90"), Verdict::Fail);
    }

    #[test]
    fn mock_and_fallback_results_are_not_real() {
        let mut mixed = real(100, 0);
        mixed.ended.push(ended(How::Done, Some(Kind::Mock), 1));
        assert_eq!(check(&window(&mixed), "real_path"), Verdict::Fail);
        let mut fallback = real(100, 0);
        fallback.ended[0].fallback = true;
        let report = window(&fallback);
        assert_eq!(check(&report, "real_path"), Verdict::Fail);
        assert_eq!(check(&report, "decision_quality"), Verdict::Fail);
        assert_eq!(check(&report, "failure_rate"), Verdict::Inconclusive);
    }

    #[test]
    fn cancelled_tasks_are_left_out() {
        let mut evidence = real(100, 0);
        evidence
            .ended
            .push(ended(How::Cancelled, Some(Kind::Real), 900));
        assert_eq!(window(&evidence).verdict, Verdict::Pass);
    }

    #[test]
    fn an_open_trace_is_inconclusive_and_red_tests_fail_it() {
        let mut open = real(1, 0);
        open.unsettled = 1;
        assert_eq!(trace(&open).verdict, Verdict::Inconclusive);
        let mut red = real(1, 0);
        red.ended[0].passed = Some(false);
        assert_eq!(check(&trace(&red), "tests_passed"), Verdict::Fail);
    }

    #[test]
    fn a_trace_without_a_finished_build_test_fails() {
        let report = trace(&real(0, 1));
        assert_eq!(check(&report, "buildtest_done"), Verdict::Fail);
        assert_eq!(report.verdict, Verdict::Fail);
    }
}
