//! Rollouts and shadows on the bus, as people look at them and steer them: the
//! row, the verdict, which hosts are ready, and changes on request.
//!
//! Decides nothing: the verdict is [`verdict::judge`]'s, the same that hosts act
//! on, or [`shadow::verdict`]'s, and what a state allows is said by
//! [`crate::rollout`].

use schemars::JsonSchema;
use serde::Serialize;

use crate::control::Decision;
use crate::gate::{GateReport, Thresholds};
use crate::ids::{Digest, ShadowId};
use crate::rollout::{Change, IllegalChange, RolloutRow, Share, verdict};
use crate::route::RouteKey;
use crate::selection::RolloutId;
use crate::shadow::difference::{EFFECTS_REFUSED, End};
use crate::shadow::verdict::Tally;
use crate::shadow::{self, ShadowRow, ShadowRunRow};
use crate::store::{HostRow, RolloutMove, ShadowRunFilter, Store, StoreError};

/// How often a change is tried again that somebody else came before.
const TRIES: u32 = 5;
/// How many of the latest differences a report shows.
const SAMPLE: u32 = 10;

/// A rollout and how it is doing.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RolloutView {
    #[serde(flatten)]
    pub row: RolloutRow,
    /// How many of a hundred tasks get the candidate now.
    pub share: Option<Share>,
    /// Of the step that it is at.
    pub gate: Option<GateReport>,
    /// The live hosts, while it is under way.
    pub hosts: Vec<Readiness>,
}

/// Whether a host could run the candidate at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    pub host: String,
    pub ready: bool,
}

impl RolloutView {
    /// Reads and judges.
    ///
    /// # Errors
    /// When the bus cannot be read.
    pub async fn read(
        store: &dyn Store,
        row: RolloutRow,
        thresholds: &Thresholds,
    ) -> Result<Self, StoreError> {
        let hosts = match row.state.is_active() {
            true => readiness(row.candidate, &store.hosts().await?),
            false => Vec::new(),
        };
        Ok(Self {
            share: row.share(),
            gate: judge(store, &row, thresholds).await?,
            hosts,
            row,
        })
    }
}

/// A shadow and what it found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShadowView {
    pub id: ShadowId,
    /// Absent where nobody ordered it: `compare`.
    pub row: Option<ShadowRow>,
    /// Of the latest runs.
    pub tally: Tally,
    /// The share of compared runs that came to the same.
    pub agreement: Option<f64>,
    pub gate: GateReport,
    /// The live hosts, while it is under way.
    pub hosts: Vec<Readiness>,
    /// The latest that came to something else, newest first.
    pub sample: Vec<ShadowRunRow>,
    /// Of the latest runs, how many could not do their work since side effects
    /// are refused.
    pub effects_refused: u64,
}

impl ShadowView {
    /// Reads and judges; `None` where there is no such shadow.
    ///
    /// # Errors
    /// When the bus cannot be read.
    pub async fn read(
        store: &dyn Store,
        id: &ShadowId,
        route: Option<RouteKey>,
        thresholds: &Thresholds,
    ) -> Result<Option<Self>, StoreError> {
        let row = store.shadow(id).await?;
        if row.is_none() && *id != ShadowId::compare() {
            return Ok(None);
        }
        let hosts = match row.as_ref().filter(|row| row.ended_at.is_none()) {
            Some(row) => readiness(row.candidate, &store.hosts().await?),
            None => Vec::new(),
        };
        let tally = store.shadow_tally(id, route.as_ref()).await?;
        let filter = ShadowRunFilter {
            shadow: Some(id.clone()),
            route,
            differing: true,
            limit: SAMPLE,
            ..ShadowRunFilter::default()
        };
        let latest = ShadowRunFilter {
            differing: false,
            ..filter.clone()
        };
        let latest = store.shadow_runs(&latest).await?;
        let refused = latest.iter().filter(|row| {
            matches!(&row.run.candidate_seen.end, End::Nothing { code, .. } if code == EFFECTS_REFUSED)
        });
        Ok(Some(Self {
            effects_refused: refused.map(|_| 1).sum(),
            id: id.clone(),
            row,
            agreement: tally.agreement().share(),
            gate: shadow::verdict::judge(&tally, thresholds),
            tally,
            hosts,
            sample: store.shadow_runs(&filter).await?,
        }))
    }
}

/// The live hosts, and whether each has the candidate ready.
pub fn readiness(candidate: Digest, hosts: &[HostRow]) -> Vec<Readiness> {
    let live = hosts.iter().filter(|host| host.is_live());
    live.map(|host| Readiness {
        host: host.name.clone(),
        ready: host.digests.contains(&candidate),
    })
    .collect()
}

/// The verdict over the step that a rollout is at; none where it has no share.
///
/// # Errors
/// When the bus cannot be read.
pub async fn judge(
    store: &dyn Store,
    row: &RolloutRow,
    thresholds: &Thresholds,
) -> Result<Option<GateReport>, StoreError> {
    let Some(share) = row.share() else {
        return Ok(None);
    };
    let evidence = store
        .rollout_evidence(row, thresholds.wait_p90_max_ms)
        .await?;
    Ok(Some(verdict::judge(
        &evidence, &row.route, share, thresholds,
    )))
}

/// Why a rollout is not changed as somebody asked.
#[derive(Debug, thiserror::Error)]
pub enum NotSteered {
    #[error("there is no rollout `{0}`")]
    Unknown(RolloutId),
    #[error("rollout {id}: {refused}")]
    Illegal {
        id: RolloutId,
        refused: IllegalChange,
    },
    #[error("rollout {0} changes all the time; try again")]
    Busy(RolloutId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a change that somebody asks for, whatever hosts do to it meanwhile.
///
/// # Errors
/// [`NotSteered`] where its state does not allow the change.
pub async fn steer(
    store: &dyn Store,
    id: &RolloutId,
    change: &Change,
    decision: &Decision,
) -> Result<RolloutRow, NotSteered> {
    for _ in 0..TRIES {
        let row = store.rollout(id).await?;
        let row = row.ok_or_else(|| NotSteered::Unknown(id.clone()))?;
        if let Err(refused) = row.state.after(change, &row.steps, "") {
            let id = id.clone();
            return Err(NotSteered::Illegal { id, refused });
        }
        let wanted = RolloutMove {
            row: &row,
            change,
            decision,
            report: None,
        };
        if let Some(after) = store.move_rollout(&wanted).await? {
            return Ok(after);
        }
    }
    Err(NotSteered::Busy(id.clone()))
}
