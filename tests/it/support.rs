//! What several tests need: processes, buses to test on, hosts that are only
//! hands, and the checker of the invariants.

pub mod bed;
pub mod hand;
pub mod invariants;
pub mod process;
pub mod sqlite;
