//! What a host knows of decisions while the bus is out of reach.

use std::sync::Arc;

use cogo_host::control::{Decider, Decision};
use cogo_host::host::LiveControls;
use cogo_host::store::Store as _;

use crate::bus::faults::Faults;
use crate::support::hand::{BUILD_TEST, key};
use crate::support::sqlite;

#[tokio::test]
async fn what_was_decided_stays_in_force_through_an_outage() {
    let bed = sqlite::bed().await;
    let faults = Faults::over(Arc::clone(&bed.store));
    let controls = LiveControls::default();
    let is_paused = || {
        let known = controls.now();
        known.controls.pauses.contains_key(&key(BUILD_TEST))
    };
    assert!(!controls.refresh(&faults).await.unwrap());
    let anna = Decision {
        by: Decider::Named("anna".to_owned()),
        reason: None,
    };
    bed.store.pause(&key(BUILD_TEST), &anna).await.unwrap();
    assert!(controls.refresh(&faults).await.unwrap());
    assert!(is_paused());
    // Nothing new is nothing to wake anybody for.
    assert!(!controls.refresh(&faults).await.unwrap());

    faults.away(true);
    bed.store.resume(&key(BUILD_TEST), &anna).await.unwrap();
    assert!(controls.refresh(&faults).await.is_err());
    assert!(is_paused());
    faults.away(false);
    assert!(controls.refresh(&faults).await.unwrap());
    assert!(!is_paused());
    faults.close().await.unwrap();
}
