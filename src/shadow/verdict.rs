//! What the differences of a shadow are worth: one verdict, as of any gate.
//!
//! `shadow_agreement` asks how many of the compared runs came to the same,
//! `slow_against_stable` how many took much longer than their task did. Neither
//! fails by chance, and too few runs pass nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::difference::Kind;
use crate::gate::{self, GateReport, Thresholds};
use crate::rollout::interval::Part;
use crate::rollout::verdict::{agreement, slowness};

/// What the latest runs of a shadow came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    pub runs: u64,
    /// Runs that say something, and how many of them agree.
    pub compared: u64,
    pub agreed: u64,
    /// How many runs differ in each kind, those that differ in none left out.
    pub differences: BTreeMap<Kind, u64>,
    /// Pairs of runs that both reported, whose durations can be compared.
    pub timed: u64,
    pub p50_ms: Option<u64>,
    pub p90_ms: Option<u64>,
    pub stable_p50_ms: Option<u64>,
    pub stable_p90_ms: Option<u64>,
}

impl Tally {
    pub const fn agreement(&self) -> Part {
        Part {
            part: self.agreed,
            whole: self.compared,
        }
    }

    fn slow(&self) -> Part {
        let slow = self.differences.get(&Kind::Duration);
        Part {
            part: slow.copied().unwrap_or_default(),
            whole: self.timed,
        }
    }
}

/// The verdict over a shadow.
pub fn judge(tally: &Tally, thresholds: &Thresholds) -> GateReport {
    let p90 = (tally.p90_ms, tally.stable_p90_ms);
    let checks = vec![
        agreement("shadow_agreement", tally.agreement(), thresholds),
        slowness(tally.slow(), tally.timed, p90, thresholds),
    ];
    GateReport {
        verdict: gate::verdict(&checks),
        checks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Verdict;

    fn verdict(compared: u64, agreed: u64, timed: u64, slow: u64) -> Verdict {
        let tally = Tally {
            runs: compared,
            compared,
            agreed,
            timed,
            differences: BTreeMap::from([(Kind::Duration, slow)]),
            ..Tally::default()
        };
        judge(&tally, &Thresholds::default()).verdict
    }

    #[test]
    fn it_passes_on_enough_that_agrees_and_fails_beyond_chance() {
        for (tally, expected) in [
            ((0, 0, 0, 0), Verdict::Inconclusive),
            ((19, 19, 19, 0), Verdict::Inconclusive),
            ((20, 20, 20, 0), Verdict::Pass),
            ((20, 19, 20, 2), Verdict::Pass),
            // So few may be bad luck.
            ((20, 18, 20, 0), Verdict::Inconclusive),
            ((20, 20, 20, 3), Verdict::Inconclusive),
            ((200, 150, 200, 0), Verdict::Fail),
            ((200, 200, 200, 150), Verdict::Fail),
            // What agrees in failing says nothing of durations.
            ((20, 20, 0, 0), Verdict::Inconclusive),
        ] {
            let (compared, agreed, timed, slow) = tally;
            assert_eq!(
                verdict(compared, agreed, timed, slow),
                expected,
                "{tally:?}"
            );
        }
    }
}
