//! A route as a row: what runs its tasks now, or why they wait.

use serde_json::json;

use super::action::{Action, Command};
use super::form::asking;
use super::shown::{Badge, Tone, When, duration};
use crate::api::facts::{ExecutorNow, RouteDecided, RouteView};
use crate::attempt::Kind;
use crate::breaker;
use crate::route::{Policy, RouteKey};
use crate::selection::{Basis, HoldReason, Path, Why};
use crate::store::Waiting;

pub(super) struct RouteRow {
    pub(super) route: String,
    /// The tasks that wait on it.
    pub(super) href: String,
    pub(super) policy: &'static str,
    /// Its tasks could run and this host leaves them to others.
    pub(super) elsewhere: bool,
    pub(super) state: Badge,
    /// The plugin version that runs, and what it counts as.
    pub(super) executor: String,
    pub(super) kind: Option<Badge>,
    /// Why this one.
    pub(super) why: String,
    pub(super) waiting: String,
    /// What was decided about it on the bus.
    pub(super) decisions: Vec<Decision>,
}

/// A decision, with who made it and until when it holds.
pub(super) struct Decision {
    pub(super) badge: Badge,
    pub(super) said: String,
    pub(super) until: Option<When>,
}

impl RouteRow {
    pub(super) fn of(view: &RouteView, waiting: &[Waiting]) -> Self {
        let (state, executor, kind, why) = now(&view.now);
        Self {
            route: view.route.to_string(),
            href: waiting_tasks(&view.route),
            policy: match view.policy {
                Policy::Required => "required",
                Policy::Optional => "optional",
            },
            elsewhere: !view.served && !matches!(view.now, ExecutorNow::Held { .. }),
            state,
            executor,
            kind,
            why,
            waiting: waits(waiting.iter().find(|w| w.route == view.route)),
            decisions: decisions(&view.decided),
        }
    }
}

fn waiting_tasks(route: &RouteKey) -> String {
    let fields = [
        ("status", Some("queued".to_owned())),
        ("route", Some(route.to_string())),
    ];
    asking("/ui/tasks", fields)
}

fn waits(waiting: Option<&Waiting>) -> String {
    match waiting {
        None => "0".to_owned(),
        Some(waiting) => match waiting.oldest_due_ms {
            None => waiting.queued.to_string(),
            Some(ms) => format!("{}, oldest due for {}", waiting.queued, duration(ms)),
        },
    }
}

fn now(now: &ExecutorNow) -> (Badge, String, Option<Badge>, String) {
    match now {
        ExecutorNow::Runs { executor, why } => {
            let state = match why.fallback {
                true => Badge::new(Tone::Warn, "mock fallback"),
                false => Badge::new(Tone::Good, "runs"),
            };
            let kind = match executor.kind {
                Kind::Real => Badge::new(Tone::Good, "real"),
                Kind::Mock => Badge::new(Tone::Quiet, "mock"),
            };
            let name = format!(
                "{} {} ({})",
                executor.name,
                executor.version,
                executor.digest.short()
            );
            (state, name, Some(kind), because(why))
        }
        ExecutorNow::Held { reason } => {
            let state = Badge::new(Tone::Warn, format!("held: {}", reason.said()));
            (state, String::new(), None, "its tasks wait".to_owned())
        }
        ExecutorNow::Missing { problem } => {
            let state = Badge::new(Tone::Bad, "cannot run");
            (state, String::new(), None, problem.clone())
        }
    }
}

fn because(why: &Why) -> String {
    let path = match why.path {
        Path::Real => "real path",
        Path::Mock => "mock path",
        Path::Only => "only path",
    };
    let basis = match why.basis {
        Basis::Flag => "by its flag",
        Basis::StageDefault => "by the stage's default",
        Basis::PolicyDefault => "by its policy's default",
        Basis::OnlyPlugin => "there is one plugin",
        Basis::BreakerOpen => "since the real path is down",
    };
    format!("{path}, {basis}")
}

fn decisions(decided: &RouteDecided) -> Vec<Decision> {
    let mut all = Vec::new();
    let reason = |reason: Option<&str>| reason.map(|r| format!(": {r}")).unwrap_or_default();
    if let Some(pause) = &decided.pause {
        all.push(Decision {
            badge: Badge::new(Tone::Warn, "paused"),
            said: format!("by {}{}", pause.actor, reason(pause.reason.as_deref())),
            until: None,
        });
    }
    if let Some(flag) = &decided.flag {
        let state = if flag.enabled { "flag on" } else { "flag off" };
        all.push(Decision {
            badge: Badge::new(Tone::Quiet, state),
            said: format!("by {}{}", flag.actor, reason(flag.reason.as_deref())),
            until: None,
        });
    }
    if let Some(approval) = &decided.approval {
        all.push(Decision {
            badge: Badge::new(Tone::Warn, "fallback approved"),
            said: format!(
                "{} by {}: {}",
                approval.id, approval.approver, approval.reason
            ),
            until: Some(When::of(approval.expires_at)),
        });
    }
    if let Some((badge, said)) = decided.breaker.as_ref().and_then(|b| breaker(&b.state)) {
        all.push(Decision {
            badge,
            said,
            until: None,
        });
    }
    if let Some(rollout) = &decided.rollout {
        let share = rollout.share().map_or(0, |share| share.percent());
        all.push(Decision {
            badge: Badge::new(Tone::Busy, format!("rollout {share} %")),
            said: format!(
                "{} of {} {}",
                rollout.id,
                rollout.plugin,
                rollout.candidate.short()
            ),
            until: None,
        });
    }
    all
}

/// A breaker that is not closed, in words.
pub(super) fn breaker(state: &breaker::State) -> Option<(Badge, String)> {
    match state {
        breaker::State::Closed => None,
        breaker::State::Open {
            outage,
            probe_in_ms,
        } => {
            let probe = match probe_in_ms {
                0 => "a probe is due".to_owned(),
                ms => format!("probe in {}", duration(*ms)),
            };
            let badge = Badge::new(Tone::Bad, "breaker open");
            Some((badge, format!("{}; {probe}", outage.cause)))
        }
        breaker::State::Probing { outage, holder, .. } => {
            let badge = Badge::new(Tone::Warn, "breaker probing");
            Some((badge, format!("{}; {holder} probes", outage.cause)))
        }
    }
}

/// What can be done about a route.
pub(super) fn actions(view: &RouteView) -> Vec<Action> {
    let route = view.route.to_string();
    let why = "WHY";
    let mut all = Vec::new();
    match &view.decided.pause {
        Some(_) => all.push(
            Action::new(
                "Let the route go on",
                Command::new("route resume").about(&route),
                "PUT /api/pauses",
            )
            .with(&json!({ "route": route, "paused": false })),
        ),
        None => all.push(
            Action::new(
                "Let its tasks wait",
                Command::new("route pause")
                    .option("--reason", why)
                    .about(&route),
                "PUT /api/pauses",
            )
            .with(&json!({ "route": route, "paused": true, "reason": why })),
        ),
    }
    let down = matches!(
        view.now,
        ExecutorNow::Held {
            reason: HoldReason::BreakerOpen
        }
    );
    if down && view.decided.approval.is_none() {
        all.push(
            Action::new(
                "Let the mock stand in for a while",
                Command::new("fallback approve")
                    .option("--route", &route)
                    .option("--ttl", "30m")
                    .option("--reason", why),
                "POST /api/approvals",
            )
            .with(&json!({ "route": route, "ttl_ms": 1_800_000, "reason": why })),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{Cause, Outage};

    #[test]
    fn a_breaker_that_is_open_says_why_and_until_when() {
        let outage = Outage {
            cause: Cause::FailureShare {
                failures: 15,
                results: 20,
            },
            failed_probes: 0,
        };
        let open = breaker::State::Open {
            outage,
            probe_in_ms: 12_000,
        };
        let (badge, said) = breaker(&open).unwrap();
        assert_eq!((badge.class, &*badge.text), ("bad", "breaker open"));
        assert!(said.ends_with("probe in 12.0 s"), "{said}");
        assert!(breaker(&breaker::State::Closed).is_none());
    }
}
