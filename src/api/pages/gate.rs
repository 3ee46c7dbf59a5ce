//! A gate's verdict as a table.

use super::shown::{Badge, Tone};
use crate::gate::{Check, GateReport, Verdict};

pub(super) struct GateShown {
    pub(super) verdict: Badge,
    pub(super) checks: Vec<CheckShown>,
}

pub(super) struct CheckShown {
    pub(super) name: String,
    pub(super) verdict: Badge,
    pub(super) value: String,
    pub(super) threshold: String,
    pub(super) n: u64,
    pub(super) note: String,
}

impl GateShown {
    pub(super) fn of(report: &GateReport) -> Self {
        Self {
            verdict: badge(report.verdict),
            checks: report.checks.iter().map(CheckShown::of).collect(),
        }
    }
}

impl CheckShown {
    fn of(check: &Check) -> Self {
        Self {
            name: check.name.to_string(),
            verdict: badge(check.verdict),
            value: check.shown_value(),
            threshold: check.shown_threshold(),
            n: check.n,
            note: check.note.clone().unwrap_or_default(),
        }
    }
}

fn badge(verdict: Verdict) -> Badge {
    let tone = match verdict {
        Verdict::Pass => Tone::Good,
        Verdict::Fail => Tone::Bad,
        Verdict::Inconclusive => Tone::Warn,
    };
    Badge::new(tone, format!("{} {verdict}", verdict.mark()))
}

/// The checks that keep a gate from passing, with what is missing.
pub(super) fn shortcomings(report: &GateReport, verdict: Verdict) -> Vec<String> {
    let checks = report.checks.iter().filter(|c| c.verdict == verdict);
    let said = checks.map(|check| {
        let note = check.note.as_ref().map(|note| format!(", {note}"));
        format!(
            "{} {} ({}{})",
            check.name,
            check.shown_value(),
            check.shown_threshold(),
            note.unwrap_or_default()
        )
    });
    said.collect()
}
