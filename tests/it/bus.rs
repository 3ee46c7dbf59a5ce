//! The bus loop on a real SQLite bus, with an executor whose every step a test
//! decides and a database that fails where a test says.
//!
//! No test waits for a time to pass: each waits for what should happen, and
//! every bus that is stopped is checked against the invariants.

mod claims;
mod commits;
mod dispatches;
mod drains;
mod ends;
pub mod faults;
pub mod harness;
mod holds;
mod housekeeping;
mod leases;
mod limits;
mod outages;
mod seeds;
