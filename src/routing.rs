//! Which routes this host serves and which plugin runs each task: the seam
//! between the bus and everything that a choice depends on.
//!
//! The bus asks, whoever composes the host answers. Nothing here does I/O; an
//! answer is taken from what is known at that moment.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::{PluginVersion, Problem};
use crate::ids::PluginName;
use crate::route::RouteKey;
use crate::selection::Why;
use crate::task::Claim;

/// A route that this host serves now. Held routes are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedRoute {
    pub key: RouteKey,
    /// `None` serves every shard.
    pub shard: Option<i32>,
    /// `None` serves every tenant.
    pub tenant: Option<String>,
    /// At most this many attempts of the route at once on this host.
    pub concurrency: u32,
    /// The plugin that would run a task now, for sizing claims.
    pub plugin: PluginName,
    /// At most this many attempts of the plugin at once on this host.
    pub plugin_concurrency: u32,
    pub reclaim_foreign_after: Option<Duration>,
}

/// The executor of one attempt.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub plugin: PluginVersion,
    pub why: Why,
    /// How long the attempt may run.
    pub deadline: Duration,
    /// Kept until the attempt has ended.
    pub hold: Hold,
}

/// Keeps a plugin version loaded from its assignment to the end of the attempt,
/// whatever is swapped meanwhile. What it holds is nobody's business here.
#[derive(Clone, Default)]
pub struct Hold(Option<Arc<dyn Any + Send + Sync>>);

impl Hold {
    /// Holds this.
    pub fn of<T: Any + Send + Sync>(held: Arc<T>) -> Self {
        Self(Some(held))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Hold"
        } else {
            "Hold(nothing)"
        })
    }
}

/// Why a claimed task gets no executor after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unassigned {
    /// The route came to be held between the wish to claim and the claim.
    Held(String),
    /// The plugin is not there; the host's own fault.
    Fault(Problem),
}

/// Answers the bus.
pub trait Routing: Send + Sync + 'static {
    /// The routes to claim from now.
    fn served(&self) -> Vec<ServedRoute>;

    /// The executor of this attempt at this task.
    ///
    /// # Errors
    /// [`Unassigned`] gives the claim back, attempt refunded.
    fn assign(&self, claim: &Claim, last_attempt: bool) -> Result<Assigned, Unassigned>;
}
