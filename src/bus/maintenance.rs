//! The bus's housekeeping: rescues expired leases, fails tasks whose time to
//! live has passed, deletes what retention allows.
//!
//! Each round takes no input and reads all state, so any number of hosts may
//! run it at once, and a round that fails is simply the next one's work. No
//! part of a round depends on another's success.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outage::{Outage, PATIENCE, bounded};
use super::{Shared, shadow};
use crate::routing::KnownRoute;
use crate::store::{StoreError, Want};

/// Small enough not to hold a lock for long, large enough to catch up.
const PAGE: u32 = 200;
const RETIRE_EVERY: Duration = Duration::from_secs(60);

/// Runs for as long as it is polled.
pub(super) async fn maintain(shared: Arc<Shared>) {
    // An expired lease is to be taken back within a second.
    let every = (shared.settings.lease / 2).min(Duration::from_millis(800));
    let mut outage = Outage::of("look after the bus");
    let mut away = false;
    let mut rescues_from = Instant::now();
    let mut retired: Option<Instant> = None;
    loop {
        let pause = every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tokio::time::sleep(pause).await;
        let mut failed = expire(&shared).await.err();
        if away && failed.is_none() {
            // Every lease ran out while the database was away. The living renew
            // theirs and settle first; what is left after that is nobody's.
            rescues_from = Instant::now() + shared.settings.lease / 2;
        }
        failed = failed.or(shadow::tell_dropped(&shared).await.err());
        away = failed.as_ref().is_some_and(StoreError::is_transient);
        if !away && Instant::now() >= rescues_from {
            let rescued = rescue(&shared).await;
            away = rescued.as_ref().is_err_and(StoreError::is_transient);
            failed = failed.or(rescued.err());
        }
        if !away && retired.is_none_or(|at| at.elapsed() >= RETIRE_EVERY) {
            retired = Some(Instant::now());
            failed = failed.or(retire(&shared).await.err());
        }
        match failed {
            Some(error) => outage.goes_on(&error),
            None => outage.is_over(),
        }
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

async fn retire(shared: &Shared) -> Result<(), StoreError> {
    let retention = &shared.settings.retention;
    if retention.tasks.is_none() && retention.events.is_none() {
        return Ok(());
    }
    while bounded(PATIENCE, shared.store.retire(retention)).await? > 0 {
        // Others get their turn between two batches.
        tokio::task::yield_now().await;
    }
    Ok(())
}
