//! The integration tests, in one program: linking the engine once is enough.

mod api;
mod bundled_plugins;
mod guest;
mod sandbox;
mod support;
mod whole_path;
