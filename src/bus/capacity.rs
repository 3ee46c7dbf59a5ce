//! The host's free places, by host, route and plugin. Only the claimer takes
//! them; an attempt gives its own back when its guest has ended.
//!
//! Pure bookkeeping: nothing here asks the database or waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::PluginName;
use crate::route::{Route, RouteKey};
use crate::routing::ServedRoute;
use crate::store::Want;

/// How long a busy host waits for more free places before it claims for fewer.
pub(super) const GATHER: Duration = Duration::from_millis(4);

/// What one attempt occupies.
pub(super) struct Permits {
    _host: OwnedSemaphorePermit,
    _route: OwnedSemaphorePermit,
    _plugin: OwnedSemaphorePermit,
}

pub(super) struct Capacity {
    host: Arc<Semaphore>,
    host_size: u32,
    routes: HashMap<Address, Bounded>,
    plugins: HashMap<PluginName, Bounded>,
    /// When each route last got a task, counted in claims.
    last_claim: HashMap<Address, u64>,
    claims: u64,
}

/// What tells one served route from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Address {
    key: RouteKey,
    shard: Option<i32>,
    tenant: Option<String>,
    /// A probe has its place beside what else of the route still runs.
    only_probe: bool,
}

impl Address {
    fn of(served: &ServedRoute) -> Self {
        Self {
            key: served.key.clone(),
            shard: served.shard,
            tenant: served.tenant.clone(),
            only_probe: served.only_probe,
        }
    }
}

/// A semaphore that follows a limit which configuration may change.
struct Bounded {
    semaphore: Arc<Semaphore>,
    size: u32,
}

impl Bounded {
    fn new(size: u32) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }

    fn resize(&mut self, size: u32) {
        if size > self.size {
            self.semaphore.add_permits((size - self.size) as usize);
            self.size = size;
        } else if size < self.size {
            // What is in use shrinks the pool as it comes back, next time.
            let gone = self.semaphore.forget_permits((self.size - size) as usize);
            self.size -= u32::try_from(gone).unwrap_or(0);
        }
    }

    fn free(&self) -> u32 {
        free(&self.semaphore)
    }

    fn pool(&self) -> Pool {
        Pool {
            semaphore: Arc::clone(&self.semaphore),
            size: self.size,
        }
    }
}

fn free(semaphore: &Semaphore) -> u32 {
    u32::try_from(semaphore.available_permits()).unwrap_or(u32::MAX)
}

/// What is free at one moment.
pub(super) struct Places {
    /// By plugin, those first whose routes have waited longest for a task.
    pub(super) groups: Vec<Group>,
    /// Pools without a free place that some route would need.
    pub(super) full: Vec<Pool>,
}

/// Routes of one plugin that have room, to be claimed for together: so a place
/// of the plugin is never kept for a route that has no task for it.
pub(super) struct Group {
    pub(super) routes: Vec<ServedRoute>,
    pub(super) wants: Vec<Want>,
}

/// A number of places that attempts share.
pub(super) struct Pool {
    semaphore: Arc<Semaphore>,
    size: u32,
}

/// How much of so many places a claim is worth.
pub(super) fn share(places: u32) -> u32 {
    (places / 4).max(1)
}

impl Pool {
    /// Whether a quarter of the places is free: a claim of one task costs about
    /// as much as a claim of a hundred.
    pub(super) fn has_share(&self) -> bool {
        free(&self.semaphore) >= self.share()
    }

    fn share(&self) -> u32 {
        share(self.size)
    }

    /// Waits for that share, but not for long.
    pub(super) async fn gather(&self) {
        let enough = self.semaphore.acquire_many(self.share());
        // The permits go back at once: it is the claimer's turn to count them.
        let _ = tokio::time::timeout(GATHER, enough).await;
    }

    /// Waits for one place.
    pub(super) async fn any(&self) {
        drop(self.semaphore.acquire().await);
    }
}

impl Capacity {
    pub(super) fn new(size: u32) -> Self {
        Self {
            host: Arc::new(Semaphore::new(size as usize)),
            host_size: size,
            routes: HashMap::new(),
            plugins: HashMap::new(),
            last_claim: HashMap::new(),
            claims: 0,
        }
    }

    pub(super) fn host(&self) -> Pool {
        Pool {
            semaphore: Arc::clone(&self.host),
            size: self.host_size,
        }
    }

    pub(super) fn host_free(&self) -> u32 {
        free(&self.host)
    }

    /// Which routes have room, and what keeps the others from it.
    pub(super) fn places(&mut self, mut served: Vec<ServedRoute>) -> Places {
        // Stable, so that routes without history keep their order.
        served.sort_by_key(|route| self.last_claim.get(&Address::of(route)).copied());
        let mut groups: Vec<Group> = Vec::new();
        let mut full = Vec::new();
        if self.host_free() == 0 {
            full.push(self.host());
        }
        for route in served {
            let places = self
                .routes
                .entry(Address::of(&route))
                .or_insert_with(|| Bounded::new(route.concurrency));
            places.resize(route.concurrency);
            let plugin = self
                .plugins
                .entry(route.plugin.clone())
                .or_insert_with(|| Bounded::new(route.plugin_concurrency));
            plugin.resize(route.plugin_concurrency);
            let limit = places.free().min(plugin.free());
            if limit == 0 {
                let narrow = if places.free() == 0 { places } else { plugin };
                full.push(narrow.pool());
                continue;
            }
            let want = Want {
                key: route.key.clone(),
                shard: route.shard,
                tenant: route.tenant.clone(),
                limit,
                reclaim_foreign_after: route.reclaim_foreign_after,
                draw: route.draw.clone(),
            };
            let same = |group: &&mut Group| {
                let first = group.routes.first();
                first.is_some_and(|first| first.plugin == route.plugin)
            };
            match groups.iter_mut().find(same) {
                Some(group) => {
                    group.wants.push(want);
                    group.routes.push(route);
                }
                None => groups.push(Group {
                    wants: vec![want],
                    routes: vec![route],
                }),
            }
        }
        Places { groups, full }
    }

    /// How many tasks of a group fit in all, now.
    pub(super) fn limit(&self, group: &Group) -> u32 {
        let plugin = group
            .routes
            .first()
            .and_then(|route| self.plugins.get(&route.plugin));
        plugin.map_or(0, |plugin| plugin.free().min(self.host_free()))
    }

    /// A claim begins to be handed out.
    pub(super) const fn claimed(&mut self) {
        self.claims += 1;
    }

    /// The places for a claimed task. They were free when the claim was sized,
    /// and nobody else takes any.
    pub(super) fn take(&mut self, group: &Group, route: &Route) -> Option<Permits> {
        let served = group.routes.iter().find(|served| covers(served, route))?;
        let address = Address::of(served);
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        let permits = Permits {
            _host: take(&self.host)?,
            _route: take(&self.routes.get(&address)?.semaphore)?,
            _plugin: take(&self.plugins.get(&served.plugin)?.semaphore)?,
        };
        self.last_claim.insert(address, self.claims);
        Some(permits)
    }
}

fn covers(served: &ServedRoute, route: &Route) -> bool {
    served.key == route.key
        && served.shard.is_none_or(|shard| shard == route.shard)
        && (served.tenant.is_none() || served.tenant == route.tenant)
}
