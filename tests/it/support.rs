//! What the tests share: processes, databases, checks.

pub mod process;
