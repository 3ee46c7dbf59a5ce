//! How sure a share is, and the difference of two shares.
//!
//! Score intervals: unlike the textbook's, they keep what they promise for few
//! samples and for shares near zero, which is where rollouts live.
//!
//! Sources: E. B. Wilson, "Probable Inference, the Law of Succession, and
//! Statistical Inference", JASA 22 (1927), 209-212. R. G. Newcombe, "Interval
//! Estimation for the Difference Between Independent Proportions: Comparison of
//! Eleven Methods", Statistics in Medicine 17 (1998), 873-890, method 10.

use serde::{Deserialize, Serialize};

/// Between which values something lies, at the confidence that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// So many of a number of trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Part {
    pub part: u64,
    pub whole: u64,
}

impl Part {
    /// From 0 to 1; nothing of nothing.
    pub fn share(self) -> Option<f64> {
        // Counts are far below 2^53.
        (self.whole > 0).then(|| self.part.min(self.whole) as f64 / self.whole as f64)
    }
}

/// Wilson's score interval of a share, `z` standard deviations wide; everything
/// where nothing was tried.
pub fn wilson(of: Part, z: f64) -> Interval {
    let Some(share) = of.share() else {
        return Interval {
            low: 0.0,
            high: 1.0,
        };
    };
    let n = of.whole as f64;
    let square = z * z;
    let centre = share + square / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    Interval {
        low: ((centre - spread) / scale).max(0.0),
        high: ((centre + spread) / scale).min(1.0),
    }
}

/// Newcombe's interval of `one` minus `other`; from -1 to 1 where either is
/// unknown.
pub fn difference(one: Part, other: Part, z: f64) -> Interval {
    let (Some(first), Some(second)) = (one.share(), other.share()) else {
        return Interval {
            low: -1.0,
            high: 1.0,
        };
    };
    let (of_first, of_second) = (wilson(one, z), wilson(other, z));
    let below = (first - of_first.low).hypot(of_second.high - second);
    let above = (of_first.high - first).hypot(second - of_second.low);
    Interval {
        low: first - second - below,
        high: first - second + above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Z95: f64 = 1.959_964;

    fn is(found: Interval, low: f64, high: f64) {
        let near = |a: f64, b: f64| (a - b).abs() < 0.000_06;
        assert!(near(found.low, low) && near(found.high, high), "{found:?}");
    }

    const fn of(part: u64, whole: u64) -> Part {
        Part { part, whole }
    }

    /// The worked examples of Newcombe's papers.
    #[test]
    fn the_published_examples_come_out() {
        is(wilson(of(81, 263), Z95), 0.2553, 0.3662);
        is(wilson(of(15, 148), Z95), 0.0624, 0.1605);
        is(wilson(of(0, 20), Z95), 0.0, 0.1611);
        is(wilson(of(1, 29), Z95), 0.0061, 0.1718);
        is(difference(of(56, 70), of(48, 80), Z95), 0.0524, 0.3339);
        is(difference(of(9, 10), of(3, 10), Z95), 0.1705, 0.8090);
        is(difference(of(5, 56), of(0, 29), Z95), -0.0381, 0.1926);
        is(difference(of(0, 10), of(0, 10), Z95), -0.2775, 0.2775);
    }

    #[test]
    fn nothing_is_known_of_nothing() {
        is(wilson(of(0, 0), Z95), 0.0, 1.0);
        is(difference(of(0, 0), of(1, 9), Z95), -1.0, 1.0);
        is(difference(of(1, 9), of(0, 0), Z95), -1.0, 1.0);
    }

    #[test]
    fn more_samples_are_surer_and_no_bound_leaves_the_scale() {
        for whole in [1, 2, 10, 1_000, 1 << 40] {
            for part in [0, whole / 2, whole] {
                let Interval { low, high } = wilson(of(part, whole), 3.0);
                assert!((0.0..=1.0).contains(&low) && (low..=1.0).contains(&high));
            }
        }
        let width = |n| {
            let found = wilson(of(n / 10, n), 3.0);
            found.high - found.low
        };
        assert!(width(10) > width(100) && width(100) > width(1_000));
    }
}
