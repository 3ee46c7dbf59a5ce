//! Keeps this host up with which versions of plugins are to serve: the loop
//! around [`Swapper::follow_decided`].

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::controls::LiveControls;
use super::swap::{SwapEvent, Swapper};

/// Follows each decision at once where its version is ready, else as soon as it
/// could be loaded.
pub(super) async fn follow(
    swapper: Arc<Swapper>,
    controls: Arc<LiveControls>,
    record: impl Fn(SwapEvent),
    ending: CancellationToken,
) {
    let mut decisions = controls.changes();
    let mut plugins = swapper.catalog().changes();
    loop {
        decisions.mark_unchanged();
        plugins.mark_unchanged();
        for event in follow_now(&swapper, &controls) {
            record(event);
        }
        // A decision for one plugin does not wait until another is loaded.
        tokio::select! {
            events = swapper.fetch_decided(&ending) => events.into_iter().for_each(&record),
            changed = decisions.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = ending.cancelled() => return,
        }
        let more = tokio::select! {
            more = decisions.changed() => more,
            more = plugins.changed() => more,
            () = ending.cancelled() => return,
        };
        if more.is_err() {
            return;
        }
    }
}

/// Follows what is decided as far as that takes no time.
pub(super) fn follow_now(swapper: &Swapper, controls: &LiveControls) -> Vec<SwapEvent> {
    swapper.follow_decided(&controls.now().controls.serving)
}
