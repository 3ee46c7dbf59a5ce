//! Whether the real path of a route is believed to work: a plugin on a route,
//! watched by what its attempts met, as a state machine without a clock.
//!
//! ```text
//!            tripped                    taken
//!   closed ──────────▶ open ──────────────────────────▶ probing
//!     ▲                 ▲                                │    │
//!     │                 └── failed, or gone ─────────────┘    │
//!     └───────────────────── answered ────────────────────────┘
//! ```
//!
//! The state lies on the bus, and a change is a compare-and-set of its revision,
//! so that of many hosts that saw the same, one makes it. Nothing here reads a
//! clock, the bus or chance; all of them come in.
//!
//! **What counts.** Only what speaks of the service behind the plugin: an
//! attempt on the real path that the worker is to blame for, unless the worker
//! did answer ([`ANSWERS`]). A refusal is an answer, and so is "busy", which asks
//! for patience by itself. Cancelled, drained and lost attempts and the host's
//! own faults say nothing of the worker. Nor do a plugin's traps: a broken
//! version is a matter of rollback, and one payload that traps must not take its
//! route from everybody. What began before the breaker last closed is history.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attempt::{AttemptOutcome, Blame};
use crate::ids::PluginName;
use crate::route::RouteKey;

/// How far back failures are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How far back a row of failed connections may reach.
pub const STREAK_WINDOW: Duration = Duration::from_secs(600);
/// Below so many results, a share says nothing.
pub const MIN_RESULTS: u32 = 20;
/// Failed connections in a row that open the breaker.
pub const STREAK: u32 = 5;
/// Of at least so many tasks: one alone may be to blame itself.
pub const STREAK_TASKS: u32 = 2;
/// The code of an attempt whose worker could not be reached.
pub const UNREACHABLE: &str = "worker_unreachable";
/// Codes by which a worker shows that it is there.
pub const ANSWERS: [&str; 2] = ["worker_rejected", "worker_busy"];
/// The wait before a probe doubles so often at most.
const DOUBLINGS: u32 = 4;
/// The wait after a probe that found nothing out: so that others get a turn.
const PASS_ON: Duration = Duration::from_secs(1);

/// What a breaker is about: one plugin on one route.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct RealPath {
    pub plugin: PluginName,
    pub route: RouteKey,
}

/// What one attempt on a real path says of the worker behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is there.
    Answered,
    Failed,
    Nothing,
}

impl Said {
    /// By the attempt's outcome, and where it has one, by its problem.
    pub fn of(outcome: AttemptOutcome, code: Option<&str>, blame: Option<Blame>) -> Self {
        match (outcome, blame) {
            (AttemptOutcome::Done, _) => Self::Answered,
            (_, Some(Blame::Worker)) if code.is_some_and(is_answer) => Self::Answered,
            (
                AttemptOutcome::Retry | AttemptOutcome::Failed | AttemptOutcome::Probe,
                Some(Blame::Worker),
            ) => Self::Failed,
            _ => Self::Nothing,
        }
    }
}

/// How a task goes on whose attempt was a probe that failed: given back, since
/// it was the host that chose to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// How long it is left alone, so that the next probe is another task's where
    /// there is one; `None` for the usual delay of a retry.
    pub stay_back: Option<Duration>,
}

/// Whether a worker's failure shows that it is there.
pub fn is_answer(code: &str) -> bool {
    ANSWERS.contains(&code)
}

/// What the attempts on a path met lately. Everything is counted since the
/// breaker closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Within [`WINDOW`].
    pub failures: u32,
    /// Within [`WINDOW`]; no more are counted than matter.
    pub answers: u32,
    /// The latest results as far as all of them are failed connections; zero
    /// where they are fewer than [`STREAK`] or of one task alone.
    pub streak: u32,
    pub streak_tasks: u32,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Half of the results or more were failures.
    FailureShare { failures: u32, results: u32 },
    /// The worker could not be reached again and again.
    Unreachable { attempts: u32, tasks: u32 },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FailureShare { failures, results } => {
                write!(f, "{failures} of {results} attempts failed within a minute")
            }
            Self::Unreachable { attempts, tasks } => write!(
                f,
                "its worker could not be reached {attempts} times in a row by {tasks} tasks"
            ),
        }
    }
}

/// Whether what was met is enough to open.
pub fn trips(evidence: &Evidence) -> Option<Cause> {
    let Evidence {
        failures,
        answers,
        streak,
        streak_tasks,
    } = *evidence;
    if streak >= STREAK && streak_tasks >= STREAK_TASKS {
        return Some(Cause::Unreachable {
            attempts: streak,
            tasks: streak_tasks,
        });
    }
    let results = failures.saturating_add(answers);
    (results >= MIN_RESULTS && failures >= results - failures)
        .then_some(Cause::FailureShare { failures, results })
}

/// A breaker as the bus holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BreakerRow {
    #[serde(flatten)]
    pub path: RealPath,
    /// Counts the changes; 0 where the bus has no row yet.
    pub revision: i64,
    #[serde(flatten)]
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Closed,
    Open {
        #[serde(flatten)]
        outage: Outage,
        /// Until the next probe; zero once it is due.
        probe_in_ms: u64,
    },
    /// One attempt finds out whether the path works again.
    Probing {
        #[serde(flatten)]
        outage: Outage,
        /// The host that has the probe.
        holder: String,
        /// Until it is taken for gone.
        left_ms: u64,
    },
}

/// What stays the same from opening to closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    #[serde(flatten)]
    pub cause: Cause,
    /// Probes that failed.
    pub failed_probes: u32,
}

/// What happens to a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Tripped(Cause),
    /// A host takes the probe that is due.
    Taken {
        holder: String,
    },
    /// The worker answered the probe.
    Answered,
    /// The probe met what counts as a failure, or nothing that counts.
    Failed,
    /// No task came for the probe, or its host is gone.
    Gone,
}

/// How long things take, by configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From opening to the first probe; doubles with each that fails.
    pub probe_after: Duration,
    /// How long a probe counts as taken without a sign of its host.
    pub probe_lease: Duration,
}

impl Timing {
    /// The wait after so many failed probes; `jitter` runs from 0 to 1 and takes
    /// up to a quarter off, so that paths which opened together part.
    pub fn wait(&self, failed_probes: u32, jitter: f64) -> Duration {
        let doublings = failed_probes.min(DOUBLINGS);
        let whole = self.probe_after.saturating_mul(1 << doublings);
        whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0)
    }
}

/// A change that a state does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a breaker that is {from:?} cannot be changed by {change:?}")]
pub struct IllegalChange {
    pub from: State,
    pub change: Change,
}

impl State {
    /// The state after a change.
    ///
    /// # Errors
    /// When this state does not know the change: somebody else was faster.
    pub fn after(
        self,
        change: Change,
        timing: &Timing,
        jitter: f64,
    ) -> Result<Self, IllegalChange> {
        let open = |outage: Outage| Self::Open {
            probe_in_ms: crate::millis::millis(timing.wait(outage.failed_probes, jitter)),
            outage,
        };
        Ok(match (self, change) {
            (Self::Closed, Change::Tripped(cause)) => open(Outage {
                cause,
                failed_probes: 0,
            }),
            (
                Self::Open {
                    outage,
                    probe_in_ms: 0,
                },
                Change::Taken { holder },
            ) => Self::Probing {
                outage,
                holder,
                left_ms: crate::millis::millis(timing.probe_lease),
            },
            (Self::Probing { .. }, Change::Answered) => Self::Closed,
            (Self::Probing { outage, .. }, Change::Failed) => open(Outage {
                failed_probes: outage.failed_probes.saturating_add(1),
                ..outage
            }),
            (Self::Probing { outage, .. }, Change::Gone) => Self::Open {
                outage,
                probe_in_ms: crate::millis::millis(PASS_ON.min(timing.wait(0, jitter))),
            },
            (from, change) => return Err(IllegalChange { from, change }),
        })
    }

    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    pub const fn outage(&self) -> Option<&Outage> {
        match self {
            Self::Closed => None,
            Self::Open { outage, .. } | Self::Probing { outage, .. } => Some(outage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        probe_after: Duration::from_secs(4),
        probe_lease: Duration::from_secs(5),
    };
    const CAUSE: Cause = Cause::Unreachable {
        attempts: 5,
        tasks: 2,
    };

    fn evidence(failures: u32, answers: u32, streak: u32, streak_tasks: u32) -> Evidence {
        Evidence {
            failures,
            answers,
            streak,
            streak_tasks,
        }
    }

    #[test]
    fn it_trips_on_half_of_twenty_or_five_unreachable_in_a_row() {
        let share = |failures, results| Some(Cause::FailureShare { failures, results });
        for (met, expected) in [
            (evidence(0, 0, 0, 0), None),
            (evidence(19, 0, 0, 0), None),
            (evidence(20, 0, 0, 0), share(20, 20)),
            (evidence(10, 10, 0, 0), share(10, 20)),
            (evidence(10, 11, 0, 0), None),
            (evidence(500, 501, 0, 0), None),
            (evidence(4, 0, 4, 2), None),
            (evidence(5, 0, 5, 1), None),
            (evidence(5, 100, 5, 2), Some(CAUSE)),
            (
                evidence(u32::MAX, u32::MAX, 0, 0),
                share(u32::MAX, u32::MAX),
            ),
        ] {
            assert_eq!(trips(&met), expected, "{met:?}");
        }
    }

    #[test]
    fn only_the_worker_speaks_of_the_worker() {
        use AttemptOutcome::{Cancelled, Done, Drained, HostFault, Lost, Probe};
        let of = |outcome, code, blame| Said::of(outcome, Some(code), Some(blame));
        assert_eq!(Said::of(Done, None, None), Said::Answered);
        for outcome in [AttemptOutcome::Retry, AttemptOutcome::Failed, Probe] {
            assert_eq!(of(outcome, UNREACHABLE, Blame::Worker), Said::Failed);
            assert_eq!(of(outcome, "worker_busy", Blame::Worker), Said::Answered);
            assert_eq!(of(outcome, "plugin_trap", Blame::Guest), Said::Nothing);
        }
        for outcome in [Cancelled, Drained, HostFault, Lost] {
            assert_eq!(of(outcome, "x", Blame::Host), Said::Nothing);
        }
    }

    fn open(failed_probes: u32, probe_in_ms: u64) -> State {
        State::Open {
            outage: Outage {
                cause: CAUSE,
                failed_probes,
            },
            probe_in_ms,
        }
    }

    fn probing(failed_probes: u32) -> State {
        State::Probing {
            outage: Outage {
                cause: CAUSE,
                failed_probes,
            },
            holder: "h".to_owned(),
            left_ms: 5000,
        }
    }

    /// Every state against every change; what is not named is refused.
    #[test]
    fn the_whole_table() {
        let taken = || Change::Taken {
            holder: "h".to_owned(),
        };
        let changes = [
            Change::Tripped(CAUSE),
            taken(),
            Change::Answered,
            Change::Failed,
            Change::Gone,
        ];
        let legal = [
            (State::Closed, Change::Tripped(CAUSE), open(0, 4000)),
            (open(2, 0), taken(), probing(2)),
            (probing(1), Change::Answered, State::Closed),
            (probing(1), Change::Failed, open(2, 16_000)),
            (probing(1), Change::Gone, open(1, 1000)),
        ];
        for from in [State::Closed, open(2, 1), open(2, 0), probing(1)] {
            for change in &changes {
                let expected = legal
                    .iter()
                    .find(|(state, by, _)| *state == from && by == change);
                let after = from.clone().after(change.clone(), &TIMING, 0.0);
                match expected {
                    Some((_, _, to)) => assert_eq!(after.as_ref(), Ok(to)),
                    None => assert!(after.is_err(), "{from:?} {change:?}"),
                }
            }
        }
    }

    #[test]
    fn waits_double_to_a_bound_and_jitter_takes_a_quarter_at_most() {
        let seconds = |failed| TIMING.wait(failed, 0.0).as_secs();
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 99].map(seconds),
            [4, 8, 16, 32, 64, 64, 64]
        );
        assert_eq!(TIMING.wait(0, 1.0), Duration::from_secs(3));
    }

    #[test]
    fn a_breaker_reads_as_it_was_written() {
        for state in [State::Closed, open(3, 7), probing(0)] {
            let breaker = BreakerRow {
                path: RealPath {
                    plugin: "cogo-worker".parse().unwrap(),
                    route: "code/build-test".parse().unwrap(),
                },
                revision: 4,
                state,
            };
            let text = serde_json::to_string(&breaker).unwrap();
            assert_eq!(serde_json::from_str::<BreakerRow>(&text).unwrap(), breaker);
        }
    }
}
