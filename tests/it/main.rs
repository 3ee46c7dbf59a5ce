//! Everything that needs more than one module, in one binary.

mod bundled_plugins;
//! The integration tests, in one program: linking the engine once is enough.

mod guest;
mod sandbox;
