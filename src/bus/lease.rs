//! Keeps the leases of running attempts alive, and ends attempts whose lease is
//! lost, whose task was cancelled, or whose lease could not be confirmed.
//!
//! A lease is used for less time than it was given: an attempt is cut before
//! the database would let somebody else have it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::flight::Flight;
use crate::attempt::{Fence, StopReason};
use crate::store::Renewal;

/// How often cancelled tasks are looked for while anything runs.
const CANCEL_POLL: Duration = Duration::from_millis(500);

/// Runs until the bus has ended, so that a drain keeps its leases, too.
pub(super) async fn keep(shared: Arc<Shared>, ended: CancellationToken) {
    let lease = shared.settings.lease;
    let renew_every = lease / 3;
    let tick = CANCEL_POLL.min(renew_every);
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(tick) => {}
            () = ended.cancelled() => return,
        }
        let flights = shared.flights();
        if flights.is_empty() {
            renewed = Instant::now();
            continue;
        }
        // A flight that began right after the last round must not wait for a
        // whole round more than its lease allows.
        if renewed.elapsed() + tick >= renew_every {
            renewed = Instant::now();
            renew(&shared, &flights, lease).await;
        } else {
            look_for_cancelled(&shared, &flights).await;
        }
        cut_unconfirmed(&flights, lease);
    }
}

async fn renew(shared: &Shared, flights: &[Arc<Flight>], lease: Duration) {
    let fences: Vec<Fence> = flights.iter().map(|flight| flight.fence).collect();
    // Taken before the call: the database's lease ends no earlier than this.
    let asked = Instant::now();
    match shared.store.renew(&shared.holder, &fences, lease).await {
        Ok(renewals) => {
            for (flight, renewal) in flights.iter().zip(renewals) {
                match renewal {
                    Renewal::Held => flight.confirm_lease(asked + lease),
                    Renewal::CancelRequested => {
                        flight.confirm_lease(asked + lease);
                        flight.stop(StopReason::Cancelled);
                    }
                    // One that was settled meanwhile is not held either.
                    Renewal::Lost => flight.stop(StopReason::LeaseLost),
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot renew leases; trying again"),
    }
}

async fn look_for_cancelled(shared: &Shared, flights: &[Arc<Flight>]) {
    match shared.store.cancel_requests(&shared.holder).await {
        Ok(fences) => {
            for flight in flights.iter().filter(|f| fences.contains(&f.fence)) {
                flight.stop(StopReason::Cancelled);
            }
        }
        Err(error) => tracing::debug!(%error, "cannot look for cancelled tasks"),
    }
}

/// Stops what may no longer be ours, early enough to be gone when it is not.
fn cut_unconfirmed(flights: &[Arc<Flight>], lease: Duration) {
    let margin = lease / 6;
    for flight in flights {
        if Instant::now() + margin >= flight.leased_until() {
            flight.stop(StopReason::LeaseLost);
        }
    }
}
