//! What a change of the plugins leaves in `bus_events`.
//!
//! Pure: each event is made here, and written by whoever gets it. A change has a
//! trace of its own.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::control::{ServingCause, ServingOrder, ServingRow};
use crate::event::{
    NewEvent, PLUGIN_LOADED, PLUGIN_REJECTED, PLUGIN_ROLLED_BACK, PLUGIN_SWAPPED, PLUGIN_WITHDRAWN,
};
use crate::ids::{Digest, HolderId, PluginName, TraceId};
use crate::plugin::catalog::{Failure, RolledBack};
use crate::plugin::load::{Plugin, Source};

/// What an operator who gives no reason is recorded with.
const NO_REASON: &str = "no reason was given";

/// A version as events name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Version {
    pub(super) version: String,
    pub(super) digest: Digest,
    source: Source,
}

impl Version {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self {
            version: plugin.descriptor().version.to_string(),
            digest: plugin.digest(),
            source: plugin.source(),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.digest)
    }
}

/// Who changed what serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Actor {
    /// Whoever changed the watched directory.
    Directory,
    /// The name of a token.
    Operator(String),
}

/// A change that is to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct SwapEvent {
    event_type: &'static str,
    pub trace_id: TraceId,
    reason: Option<String>,
    actor: Actor,
    payload: Map<String, Value>,
}

impl SwapEvent {
    pub(super) fn loaded(name: &PluginName, to: Version) -> Self {
        Self::new(PLUGIN_LOADED, name.as_str(), Actor::Directory)
            .with("state", &"serving")
            .with("from", &Value::Null)
            .with("to", &to)
    }

    /// A version that is ready and waits for a rollout.
    pub(super) fn offered(
        name: &PluginName,
        serving: Option<Version>,
        offered: Version,
        actor: Actor,
    ) -> Self {
        Self::new(PLUGIN_LOADED, name.as_str(), actor)
            .with("state", &"candidate")
            .with("from", &serving)
            .with("to", &offered)
    }

    pub(super) fn withdrawn(name: &PluginName, digest: Digest, reason: &str, actor: Actor) -> Self {
        Self::new(PLUGIN_WITHDRAWN, name.as_str(), actor)
            .with("digest", &digest)
            .because(reason)
    }

    /// This host follows what was decided on the bus, in the same trace.
    pub(super) fn followed(
        name: &PluginName,
        from: Option<Version>,
        to: Version,
        row: &ServingRow,
    ) -> Self {
        let verb = match row.cause {
            ServingCause::Promotion => "promoted it",
            ServingCause::Rollback => "rolled back to it",
        };
        let actor = Actor::Operator(row.actor.clone());
        let mut event = Self::new(PLUGIN_SWAPPED, name.as_str(), actor)
            .with("from", &from)
            .with("to", &to)
            .because(&format!("{} {verb}", row.actor));
        event.trace_id = row.trace_id.clone();
        event
    }

    pub(super) fn swapped(
        name: &PluginName,
        from: Version,
        to: Option<Version>,
        reason: &str,
    ) -> Self {
        Self::new(PLUGIN_SWAPPED, name.as_str(), Actor::Directory)
            .with("from", &from)
            .with("to", &to)
            .because(reason)
    }

    /// `digest` is that of what was refused, where it could be read.
    pub(super) fn rejected(
        name: &str,
        serving: Option<Version>,
        digest: Option<Digest>,
        failure: Failure,
    ) -> Self {
        Self::new(PLUGIN_REJECTED, name, Actor::Directory)
            .with("serving", &serving)
            .with("digest", &digest)
            .with("code", &failure.code)
            .with("hint", &failure.hint)
            .because(&failure.message)
    }

    /// An operator's rollback.
    pub fn rolled_back(
        name: &PluginName,
        rolled_back: &RolledBack,
        actor: String,
        reason: Option<&str>,
    ) -> Self {
        let from = rolled_back.from.as_deref().map(Version::of);
        Self::new(PLUGIN_ROLLED_BACK, name.as_str(), Actor::Operator(actor))
            .with("from", &from)
            .with("to", &Version::of(&rolled_back.to))
            .because(reason.unwrap_or(NO_REASON))
    }

    /// The same as an order to all hosts.
    pub fn order(name: &PluginName, rolled_back: &RolledBack, holder: &HolderId) -> ServingOrder {
        let from = rolled_back.from.as_deref().map(Version::of);
        let to = Version::of(&rolled_back.to);
        let cause = ServingCause::Rollback;
        ServingOrder {
            plugin: name.clone(),
            to: Some((to.digest, cause)),
            facts: Map::from_iter([
                ("from".to_owned(), json!(from)),
                ("to".to_owned(), json!(to)),
                ("host".to_owned(), json!(holder.as_str())),
            ]),
        }
    }

    fn new(event_type: &'static str, name: &str, actor: Actor) -> Self {
        let event = Self {
            event_type,
            trace_id: TraceId::generate(),
            reason: None,
            actor,
            payload: Map::new(),
        };
        event.with("name", &name)
    }

    fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        self.payload.insert(key.to_owned(), json!(value));
        self
    }

    fn because(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// The event as this host records it.
    pub fn into_event(self, holder: &HolderId) -> NewEvent {
        let actor = match &self.actor {
            Actor::Directory => "plugins_dir".to_owned(),
            Actor::Operator(name) => name.clone(),
        };
        let event = self.with("actor", &actor).with("host", &holder.as_str());
        NewEvent {
            event_type: event.event_type.into(),
            message_id: None,
            route: None,
            trace_id: event.trace_id,
            reason: event.reason,
            payload: Value::Object(event.payload).into(),
        }
    }
}
