//! The thread that shadows run on. A guest that computes there holds up no guest
//! whose result counts.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// Made when the first shadow runs: most hosts never run one.
#[derive(Default)]
pub(super) struct Aside(OnceLock<Option<Runtime>>);

impl Aside {
    /// Where to run a shadow; `None` where the system gives no thread.
    pub(super) fn handle(&self) -> Option<&Handle> {
        let made = self.0.get_or_init(|| {
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("cogo-shadow")
                .enable_all()
                .build();
            runtime
                .inspect_err(|error| tracing::warn!(%error, "no thread for shadows"))
                .ok()
        });
        made.as_ref().map(Runtime::handle)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Waiting for a guest is not for whoever drops this.
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
