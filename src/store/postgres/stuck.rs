//! Rows that the database lets nobody change as a host must: a check or a trigger
//! of others refuses it.
//!
//! One such row must keep no other waiting: it is told of, and left alone for a
//! while, in case that somebody mends it. Nothing is written about it, since
//! nothing can be. Every host finds out for itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::Trouble;

/// How long a row is left alone.
const PAUSE: Duration = Duration::from_secs(60);
/// Where more are refused than that, it is no matter of rows.
const MOST: usize = 10_000;
/// So many are told of one by one.
const TOLD: usize = 20;

#[derive(Default)]
pub(super) struct Stuck {
    until: Mutex<HashMap<Uuid, Instant>>,
}

impl Stuck {
    /// The rows to leave alone at this time.
    pub(super) fn rows(&self, now: Instant) -> Vec<Uuid> {
        let mut until = self.until.lock();
        until.retain(|_, until| *until > now);
        until.keys().copied().collect()
    }

    /// Leaves a row alone; whether there is room to remember it.
    pub(super) fn leave(&self, row: Uuid, now: Instant, trouble: &Trouble) -> bool {
        let mut until = self.until.lock();
        if until.len() >= MOST {
            return false;
        }
        until.insert(row, now + PAUSE);
        if until.len() > TOLD {
            return true;
        }
        let problem = match trouble {
            Trouble::Sql(cause) => cause.to_string(),
            Trouble::Store(error) => error.to_string(),
        };
        tracing::warn!(
            message.id = %row,
            problem,
            hint = "mend the row or the rule; `cogo-host doctor` names rules that refuse a host",
            "the database refuses every change of task {row}; leaving it alone for {}",
            humantime::format_duration(PAUSE)
        );
        true
    }
}

/// Whether what was refused may be a single row's matter.
/// Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
pub(super) fn is_of_a_row(trouble: &Trouble) -> bool {
    let Trouble::Sql(sqlx::Error::Database(error)) = trouble else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    // What triggers and functions raise, data exceptions, integrity constraints,
    // and views' checks.
    let classes = ["09", "22", "23", "27", "38", "39", "44", "P0"];
    code.get(..2).is_some_and(|class| classes.contains(&class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Trouble {
        Trouble::Sql(sqlx::Error::Protocol("refused".to_owned()))
    }

    #[test]
    fn a_row_is_tried_again_after_a_while() {
        let stuck = Stuck::default();
        let (row, now) = (Uuid::new_v4(), Instant::now());
        assert!(stuck.leave(row, now, &refused()));
        assert_eq!(stuck.rows(now), [row]);
        assert!(stuck.rows(now + PAUSE).is_empty());
    }

    #[test]
    fn what_is_refused_everywhere_is_no_matter_of_rows() {
        let stuck = Stuck::default();
        let now = Instant::now();
        for _ in 0..MOST {
            assert!(stuck.leave(Uuid::new_v4(), now, &refused()));
        }
        assert!(!stuck.leave(Uuid::new_v4(), now, &refused()));
    }
}
