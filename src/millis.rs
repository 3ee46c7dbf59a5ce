//! Durations as all columns, events and answers have them. Nothing else belongs
//! here.

use std::time::Duration;

/// A duration as whole milliseconds; the largest number where it is longer.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
