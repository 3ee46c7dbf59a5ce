//! `/api/metrics`: what the bus recorded, as the installation's own paths show
//! it.

pub(super) mod bus;
pub(super) mod orchestrator;
pub(super) mod trace;
pub(super) mod workflows;

use std::ops::RangeInclusive;
use std::time::Duration;

/// How far back a request may look, in minutes: up to a year.
pub(super) const MINUTES: RangeInclusive<u32> = 1..=366 * 24 * 60;

const fn minutes(minutes: u32) -> Duration {
    Duration::from_secs(minutes as u64 * 60)
}
