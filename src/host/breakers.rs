//! Drives the breakers of this host's real paths: opens one when the bus holds
//! enough against its path, takes probes that are due, and closes it once a
//! worker answers.
//!
//! Every host of a bus does so; a change is a compare-and-set, so that one of
//! them makes it. It takes no input but the bus and this host's own probes, and a
//! round that fails is the next one's work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::controls::Known;
use super::live_routes::LiveRoutes;
use super::probes::Standing;
use super::routes::{RouteEntry, RouteTable};
use crate::breaker::{self, BreakerRow, Change, RealPath, Said, State, Timing};
use crate::bus::outage::bounded;
use crate::control;
use crate::event::NewEvent;
use crate::ids::HolderId;
use crate::selection::{Choice, Path};
use crate::store::{BreakerMove, Store, StoreError};

/// How long one call to the database may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a probe waits for a task before another host may try.
const NO_TASK: Duration = Duration::from_secs(10);
/// How long the end of a probe's attempt may take to get to the bus.
const NO_WORD: Duration = Duration::from_secs(10);

/// How often the bus is asked what paths met, whatever happens here.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How many times as long as an answer took nothing is asked after it.
const REST_SHARE: u32 = 4;

/// The breakers of one host.
pub struct Breakers {
    pub store: Arc<dyn Store>,
    pub routes: Arc<LiveRoutes>,
    pub holder: HolderId,
    pub timing: Timing,
    pub pace: Pace,
}

/// When the bus is asked what paths met. It only turns to the worse by a failure,
/// and the host that had it asks at once; all ask now and then, since that host
/// may be gone. The answer may cost the database something where much ran and
/// little failed, so it is never asked without a rest.
pub struct Pace(Mutex<Asked>);

struct Asked {
    at: Instant,
    /// The answer took so long.
    took: Duration,
    /// There was a failure that it does not know of.
    suspicion: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(Asked {
            at: Instant::now(),
            took: Duration::ZERO,
            suspicion: true,
        }))
    }
}

impl Pace {
    /// Whether to ask now.
    fn is_due(&self, suspicion: bool) -> bool {
        let mut asked = self.0.lock();
        asked.suspicion |= suspicion;
        let rest = match asked.suspicion {
            true => asked.took * REST_SHARE,
            false => ASK_EVERY,
        };
        asked.at.elapsed() >= rest
    }

    fn asked(&self, took: Duration) {
        *self.0.lock() = Asked {
            at: Instant::now(),
            took,
            suspicion: false,
        };
    }
}

impl Breakers {
    /// Looks at every path once; whether anything was changed.
    ///
    /// # Errors
    /// When the bus is out of reach.
    pub async fn look(&self) -> Result<bool, StoreError> {
        let (table, known) = (self.routes.table(), self.routes.decided());
        let paths: Vec<(RealPath, &RouteEntry)> = table
            .entries()
            .filter_map(|entry| Some((entry.real_path()?, entry)))
            .collect();
        if paths.is_empty() {
            return Ok(false);
        }
        let mut changed = self.open_tripped(&table, &known, &paths).await?;
        for (path, entry) in &paths {
            let row = known.breaker(path);
            changed |= match self.wanted(&table, &known, entry, &row) {
                Wanted::Nothing => false,
                Wanted::Keep => self.keep(&row).await?,
                Wanted::Change(change) => {
                    let held = table.held_by_breaker(entry, known.flag(&entry.key));
                    self.change(&row, change, held).await?
                }
            };
        }
        Ok(changed)
    }

    async fn open_tripped(
        &self,
        table: &RouteTable,
        known: &Known,
        paths: &[(RealPath, &RouteEntry)],
    ) -> Result<bool, StoreError> {
        if !self.pace.is_due(self.routes.take_suspicion()) {
            return Ok(false);
        }
        let begun = Instant::now();
        let evidence = bounded(PATIENCE, self.store.path_evidence()).await?;
        self.pace.asked(begun.elapsed());
        let mut changed = false;
        for met in evidence {
            let Some((path, entry)) = paths.iter().find(|(path, _)| *path == met.path) else {
                continue;
            };
            if let Some(cause) = breaker::trips(&met.evidence) {
                let row = known.breaker(path);
                let held = table.held_by_breaker(entry, known.flag(&entry.key));
                changed |= self.change(&row, Change::Tripped(cause), held).await?;
            }
        }
        Ok(changed)
    }

    /// What is to be done about a breaker as it is now.
    fn wanted(
        &self,
        table: &RouteTable,
        known: &Known,
        entry: &RouteEntry,
        row: &BreakerRow,
    ) -> Wanted {
        let (path, probes) = (&row.path, self.routes.probes());
        match &row.state {
            State::Closed => {
                probes.forget(path);
                Wanted::Nothing
            }
            State::Open { probe_in_ms, .. } => {
                probes.forget(path);
                let due = *probe_in_ms == 0 && can_probe(table, known, entry);
                let holder = self.holder.to_string();
                match due {
                    true => Wanted::Change(Change::Taken { holder }),
                    false => Wanted::Nothing,
                }
            }
            State::Probing {
                holder, left_ms, ..
            } if holder != self.holder.as_str() => match left_ms {
                0 => Wanted::Change(Change::Gone),
                _ => Wanted::Nothing,
            },
            State::Probing { .. } => match probes.standing(path) {
                Some(Standing::UnderWay) => Wanted::Keep,
                Some(Standing::Said(Said::Answered)) => Wanted::Change(Change::Answered),
                Some(Standing::Said(Said::Failed | Said::Nothing)) => {
                    Wanted::Change(Change::Failed)
                }
                Some(Standing::Lost(ago)) if ago < NO_WORD => Wanted::Keep,
                Some(Standing::Ready(waited)) if waited < NO_TASK => Wanted::Keep,
                // Withdrawn first: a task may take it at this very moment.
                Some(Standing::Ready(_)) if !probes.withdraw(path) => Wanted::Keep,
                Some(Standing::Ready(_) | Standing::Lost(_)) | None => Wanted::Change(Change::Gone),
            },
        }
    }

    /// Makes a change unless somebody else made one; whether this host did.
    async fn change(
        &self,
        row: &BreakerRow,
        change: Change,
        held: bool,
    ) -> Result<bool, StoreError> {
        let taken = matches!(change, Change::Taken { .. });
        let tripped = matches!(change, Change::Tripped(_));
        let events = self.events(&row.path, &change, held);
        let after = row
            .state
            .clone()
            .after(change, &self.timing, rand::random());
        let Ok(to) = after else {
            // What was known was not the latest any more.
            return Ok(false);
        };
        let change = BreakerMove {
            path: &row.path,
            revision: row.revision,
            to: &to,
            events: &events,
        };
        let changed = bounded(PATIENCE, self.store.move_breaker(&change)).await?;
        if !taken {
            self.routes.probes().forget(&row.path);
        } else if changed {
            self.routes.probes().make_ready(&row.path);
        }
        if changed {
            tell(&row.path, &to, tripped);
        }
        Ok(changed)
    }

    fn events(&self, path: &RealPath, change: &Change, held: bool) -> Vec<NewEvent> {
        let host = self.holder.as_str();
        match change {
            Change::Tripped(cause) => control::breaker_opened(path, cause, host, held),
            Change::Answered => control::breaker_closed(path, host, held),
            Change::Taken { .. } | Change::Failed | Change::Gone => Vec::new(),
        }
    }

    async fn keep(&self, row: &BreakerRow) -> Result<bool, StoreError> {
        let lease = self.timing.probe_lease;
        let keep = self.store.keep_probe(&row.path, row.revision, lease);
        if !bounded(PATIENCE, keep).await? {
            // Somebody took it for gone; what its attempt says comes too late.
            self.routes.probes().forget(&row.path);
        }
        Ok(false)
    }
}

enum Wanted {
    Nothing,
    /// Show that the probe is still under way.
    Keep,
    Change(Change),
}

/// Whether a task of the route could find anything out here.
fn can_probe(table: &RouteTable, known: &Known, entry: &RouteEntry) -> bool {
    if known.of(entry).paused {
        return false;
    }
    match table.with_flag(entry, known.flag(&entry.key)) {
        Choice::Run {
            plugin,
            digest,
            why,
        } if why.path == Path::Real => table.runnable(&entry.key, &plugin, digest).is_ok(),
        Choice::Run { .. } | Choice::Hold(_) => false,
    }
}

/// Tells the operator; what is held is told by every host for itself.
fn tell(path: &RealPath, state: &State, tripped: bool) {
    let RealPath { plugin, route } = path;
    match state {
        State::Closed => tracing::info!(
            route = %route, plugin.name = %plugin,
            "the worker behind {plugin} answers again: {route} runs on it"
        ),
        State::Open { outage, .. } if tripped => tracing::warn!(
            route = %route, plugin.name = %plugin,
            "the real path of {route} by {plugin} is down: {}", outage.cause
        ),
        State::Open {
            outage,
            probe_in_ms,
        } => tracing::debug!(
            route = %route, plugin.name = %plugin, failed_probes = outage.failed_probes,
            "the real path of {route} by {plugin} is still down; the next probe is due in {probe_in_ms} ms"
        ),
        State::Probing { .. } => tracing::debug!(
            route = %route, plugin.name = %plugin,
            "the next task of {route} probes its real path"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_is_looked_into_after_a_rest_and_never_forgotten() {
        let pace = Pace::default();
        assert!(pace.is_due(false), "what happened before this host");
        pace.asked(Duration::from_secs(600));
        assert!(!pace.is_due(true));
        // Asked again without a new one, it still waits for its turn alone.
        pace.0.lock().took = Duration::ZERO;
        assert!(pace.is_due(false));
        pace.asked(Duration::ZERO);
        assert!(!pace.is_due(false));
        assert!(pace.is_due(true));
    }
}
