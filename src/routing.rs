//! Which routes this host serves and which plugin runs each task: the seam
//! between the bus and everything that a choice depends on.
//!
//! The bus asks, whoever composes the host answers. Nothing here does I/O; an
//! answer is taken from what is known at that moment.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::{InShadow, PluginVersion, Problem};
use crate::breaker::{Probe, RealPath, Said};
use crate::ids::PluginName;
use crate::rollout::Draw;
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
    /// What its tasks draw their side from, where a rollout has a share.
    pub draw: Option<Draw>,
    /// The route is held but for one task, which is to find out whether its real
    /// path works again; whatever else of it still runs.
    pub only_probe: bool,
}

impl ServedRoute {
    pub fn known(&self) -> KnownRoute {
        KnownRoute {
            key: self.key.clone(),
            shard: self.shard,
            tenant: self.tenant.clone(),
        }
    }
}

/// A route that this host is there for, whether or not it is held now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRoute {
    pub key: RouteKey,
    /// `None` means every shard.
    pub shard: Option<i32>,
    /// `None` means every tenant.
    pub tenant: Option<String>,
}

/// The executor of one attempt.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub plugin: PluginVersion,
    pub why: Why,
    /// How long the attempt may run.
    pub deadline: Duration,
    /// Set where the attempt probes a real path that is taken for down.
    pub probe: Option<Probe>,
    /// Kept until the attempt has ended.
    pub hold: Hold,
}

/// A version that is to run a task again, beside the one whose result counts.
#[derive(Debug, Clone)]
pub struct Shadowing {
    pub terms: InShadow,
    pub plugin: PluginVersion,
    /// How long the run may take.
    pub deadline: Duration,
    /// Kept until the run has ended.
    pub hold: Hold,
}

/// What an attempt on a real path came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedAttempt {
    pub path: RealPath,
    pub probe: bool,
    pub said: Said,
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

    /// All routes that this host is there for, held ones among them.
    fn known(&self) -> Vec<KnownRoute>;

    /// The routes that some plugin handles: where the dispatcher may forward to.
    fn handled(&self) -> Vec<RouteKey> {
        self.known().into_iter().map(|route| route.key).collect()
    }

    /// The executor of this attempt at this task.
    ///
    /// # Errors
    /// [`Unassigned`] gives the claim back, attempt refunded.
    fn assign(&self, claim: &Claim, last_attempt: bool) -> Result<Assigned, Unassigned>;

    /// The versions that are to run this task again, once it has ended on the one
    /// that it is assigned to.
    fn shadows(&self, _claim: &Claim, _assigned: &Assigned) -> Vec<Shadowing> {
        Vec::new()
    }

    /// An attempt on a real path has ended, and the bus holds its end.
    fn ended(&self, attempt: EndedAttempt);
}
