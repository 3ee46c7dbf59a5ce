//! What operators and the hosts decided while they run: flags, pauses, approvals
//! of the fallback and breakers of routes, and which version of a plugin serves.
//! It lies on the bus, so that every host knows it within a second, and beats
//! every configuration.
//!
//! Pure values and the events that go with a decision. Nothing here decides what
//! a task gets: [`crate::selection`] does, from what this says of its route.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::breaker::{BreakerRow, Cause, RealPath};
use crate::event::{
    BREAKER_CLOSED, BREAKER_OPENED, FALLBACK_APPROVED, FALLBACK_REVOKED, FLAG_CHANGED, NewEvent,
    PLUGIN_PROMOTED, PLUGIN_PUBLISHED, PLUGIN_RELEASED, PLUGIN_RETRACTED, PLUGIN_ROLLED_BACK,
    ROUTE_HELD, ROUTE_RELEASED,
};
use crate::ids::{Digest, PluginName, ShadowId, TraceId};
use crate::rollout::RolloutRow;
use crate::route::{Route, RouteKey};
use crate::selection::{ApprovalId, RolloutId};
use crate::shadow::ShadowRow;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 1_000;
/// The longest that an approval of the fallback may last.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Everything that was decided, as one read of the bus found it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Controls {
    pub flags: BTreeMap<RouteKey, FlagRow>,
    pub pauses: BTreeMap<RouteKey, PauseRow>,
    /// Those in force, the one that lasts longest first.
    pub approvals: Vec<ApprovalRow>,
    pub breakers: Vec<BreakerRow>,
    /// The plugins whose version is decided here, and not by each host's own rule.
    pub serving: BTreeMap<PluginName, ServingRow>,
    /// Those under way.
    pub rollouts: Vec<RolloutRow>,
    /// Versions that run tasks beside what serves.
    pub shadows: Vec<ShadowRow>,
    /// The plugin versions that every host is to have, latest first.
    pub published: Vec<PublishedRow>,
    /// Rows that somebody wrote by hand and nobody can read.
    pub unreadable: Vec<String>,
}

impl Controls {
    /// Whether anything was decided otherwise, whatever time has passed.
    pub fn differ_from(&self, other: &Self) -> bool {
        let ids = |controls: &Self| -> Vec<ApprovalId> {
            let approvals = controls.approvals.iter();
            approvals.map(|approval| approval.id.clone()).collect()
        };
        let revisions = |controls: &Self| -> Vec<(RealPath, i64)> {
            let breakers = controls.breakers.iter();
            breakers.map(|b| (b.path.clone(), b.revision)).collect()
        };
        let rollouts = |controls: &Self| -> Vec<(RolloutId, i64)> {
            let rollouts = controls.rollouts.iter();
            rollouts.map(|r| (r.id.clone(), r.revision)).collect()
        };
        let shadows = |controls: &Self| -> Vec<ShadowId> {
            let shadows = controls.shadows.iter();
            shadows.map(|shadow| shadow.id.clone()).collect()
        };
        self.flags != other.flags
            || self.pauses != other.pauses
            || self.serving != other.serving
            || self.published != other.published
            || self.unreadable != other.unreadable
            || ids(self) != ids(other)
            || revisions(self) != revisions(other)
            || rollouts(self) != rollouts(other)
            || shadows(self) != shadows(other)
    }
}

/// A route's flag as it is set on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlagRow {
    pub route: RouteKey,
    /// Whether the real executor runs.
    pub enabled: bool,
    pub actor: String,
    pub reason: Option<String>,
    pub changed_at: DateTime<Utc>,
}

/// A route that an operator stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PauseRow {
    pub route: RouteKey,
    pub actor: String,
    pub reason: Option<String>,
    pub paused_at: DateTime<Utc>,
}

/// A permission to use the mock in place of the real executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalRow {
    pub id: ApprovalId,
    pub route: RouteKey,
    pub reason: String,
    pub approver: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub revoked_by: Option<String>,
    /// Until it ends by itself, by the database's clock; zero once it is over.
    pub left_ms: u64,
}

/// The version of a plugin that serves on every host that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServingRow {
    pub plugin: PluginName,
    pub digest: Digest,
    pub cause: ServingCause,
    pub actor: String,
    pub reason: Option<String>,
    /// Of its event, and of what each host records when it follows: it tells one
    /// such decision from another.
    pub trace_id: TraceId,
    pub changed_at: DateTime<Utc>,
}

/// A plugin version that lies on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedRow {
    pub digest: Digest,
    pub name: PluginName,
    pub version: String,
    pub bytes: u64,
    /// In minisign's format, as it was handed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    pub actor: String,
    pub reason: Option<String>,
    pub published_at: DateTime<Utc>,
    /// Set once hosts are not to have it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retracted_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retracted_by: Option<String>,
}

/// What became of the wish to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Every host is to have it, from now on or again.
    Now { trace_id: TraceId },
    /// These bytes were published before.
    Already,
    /// The bus has other bytes under this name and version.
    Taken { by: Digest },
}

/// What became of the wish to retract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retracted {
    Now {
        trace_id: TraceId,
    },
    /// It was retracted before.
    Already,
    /// The bus says that it serves.
    Serves,
    Unknown,
}

/// Why a version is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServingCause {
    /// It was a candidate.
    Promotion,
    /// It served before, and what came after it is taken out of service.
    Rollback,
}

impl ServingCause {
    /// As the database keeps it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promotion => "promotion",
            Self::Rollback => "rollback",
        }
    }
}

/// Which version of a plugin is to serve on every host.
#[derive(Debug, Clone, PartialEq)]
pub struct ServingOrder {
    pub plugin: PluginName,
    /// `None` leaves it to each host's own rule again.
    pub to: Option<(Digest, ServingCause)>,
    /// What else the event tells.
    pub facts: Map<String, Value>,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decider {
    /// By the name of a token, or whatever else the host knows them by.
    Named(String),
    /// Whoever the database takes the connection for.
    DatabaseRole,
}

/// Who decides something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub by: Decider,
    pub reason: Option<Reason>,
}

/// Why somebody decides something, in their own words: not empty, one line, and
/// no longer than [`MAX_REASON`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

/// Why a text is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReason {
    #[error("the reason is empty")]
    Empty,
    #[error("the reason has {0} bytes; at most {MAX_REASON} are kept")]
    TooLong(usize),
}

impl Reason {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidReason::Empty);
        }
        if text.len() > MAX_REASON {
            return Err(InvalidReason::TooLong(text.len()));
        }
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        Ok(Self(text.chars().map(printable).collect()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Decided {
    /// The bus holds it now, with its event in this trace.
    Changed { trace_id: TraceId },
    /// It was so before; nothing was written.
    Already,
}

/// What became of the wish to end an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    Now {
        trace_id: TraceId,
    },
    /// It was revoked or had expired before.
    Over,
    Unknown,
}

/// The command that lets the mock stand in on a route.
pub fn approve_command(route: &RouteKey) -> String {
    format!("cogo-host fallback approve --route {route} --reason TEXT --ttl 30m")
}

/// The event of a flag that was set, or left to configuration and stage again.
pub fn flag_changed(
    route: &RouteKey,
    (from, to): (Option<bool>, Option<bool>),
    actor: &str,
    reason: Option<&Reason>,
) -> NewEvent {
    let payload = json!({ "actor": actor, "from": from, "to": to });
    event(FLAG_CHANGED, route, reason.map(Reason::as_str), payload)
}

/// The event of a route that an operator paused.
pub fn paused(route: &RouteKey, actor: &str, reason: Option<&Reason>) -> NewEvent {
    let payload = json!({ "actor": actor, "cause": "paused" });
    event(ROUTE_HELD, route, reason.map(Reason::as_str), payload)
}

/// The event of a route that an operator let go on.
pub fn resumed(route: &RouteKey, actor: &str, reason: Option<&Reason>) -> NewEvent {
    let payload = json!({ "actor": actor, "cause": "paused" });
    event(ROUTE_RELEASED, route, reason.map(Reason::as_str), payload)
}

/// The event of a plugin whose version was decided.
pub fn serving_changed(
    order: &ServingOrder,
    from: Option<Digest>,
    actor: &str,
    reason: Option<&Reason>,
) -> NewEvent {
    let event_type = match order.to {
        Some((_, ServingCause::Promotion)) => PLUGIN_PROMOTED,
        Some((_, ServingCause::Rollback)) => PLUGIN_ROLLED_BACK,
        None => PLUGIN_RELEASED,
    };
    let of = |digest: Option<Digest>| digest.map(|digest| json!({ "digest": digest }));
    let mut payload = Map::new();
    payload.insert("name".to_owned(), json!(order.plugin));
    payload.insert("from".to_owned(), json!(of(from)));
    payload.insert(
        "to".to_owned(),
        json!(of(order.to.map(|(digest, _)| digest))),
    );
    payload.extend(order.facts.clone());
    payload.insert("actor".to_owned(), json!(actor));
    let reason = reason.map(|reason| reason.as_str().to_owned());
    of_plugin(event_type, reason, Value::Object(payload))
}

/// The event of a version that was published.
pub fn published(row: &PublishedRow) -> NewEvent {
    let payload = json!({
        "name": row.name,
        "version": row.version,
        "digest": row.digest,
        "bytes": row.bytes,
        "signed": row.signature.is_some(),
        "actor": row.actor,
    });
    of_plugin(PLUGIN_PUBLISHED, row.reason.clone(), payload)
}

/// The event of a version that was retracted.
pub fn retracted(name: &str, digest: Digest, actor: &str, reason: Option<&Reason>) -> NewEvent {
    let payload = json!({ "name": name, "digest": digest, "actor": actor });
    let reason = reason.map(|reason| reason.as_str().to_owned());
    of_plugin(PLUGIN_RETRACTED, reason, payload)
}

fn of_plugin(event_type: &'static str, reason: Option<String>, payload: Value) -> NewEvent {
    NewEvent {
        event_type: event_type.into(),
        message_id: None,
        route: None,
        trace_id: TraceId::generate(),
        reason,
        payload: payload.into(),
    }
}

/// The event of a plugin whose version a rollout decided, in that rollout's trace.
pub fn promoted(rollout: &RolloutRow, actor: &str) -> NewEvent {
    let order = ServingOrder {
        plugin: rollout.plugin.clone(),
        to: Some((rollout.candidate, ServingCause::Promotion)),
        facts: Map::from_iter([("rollout".to_owned(), json!(rollout.id))]),
    };
    NewEvent {
        trace_id: rollout.trace_id.clone(),
        reason: Some(format!("rollout {} was promoted", rollout.id)),
        ..serving_changed(&order, rollout.stable, actor, None)
    }
}

/// The event of a fallback that was approved.
pub fn approved(approval: &ApprovalRow) -> NewEvent {
    let payload = json!({
        "actor": approval.approver,
        "approval": approval.id,
        "expires_at": approval.expires_at,
    });
    let reason = Some(approval.reason.as_str());
    event(FALLBACK_APPROVED, &approval.route, reason, payload)
}

/// The event of an approval that was taken back.
pub fn revoked(
    id: &ApprovalId,
    route: &RouteKey,
    actor: &str,
    reason: Option<&Reason>,
) -> NewEvent {
    let payload = json!({ "actor": actor, "approval": id });
    event(FALLBACK_REVOKED, route, reason.map(Reason::as_str), payload)
}

/// The events of a breaker that opened. Where that holds the route, the second
/// names the command that asks for the mock.
pub fn breaker_opened(path: &RealPath, cause: &Cause, host: &str, holds: bool) -> Vec<NewEvent> {
    let RealPath { plugin, route } = path;
    let reason = format!("the real path by `{plugin}` is down: {cause}");
    let payload = json!({ "plugin": plugin, "host": host, "evidence": cause });
    let mut events = vec![event(BREAKER_OPENED, route, Some(&reason), payload)];
    if holds {
        let payload = json!({
            "plugin": plugin,
            "host": host,
            "cause": "breaker_open",
            "approve": approve_command(route),
        });
        events.push(event(ROUTE_HELD, route, Some(&reason), payload));
    }
    in_one_trace(events)
}

/// The events of a breaker that closed.
pub fn breaker_closed(path: &RealPath, host: &str, held: bool) -> Vec<NewEvent> {
    const REASON: &str = "the worker answered a probe";
    let RealPath { plugin, route } = path;
    let payload = json!({ "plugin": plugin, "host": host, "cause": "breaker_open" });
    let mut events = vec![event(BREAKER_CLOSED, route, Some(REASON), payload.clone())];
    if held {
        events.push(event(ROUTE_RELEASED, route, Some(REASON), payload));
    }
    in_one_trace(events)
}

fn event(
    event_type: &'static str,
    route: &RouteKey,
    reason: Option<&str>,
    payload: Value,
) -> NewEvent {
    NewEvent {
        event_type: event_type.into(),
        message_id: None,
        route: Some(Route::of(route.clone())),
        trace_id: TraceId::generate(),
        reason: reason.map(str::to_owned),
        payload: payload.into(),
    }
}

fn in_one_trace(mut events: Vec<NewEvent>) -> Vec<NewEvent> {
    let first = events.first().map(|event| event.trace_id.clone());
    if let Some(trace_id) = first {
        for event in &mut events {
            event.trace_id = trace_id.clone();
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_a_bounded_length() {
        let reason = |text: &str| text.parse::<Reason>();
        assert_eq!(
            reason("  the worker\nis down ").unwrap().as_str(),
            "the worker is down"
        );
        assert_eq!(reason(" \n"), Err(InvalidReason::Empty));
        let long = "x".repeat(MAX_REASON + 1);
        assert_eq!(reason(&long), Err(InvalidReason::TooLong(MAX_REASON + 1)));
    }

    #[test]
    fn a_held_route_names_the_command_that_helps() {
        let path = RealPath {
            plugin: "cogo-worker".parse().unwrap(),
            route: "code/build-test".parse().unwrap(),
        };
        let cause = Cause::Unreachable {
            attempts: 5,
            tasks: 2,
        };
        let events = breaker_opened(&path, &cause, "h", true);
        let types: Vec<&str> = events.iter().map(|e| &*e.event_type).collect();
        assert_eq!(types, [BREAKER_OPENED, ROUTE_HELD]);
        assert_eq!(events[0].trace_id, events[1].trace_id);
        assert_eq!(
            events[1].payload.value()["approve"],
            "cogo-host fallback approve --route code/build-test --reason TEXT --ttl 30m"
        );
    }
}
