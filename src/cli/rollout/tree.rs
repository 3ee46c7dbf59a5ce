//! A rollout as a tree: its steps, the checks of the one that it is at, its hosts.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::gate;
use crate::ids::Digest;
use crate::rollout::{RolloutRow, State};
use crate::steering::RolloutView;

/// How a rollout stands, in a few words.
pub fn standing(row: &RolloutRow) -> String {
    let share = row.share().map(|share| format!(" at {share}"));
    let at = share.unwrap_or_default();
    match &row.state {
        State::Waiting => "waiting for hosts".to_owned(),
        State::Step { .. } => format!("going on{at}"),
        State::Held { .. } => format!("held{at}"),
        State::Paused { by, .. } => format!("paused{at} by {by}"),
        State::Promoted { by } => format!("promoted by {by}"),
        State::RolledBack { .. } => "rolled back".to_owned(),
        State::Aborted { by } => format!("aborted by {by}"),
    }
}

/// The first digits of a digest, enough to name it.
pub fn short(digest: &Digest) -> String {
    digest.short()
}

/// The whole tree.
pub fn tree(view: &RolloutView) -> String {
    let row = &view.row;
    let mut text = format!(
        "{}  {}: {} {} → {}  {}",
        row.id,
        row.route,
        row.plugin,
        row.stable
            .map_or_else(|| "?".to_owned(), |digest| digest.short()),
        row.candidate.short(),
        standing(row),
    );
    for (place, share) in row.steps.shares().iter().enumerate() {
        let step = u32::try_from(place).unwrap_or(u32::MAX);
        let sign = sign(&row.state, step);
        let here = row.state.step() == Some(step);
        let lasted = if here { lasted(row) } else { String::new() };
        line(
            &mut text,
            format_args!("├─ {sign} {:>5}{lasted}", share.to_string()),
        );
        if here {
            if let State::RolledBack { why, .. } = &row.state {
                line(&mut text, format_args!("│      {why}"));
            }
            for check in view.gate.iter().flat_map(|report| &report.checks) {
                line(&mut text, format_args!("│      {}", gate::line(check)));
            }
        }
    }
    for host in &view.hosts {
        let is = if host.ready {
            "ready"
        } else {
            "does not have the candidate yet"
        };
        line(&mut text, format_args!("├─ host {}: {is}", host.host));
    }
    if row.state.is_active() && view.hosts.is_empty() {
        line(&mut text, format_args!("├─ no host runs"));
    }
    let reason = row.reason.as_deref().unwrap_or("-");
    line(
        &mut text,
        format_args!(
            "└─ started by {}: {reason}  (trace {})",
            row.started_by, row.trace_id
        ),
    );
    text
}

fn sign(state: &State, step: u32) -> &'static str {
    match state {
        State::Promoted { .. } => "✓",
        State::RolledBack { step: at, .. } if *at == step => "✗",
        _ => match state.step() {
            Some(at) if step < at => "✓",
            Some(at) if step == at => "●",
            _ => "○",
        },
    }
}

fn lasted(row: &RolloutRow) -> String {
    let (State::Step { for_ms, .. } | State::Held { for_ms, .. } | State::Paused { for_ms, .. }) =
        &row.state
    else {
        return String::new();
    };
    let seconds = |ms: u64| humantime::format_duration(Duration::from_secs(ms / 1_000));
    format!("  for {} of {}", seconds(*for_ms), seconds(row.interval_ms))
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{line}");
}
