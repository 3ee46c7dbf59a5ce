//! How people read a gate: the same words and units on the command line, in
//! reports and on pages.

use super::{Check, Comparison, Unit, Verdict};

impl Verdict {
    /// A sign that goes before the word, never in its place.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Pass => "✓",
            Self::Fail => "✗",
            Self::Inconclusive => "?",
        }
    }
}

impl Check {
    /// What was found, in its unit.
    pub fn shown_value(&self) -> String {
        let shown = |value| shown(value, self.unit);
        self.value.map_or_else(|| "no data".to_owned(), shown)
    }

    /// What it is held against, such as `≤ 5.0 %`.
    pub fn shown_threshold(&self) -> String {
        let sign = match self.comparison {
            Comparison::AtMost => "≤",
            Comparison::AtLeast => "≥",
        };
        format!("{sign} {}", shown(self.threshold, self.unit))
    }
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Share => format!("{:.1} %", value * 100.0),
        Unit::Percent => format!("{value:.1} %"),
        Unit::Milliseconds => format!("{value:.0} ms"),
        Unit::Count => format!("{value:.0}"),
    }
}
