//! When a failed attempt is tried again: exponential backoff with full jitter.
//!
//! Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015 (the variant called full jitter). Randomness is an argument.

use std::time::Duration;

/// How the delay grows and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The bound of the first delay; it doubles with each attempt.
    pub base: Duration,
    /// No delay is longer, whoever asks for it.
    pub cap: Duration,
    /// Attempts of a task that names no number of its own.
    pub max_attempts: u32,
}

impl RetryPolicy {
    pub const DEFAULT: Self = Self {
        base: Duration::from_secs(1),
        cap: Duration::from_secs(15 * 60),
        max_attempts: 5,
    };

    /// The delay after attempt number `attempt` (from 1). What the plugin asked
    /// for (`after`) is a lower bound up to the cap; `jitter` runs from 0 to 1.
    ///
    /// Never zero, so that a retry is never scheduled in the past.
    pub fn delay(&self, attempt: u32, after: Option<Duration>, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        let own = bound.mul_f64(jitter.clamp(0.0, 1.0));
        let asked = after.unwrap_or(Duration::ZERO).min(self.cap);
        own.max(asked).max(Duration::from_millis(1))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_are_never_zero() {
        let policy = RetryPolicy::DEFAULT;
        let full = |attempt| policy.delay(attempt, None, 1.0).as_secs();
        assert_eq!([1, 2, 3, 4].map(full), [1, 2, 4, 8]);
        assert_eq!(full(40), 900);
        assert!(policy.delay(1, None, 0.0) > Duration::ZERO);
    }

    #[test]
    fn what_the_plugin_asks_for_is_honoured_up_to_the_cap() {
        let policy = RetryPolicy::DEFAULT;
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(policy.delay(1, hour, 0.0), policy.cap);
        let soon = Some(Duration::from_millis(5));
        assert_eq!(policy.delay(1, soon, 1.0), Duration::from_secs(1));
    }
}
