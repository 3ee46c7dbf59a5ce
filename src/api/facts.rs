//! What the API asks of the host around it, and the shapes in which it shows
//! the answers. The composition root implements [`HostFacts`]; nothing here
//! knows how plugins are loaded or where flags are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attempt::{Kind, PluginVersion};
use crate::breaker::BreakerRow;
use crate::control::{ApprovalRow, FlagRow, PauseRow};
use crate::ids::{Digest, PluginName};
use crate::plugin::load::Source;
use crate::plugin::signature::Signer;
use crate::rollout::RolloutRow;
use crate::route::{Policy, RouteKey, RoutePlugins};
use crate::selection::{HoldReason, Why};
use crate::stage::Stage;

/// Answers from what the host knows at that moment, without waiting.
pub trait HostFacts: Send + Sync + 'static {
    fn stage(&self) -> Stage;

    /// Whether this runs under `CI=true`.
    fn ci(&self) -> bool;

    /// Whether real and mock run side by side for every task.
    fn compares(&self) -> bool {
        false
    }

    /// `ENABLE_COGO_WORKER`.
    fn flag(&self) -> FlagView;

    /// The routes that some plugin handles: what may be submitted.
    fn handled(&self) -> Vec<RouteKey>;

    fn policy(&self, route: &RouteKey) -> Policy;

    /// The routes that are configured or handled, with what would run now.
    fn routes(&self) -> Vec<RouteView>;

    fn plugins(&self) -> Vec<PluginView>;

    /// What became of versions of plugins since the host began.
    fn swaps(&self) -> BTreeMap<PluginName, SwapCounts>;

    /// The watched directory of plugins, if one is configured.
    fn plugins_directory(&self) -> Option<DirectoryView>;

    /// What readiness depends on besides the database, the plugins and the
    /// drain, which the API checks itself.
    fn readiness(&self) -> Vec<ReadinessCheck>;
}

/// A flag and how it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FlagView {
    pub name: String,
    /// `None` leaves it to stage and policy.
    pub value: Option<bool>,
    /// Where the value came from, such as `environment` or `default`.
    pub origin: String,
}

/// A route and the executor that a task would get now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteView {
    pub route: RouteKey,
    pub policy: Policy,
    /// Absent where no plugin is known for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins: Option<RoutePlugins>,
    /// Whether this host claims its tasks.
    pub served: bool,
    #[serde(flatten)]
    pub now: ExecutorNow,
    /// What was decided about it on the bus.
    #[serde(default)]
    pub decided: RouteDecided,
}

/// What operators and hosts decided about a route, where they did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RouteDecided {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<FlagRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseRow>,
    /// Of the approvals in force, the one that lasts longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRow>,
    /// Of the real path, unless it was never down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerRow>,
    /// Of a version of one of its plugins, while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutRow>,
}

/// What would happen to a task of the route now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ExecutorNow {
    /// This plugin version would run it.
    Runs { executor: PluginVersion, why: Why },
    /// It would wait.
    Held { reason: HoldReason },
    /// The plugin that should run it is not there.
    Missing { problem: String },
}

/// A plugin as the host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginView {
    pub name: PluginName,
    pub source: PluginSource,
    /// Absent while no version of it could be loaded, and once it was removed.
    pub serving: Option<ServingView>,
    /// Why the latest version that was found does not serve.
    pub last_error: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// What is loaded and ready and does not serve: for a rollout, latest first.
    #[serde(default)]
    pub candidates: Vec<ServingView>,
    /// What served before and a rollback can return to, latest first.
    #[serde(default)]
    pub previous: Vec<PreviousView>,
    /// Set while a rollback is in force: what the plugin's file still holds.
    pub rolled_back_from: Option<Digest>,
    /// The routes whose real path it is and is taken for down.
    #[serde(default)]
    pub down_on: Vec<RouteKey>,
}

/// How often versions of a plugin came in, by what became of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapCounts {
    /// Came into service.
    pub applied: u64,
    /// Were refused, so that what served went on serving.
    pub refused: u64,
    /// Came back into service in place of what was taken back.
    pub rolled_back: u64,
}

/// A version that served before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviousView {
    pub version: String,
    pub digest: Digest,
    /// An operator took it out of service; only naming it brings it back.
    pub rolled_back: bool,
}

/// The watched directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectoryView {
    pub path: PathBuf,
    pub state: DirectoryStateView,
    /// Why it is not simply watched.
    pub problem: Option<String>,
    /// Files that are refused for their names.
    pub refused_files: Vec<RefusedFileView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryStateView {
    Watched,
    /// Looked at from time to time only.
    Polled,
    Missing,
    Unreadable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedFileView {
    pub file: String,
    pub error: String,
    pub hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PluginSource {
    /// Embedded in the host.
    Bundled,
    /// A file in the plugins directory.
    File { path: PathBuf },
    /// The bus.
    Published,
}

/// The version of a plugin that new attempts get, or could get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServingView {
    pub version: String,
    pub digest: Digest,
    pub kind: Kind,
    pub handles: Vec<RouteKey>,
    pub profile: Profile,
    /// `bundled`, `directory` or `published`.
    #[serde(default)]
    pub source: Option<Source>,
    /// The trusted key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
}

/// What is linked into a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The executor world, outbound HTTP, clocks.
    Minimal,
    /// All of WASI Preview 2, with nothing behind it.
    Wasi,
}

/// One line of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReadinessCheck {
    pub name: String,
    pub ok: bool,
    /// What was found, for people.
    pub detail: String,
}
