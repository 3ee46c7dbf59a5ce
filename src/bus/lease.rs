//! Keeps the leases of running attempts alive, and ends attempts whose lease is
//! lost, whose task was cancelled, or whose lease could not be confirmed.
//!
//! A lease is used for less time than it was given: an attempt is cut before
//! the database would let somebody else have it. Cutting never waits for the
//! database, which is exactly what may have gone away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::flight::Flight;
use super::outage::{Outage, bounded};
use crate::attempt::{Fence, StopReason};
use crate::store::{Renewal, StoreError};

/// How often cancelled tasks are looked for while anything runs.
const CANCEL_POLL: Duration = Duration::from_millis(500);
/// A renewal is given at least so long: one that is given up too early may
/// never succeed.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(1);

/// Runs for as long as it is polled: a drain keeps its leases, too.
pub(super) async fn keep(shared: Arc<Shared>) {
    tokio::join!(renew(&shared), cancel(&shared), cut(&shared));
}

async fn renew(shared: &Shared) {
    let lease = shared.settings.lease;
    let every = lease / 3;
    // What failed is tried again well before the lease is over.
    let again = every / 4;
    let patience = every.max(RENEWAL_PATIENCE).min(lease);
    let mut outage = Outage::of("renew leases");
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        let flights = shared.flights();
        if flights.is_empty() {
            pause = every;
            continue;
        }
        // Before the call: the database's lease ends no earlier than this.
        let asked = Instant::now();
        match bounded(patience, renew_all(shared, &flights, asked + lease)).await {
            Ok(()) => {
                outage.is_over();
                pause = every.saturating_sub(asked.elapsed()).max(again);
            }
            Err(error) => {
                outage.goes_on(&error);
                pause = again;
            }
        }
    }
}

async fn renew_all(
    shared: &Shared,
    flights: &[Arc<Flight>],
    until: Instant,
) -> Result<(), StoreError> {
    let fences: Vec<Fence> = flights.iter().map(|flight| flight.fence).collect();
    let lease = shared.settings.lease;
    let renewals = shared.store.renew(&shared.holder, &fences, lease).await?;
    for (flight, renewal) in flights.iter().zip(renewals) {
        match renewal {
            Renewal::Held => flight.confirm_lease(until),
            Renewal::CancelRequested => {
                flight.confirm_lease(until);
                flight.stop(StopReason::Cancelled);
            }
            // One that was settled meanwhile is not held either.
            Renewal::Lost => flight.stop(StopReason::LeaseLost),
        }
    }
    Ok(())
}

async fn cancel(shared: &Shared) {
    let every = CANCEL_POLL.min(shared.settings.lease / 3);
    loop {
        tokio::time::sleep(every).await;
        let flights = shared.flights();
        if flights.is_empty() {
            continue;
        }
        let asked = shared.store.cancel_requests(&shared.holder);
        match bounded(shared.settings.lease, asked).await {
            Ok(fences) => {
                for flight in flights.iter().filter(|f| fences.contains(&f.fence)) {
                    flight.stop(StopReason::Cancelled);
                }
            }
            Err(error) => tracing::debug!(%error, "cannot look for cancelled tasks"),
        }
    }
}

/// Stops what may no longer be ours, early enough to be gone when it is not.
async fn cut(shared: &Shared) {
    let lease = shared.settings.lease;
    let margin = lease / 6;
    let every = (margin / 2).min(Duration::from_millis(250));
    loop {
        tokio::time::sleep(every).await;
        for flight in shared.flights() {
            if Instant::now() + margin >= flight.leased_until() {
                flight.stop(StopReason::LeaseLost);
            }
        }
    }
}
