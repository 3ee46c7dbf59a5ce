//! The bus's housekeeping: rescues expired leases, fails tasks whose time to
//! live has passed, deletes what retention allows.
//!
//! Each round takes no input and reads all state, so any number of hosts may
//! run it at once, and a round that fails is simply the next one's work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Shared, wants};
use crate::store::StoreError;

/// Small enough not to hold a lock for long, large enough to catch up.
const PAGE: u32 = 200;
const RETIRE_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn maintain(shared: Arc<Shared>, ended: CancellationToken) {
    // An expired lease is to be taken back within a second.
    let every = (shared.settings.lease / 2).min(Duration::from_millis(800));
    let mut retired: Option<Instant> = None;
    loop {
        let pause = every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ended.cancelled() => return,
        }
        if let Err(error) = sweep(&shared).await {
            tracing::warn!(%error, "housekeeping failed; trying again");
            continue;
        }
        if retired.is_none_or(|at| at.elapsed() >= RETIRE_EVERY) {
            retired = Some(Instant::now());
            if let Err(error) = retire(&shared, &ended).await {
                tracing::warn!(%error, "retention failed; trying again");
            }
        }
    }
}

async fn sweep(shared: &Shared) -> Result<(), StoreError> {
    let max_attempts = shared.settings.retry.max_attempts;
    let mut found = false;
    loop {
        let rescued = shared.store.rescue(PAGE, max_attempts).await?;
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
    let served = wants(&shared.routing.served());
    while shared.store.expire(&served, PAGE).await?.len() == PAGE as usize {}
    if found {
        shared.wake.notify_one();
    }
    Ok(())
}

async fn retire(shared: &Shared, ended: &CancellationToken) -> Result<(), StoreError> {
    let retention = &shared.settings.retention;
    if retention.tasks.is_none() && retention.events.is_none() {
        return Ok(());
    }
    while !ended.is_cancelled() && shared.store.retire(retention).await? > 0 {
        // Others get their turn between two batches.
        tokio::task::yield_now().await;
    }
    Ok(())
}
