//! How the host stands, in one sentence with its reasons.
//!
//! Pure: decides nothing that acts, only what people should look at first.

use super::gate::shortcomings;
use super::shown::duration;
use crate::api::facts::{DirectoryView, ExecutorNow, PluginView, ReadinessCheck, RouteView};
use crate::api::hosts::HostView;
use crate::gate::{GateReport, Verdict};
use crate::store::Depth;

/// What the sentence rests on.
pub(super) struct Seen<'a> {
    pub(super) readiness: &'a [ReadinessCheck],
    pub(super) routes: &'a [RouteView],
    pub(super) plugins: &'a [PluginView],
    pub(super) directory: Option<&'a DirectoryView>,
    pub(super) hosts: &'a [HostView],
    pub(super) gate: &'a GateReport,
    pub(super) depth: Depth,
    /// A wait that a gate takes for too long.
    pub(super) wait_max_ms: u64,
}

/// From well to not working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Light {
    Green,
    Amber,
    Red,
}

impl Light {
    /// Its colour, which a word goes with.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Green => "good",
            Self::Amber => "warn",
            Self::Red => "bad",
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Green => "Healthy",
            Self::Amber => "Attention",
            Self::Red => "Not working",
        }
    }
}

pub(super) struct Standing {
    pub(super) light: Light,
    pub(super) sentence: String,
    /// The others, worst first.
    pub(super) further: Vec<String>,
}

impl Standing {
    pub(super) fn of(seen: &Seen<'_>) -> Self {
        let mut reasons = reasons(seen);
        // Stable: what was found first stays first.
        reasons.sort_by_key(|(light, _)| std::cmp::Reverse(*light));
        let mut reasons = reasons.into_iter();
        match reasons.next() {
            Some((light, sentence)) => Self {
                light,
                sentence,
                further: reasons.map(|(_, reason)| reason).collect(),
            },
            None => Self {
                light: Light::Green,
                sentence: all_well(seen),
                further: Vec::new(),
            },
        }
    }
}

fn all_well(seen: &Seen<'_>) -> String {
    let served = seen.routes.iter().filter(|route| route.served).count();
    let waiting = match seen.depth.queued {
        0 => "nothing waits".to_owned(),
        1 => "1 task waits".to_owned(),
        queued => format!("{queued} tasks wait"),
    };
    format!("{served} routes are served, {waiting}, and nothing is overdue")
}

fn reasons(seen: &Seen<'_>) -> Vec<(Light, String)> {
    let mut found = Vec::new();
    for check in seen.readiness.iter().filter(|check| !check.ok) {
        found.push((Light::Red, format!("{}: {}", check.name, check.detail)));
    }
    for view in seen.routes {
        let route = &view.route;
        match &view.now {
            ExecutorNow::Missing { problem } if view.served => {
                found.push((Light::Red, format!("{route} cannot run: {problem}")));
            }
            ExecutorNow::Held { reason } => {
                let held = format!("{route} is held: {}", reason.said());
                found.push((Light::Amber, held));
            }
            ExecutorNow::Runs { why, .. } if why.fallback => {
                let stands_in = format!("the mock stands in on {route}");
                found.push((Light::Amber, stands_in));
            }
            ExecutorNow::Runs { .. } | ExecutorNow::Missing { .. } => {}
        }
    }
    found.extend(overdue(seen));
    found.extend(files(seen));
    if seen.gate.verdict == Verdict::Fail {
        let failed = shortcomings(seen.gate, Verdict::Fail).join("; ");
        found.push((Light::Amber, format!("the gate fails: {failed}")));
    }
    for host in seen.hosts.iter().filter(|host| !host.live) {
        let (name, silent) = (&host.row.name, duration(host.row.silent_ms));
        found.push((Light::Amber, format!("host {name} is silent for {silent}")));
    }
    found
}

fn overdue(seen: &Seen<'_>) -> Option<(Light, String)> {
    let waits = seen.depth.oldest_due_ms?;
    let late = waits > seen.wait_max_ms;
    late.then(|| {
        let said = format!("a task that is due waits for {}", duration(waits));
        (Light::Amber, said)
    })
}

fn files(seen: &Seen<'_>) -> Vec<(Light, String)> {
    let mut found = Vec::new();
    for plugin in seen.plugins {
        if let Some(error) = &plugin.last_error {
            let said = format!("plugin {} was refused: {error}", plugin.name);
            found.push((Light::Amber, said));
        }
    }
    for file in seen.directory.iter().flat_map(|d| &d.refused_files) {
        let said = format!("{} was refused: {}", file.file, file.error);
        found.push((Light::Amber, said));
    }
    if let Some(problem) = seen.directory.and_then(|d| d.problem.as_ref()) {
        found.push((Light::Amber, format!("plugins directory: {problem}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Policy;
    use crate::selection::HoldReason;

    fn gate(verdict: Verdict) -> GateReport {
        GateReport {
            verdict,
            checks: Vec::new(),
        }
    }

    fn route(served: bool, now: ExecutorNow) -> RouteView {
        RouteView {
            route: "code/build-test".parse().unwrap(),
            policy: Policy::Required,
            plugins: None,
            served,
            now,
            decided: crate::api::facts::RouteDecided::default(),
        }
    }

    fn seen<'a>(gate: &'a GateReport, routes: &'a [RouteView], oldest: u64) -> Seen<'a> {
        Seen {
            readiness: &[],
            routes,
            plugins: &[],
            directory: None,
            hosts: &[],
            gate,
            depth: Depth {
                queued: 2,
                oldest_due_ms: Some(oldest),
                ..Depth::default()
            },
            wait_max_ms: 5_000,
        }
    }

    #[test]
    fn what_is_worst_is_said_first() {
        let (good, bad) = (gate(Verdict::Inconclusive), gate(Verdict::Fail));
        let well = Standing::of(&seen(&good, &[], 5_000));
        assert_eq!(well.light, Light::Green);
        assert!(well.sentence.contains("2 tasks wait"), "{}", well.sentence);

        let held = ExecutorNow::Held {
            reason: HoldReason::Paused,
        };
        let missing = ExecutorNow::Missing {
            problem: "no plugin".to_owned(),
        };
        let routes = [route(true, held), route(true, missing.clone())];
        let worst = Standing::of(&seen(&bad, &routes, 5_001));
        assert_eq!(worst.light, Light::Red);
        assert_eq!(worst.sentence, "code/build-test cannot run: no plugin");
        assert_eq!(worst.further.len(), 3, "{:?}", worst.further);

        // Not this host's business.
        let elsewhere = [route(false, missing)];
        let well = Standing::of(&seen(&good, &elsewhere, 0));
        assert_eq!(well.light, Light::Green);
    }
}
