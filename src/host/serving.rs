//! Keeps this host up with which versions of plugins there are and which are to
//! serve: the loop around [`Swapper::follow_decided`] and
//! [`Swapper::follow_published`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::controls::LiveControls;
use super::swap::{Fetched, SwapEvent, Swapper};
use crate::store::Store;

/// How long a bus that does not hand out a component is left alone.
const AGAIN: Duration = Duration::from_secs(2);

/// Follows each decision at once where its version is ready, else as soon as it
/// could be loaded.
pub(super) async fn follow(
    swapper: Arc<Swapper>,
    controls: Arc<LiveControls>,
    store: Arc<dyn Store>,
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
        let again = tokio::select! {
            fetched = fetch(&swapper, &*store, &ending) => {
                fetched.events.into_iter().for_each(&record);
                fetched.incomplete
            }
            changed = decisions.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = ending.cancelled() => return,
        };
        tokio::select! {
            _ = decisions.changed() => {}
            _ = plugins.changed() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
            () = ending.cancelled() => return,
        }
    }
}

async fn fetch(swapper: &Swapper, store: &dyn Store, ending: &CancellationToken) -> Fetched {
    let mut fetched = swapper.fetch_decided(Some(store), ending).await;
    let published = swapper.fetch_published(store, false, ending).await;
    fetched.events.extend(published.events);
    fetched.incomplete |= published.incomplete;
    fetched
}

/// Has everything serve that is to, before a host claims its first task.
pub(super) async fn prepare(
    swapper: &Swapper,
    controls: &LiveControls,
    store: &dyn Store,
) -> Vec<SwapEvent> {
    let never = CancellationToken::new();
    let mut events = follow_now(swapper, controls);
    events.extend(swapper.fetch_decided(Some(store), &never).await.events);
    events.extend(swapper.fetch_published(store, true, &never).await.events);
    events
}

/// Follows what is decided as far as that takes no time.
pub(super) fn follow_now(swapper: &Swapper, controls: &LiveControls) -> Vec<SwapEvent> {
    let now = controls.now();
    let mut events = swapper.follow_published(&now.controls.published);
    events.extend(swapper.follow_decided(&now.controls.serving));
    events
}
