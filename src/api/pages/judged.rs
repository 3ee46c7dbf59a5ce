//! The verdict over the window, judged once for all who look at the overview.
//!
//! Judging reads every attempt of the window, and a page that is left open asks
//! again with every event. **Invariant:** looking on takes no more than a small
//! share of the database's time, however many pages are open and however much
//! happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::workflows::Gate;
use crate::gate::Scope;

/// Judging takes one part in so many of the time.
const SHARE: u32 = 20;
/// No verdict is shown for longer, whatever it costs.
const LONGEST: Duration = Duration::from_secs(60);

/// The verdict that was made last; it is held while another one is made, so that
/// whoever comes meanwhile waits for that one.
#[derive(Default)]
pub(in crate::api) struct Judged(Mutex<Option<Latest>>);

struct Latest {
    gate: Arc<Gate>,
    made: Instant,
    good_for: Duration,
}

impl Judged {
    pub(super) async fn over_the_window(&self, shared: &Shared) -> Result<Arc<Gate>, ApiError> {
        let mut latest = self.0.lock().await;
        if let Some(latest) = latest.as_ref().filter(|l| l.made.elapsed() < l.good_for) {
            return Ok(Arc::clone(&latest.gate));
        }
        let scope = Scope::Window {
            minutes: shared.api.window_min,
        };
        let begun = Instant::now();
        let gate = Arc::new(Gate::read(shared, scope, shared.requires_real()).await?);
        *latest = Some(Latest {
            gate: Arc::clone(&gate),
            made: Instant::now(),
            good_for: (begun.elapsed() * SHARE).min(LONGEST),
        });
        Ok(gate)
    }
}
