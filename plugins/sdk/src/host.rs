//! Everything a plugin can reach, as one trait.
//!
//! In a component it is [`Imports`], the functions of the world; in a test it is
//! [`FakeHost`](crate::testing::FakeHost). A plugin that only ever talks to
//! [`Host`] runs in both.

use std::time::Duration;

use crate::bindings::cogo::executor::host as imports;
use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::io::poll;
use crate::http::{self, Request, Response};
use crate::{ArtifactError, Failure, Level, StopReason, Usage};

/// What the host offers an attempt.
pub trait Host {
    /// Adds a line to the attempt's log; see [`info!`](crate::info) and its kin.
    /// Rate and size are limited, what is dropped is counted.
    fn log(&self, level: Level, message: &str);

    /// Shows progress live; `fraction` runs from 0 to 1.
    fn progress(&self, fraction: Option<f64>, note: &str);

    /// A configuration value that the operator granted to this plugin.
    fn config(&self, key: &str) -> Option<String>;

    /// Adds what was just spent, also in an attempt that will fail: a task's
    /// budget counts over all its attempts.
    fn report_usage(&self, usage: &Usage);

    /// Stages a file of at most 4 MiB under the task's artifacts and returns the
    /// URL it will have once the attempt is settled.
    ///
    /// # Errors
    ///
    /// For a path that is absolute or climbs, a file over the limit, or a store
    /// that is not there.
    fn store_artifact(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<String, ArtifactError>;

    /// Reads an artifact of the same trace.
    ///
    /// # Errors
    ///
    /// When there is none at that URL, or it cannot be reached.
    fn read_artifact(&self, url: &str) -> Result<Vec<u8>, ArtifactError>;

    /// Why the attempt should end now, if it should.
    fn stop(&self) -> Option<StopReason>;

    /// Waits; ends early when the host wants the attempt to end.
    ///
    /// # Errors
    ///
    /// [`Interrupted`], with the reason.
    fn sleep(&self, duration: Duration) -> Result<(), Interrupted>;

    /// Sends a request and reads the answer; ends early when the host wants the
    /// attempt to end.
    ///
    /// # Errors
    ///
    /// When there was no answer; any status is one. See [`http::Error`].
    fn send(&self, request: &Request) -> Result<Response, http::Error>;
}

/// The host asked the attempt to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub StopReason);

impl From<Interrupted> for Failure {
    fn from(_: Interrupted) -> Self {
        Failure::Interrupted
    }
}

/// A [`Host`] within a component: the imports of its world.
pub(crate) struct Imports;

impl Host for Imports {
    fn log(&self, level: Level, message: &str) {
        imports::log(level, message);
    }

    fn progress(&self, fraction: Option<f64>, note: &str) {
        imports::progress(fraction, note);
    }

    fn config(&self, key: &str) -> Option<String> {
        imports::config(key)
    }

    fn report_usage(&self, usage: &Usage) {
        imports::report_usage(usage);
    }

    fn store_artifact(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<String, ArtifactError> {
        imports::store_artifact(path, content_type, body)
    }

    fn read_artifact(&self, url: &str) -> Result<Vec<u8>, ArtifactError> {
        imports::read_artifact(url)
    }

    fn stop(&self) -> Option<StopReason> {
        imports::stop()
    }

    fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        let timer = monotonic_clock::subscribe_duration(nanoseconds(duration));
        Stoppable::new().wait(&timer)
    }

    fn send(&self, request: &Request) -> Result<Response, http::Error> {
        http::wire::send(request)
    }
}

/// Waits for things to happen without missing that the attempt should end.
pub(crate) struct Stoppable {
    signal: imports::Pollable,
}

impl Stoppable {
    pub(crate) fn new() -> Self {
        Self {
            signal: imports::stop_signal(),
        }
    }

    /// Returns once `event` is ready, or the reason to stop if that came first.
    pub(crate) fn wait(&self, event: &poll::Pollable) -> Result<(), Interrupted> {
        loop {
            let ready = poll::poll(&[event, &self.signal]);
            if ready.contains(&0) {
                return Ok(());
            }
            if let Some(reason) = imports::stop() {
                return Err(Interrupted(reason));
            }
        }
    }

    /// As [`wait`](Self::wait), at most until `timer` is ready: `Ok(false)` then.
    pub(crate) fn wait_until(
        &self,
        event: &poll::Pollable,
        timer: &poll::Pollable,
    ) -> Result<bool, Interrupted> {
        loop {
            let ready = poll::poll(&[event, &self.signal, timer]);
            if ready.contains(&0) {
                return Ok(true);
            }
            if let Some(reason) = imports::stop() {
                return Err(Interrupted(reason));
            }
            if ready.contains(&2) {
                return Ok(false);
            }
        }
    }
}

/// What the clock counts in, as much of it as it can carry.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Has a panic say why in the attempt's log before it becomes a trap.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        imports::log(Level::Error, &panic.to_string());
    }));
}

/// Logs a formatted line at the given [`Level`].
#[macro_export]
macro_rules! log {
    ($host:expr, $level:expr, $($message:tt)+) => {
        $crate::Host::log($host, $level, &::std::format!($($message)+))
    };
}

/// Logs a line that matters only while following a fault: `debug!(host, "…")`.
#[macro_export]
macro_rules! debug {
    ($host:expr, $($message:tt)+) => { $crate::log!($host, $crate::Level::Debug, $($message)+) };
}

/// Logs a line that tells what the attempt does: `info!(host, "…")`.
#[macro_export]
macro_rules! info {
    ($host:expr, $($message:tt)+) => { $crate::log!($host, $crate::Level::Info, $($message)+) };
}

/// Logs something that went wrong and was dealt with: `warn!(host, "…")`.
#[macro_export]
macro_rules! warn {
    ($host:expr, $($message:tt)+) => { $crate::log!($host, $crate::Level::Warn, $($message)+) };
}

/// Logs something that spoils the attempt: `error!(host, "…")`.
#[macro_export]
macro_rules! error {
    ($host:expr, $($message:tt)+) => { $crate::log!($host, $crate::Level::Error, $($message)+) };
}
