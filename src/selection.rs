//! Which plugin runs a task: a pure function of stage, flag, rollout, breaker
//! and approval, so that its whole table can be tested.
//!
//! It never looks anything up; whoever calls it gathers the [`Situation`]. The
//! answer carries its reasons, which go onto the attempt row word for word.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PluginName};
use crate::route::{Policy, RoutePlugins};
use crate::stage::Stage;

/// Everything that the choice depends on, for one attempt at one task.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    pub stage: Stage,
    pub policy: Policy,
    pub plugins: &'a RoutePlugins,
    /// An operator stopped the route.
    pub paused: bool,
    /// The route's flag as set; `None` leaves it to stage and policy.
    pub flag: Option<bool>,
    pub breaker: Breaker,
    /// An approval of the fallback that is in force for the route.
    pub approval: Option<&'a ApprovalId>,
    pub rollout: Option<RolloutShare<'a>>,
    /// No further attempt follows this one.
    pub last_attempt: bool,
}

/// Whether the real path of a route is believed to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    Closed,
    /// Too many failures: nothing but probes goes through.
    Open,
    /// It is open, and this attempt is to find out whether it still should be.
    Probe,
}

/// A recorded permission to use the mock in place of the real executor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApprovalId(pub String);

impl ApprovalId {
    /// A new one, short enough to be typed.
    pub fn generate() -> Self {
        Self(format!("fa-{:010x}", rand::random::<u64>() >> 24))
    }
}

impl std::fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rollout in progress, seen from one task.
#[derive(Debug, Clone)]
pub struct RolloutShare<'a> {
    pub id: &'a str,
    /// The plugin whose new version is rolled out.
    pub plugin: &'a PluginName,
    pub candidate: Digest,
    /// Fixed at the task's first claim.
    pub side: Side,
    /// Overrides every side.
    pub aborted: bool,
}

/// The version of a plugin that a task got in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Stable,
    Candidate,
}

/// What to do with a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Run {
        plugin: PluginName,
        /// `None` runs whatever serves as stable.
        digest: Option<Digest>,
        why: Why,
    },
    /// The route's tasks wait in the queue, attempts untouched.
    Hold(HoldReason),
}

/// Why a route's tasks wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// Production, the real path is down, and nobody approved the mock.
    BreakerOpen,
    /// Production refuses the mock that a flag asks for while it runs.
    FlagOff,
    /// An operator stopped the route.
    Paused,
}

/// The reasons for a choice, as the attempt row keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub path: Path,
    pub basis: Basis,
    /// The mock stands in for the real executor that the policy prescribes.
    pub fallback: bool,
    /// The real path was taken for down; this attempt was to find out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutWhy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutWhy {
    pub id: String,
    pub side: Side,
}

/// Which of a route's executors runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    Real,
    Mock,
    /// The route has one plugin.
    Only,
}

/// What the path was decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The flag was set.
    Flag,
    /// The flag was not set; the stage's default applies.
    StageDefault,
    /// The flag was not set; an optional route runs its mock.
    PolicyDefault,
    /// There was nothing to choose.
    OnlyPlugin,
    /// The real path is down.
    BreakerOpen,
}

/// Chooses the executor of one attempt.
pub fn select(situation: &Situation<'_>) -> Choice {
    if situation.paused {
        return Choice::Hold(HoldReason::Paused);
    }
    let (real, mock) = match situation.plugins {
        RoutePlugins::Only(plugin) => {
            return run(situation, plugin, Path::Only, Basis::OnlyPlugin);
        }
        RoutePlugins::Pair { real, mock } => (real, mock),
    };
    let (wants_real, basis) = wants_real(situation);
    if !wants_real {
        if situation.policy == Policy::Required && situation.stage == Stage::Production {
            return Choice::Hold(HoldReason::FlagOff);
        }
        return run(situation, mock, Path::Mock, basis);
    }
    match (situation.breaker, situation.policy, situation.stage) {
        (Breaker::Closed | Breaker::Probe, _, _)
        // Tasks retry against the real path; nothing stands in for it.
        | (Breaker::Open, Policy::Optional, _)
        | (Breaker::Open, Policy::Required, Stage::Development) => {
            let probe = situation.breaker == Breaker::Probe;
            probing(run(situation, real, Path::Real, basis), probe)
        }
        (Breaker::Open, Policy::Required, Stage::Staging) => fallback(mock, None),
        (Breaker::Open, Policy::Required, Stage::Production) => match situation.approval {
            Some(approval) => fallback(mock, Some(approval.clone())),
            None => Choice::Hold(HoldReason::BreakerOpen),
        },
    }
}

/// Whether the real executor is prescribed, and by what.
fn wants_real(situation: &Situation<'_>) -> (bool, Basis) {
    match (situation.flag, situation.policy) {
        (Some(flag), _) => (flag, Basis::Flag),
        (None, Policy::Optional) => (false, Basis::PolicyDefault),
        (None, Policy::Required) => (situation.stage != Stage::Development, Basis::StageDefault),
    }
}

fn run(situation: &Situation<'_>, plugin: &PluginName, path: Path, basis: Basis) -> Choice {
    let mut digest = None;
    let mut rollout_why = None;
    if let Some(rollout) = situation.rollout.as_ref().filter(|r| r.plugin == plugin) {
        let side = if rollout.aborted || situation.last_attempt {
            Side::Stable
        } else {
            rollout.side
        };
        if side == Side::Candidate {
            digest = Some(rollout.candidate);
        }
        rollout_why = Some(RolloutWhy {
            id: rollout.id.to_owned(),
            side,
        });
    }
    Choice::Run {
        plugin: plugin.clone(),
        digest,
        why: Why {
            path,
            basis,
            fallback: false,
            probe: false,
            approval: None,
            rollout: rollout_why,
        },
    }
}

fn probing(mut choice: Choice, probe: bool) -> Choice {
    if let Choice::Run { why, .. } = &mut choice {
        why.probe = probe;
    }
    choice
}

fn fallback(mock: &PluginName, approval: Option<ApprovalId>) -> Choice {
    Choice::Run {
        plugin: mock.clone(),
        digest: None,
        why: Why {
            path: Path::Mock,
            basis: Basis::BreakerOpen,
            fallback: true,
            probe: false,
            approval,
            rollout: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line for each choice, so that the table below reads as the design's.
    fn shown(choice: &Choice) -> String {
        match choice {
            Choice::Hold(reason) => format!("hold {reason:?}"),
            Choice::Run {
                plugin,
                digest,
                why,
            } => format!(
                "{plugin}{}{}",
                if digest.is_some() { "@candidate" } else { "" },
                match (why.fallback, &why.approval, why.probe) {
                    (true, Some(_), false) => " fallback approved",
                    (true, None, false) => " fallback",
                    (false, None, true) => " probe",
                    (false, None, false) => "",
                    _ => panic!("{why:?}"),
                }
            ),
        }
    }

    #[test]
    fn the_whole_table() {
        let plugins = RoutePlugins::Pair {
            real: "cogo-worker".parse().unwrap(),
            mock: "mock".parse().unwrap(),
        };
        let approval = ApprovalId("a1".to_owned());
        let mut table = String::new();
        for policy in [Policy::Required, Policy::Optional] {
            for stage in Stage::ALL {
                for flag in [None, Some(false), Some(true)] {
                    for breaker in [Breaker::Closed, Breaker::Open, Breaker::Probe] {
                        for approved in [false, true] {
                            let mut situation = Situation {
                                stage,
                                policy,
                                plugins: &plugins,
                                paused: false,
                                flag,
                                breaker,
                                approval: approved.then_some(&approval),
                                rollout: None,
                                last_attempt: false,
                            };
                            let choice = select(&situation);
                            situation.paused = true;
                            let paused = Choice::Hold(HoldReason::Paused);
                            assert_eq!(select(&situation), paused);
                            let flag = match flag {
                                None => "unset",
                                Some(false) => "off",
                                Some(true) => "on",
                            };
                            table += &format!(
                                "{policy:?} {stage} flag={flag} breaker={breaker:?} approved={approved}: {}\n",
                                shown(&choice)
                            );
                        }
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_rollout_side_holds_but_for_abort_and_the_last_attempt() {
        let plugins = RoutePlugins::Pair {
            real: "cogo-worker".parse().unwrap(),
            mock: "mock".parse().unwrap(),
        };
        let real: PluginName = "cogo-worker".parse().unwrap();
        let mut table = String::new();
        for side in [Side::Stable, Side::Candidate] {
            for aborted in [false, true] {
                for last_attempt in [false, true] {
                    let choice = select(&Situation {
                        stage: Stage::Staging,
                        policy: Policy::Required,
                        plugins: &plugins,
                        paused: false,
                        flag: None,
                        breaker: Breaker::Closed,
                        approval: None,
                        rollout: Some(RolloutShare {
                            id: "r1",
                            plugin: &real,
                            candidate: Digest::of(b"new"),
                            side,
                            aborted,
                        }),
                        last_attempt,
                    });
                    table += &format!(
                        "{side:?} aborted={aborted} last={last_attempt}: {}\n",
                        shown(&choice)
                    );
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Stable aborted=false last=false: cogo-worker
        Stable aborted=false last=true: cogo-worker
        Stable aborted=true last=false: cogo-worker
        Stable aborted=true last=true: cogo-worker
        Candidate aborted=false last=false: cogo-worker@candidate
        Candidate aborted=false last=true: cogo-worker
        Candidate aborted=true last=false: cogo-worker
        Candidate aborted=true last=true: cogo-worker
        ");
    }
}
