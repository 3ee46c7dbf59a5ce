//! What the host costs, each figure against its floor in the same run.
//!
//! `cargo bench` prints one table. Ratios are what counts: absolute figures
//! depend on the machine, and on what else it does. Nothing here asserts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that meets what it did not expect should say so and stop"
)]

mod bus;
mod claims;
#[path = "../../tests/it/support/postgres/cluster.rs"]
#[allow(
    dead_code,
    reason = "it is the tests' module; a measurement needs a part of it"
)]
mod cluster;
mod floor;
mod peers;
mod postgres;
mod process;
mod sandbox;
mod swap;

use std::time::Duration;

use mimalloc::MiMalloc;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs one part a few times and keeps the middle one; the first is thrown
/// away, since it warms caches.
pub fn median(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    round();
    middle((0..rounds).map(|_| round()).collect())
}

/// Two things that are measured against each other.
pub struct Pair {
    pub floor: f64,
    pub ours: f64,
    /// Of ours to the floor, the middle of all rounds.
    pub ratio: f64,
}

/// Runs both in turns, so that a machine that slows down slows both; the first
/// round is thrown away.
pub fn pairs(rounds: usize, mut floor: impl FnMut() -> f64, mut ours: impl FnMut() -> f64) -> Pair {
    floor();
    ours();
    let rounds: Vec<(f64, f64)> = (0..rounds).map(|_| (floor(), ours())).collect();
    Pair {
        floor: middle(rounds.iter().map(|(floor, _)| *floor).collect()),
        ours: middle(rounds.iter().map(|(_, ours)| *ours).collect()),
        ratio: middle(rounds.iter().map(|(floor, ours)| ours / floor).collect()),
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn percentile(mut values: Vec<Duration>, percent: usize) -> Duration {
    values.sort();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values[rank - 1]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, url] = words.as_slice()
        && word == postgres::DRAIN
    {
        return postgres::drain_as_host(url);
    }
    // Cargo passes `--bench`; a word chooses a part.
    let wanted = words.into_iter().find(|word| !word.starts_with('-'));
    let runs = |part: &str| wanted.as_deref().is_none_or(|wanted| wanted == part);
    if runs("sandbox") {
        sandbox::compare();
    }
    if runs("bus") {
        bus::throughput();
    }
    if runs("latency") {
        bus::latency();
    }
    if runs("postgres") {
        postgres::throughput();
    }
    if runs("hint") {
        postgres::latency();
    }
    if runs("submissions") {
        postgres::submissions();
    }
    if runs("claims") {
        claims::flat();
    }
    if runs("swap") {
        swap::latency();
    }
    if runs("process") {
        process::start_and_size();
    }
    // Only when asked for: it fetches and builds what is measured.
    if wanted.as_deref() == Some("peers") {
        peers::throughput();
    }
}
