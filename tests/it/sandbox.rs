//! The sandbox against guests that behave and guests that do not.

mod harness;
mod limits;
