//! Keeps this host up with what was decided on the bus, and has it do its part of
//! that: the loop around [`LiveControls`], [`Breakers`] and [`Rollouts`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::breakers::Breakers;
use super::controls::LiveControls;
use super::holds;
use super::rollouts::Rollouts;
use crate::bus::BusHandle;
use crate::bus::outage::Outage;
use crate::store::StoreError;

/// How often the bus is asked what was decided, at most a quarter more: with what
/// a look takes, everybody knows well within a second.
const LOOK: Duration = Duration::from_millis(400);

/// How long a nudge waits for others.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps up with what was decided about routes, and does this host's part of it.
pub(super) async fn follow(
    controls: Arc<LiveControls>,
    (breakers, rollouts): (Breakers, Rollouts),
    bus: BusHandle,
    ending: CancellationToken,
) {
    let mut outage = Outage::of("read what was decided about routes");
    let mut held = holds::holds(&breakers.routes);
    holds::tell(&BTreeMap::new(), &held);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK.mul_f64(0.75 + rand::random::<f64>() / 2.0)) => {}
            // One failure rarely comes alone.
            () = controls.nudged() => tokio::time::sleep(GATHER).await,
            () = ending.cancelled() => return,
        }
        match look(&controls, (&breakers, &rollouts), &bus).await {
            Ok(changed) => {
                outage.is_over();
                if changed {
                    bus.wake();
                }
            }
            Err(error) => outage.goes_on(&error),
        }
        // Approvals end by themselves, too.
        let now = holds::holds(&breakers.routes);
        holds::tell(&held, &now);
        held = now;
    }
}

/// Reads what was decided, and decides what is this host's to decide.
async fn look(
    controls: &LiveControls,
    (breakers, rollouts): (&Breakers, &Rollouts),
    bus: &BusHandle,
) -> Result<bool, StoreError> {
    let mut changed = controls.refresh(&*breakers.store).await?;
    // A host that claims nothing any more finds nothing out.
    if bus.is_draining() {
        return Ok(changed);
    }
    let decided = [
        breakers.look().await?,
        rollouts.look(&controls.now()).await?,
    ];
    if decided.contains(&true) {
        changed |= controls.refresh(&*breakers.store).await?;
    }
    Ok(changed)
}
