//! Where on the bus a task is addressed, and how a route chooses between its
//! real and its mock executor.
//!
//! Pure values: this module never reads configuration or the bus.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::PluginName;

/// `service/role`, the part of a route that plugins and configuration name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    // Shared, since every task and event names one.
    service: Arc<str>,
    role: Arc<str>,
}

/// Why a text is no `service/role`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a route: expected `service/role`, each of letters, digits, `.`, `_` or `-`, at most 64 bytes"
)]
pub struct InvalidRoute(String);

impl RouteKey {
    /// # Errors
    /// When a part is empty, too long or holds anything but letters, digits,
    /// `.`, `_` and `-`.
    pub fn new(service: &str, role: &str) -> Result<Self, InvalidRoute> {
        let usable = |part: &str| {
            !part.is_empty()
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if usable(service) && usable(role) {
            Ok(Self {
                service: service.into(),
                role: role.into(),
            })
        } else {
            let shown = format!("{service}/{role}");
            Err(InvalidRoute(shown.chars().take(140).collect()))
        }
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn role(&self) -> &str {
        &self.role
    }

    /// Where tasks go that name their real target in the payload. The host
    /// itself forwards them; no plugin executes them.
    pub fn dispatcher() -> Self {
        Self {
            service: "orchestrator".into(),
            role: "execute".into(),
        }
    }

    pub fn is_dispatcher(&self) -> bool {
        &*self.service == "orchestrator" && &*self.role == "execute"
    }

    /// The role that this version has a payload and a report type for.
    pub fn known_role(&self) -> Option<KnownRole> {
        KnownRole::ALL.into_iter().find(|known| {
            let (service, role) = known.parts();
            &*self.service == service && &*self.role == role
        })
    }

    /// The stem of the role's own events: `buildtest` in `buildtest_done`.
    pub fn event_stem(&self) -> String {
        match self.known_role() {
            Some(KnownRole::BuildTest) => "buildtest".to_owned(),
            Some(KnownRole::Codegen) => "codegen".to_owned(),
            Some(KnownRole::Sandbox) => "sandbox".to_owned(),
            None => format!("{}_{}", self.service, self.role),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.role)
    }
}

impl FromStr for RouteKey {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        match text.split_once('/') {
            Some((service, role)) => Self::new(service, role),
            None => Err(InvalidRoute(text.chars().take(140).collect())),
        }
    }
}

impl JsonSchema for RouteKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RouteKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`service/role`",
            "pattern": "^[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}$",
        })
    }
}

impl Serialize for RouteKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RouteKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A full address on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    pub key: RouteKey,
    pub shard: i32,
    pub tenant: Option<String>,
}

impl Route {
    /// The route with the default shard and no tenant.
    pub fn of(key: RouteKey) -> Self {
        Self {
            key,
            shard: 0,
            tenant: None,
        }
    }
}

/// The roles with a payload and a report type of their own in this contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownRole {
    BuildTest,
    Codegen,
    Sandbox,
}

impl KnownRole {
    pub const ALL: [Self; 3] = [Self::BuildTest, Self::Codegen, Self::Sandbox];

    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::BuildTest => ("code", "build-test"),
            Self::Codegen => ("codegen", "generate"),
            Self::Sandbox => ("sandbox", "run"),
        }
    }

    pub fn key(self) -> RouteKey {
        let (service, role) = self.parts();
        RouteKey {
            service: service.into(),
            role: role.into(),
        }
    }
}

/// Whether a route's choice between real and mock follows the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The stage table applies; a gate wants real results.
    Required,
    /// The route's own flag alone decides; unset means mock.
    Optional,
}

/// Which plugins a route may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoutePlugins {
    /// A real executor and its stand-in; flag and stage choose.
    Pair { real: PluginName, mock: PluginName },
    /// One plugin, whatever the flag says.
    Only(PluginName),
}

impl RoutePlugins {
    /// Every plugin that may run its tasks.
    pub fn names(&self) -> Vec<&PluginName> {
        match self {
            Self::Pair { real, mock } => vec![real, mock],
            Self::Only(only) => vec![only],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_key_round_trips() {
        for known in KnownRole::ALL {
            let key = known.key();
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
            assert_eq!(key.known_role(), Some(known));
        }
    }

    #[test]
    fn unusable_parts_are_refused() {
        for bad in ["", "code", "/", "code/", "/x", "a b/c", "a/b/c", "a/\n"] {
            assert!(bad.parse::<RouteKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_of_its_own_names_its_events_by_service_and_role() {
        let key: RouteKey = "docs/render".parse().unwrap();
        assert_eq!(key.event_stem(), "docs_render");
    }
}
