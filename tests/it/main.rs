//! The integration tests, in one program: linking the engine once is enough.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it did not expect should say so and stop"
)]

mod api;
mod architecture;
mod bundled_plugins;
mod bus;
mod codes;
mod dashboard;
mod demo;
mod doctor;
mod faults;
mod guest;
mod kit;
mod mistakes;
mod operate;
mod postgres;
mod rollouts;
mod sandbox;
mod smoke;
mod store;
mod support;
mod surface;
mod swap;
mod trial;
mod whole_path;
