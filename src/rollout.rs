//! Rolling a plugin version out: a growing share of a route's tasks runs on a
//! candidate, and what its attempts come to decides how it goes on.
//!
//! ```text
//!              hosts ready             passed              passed, last step
//!   waiting ───────────────▶ step 0 ──────────▶ step 1 … ─────────────────▶ promoted
//!                            │  ▲ │                  failed
//!               inconclusive ▼  │ └───────────────────────────────▶ rolled back
//!                            held │
//!                                 └ passed: as from a step
//! ```
//!
//! A pause stops promotion, not protection: a candidate that fails is rolled
//! back also while its rollout is paused, and never waits for anybody. An end is
//! an end: nothing leads out of promoted, rolled back or aborted.
//!
//! The state lies on the bus, and a change is a compare-and-set of its revision,
//! so that any host may drive a rollout and one does. Nothing here reads a clock,
//! the bus or chance; all of them come in. What evidence is worth is said by
//! [`verdict`], how sure it is by [`interval`].

pub mod events;
pub mod interval;
pub mod verdict;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::gate::{GateReport, Verdict};
use crate::ids::{Digest, MessageId, PluginName, TraceId};
use crate::route::RouteKey;
use crate::selection::{RolloutId, Side};

/// The most steps that a rollout may have.
pub const MAX_STEPS: usize = 20;
/// The shortest and the longest time that a step lasts at least.
pub const INTERVALS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));

/// How many of a hundred tasks get the candidate: 1 to 100.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(extend("minimum" = 1, "maximum" = 100))]
pub struct Share(u8);

impl Share {
    pub const ALL: Self = Self(100);

    /// In percent.
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// Whether a task is among the share that `name` draws: the same on every
    /// host, and once in, in at every larger share.
    pub fn holds(self, name: &str, task: MessageId) -> bool {
        let mut hash = Sha256::new();
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(task.0.as_bytes());
        let mut first = [0; 8];
        for (byte, of) in first.iter_mut().zip(hash.finalize()) {
            *byte = of;
        }
        // The upper part of the product is the hash scaled to 0..100, without the
        // bias of a remainder.
        let place = (u128::from(u64::from_be_bytes(first)) * 100) >> 64;
        place < u128::from(self.0)
    }
}

impl TryFrom<u8> for Share {
    type Error = InvalidSteps;

    fn try_from(percent: u8) -> Result<Self, InvalidSteps> {
        match percent {
            1..=100 => Ok(Self(percent)),
            _ => Err(InvalidSteps::OutOfRange(percent.to_string())),
        }
    }
}

impl From<Share> for u8 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// The shares of a rollout, one after the other: at least one, rising.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<Share>", into = "Vec<Share>")]
#[schemars(extend("minItems" = 1, "maxItems" = MAX_STEPS))]
pub struct Steps(Vec<Share>);

/// Why a text is no steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSteps {
    #[error("there is no step")]
    Empty,
    #[error("`{0}` is no share: expected whole percents from 1 to 100")]
    OutOfRange(String),
    #[error("the steps do not rise: {after} comes after {before}")]
    NotRising { before: Share, after: Share },
    #[error("there are {0} steps; at most {MAX_STEPS} are allowed")]
    TooMany(usize),
}

impl Steps {
    pub fn shares(&self) -> &[Share] {
        &self.0
    }

    /// The share at a step.
    pub fn share(&self, step: u32) -> Option<Share> {
        self.0.get(usize::try_from(step).ok()?).copied()
    }

    /// The step that follows, unless this is the last one.
    fn after(&self, step: u32) -> Option<u32> {
        let next = step.checked_add(1)?;
        self.share(next).map(|_| next)
    }
}

impl TryFrom<Vec<Share>> for Steps {
    type Error = InvalidSteps;

    fn try_from(shares: Vec<Share>) -> Result<Self, InvalidSteps> {
        if shares.is_empty() {
            return Err(InvalidSteps::Empty);
        }
        if shares.len() > MAX_STEPS {
            return Err(InvalidSteps::TooMany(shares.len()));
        }
        for (before, after) in shares.iter().zip(shares.iter().skip(1)) {
            if before >= after {
                return Err(InvalidSteps::NotRising {
                    before: *before,
                    after: *after,
                });
            }
        }
        Ok(Self(shares))
    }
}

impl From<Steps> for Vec<Share> {
    fn from(steps: Steps) -> Self {
        steps.0
    }
}

impl FromStr for Steps {
    type Err = InvalidSteps;

    /// Percents parted by commas, such as `5,25,50,100`.
    fn from_str(text: &str) -> Result<Self, InvalidSteps> {
        let parts = text.split(',').map(str::trim);
        let shares = parts.filter(|part| !part.is_empty()).map(|part| {
            let percent = part.trim_end_matches('%').trim_end().parse::<u8>();
            let out_of_range = || InvalidSteps::OutOfRange(part.chars().take(20).collect());
            let percent = percent.map_err(|_| out_of_range())?;
            Share::try_from(percent).map_err(|_| out_of_range())
        });
        shares.collect::<Result<Vec<_>, _>>()?.try_into()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, share) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}", share.percent())?;
        }
        Ok(())
    }
}

/// What the tasks of a route draw their sides from while a rollout has a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    pub rollout: RolloutId,
    pub share: Share,
}

impl Draw {
    /// The side of a task: the same on every host, and once the candidate, the
    /// candidate at every larger share.
    pub fn side(&self, task: MessageId) -> Side {
        match self.share.holds(self.rollout.as_str(), task) {
            true => Side::Candidate,
            false => Side::Stable,
        }
    }
}

/// A rollout as the bus holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutRow {
    pub id: RolloutId,
    pub route: RouteKey,
    pub plugin: PluginName,
    pub candidate: Digest,
    /// What served when it was started, as far as that was known.
    pub stable: Option<Digest>,
    pub steps: Steps,
    /// How long a step lasts at least.
    pub interval_ms: u64,
    /// Counts the changes, from 1.
    pub revision: i64,
    #[serde(flatten)]
    pub state: State,
    pub started_by: String,
    pub reason: Option<String>,
    /// Of all its events.
    pub trace_id: TraceId,
    pub started_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
}

/// How a rollout stands. Steps are counted from 0; `for_ms` is how long the step
/// has lasted, by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Not every live host has the candidate ready; no task gets it.
    Waiting,
    /// The share of this step gets the candidate.
    Step { step: u32, for_ms: u64 },
    /// The step lasted long enough and its evidence was not enough.
    Held { step: u32, for_ms: u64, why: String },
    /// Somebody stopped it from going on: at a step, or while it waited.
    Paused {
        step: Option<u32>,
        #[serde(default)]
        for_ms: u64,
        by: String,
    },
    /// The candidate is what serves.
    Promoted { by: String },
    /// The candidate was worse; stable serves all tasks.
    RolledBack { step: u32, why: String },
    /// Somebody ended it; stable serves all tasks.
    Aborted { by: String },
}

/// What happens to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Every live host has the candidate ready.
    HostsReady,
    /// The gate of the step passed.
    Passed,
    Inconclusive {
        why: String,
    },
    Failed {
        why: String,
    },
    /// Somebody takes the step for passed.
    Promote,
    Pause,
    Resume,
    Abort,
}

/// A change that a state does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", refusal(.from, .change))]
pub struct IllegalChange {
    pub from: State,
    pub change: Change,
}

fn refusal(from: &State, change: &Change) -> String {
    let wish = match change {
        Change::Promote => "promoted",
        Change::Pause => "paused",
        Change::Resume => "resumed",
        Change::Abort => "aborted",
        Change::HostsReady => "begun",
        Change::Passed | Change::Inconclusive { .. } | Change::Failed { .. } => "judged",
    };
    format!(
        "a rollout that is {} cannot be {wish}",
        from.name().replace('_', " ")
    )
}

impl State {
    /// The state after a change that `actor` makes; `for_ms` of a new step is 0.
    ///
    /// # Errors
    /// When this state does not know the change: somebody else was faster, or an
    /// operator asks for what makes no sense.
    pub fn after(
        &self,
        change: &Change,
        steps: &Steps,
        actor: &str,
    ) -> Result<Self, IllegalChange> {
        let by = || actor.to_owned();
        let onward = |step: u32| match steps.after(step) {
            Some(step) => Self::Step { step, for_ms: 0 },
            None => Self::Promoted { by: by() },
        };
        Ok(match (self, change) {
            (Self::Waiting, Change::HostsReady) => Self::Step { step: 0, for_ms: 0 },
            (
                Self::Step { step, .. } | Self::Held { step, .. },
                Change::Passed | Change::Promote,
            ) => onward(*step),
            (
                Self::Paused {
                    step: Some(step), ..
                },
                Change::Promote,
            ) => onward(*step),
            (Self::Step { step, for_ms }, Change::Inconclusive { why }) => Self::Held {
                step: *step,
                for_ms: *for_ms,
                why: why.clone(),
            },
            (
                Self::Step { step, .. }
                | Self::Held { step, .. }
                | Self::Paused {
                    step: Some(step), ..
                },
                Change::Failed { why },
            ) => Self::RolledBack {
                step: *step,
                why: why.clone(),
            },
            (Self::Waiting, Change::Pause) => Self::Paused {
                step: None,
                for_ms: 0,
                by: by(),
            },
            (Self::Step { step, for_ms } | Self::Held { step, for_ms, .. }, Change::Pause) => {
                Self::Paused {
                    step: Some(*step),
                    for_ms: *for_ms,
                    by: by(),
                }
            }
            (Self::Paused { step: None, .. }, Change::Resume) => Self::Waiting,
            (
                Self::Paused {
                    step: Some(step),
                    for_ms,
                    ..
                },
                Change::Resume,
            ) => Self::Step {
                step: *step,
                for_ms: *for_ms,
            },
            (
                Self::Waiting | Self::Step { .. } | Self::Held { .. } | Self::Paused { .. },
                Change::Abort,
            ) => Self::Aborted { by: by() },
            (from, change) => {
                return Err(IllegalChange {
                    from: from.clone(),
                    change: change.clone(),
                });
            }
        })
    }

    /// As the bus and the API call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Step { .. } => "step",
            Self::Held { .. } => "held",
            Self::Paused { .. } => "paused",
            Self::Promoted { .. } => "promoted",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
        }
    }

    /// The step that it is or ended at.
    pub const fn step(&self) -> Option<u32> {
        match self {
            Self::Step { step, .. } | Self::Held { step, .. } | Self::RolledBack { step, .. } => {
                Some(*step)
            }
            Self::Paused { step, .. } => *step,
            Self::Waiting | Self::Promoted { .. } | Self::Aborted { .. } => None,
        }
    }

    /// Whether it may still go on.
    pub const fn is_active(&self) -> bool {
        match self {
            Self::Waiting | Self::Step { .. } | Self::Held { .. } | Self::Paused { .. } => true,
            Self::Promoted { .. } | Self::RolledBack { .. } | Self::Aborted { .. } => false,
        }
    }

    /// How long the step has lasted in all, `passed` after this was read.
    pub fn aged(&mut self, passed_ms: u64) {
        if let Self::Step { for_ms, .. } | Self::Held { for_ms, .. } | Self::Paused { for_ms, .. } =
            self
        {
            *for_ms = for_ms.saturating_add(passed_ms);
        }
    }
}

impl RolloutRow {
    /// The share of tasks that get the candidate now.
    pub fn share(&self) -> Option<Share> {
        match self.state.is_active() {
            true => self.steps.share(self.state.step()?),
            false => None,
        }
    }

    /// What tasks draw their sides from; nothing while no share gets the
    /// candidate.
    pub fn draw(&self) -> Option<Draw> {
        Some(Draw {
            rollout: self.id.clone(),
            share: self.share()?,
        })
    }

    /// What the verdict over its present step has a host do.
    pub fn wanted(&self, report: &GateReport) -> Option<Change> {
        let failed = || Change::Failed {
            why: verdict::said(report),
        };
        match (&self.state, report.verdict) {
            (
                State::Step { .. } | State::Held { .. } | State::Paused { step: Some(_), .. },
                Verdict::Fail,
            ) => Some(failed()),
            (State::Held { .. }, Verdict::Pass) => Some(Change::Passed),
            (State::Step { for_ms, .. }, verdict) if *for_ms >= self.interval_ms => {
                Some(match verdict {
                    Verdict::Pass => Change::Passed,
                    Verdict::Inconclusive => Change::Inconclusive {
                        why: verdict::said(report),
                    },
                    Verdict::Fail => failed(),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
