//! The sandbox against guests that behave and guests that do not.

mod bundled;
mod compile;
mod foreign;
pub mod harness;
mod inspect;
mod limits;
mod load;
mod outbound;
mod server;
mod shadows;
mod storm;
mod talk;
