//! Drives the rollouts of the bus: begins one once every live host has its
//! candidate ready, judges the step it is at, and lets it go on or back.
//!
//! Every host of a bus does so; a change is a compare-and-set, so that one of
//! them makes it. It takes no input but the bus, so that a restart continues
//! where another host left off, and a round that fails is the next one's work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::controls::Known;
use crate::bus::outage::bounded;
use crate::control::{Decider, Decision};
use crate::gate::{GateReport, Thresholds};
use crate::ids::HolderId;
use crate::rollout::{Change, RolloutRow, State};
use crate::selection::RolloutId;
use crate::steering;
use crate::store::{RolloutMove, Store, StoreError};

/// How long one call to the database may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a rollout is looked into at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How many times as long as an answer took nothing is asked after it: evidence
/// may cost the database something where much ran.
const REST_SHARE: u32 = 4;

/// The rollouts, as one host drives them.
pub struct Rollouts {
    pub store: Arc<dyn Store>,
    pub holder: HolderId,
    pub thresholds: Thresholds,
    pub pace: Pace,
}

/// When each rollout was looked into.
#[derive(Default)]
pub struct Pace(Mutex<HashMap<RolloutId, Asked>>);

#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    took: Duration,
}

impl Pace {
    /// Those that are to be looked into now; what is over is forgotten.
    fn due(&self, rows: Vec<RolloutRow>) -> Vec<RolloutRow> {
        let mut asked = self.0.lock();
        asked.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let is_due = |row: &RolloutRow| {
            asked.get(&row.id).is_none_or(|asked| {
                let rest = ASK_EVERY.max(asked.took * REST_SHARE);
                asked.at.elapsed() >= rest
            })
        };
        rows.into_iter().filter(is_due).collect()
    }

    fn asked(&self, id: &RolloutId, took: Duration) {
        let at = Instant::now();
        self.0.lock().insert(id.clone(), Asked { at, took });
    }
}

impl Rollouts {
    /// Looks into every rollout that is under way; whether anything was changed.
    ///
    /// # Errors
    /// When the bus is out of reach.
    pub async fn look(&self, known: &Known) -> Result<bool, StoreError> {
        let mut changed = false;
        for row in self.pace.due(known.rollouts()) {
            let begun = Instant::now();
            let looked = self.look_into(&row).await;
            self.pace.asked(&row.id, begun.elapsed());
            changed |= looked?;
        }
        Ok(changed)
    }

    async fn look_into(&self, row: &RolloutRow) -> Result<bool, StoreError> {
        match &row.state {
            State::Waiting => {
                let hosts = bounded(PATIENCE, self.store.hosts()).await?;
                let live = steering::readiness(row.candidate, &hosts);
                match !live.is_empty() && live.iter().all(|host| host.ready) {
                    true => self.change(row, &Change::HostsReady, None).await,
                    false => Ok(false),
                }
            }
            State::Step { .. } | State::Held { .. } | State::Paused { step: Some(_), .. } => {
                let judging = steering::judge(&*self.store, row, &self.thresholds);
                let report = bounded(PATIENCE, judging).await?;
                match report.as_ref().and_then(|report| row.wanted(report)) {
                    Some(change) => self.change(row, &change, report.as_ref()).await,
                    None => Ok(false),
                }
            }
            State::Paused { step: None, .. }
            | State::Promoted { .. }
            | State::RolledBack { .. }
            | State::Aborted { .. } => Ok(false),
        }
    }

    /// Makes a change unless somebody else made one; whether this host did.
    async fn change(
        &self,
        row: &RolloutRow,
        change: &Change,
        report: Option<&GateReport>,
    ) -> Result<bool, StoreError> {
        let decision = Decision {
            by: Decider::Named(self.holder.to_string()),
            reason: None,
        };
        let wanted = RolloutMove {
            row,
            change,
            decision: &decision,
            report,
        };
        let after = bounded(PATIENCE, self.store.move_rollout(&wanted)).await?;
        if let Some(after) = &after {
            tell(after);
        }
        Ok(after.is_some())
    }
}

/// Tells the operator what this host brought about.
fn tell(row: &RolloutRow) {
    let RolloutRow {
        id,
        route,
        plugin,
        candidate,
        ..
    } = row;
    match &row.state {
        State::Step { .. } => {
            if let Some(share) = row.share() {
                tracing::info!(
                    rollout = %id, route = %route, plugin.digest = %candidate,
                    "rollout {id}: {share} of {route} runs on the candidate of {plugin}"
                );
            }
        }
        State::Held { why, .. } => tracing::warn!(
            rollout = %id, route = %route,
            "rollout {id} of {plugin} stays at its step: {why}"
        ),
        State::RolledBack { why, .. } => tracing::error!(
            rollout = %id, route = %route, plugin.digest = %candidate,
            "rollout {id} of {plugin} is rolled back: {why}"
        ),
        State::Promoted { .. } => tracing::info!(
            rollout = %id, route = %route, plugin.digest = %candidate,
            "rollout {id}: {plugin} serves as {candidate}"
        ),
        State::Waiting | State::Paused { .. } | State::Aborted { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::row;

    #[test]
    fn a_rollout_is_not_looked_into_all_the_time() {
        let pace = Pace::default();
        let row = row(State::Waiting);
        let due = || pace.due(vec![row.clone()]).len();
        assert_eq!(due(), 1);
        assert_eq!(due(), 1);
        pace.asked(&row.id, Duration::ZERO);
        assert_eq!(due(), 0);
        // One that is over is forgotten, and whoever has its name begins anew.
        assert!(pace.due(Vec::new()).is_empty());
        assert_eq!(due(), 1);
    }
}
