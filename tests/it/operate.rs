//! Operating routes while hosts run, with nothing replaced: flags, pauses, and a
//! worker that goes away and comes back.

mod buckets;
mod fallback;
mod flags;
mod hosts;
mod outages;
mod pauses;
mod pipelines;
mod publishing;
mod sandboxes;
pub mod versions;
