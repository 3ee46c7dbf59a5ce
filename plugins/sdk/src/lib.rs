//! Write executor plugins for the COGO job bus.
//!
//! A plugin is a WebAssembly component in the world `cogo:executor/executor-plugin`.
//! The host claims a task, makes a fresh instance of the plugin for that one
//! attempt, calls it, and settles the task with what comes back. This crate
//! leaves a plugin with two functions to write:
//!
//! ```
//! use cogo_executor::payload::{self, BuildTest, Role};
//! use cogo_executor::{BuildTestReport, Descriptor, Executor, Failure, Host, Kind, Outcome, Task, info};
//!
//! struct Greeter;
//!
//! impl Executor for Greeter {
//!     fn describe() -> Descriptor {
//!         Descriptor::new("greeter", "0.1.0", Kind::Mock).handling([Role::BuildTest.path()])
//!     }
//!
//!     fn execute(task: Task, host: &impl Host) -> Result<Outcome, Failure> {
//!         let object = payload::parse(&task)?;
//!         let wanted = BuildTest::read(&object)?;
//!         info!(host, "hello, {}", wanted.repo.as_deref().unwrap_or("nobody"));
//!         Ok(BuildTestReport { passed: true, tests: 1, failures: 0, duration_ms: 1, report_url: None }.into())
//!     }
//! }
//!
//! cogo_executor::export!(Greeter);
//! ```
//!
//! `cogo-host plugin new NAME` writes a package to start from, with this crate
//! beside it; `cogo-host plugin build DIR` compiles it for
//! `wasm32-unknown-unknown` and wraps it as a component. [`guides`] has whole
//! plugins for the usual purposes: a REST adapter, a delegate of a model, a test
//! double.
//!
//! # What a plugin may count on
//!
//! - **One attempt, one instance.** No state outlives [`Executor::execute`];
//!   statics start fresh every time.
//! - **Everything outside is behind [`Host`]**: configuration, log, progress,
//!   usage, artifacts, outbound HTTP, waiting. There is no file system, no
//!   environment, no clock of the wall and no randomness.
//! - **Stopping is cooperative for two seconds.** [`Host::send`] and
//!   [`Host::sleep`] end by themselves when the host wants the attempt to end;
//!   a long computation asks [`Host::stop`] now and then. Return
//!   [`Failure::Interrupted`]; the `?` operator does.
//! - **At-least-once.** An attempt may be repeated after a crash: send
//!   [`Task::idempotency_key`] with every side effect.
//!
//! # Testing
//!
//! Plugins compile for the machine they are written on. [`testing`] has a
//! [`Host`](testing::FakeHost) that answers from a script and records what the
//! plugin did, so `cargo test` needs no WebAssembly toolchain.
//!
//! # Size
//!
//! A component is compiled at load and instantiated for every attempt. Nothing
//! a plugin does not use is linked: `execute` takes `&impl Host` rather than a
//! trait object so that a plugin without HTTP imports no HTTP.

#[cfg(any(doc, doctest))]
pub mod guides;
pub mod http;
pub mod json;
pub mod payload;

#[doc(hidden)]
pub mod bindings;
mod contract;
mod host;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

use std::marker::PhantomData;

pub use bindings::cogo::executor::contract::{
    BuildTestReport, CodegenReport, Failure, Outcome, Problem, Report, Route, SandboxReport, Task,
};
pub use bindings::cogo::executor::host::{ArtifactError, Level, StopReason, Usage};
pub use bindings::exports::cogo::executor::plugin::{Descriptor, Kind};
pub use host::{Host, Interrupted};

/// Takes the memory that the linker gave the instance before it grows it:
/// growing is a system call and costs more than a small task does.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// What a plugin is: a name for what it can do, and the doing.
pub trait Executor {
    /// Says what the plugin is. Called once, when the host loads it, with no
    /// network and little time; must always answer the same.
    fn describe() -> Descriptor;

    /// Runs one attempt.
    ///
    /// # Errors
    ///
    /// [`Failure::Retryable`] where another attempt may do better,
    /// [`Failure::Permanent`] where none will, [`Failure::Interrupted`] when the
    /// attempt gave way to a stop. A panic is a trap: the host retries it and
    /// blames the plugin.
    fn execute(task: Task, host: &impl Host) -> Result<Outcome, Failure>;
}

/// Makes the given [`Executor`] the one of this component.
///
/// Does nothing off-wasm, so that the crate can be tested as any other.
#[macro_export]
macro_rules! export {
    ($executor:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::Component<$executor>;
    $crate::bindings::__export_component!(Exported with_types_in $crate::bindings);
        };
    };
}

/// Joins an [`Executor`] to the generated exports; [`export!`] names it.
#[doc(hidden)]
pub struct Component<E>(PhantomData<E>);

impl<E: Executor> bindings::exports::cogo::executor::plugin::Guest for Component<E> {
    fn describe() -> Descriptor {
        E::describe()
    }
}

impl<E: Executor> bindings::exports::cogo::executor::executor::Guest for Component<E> {
    fn execute(task: Task) -> Result<Outcome, Failure> {
        host::log_panics();
        E::execute(task, &host::Imports)
    }
}
