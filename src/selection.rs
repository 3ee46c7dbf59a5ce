//! Which plugin runs a task: a pure function of stage, flag, rollout, breaker
//! and approval, so that its whole table can be tested.
//!
//! It never looks anything up; whoever calls it gathers the [`Situation`]. The
//! answer carries its reasons, which go onto the attempt row word for word.

use schemars::JsonSchema;
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
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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
#[derive(Debug, Clone, Copy)]
pub struct RolloutShare<'a> {
    pub id: &'a RolloutId,
    /// The plugin whose new version is rolled out.
    pub plugin: &'a PluginName,
    pub candidate: Digest,
    /// Fixed at the task's first claim.
    pub side: Side,
    /// Overrides every side: nothing of the rollout runs any more, or this host
    /// cannot run the candidate.
    pub withdrawn: bool,
}

/// Which rollout of a plugin version.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct RolloutId(String);

/// Why a text names no rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no rollout: expected up to 64 letters, digits or hyphens, as in `ro-0123456789`"
)]
pub struct InvalidRolloutId(String);

impl RolloutId {
    /// A new one, short enough to be typed.
    pub fn generate() -> Self {
        Self(format!("ro-{:010x}", rand::random::<u64>() >> 24))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RolloutId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for RolloutId {
    type Err = InvalidRolloutId;

    fn from_str(text: &str) -> Result<Self, InvalidRolloutId> {
        let usable = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match (1..=64).contains(&text.len()) && text.bytes().all(usable) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidRolloutId(text.chars().take(80).collect())),
        }
    }
}

/// The version of a plugin that a task got in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Stable,
    Candidate,
}

impl Side {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
        }
    }
}

/// A side that a task or an attempt has, and the rollout that it has it in; as the
/// bus keeps it, `candidate@ro-0123456789`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FixedSide {
    pub side: Side,
    pub rollout: RolloutId,
}

impl std::fmt::Display for FixedSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.side.as_str(), self.rollout)
    }
}

impl FixedSide {
    /// None where the text says nothing of the kind: other programs may write it.
    pub fn parse(text: &str) -> Option<Self> {
        let (side, rollout) = text.split_once('@')?;
        let side = [Side::Stable, Side::Candidate]
            .into_iter()
            .find(|known| known.as_str() == side)?;
        Some(Self {
            side,
            rollout: rollout.parse().ok()?,
        })
    }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// Production, the real path is down, and nobody approved the mock.
    BreakerOpen,
    /// Production refuses the mock that a flag asks for while it runs.
    FlagOff,
    /// An operator stopped the route.
    Paused,
}

impl HoldReason {
    /// As people read it behind `held:`.
    pub const fn said(self) -> &'static str {
        match self {
            Self::BreakerOpen => "real path down",
            Self::FlagOff => "flag off",
            Self::Paused => "paused",
        }
    }
}

/// The reasons for a choice, as the attempt row keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutWhy {
    pub id: RolloutId,
    /// The side that it ran on, whatever was drawn.
    pub side: Side,
}

impl Why {
    /// The side that the attempt ran on, where there was a rollout.
    pub fn side(&self) -> Option<FixedSide> {
        self.rollout.as_ref().map(|rollout| FixedSide {
            side: rollout.side,
            rollout: rollout.id.clone(),
        })
    }
}

/// Which of a route's executors runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    Real,
    Mock,
    /// The route has one plugin.
    Only,
}

/// What the path was decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
        let side = if rollout.withdrawn || situation.last_attempt {
            Side::Stable
        } else {
            rollout.side
        };
        if side == Side::Candidate {
            digest = Some(rollout.candidate);
        }
        rollout_why = Some(RolloutWhy {
            id: rollout.id.clone(),
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

    /// A rollout as a situation may have it.
    #[derive(Clone, Copy)]
    struct Rollout {
        /// As the table calls it.
        name: &'static str,
        side: Option<Side>,
        withdrawn: bool,
        last_attempt: bool,
    }

    const fn rollout(name: &'static str, side: Option<Side>) -> Rollout {
        Rollout {
            name,
            side,
            withdrawn: false,
            last_attempt: false,
        }
    }

    const ROLLOUTS: [Rollout; 6] = [
        rollout("none", None),
        rollout("stable", Some(Side::Stable)),
        rollout("candidate", Some(Side::Candidate)),
        Rollout {
            last_attempt: true,
            ..rollout("candidate, last attempt", Some(Side::Candidate))
        },
        Rollout {
            withdrawn: true,
            ..rollout("candidate, withdrawn", Some(Side::Candidate))
        },
        Rollout {
            withdrawn: true,
            ..rollout("stable, withdrawn", Some(Side::Stable))
        },
    ];

    fn names() -> [PluginName; 2] {
        ["cogo-worker", "mock"].map(|name| name.parse().unwrap())
    }

    #[test]
    fn the_whole_table() {
        let [real, mock] = names();
        let plugins = RoutePlugins::Pair {
            real: real.clone(),
            mock,
        };
        let approval = ApprovalId("a1".to_owned());
        let id: RolloutId = "ro-1".parse().unwrap();
        let mut table = String::new();
        for policy in [Policy::Required, Policy::Optional] {
            for stage in Stage::ALL {
                for flag in [None, Some(false), Some(true)] {
                    for breaker in [Breaker::Closed, Breaker::Open, Breaker::Probe] {
                        for approved in [false, true] {
                            let mut shown_of = std::collections::BTreeMap::new();
                            for rollout in ROLLOUTS {
                                let mut situation = Situation {
                                    stage,
                                    policy,
                                    plugins: &plugins,
                                    paused: false,
                                    flag,
                                    breaker,
                                    approval: approved.then_some(&approval),
                                    rollout: rollout.side.map(|side| RolloutShare {
                                        id: &id,
                                        plugin: &real,
                                        candidate: Digest::of(b"new"),
                                        side,
                                        withdrawn: rollout.withdrawn,
                                    }),
                                    last_attempt: rollout.last_attempt,
                                };
                                let choice = select(&situation);
                                let list: &mut Vec<&str> =
                                    shown_of.entry(shown(&choice)).or_default();
                                list.push(rollout.name);
                                situation.paused = true;
                                let paused = Choice::Hold(HoldReason::Paused);
                                assert_eq!(select(&situation), paused);
                            }
                            let flag = match flag {
                                None => "unset",
                                Some(false) => "off",
                                Some(true) => "on",
                            };
                            let all = shown_of.len() == 1;
                            for (choice, of) in shown_of {
                                let of = match all {
                                    true => "any".to_owned(),
                                    false => of.join(" | "),
                                };
                                table += &format!(
                                    "{policy:?} {stage} flag={flag} breaker={breaker:?} approved={approved} rollout={of}: {choice}\n"
                                );
                            }
                        }
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_rollout_concerns_its_own_plugin_and_says_what_ran() {
        let [real, mock] = names();
        let id: RolloutId = "ro-1".parse().unwrap();
        let of = |plugins: &RoutePlugins, plugin: &PluginName, last_attempt| {
            let choice = select(&Situation {
                stage: Stage::Staging,
                policy: Policy::Required,
                plugins,
                paused: false,
                flag: None,
                breaker: Breaker::Closed,
                approval: None,
                rollout: Some(RolloutShare {
                    id: &id,
                    plugin,
                    candidate: Digest::of(b"new"),
                    side: Side::Candidate,
                    withdrawn: false,
                }),
                last_attempt,
            });
            match choice {
                Choice::Run { digest, why, .. } => (digest.is_some(), why.side()),
                Choice::Hold(reason) => panic!("{reason:?}"),
            }
        };
        let pair = RoutePlugins::Pair {
            real: real.clone(),
            mock: mock.clone(),
        };
        let ran = |side| {
            Some(FixedSide {
                side,
                rollout: id.clone(),
            })
        };
        assert_eq!(of(&pair, &real, false), (true, ran(Side::Candidate)));
        assert_eq!(of(&pair, &real, true), (false, ran(Side::Stable)));
        // The mock is rolled out, and the real executor runs.
        assert_eq!(of(&pair, &mock, false), (false, None));
        let only = RoutePlugins::Only(mock.clone());
        assert_eq!(of(&only, &mock, false), (true, ran(Side::Candidate)));
    }

    #[test]
    fn a_side_reads_as_it_was_written() {
        let fixed = FixedSide {
            side: Side::Candidate,
            rollout: RolloutId::generate(),
        };
        assert_eq!(FixedSide::parse(&fixed.to_string()), Some(fixed));
        for other in ["", "candidate", "canary@ro-1", "stable@", "stable@a b"] {
            assert_eq!(FixedSide::parse(other), None, "{other}");
        }
    }
}
