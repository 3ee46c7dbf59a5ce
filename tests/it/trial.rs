//! Plugins tried out without a bus: `plugin run` and what belongs to it, with
//! the real binary.

mod golden;
mod run;
