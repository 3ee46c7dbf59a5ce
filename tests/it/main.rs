//! The integration tests, in one program: linking the engine once is enough.

mod api;
mod bundled_plugins;
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop; the helpers are no test functions themselves"
)]

mod guest;
mod sandbox;
mod support;
mod whole_path;
