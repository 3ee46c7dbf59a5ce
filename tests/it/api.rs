//! The HTTP API over a real socket, with a real bus on a real SQLite file. Only
//! the executor is the tests' own: it does what a payload says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by failing"
)]

mod access;
mod artifacts;
mod decisions;
mod described;
mod examples;
mod following;
mod harness;
mod host;
mod pages;
mod plugins;
mod refusals;
mod rollouts;
mod shadows;
mod tasks;
