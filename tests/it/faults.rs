//! Faults that the host survives: processes that are killed, stopped or asked to
//! end, a server that goes away, a wire that breaks, clocks that are wrong.
//!
//! The real binary as processes, the bundled `mock` plugin, a private cluster.
//! After each fault the history on the bus is read: nothing acknowledged is
//! lost, nothing is completed twice, and the invariants of
//! `support/invariants.rs` hold. On each bus lie rows that nobody serves and a
//! rollout that ended, which no fault may change, and each host knows secrets
//! that must stay off the bus and out of its log. Nothing here is timed: a test
//! waits for a state of the bus. What is random comes from a seed that a failing
//! test prints, and that `COGO_FAULTS_SEED` sets; `COGO_FAULTS_TIMES` multiplies
//! the number of faults.

mod clocks;
mod drains;
mod file;
pub mod fleet;
mod kills;
mod links;
mod load;
mod server;
mod stopped;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The beginnings of the statements that a fault waits for.
const CLAIM: &str = "WITH stop AS MATERIALIZED";
const SETTLE: &str = "SET status = ended.status";

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// The chance of one test, the same each time unless asked otherwise.
fn chance(test: &str) -> StdRng {
    let seed = number_from("COGO_FAULTS_SEED").unwrap_or(20_261_123);
    eprintln!("{test}: COGO_FAULTS_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// So many faults, or a multiple of it.
fn times(faults: u64) -> u64 {
    faults * number_from("COGO_FAULTS_TIMES").unwrap_or(1)
}
