//! Host processes, as they show themselves on the bus.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::ids::{Digest, HolderId};
use crate::stage::Stage;

/// A host process as it shows itself on the bus.
#[derive(Debug, Clone)]
pub struct HostBeat<'a> {
    pub holder: &'a HolderId,
    /// The configured `HOLDER_ID`.
    pub name: &'a str,
    pub stage: Stage,
    pub version: &'a str,
    /// Where its API listens.
    pub api: Option<&'a str>,
    /// Every plugin version that it could run at once.
    pub digests: &'a [Digest],
}

/// A host process as the bus knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostRow {
    pub holder: String,
    pub name: String,
    pub stage: String,
    pub version: String,
    pub api: Option<String>,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// Since it was last seen, by the database's clock.
    pub silent_ms: u64,
    /// Every plugin version that it could run at once.
    pub digests: Vec<Digest>,
}

/// How long a host may be silent and still count as one that works: three times
/// what passes between two of its signs of life.
pub const HOST_PATIENCE: Duration = Duration::from_secs(30);

impl HostRow {
    /// Whether it showed itself lately.
    pub fn is_live(&self) -> bool {
        Duration::from_millis(self.silent_ms) <= HOST_PATIENCE
    }
}
