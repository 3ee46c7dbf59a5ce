//! Executor plugins: sandboxed WebAssembly components, from a file to the end of
//! an attempt.
//!
//! # The life of a plugin
//!
//! [`load`] takes bytes and makes a [`load::Plugin`] of them: size and digest,
//! the outline against the contract's world ([`world`]), machine code from a
//! child process or the cache ([`compile`]), imports resolved by what they need
//! ([`wasi`]), and one call that asks it what it is. The [`watcher`] tells what
//! lies in the operator's directory, the [`catalog`] which version serves. The [`sandbox`] runs attempts: for each a fresh store on one
//! of the [`engine`]s under [`limits`], with the contract's host functions and
//! requests that the [`egress`] policy lets out.
//!
//! # What must never happen
//!
//! A guest keeps nothing from one attempt to the next. A guest's panic, loop or
//! flood is its attempt's end and nobody else's. Nothing of a plugin runs before
//! it was checked, and no machine code that this program did not write is ever
//! loaded. No error of the engine leaves this module.

pub mod bindings;
pub mod bundled;
pub mod catalog;
pub mod compile;
pub mod egress;
pub mod engine;
pub mod host;
pub mod inspect;
mod journal;
pub mod limits;
pub mod load;
pub mod outbound;
pub mod sandbox;
pub mod signature;
pub(crate) mod text;
pub mod wasi;
pub mod watcher;
pub mod world;
