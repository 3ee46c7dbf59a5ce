//! The database may be slow or away. A call that could hang is bounded here,
//! and an outage is told once, again every minute, and when it is over, however
//! often the loop tries in between.

use std::time::{Duration, Instant};

use crate::store::StoreError;

/// How long an answer of the database is worth waiting for. Above what stores
/// themselves allow a statement and its locks.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often an outage that goes on is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Waits for a call, but not for ever. Only for calls that may be repeated.
pub(crate) async fn bounded<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer(patience)),
    }
}

pub(crate) fn no_answer(patience: Duration) -> StoreError {
    let shown = humantime::format_duration(patience);
    StoreError::Unavailable(format!("it did not answer within {shown}"))
}

/// Whether one part of the loop gets through to the database.
pub(crate) struct Outage {
    /// What cannot be done meanwhile.
    what: &'static str,
    told: Option<Instant>,
}

impl Outage {
    pub(crate) const fn of(what: &'static str) -> Self {
        Self { what, told: None }
    }

    pub(crate) fn goes_on(&mut self, error: &StoreError) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            let what = self.what;
            tracing::warn!(%error, hint = error.hint(), "cannot {what}; trying until it works");
        }
    }

    pub(crate) fn is_over(&mut self) {
        if self.told.take().is_some() {
            tracing::info!("can {} again", self.what);
        }
    }
}
