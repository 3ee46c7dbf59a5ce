//! What several tests need: processes, buses to test on, hosts that are only
//! hands, and the checker of the invariants.

pub mod bed;
pub mod browser;
pub mod hand;
pub mod invariants;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod sqlite;

use cogo_host::store::{EventFilter, TaskFilter};

/// Every event, oldest first.
pub fn everything() -> EventFilter {
    EventFilter {
        limit: 1_000_000,
        ..EventFilter::default()
    }
}

/// Every task, newest first.
pub fn all_tasks() -> TaskFilter {
    TaskFilter {
        limit: 1_000_000,
        ..TaskFilter::default()
    }
}
