//! Plugins that are added, replaced, removed and rolled back while the host runs.

mod audit;
mod catalog;
mod decided;
mod directory;
pub mod harness;
mod patterns;
mod refusals;
mod rollback;
mod routes;
mod running;
mod signatures;
mod storm;
