//! `/ui/rollouts`: what is rolled out, what the gate of the step says, and what
//! was approved; `/ui/rollouts/{id}`: one of them.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::json;

use super::action::{Action, Command};
use super::events::trace_link;
use super::frame::{Frame, Section};
use super::gate::GateShown;
use super::shown::{Badge, Tone, When, duration};
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::approvals::{APPROVALS_DEFAULT, Approvals};
use crate::api::events::newest;
use crate::api::path::Named;
use crate::api::query::Params;
use crate::api::rollouts::{ROLLOUTS_DEFAULT, Rollouts, view};
use crate::api::shadows::{SHADOWS_DEFAULT, Shadows};
use crate::control::ApprovalRow;
use crate::rollout::{RolloutRow, State as Stage};
use crate::selection::RolloutId;
use crate::shadow::ShadowRow;
use crate::steering::RolloutView;

#[derive(Template)]
#[template(path = "rollouts.html", config = "src/api/pages/askama.toml")]
struct RolloutsPage {
    frame: Frame,
    /// Those under way, with all that is known of them.
    active: Vec<RolloutShown>,
    ended: Vec<RolloutLine>,
    approvals: Vec<ApprovalShown>,
    shadows: Vec<ShadowShown>,
}

#[derive(Template)]
#[template(path = "rollout.html", config = "src/api/pages/askama.toml")]
struct RolloutPage {
    frame: Frame,
    rollout: RolloutShown,
}

struct RolloutLine {
    id: String,
    href: String,
    route: String,
    candidate: String,
    state: Badge,
    said: String,
    by: String,
    started: When,
}

struct RolloutShown {
    line: RolloutLine,
    digest: String,
    stable: String,
    steps: Vec<Step>,
    interval: String,
    reason: String,
    trace: (String, String),
    changed: When,
    gate: Option<GateShown>,
    hosts: Vec<(String, Badge)>,
}

/// A share on the way to all tasks.
struct Step {
    percent: u8,
    /// `past`, `here` or `ahead`.
    class: &'static str,
}

struct ApprovalShown {
    id: String,
    route: String,
    reason: String,
    approver: String,
    expires: When,
    state: Badge,
}

struct ShadowShown {
    id: String,
    api: String,
    route: String,
    candidate: String,
    share: u8,
    state: Badge,
    by: String,
    started: When,
    dropped: u64,
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    Params::read(query.as_deref(), &[])?;
    let after = newest(&shared).await?;
    let Rollouts { rollouts } = Rollouts::read(&shared, ROLLOUTS_DEFAULT).await?;
    let Approvals { approvals } = Approvals::read(&shared, APPROVALS_DEFAULT).await?;
    let Shadows { shadows } = Shadows::read(&shared, SHADOWS_DEFAULT).await?;
    let (under_way, ended): (Vec<_>, Vec<_>) =
        rollouts.into_iter().partition(|row| row.state.is_active());
    let mut active = Vec::with_capacity(under_way.len());
    let mut actions = Vec::new();
    for row in under_way {
        actions.extend(steering(&row));
        let view = RolloutView::read(shared.store(), row, &shared.api.thresholds).await?;
        active.push(RolloutShown::of(&view));
    }
    actions.extend(approvals.iter().filter_map(revoking));
    let page = RolloutsPage {
        frame: Frame::new(&shared, Section::Rollouts, "Rollouts")
            .after(after)
            .path("/api/rollouts")
            .path("/api/approvals")
            .path("/api/shadows")
            .command(Command::new("rollout list"))
            .command(Command::new("fallback list --all"))
            .actions(actions),
        active,
        ended: ended.iter().map(RolloutLine::of).collect(),
        approvals: approvals.iter().map(ApprovalShown::of).collect(),
        shadows: shadows.iter().map(ShadowShown::of).collect(),
    };
    Ok(rendered(StatusCode::OK, &page))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Named(id): Named<RolloutId>,
    RawQuery(query): RawQuery,
) -> Answer {
    Params::read(query.as_deref(), &[])?;
    let after = newest(&shared).await?;
    let view = view(&shared, id).await?;
    let id = view.row.id.as_str();
    let page = RolloutPage {
        frame: Frame::new(&shared, Section::Rollouts, format!("Rollout {id}"))
            .after(after)
            .path(format!("/api/rollouts/{id}"))
            .command(Command::new("rollout status").about(id))
            .actions(steering(&view.row)),
        rollout: RolloutShown::of(&view),
    };
    Ok(rendered(StatusCode::OK, &page))
}

/// What an operator may do to a rollout in its state.
fn steering(row: &RolloutRow) -> Vec<Action> {
    let id = row.id.as_str();
    let action = |says, word: &str| {
        let command = Command::new(&format!("rollout {word}"));
        let command = command.option("--reason", "WHY").about(id);
        let call = format!("POST /api/rollouts/{id}/{word}");
        Action::new(says, command, call).with(&json!({ "reason": "WHY" }))
    };
    let promote = || action("Take the step for passed", "promote");
    let abort = || action("End it: stable serves all tasks again", "abort");
    match &row.state {
        Stage::Waiting => vec![action("Keep it from going on", "pause"), abort()],
        Stage::Step { .. } | Stage::Held { .. } => {
            vec![promote(), action("Keep it from going on", "pause"), abort()]
        }
        Stage::Paused { step, .. } => {
            let mut all = vec![action("Let it go on", "resume"), abort()];
            if step.is_some() {
                all.insert(0, promote());
            }
            all
        }
        Stage::Promoted { .. } => {
            let name = row.plugin.as_str();
            let command = Command::new("plugin rollback")
                .option("--reason", "WHY")
                .about(name);
            let call = format!("POST /api/plugins/{name}/rollback");
            let says = "Put the version before back into service";
            vec![Action::new(says, command, call).with(&json!({ "reason": "WHY" }))]
        }
        Stage::RolledBack { .. } | Stage::Aborted { .. } => Vec::new(),
    }
}

fn revoking(approval: &ApprovalRow) -> Option<Action> {
    let id = &approval.id.0;
    let action = Action::new(
        "Take an approval back",
        Command::new("fallback revoke")
            .option("--reason", "WHY")
            .about(id),
        format!("POST /api/approvals/{id}/revoke"),
    );
    (approval.left_ms > 0).then(|| action.with(&json!({ "reason": "WHY" })))
}

impl RolloutLine {
    fn of(row: &RolloutRow) -> Self {
        let (tone, said) = match &row.state {
            Stage::Waiting => (
                Tone::Busy,
                "not every live host has the candidate".to_owned(),
            ),
            Stage::Step { for_ms, .. } => (Tone::Busy, format!("for {}", duration(*for_ms))),
            Stage::Held { for_ms, why, .. } => {
                (Tone::Warn, format!("for {}: {why}", duration(*for_ms)))
            }
            Stage::Paused { by, .. } => (Tone::Warn, format!("by {by}")),
            Stage::Promoted { by } => (Tone::Good, format!("by {by}")),
            Stage::RolledBack { why, .. } => (Tone::Bad, why.clone()),
            Stage::Aborted { by } => (Tone::Quiet, format!("by {by}")),
        };
        let share = row.share().map(|share| format!(" {} %", share.percent()));
        let state = row.state.name().replace('_', " ");
        Self {
            id: row.id.to_string(),
            href: format!("/ui/rollouts/{}", row.id),
            route: row.route.to_string(),
            candidate: format!("{} {}", row.plugin, row.candidate.short()),
            state: Badge::new(tone, format!("{state}{}", share.unwrap_or_default())),
            said,
            by: row.started_by.clone(),
            started: When::of(row.started_at),
        }
    }
}

impl RolloutShown {
    fn of(view: &RolloutView) -> Self {
        let row = &view.row;
        let promoted = matches!(row.state, Stage::Promoted { .. });
        let here = row.state.step();
        let steps = (0_u32..).zip(row.steps.shares()).map(|(at, share)| Step {
            percent: share.percent(),
            class: match here {
                _ if promoted => "past",
                Some(here) if at < here => "past",
                Some(here) if at == here => "here",
                _ => "ahead",
            },
        });
        let hosts = view.hosts.iter().map(|host| {
            let ready = match host.ready {
                true => Badge::new(Tone::Good, "ready"),
                false => Badge::new(Tone::Warn, "lacks the candidate"),
            };
            (host.host.clone(), ready)
        });
        Self {
            line: RolloutLine::of(row),
            digest: row.candidate.to_string(),
            stable: row
                .stable
                .map_or_else(|| "unknown".to_owned(), |digest| digest.to_string()),
            steps: steps.collect(),
            interval: duration(row.interval_ms),
            reason: row.reason.clone().unwrap_or_default(),
            trace: trace_link(row.trace_id.as_str()),
            changed: When::of(row.changed_at),
            gate: view.gate.as_ref().map(GateShown::of),
            hosts: hosts.collect(),
        }
    }
}

impl ApprovalShown {
    fn of(row: &ApprovalRow) -> Self {
        let state = match (&row.revoked_by, row.left_ms) {
            (Some(by), _) => Badge::new(Tone::Quiet, format!("revoked by {by}")),
            (None, 0) => Badge::new(Tone::Quiet, "expired"),
            (None, left) => Badge::new(Tone::Warn, format!("in force, {} left", duration(left))),
        };
        Self {
            id: row.id.to_string(),
            route: row.route.to_string(),
            reason: row.reason.clone(),
            approver: row.approver.clone(),
            expires: When::of(row.expires_at),
            state,
        }
    }
}

impl ShadowShown {
    fn of(row: &ShadowRow) -> Self {
        Self {
            id: row.id.to_string(),
            api: format!("/api/shadows/{}", row.id),
            route: row.route.to_string(),
            candidate: format!("{} {}", row.plugin, row.candidate.short()),
            share: row.share.percent(),
            state: match &row.ended_by {
                Some(by) => Badge::new(Tone::Quiet, format!("ended by {by}")),
                None => Badge::new(Tone::Busy, "watches"),
            },
            by: row.started_by.clone(),
            started: When::of(row.started_at),
            dropped: row.dropped,
        }
    }
}
