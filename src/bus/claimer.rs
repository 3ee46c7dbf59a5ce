//! Claims tasks for as many attempts as fit, and no more.
//!
//! The wake-up is armed before the claim, so that a task inserted in between is
//! seen; polling always works without any. A claim of one task costs about as
//! much as a claim of a hundred, so a busy host waits for a share of its
//! permits rather than claiming one by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, flight, wants};
use crate::ids::PluginName;
use crate::route::RouteKey;
use crate::routing::ServedRoute;
use crate::store::{ClaimRequest, StoreError, Want};
use crate::task::Claim;

const BACKOFF_START: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a busy host waits for more free permits before it claims for fewer.
const GATHER: Duration = Duration::from_millis(4);

/// What one attempt occupies, given back when its guest has ended.
pub(super) struct Permits {
    _host: OwnedSemaphorePermit,
    _route: OwnedSemaphorePermit,
    _plugin: OwnedSemaphorePermit,
}

/// The host's free places, by route and by plugin. Only the claimer takes them.
struct Capacity {
    host: Arc<Semaphore>,
    host_size: u32,
    routes: HashMap<RouteKey, Bounded>,
    plugins: HashMap<PluginName, Bounded>,
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
        u32::try_from(self.semaphore.available_permits()).unwrap_or(u32::MAX)
    }
}

impl Capacity {
    fn new(size: u32) -> Self {
        Self {
            host: Arc::new(Semaphore::new(size as usize)),
            host_size: size,
            routes: HashMap::new(),
            plugins: HashMap::new(),
        }
    }

    fn free(&self) -> u32 {
        u32::try_from(self.host.available_permits()).unwrap_or(u32::MAX)
    }

    /// How many tasks of each route fit. Routes that share a plugin share its
    /// places, first come first served in the order given.
    fn wants(&mut self, served: &[ServedRoute]) -> Vec<Want> {
        let mut plugin_left: HashMap<&PluginName, u32> = HashMap::new();
        let mut wants = Vec::with_capacity(served.len());
        for route in served {
            let places = self
                .routes
                .entry(route.key.clone())
                .or_insert_with(|| Bounded::new(route.concurrency));
            places.resize(route.concurrency);
            let plugin = self
                .plugins
                .entry(route.plugin.clone())
                .or_insert_with(|| Bounded::new(route.plugin_concurrency));
            plugin.resize(route.plugin_concurrency);
            let left = plugin_left
                .entry(&route.plugin)
                .or_insert_with(|| plugin.free());
            let limit = places.free().min(*left);
            *left -= limit;
            if limit > 0 {
                wants.push(Want {
                    key: route.key.clone(),
                    shard: route.shard,
                    tenant: route.tenant.clone(),
                    limit,
                    reclaim_foreign_after: route.reclaim_foreign_after,
                });
            }
        }
        wants
    }

    /// The places for a claimed task. They were free when the claim was sized,
    /// and nobody else takes any.
    fn take(&self, route: &RouteKey, plugin: &PluginName) -> Option<Permits> {
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        Some(Permits {
            _host: take(&self.host)?,
            _route: take(&self.routes.get(route)?.semaphore)?,
            _plugin: take(&self.plugins.get(plugin)?.semaphore)?,
        })
    }

    /// Waits for a quarter of the host's places, but not for long.
    async fn gather(&self) {
        let share = (self.host_size / 4).max(1);
        let enough = self.host.acquire_many(share);
        if tokio::time::timeout(GATHER, enough).await.is_err() {
            // At least one; its permit goes back at once, to be counted.
            drop(self.host.acquire().await);
        }
    }
}

/// Claims and launches until a drain begins, or, where asked, until idle.
pub(super) async fn claim_until_drained(shared: &Arc<Shared>) {
    let mut capacity = Capacity::new(shared.settings.concurrency);
    let mut backoff = BACKOFF_START;
    let mut turn = 0_usize;
    while !shared.draining.is_cancelled() {
        let wake = shared.wake.notified();
        tokio::pin!(wake);
        wake.as_mut().enable();

        let mut served = shared.routing.served();
        // The first in line may use up the limit, so each route gets its turn.
        if !served.is_empty() {
            let by = turn % served.len();
            served.rotate_left(by);
        }
        turn = turn.wrapping_add(1);
        let wants = capacity.wants(&served);
        let free = capacity.free();
        let had_room = free > 0 && !wants.is_empty();
        shared.starved.store(!had_room, Ordering::Release);
        let asked = Instant::now();
        match claim(shared, wants, free).await {
            Ok(claims) if claims.is_empty() => {
                backoff = BACKOFF_START;
                let Some(pause) = pause(shared, &served, had_room).await else {
                    return;
                };
                tokio::select! {
                    () = &mut wake => {}
                    () = tokio::time::sleep(pause) => {}
                    () = shared.store.hint(&shared.holder), if had_room => {}
                    () = shared.draining.cancelled() => {}
                }
            }
            Ok(claims) => {
                backoff = BACKOFF_START;
                for claim in claims {
                    launch(shared, &capacity, &served, claim, asked);
                }
                if capacity.free() == 0 {
                    tokio::select! {
                        () = capacity.gather() => {}
                        () = shared.draining.cancelled() => {}
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "cannot claim; trying again");
                tokio::select! {
                    () = tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>())) => {}
                    () = shared.draining.cancelled() => {}
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

async fn claim(shared: &Shared, wants: Vec<Want>, limit: u32) -> Result<Vec<Claim>, StoreError> {
    if wants.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let request = ClaimRequest {
        holder: &shared.holder,
        lease: shared.settings.lease,
        wants,
        limit,
    };
    shared.store.claim(&request).await
}

/// How long to wait for the next look; `None` when asked to end and idle.
async fn pause(shared: &Shared, served: &[ServedRoute], had_room: bool) -> Option<Duration> {
    let settings = &shared.settings;
    let poll = settings.poll.mul_f64(0.5 + rand::random::<f64>());
    if !had_room {
        // A place that comes free is announced through the same wake-up.
        return Some(poll);
    }
    match shared.store.next_due(&wants(served)).await {
        Ok(None) if settings.until_idle && shared.flights.lock().is_empty() => None,
        Ok(Some(due)) => Some(due.clamp(Duration::from_millis(1), poll)),
        // Idle, or away: either way the poll finds out.
        Ok(None) | Err(_) => Some(poll),
    }
}

fn launch(
    shared: &Arc<Shared>,
    capacity: &Capacity,
    served: &[ServedRoute],
    claim: Claim,
    asked: Instant,
) {
    let route = served.iter().find(|route| route.key == claim.route.key);
    let permits = route.and_then(|route| capacity.take(&route.key, &route.plugin));
    let settler = shared.settler.handle();
    let (Some(permits), Some(settler)) = (permits, settler) else {
        // The store claimed more than it was asked for: a bug there. The lease
        // expires and the task is rescued.
        tracing::error!(message.id = %claim.id, "claimed a task that there is no place for");
        return;
    };
    let takeoff = flight::announce(shared, claim, asked);
    shared
        .tracker
        .spawn(flight::fly(Arc::clone(shared), takeoff, permits, settler));
}
