//! The bus's housekeeping: rescues expired leases, fails tasks whose time to
//! live has passed, fills what other programs left out of their rows, deletes
//! what retention allows.
//!
//! Each of the four goes round by itself, so that none ever waits for another,
//! nor for what another met with. A round takes no input and reads all state, so
//! any number of hosts may run it at once, and a round that fails is simply the
//! next one's work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outage::{Outage, PATIENCE, bounded};
use super::{Shared, shadow};
use crate::routing::KnownRoute;
use crate::store::{StoreError, Want};

/// Small enough not to hold a lock for long, large enough to catch up.
const PAGE: u32 = 200;
/// An expired lease is to be taken back within a second: the longest of these
/// pauses leaves more than a third of it to the statements. One look is one
/// statement on an index that holds claimed rows alone.
const RESCUE_EVERY: Duration = Duration::from_millis(500);
const EXPIRE_EVERY: Duration = Duration::from_millis(800);
/// A row that lacks something has waited for nothing so far.
const MEND_EVERY: Duration = Duration::from_millis(800);
const RETIRE_EVERY: Duration = Duration::from_secs(60);

/// The time between two looks, give or take a quarter, so that hosts do not all
/// look at once. `chance` is from 0 to 1.
fn pause(every: Duration, lease: Duration, chance: f64) -> Duration {
    every.min(lease / 2).mul_f64(0.75 + chance / 2.0)
}

/// Runs for as long as it is polled.
pub(super) async fn keep_rescuing(shared: Arc<Shared>) {
    let lease = shared.settings.lease;
    let mut outage = Outage::of("rescue tasks whose lease expired");
    let mut answered = Instant::now();
    let mut failed = false;
    loop {
        tokio::time::sleep(pause(RESCUE_EVERY, lease, rand::random())).await;
        // The living renew every third of a lease: theirs ran out, too, where
        // the database was away for longer. They renew or settle first; what is
        // left after that is nobody's.
        if failed && answered.elapsed() > lease / 3 {
            if let Err(error) = bounded(PATIENCE, shared.store.ping()).await {
                outage.goes_on(&error);
                continue;
            }
            tokio::time::sleep(lease / 2).await;
        }
        let asked = Instant::now();
        match rescue(&shared).await {
            Ok(_) => {
                answered = asked;
                failed = false;
                outage.is_over();
            }
            Err(error) => {
                failed = true;
                outage.goes_on(&error);
            }
        }
    }
}

/// Runs for as long as it is polled.
pub(super) async fn keep_expiring(shared: Arc<Shared>) {
    let lease = shared.settings.lease;
    let mut outage = Outage::of("fail tasks that waited too long");
    loop {
        tokio::time::sleep(pause(EXPIRE_EVERY, lease, rand::random())).await;
        let expired = expire(&shared).await;
        let told = shadow::tell_dropped(&shared).await;
        match expired.and(told) {
            Ok(()) => outage.is_over(),
            Err(error) => outage.goes_on(&error),
        }
    }
}

/// Runs for as long as it is polled.
pub(super) async fn keep_mending(shared: Arc<Shared>) {
    let lease = shared.settings.lease;
    let mut outage = Outage::of("fill what rows of other programs lack");
    loop {
        tokio::time::sleep(pause(MEND_EVERY, lease, rand::random())).await;
        match mend(&shared).await {
            Ok(()) => outage.is_over(),
            Err(error) => outage.goes_on(&error),
        }
    }
}

/// Runs for as long as it is polled and there is a retention.
pub(super) async fn keep_retiring(shared: Arc<Shared>) {
    let retention = &shared.settings.retention;
    if retention.tasks.is_none() && retention.events.is_none() {
        return;
    }
    let mut outage = Outage::of("delete what retention allows");
    let lease = shared.settings.lease;
    tokio::time::sleep(pause(EXPIRE_EVERY, lease, rand::random())).await;
    loop {
        match retire(&shared).await {
            Ok(()) => outage.is_over(),
            Err(error) => outage.goes_on(&error),
        }
        tokio::time::sleep(RETIRE_EVERY).await;
    }
}

/// Takes back what expired; whether there was any.
pub(super) async fn rescue(shared: &Shared) -> Result<bool, StoreError> {
    let max_attempts = shared.settings.retry.max_attempts;
    let mut found = false;
    loop {
        let rescued = bounded(PATIENCE, shared.store.rescue(PAGE, max_attempts)).await?;
        shared.tally.rescued(rescued.len());
        for one in &rescued {
            found = true;
            tracing::warn!(
                message.id = %one.id,
                holder = one.holder,
                status = one.status.as_str(),
                "rescued task {}: its lease had expired",
                one.id
            );
        }
        if rescued.len() < PAGE as usize {
            break;
        }
    }
    if found {
        shared.wake.notify_one();
    }
    Ok(found)
}

/// A task's time to live counts while its route is held, too.
async fn expire(shared: &Shared) -> Result<(), StoreError> {
    let want = |route: KnownRoute| Want {
        key: route.key,
        shard: route.shard,
        tenant: route.tenant,
        limit: 1,
        reclaim_foreign_after: None,
        draw: None,
    };
    let known: Vec<Want> = shared.routing.known().into_iter().map(want).collect();
    loop {
        let expired = bounded(PATIENCE, shared.store.expire(&known, PAGE)).await?;
        if expired.len() < PAGE as usize {
            return Ok(());
        }
    }
}

async fn mend(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let rows = bounded(PATIENCE, shared.store.mend(PAGE)).await?;
        if rows > 0 {
            tracing::info!(rows, "filled what rows of another program lacked");
            shared.wake.notify_one();
        }
        if rows < u64::from(PAGE) {
            return Ok(());
        }
    }
}

/// Deletes until nothing is left that may go.
async fn retire(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let begun = Instant::now();
        let batch = shared.store.retire(&shared.settings.retention);
        if bounded(PATIENCE, batch).await? == 0 {
            return Ok(());
        }
        // A database that is busy gets as much rest as it needed, so that this
        // takes half of one connection at most, however much there is to go.
        tokio::time::sleep(begun.elapsed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the second that a rescue may take, the statements need some.
    #[test]
    fn an_expired_lease_is_looked_for_well_within_a_second() {
        let lease = Duration::from_secs(30);
        assert!(pause(RESCUE_EVERY, lease, 1.0) <= Duration::from_millis(625));
        assert!(pause(RESCUE_EVERY, lease, 0.0) >= Duration::from_millis(375));
    }

    #[test]
    fn short_leases_are_looked_for_more_often() {
        let lease = Duration::from_millis(500);
        assert!(pause(RESCUE_EVERY, lease, 1.0) < lease);
    }
}
