//! Sorts the engine's errors: who is to blame, and what to call it.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::attempt::{AttemptEnd, Blame, Problem, StopReason};
use crate::plugin::host::{HostEnd, State};
use crate::plugin::limits::Refused;
use crate::plugin::text;

/// How many frames of a trap's stack are shown.
const FRAMES: usize = 8;
/// How a function is called that has no name.
const UNNAMED: &str = "<wasm function ";
/// What to do about frames that say nothing.
const NAMELESS: &str = "\n  (the component holds no function names: a build that keeps them shows where this is; what the plugin said before is in the log)";
/// What a panic passes through between the place where it happened and the trap:
/// how such functions begin, in Rust and in C.
const PLUMBING: [&str; 14] = [
    "rust_panic",
    "__rustc::",
    "std::panicking::",
    "std::process::abort",
    "std::sys::",
    "std::alloc::",
    "core::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "alloc::alloc::",
    "alloc::raw_vec::",
    "abort",
    "__abort",
];
/// The longest frame, in bytes.
const FRAME_BYTES: usize = 200;

/// The end of an attempt whose guest did not return.
pub(crate) fn end(cause: &wasmtime::Error, state: &State) -> AttemptEnd {
    let explained = explain(cause, state);
    match class(cause, state) {
        Class::HostEnd(end) => {
            let code = match end {
                HostEnd::BudgetExceeded(_) => "budget_exceeded",
                HostEnd::ModelViolation { .. } => "model_policy_violation",
                HostEnd::InvalidEdits(error) => error.code(),
            };
            AttemptEnd::Permanent(Problem::new(code, explained, Blame::Guest))
        }
        Class::HostFull | Class::HostIo => {
            AttemptEnd::HostFault(Problem::new("sandbox_exhausted", explained, Blame::Host))
        }
        Class::OutOfTime => AttemptEnd::Stopped(StopReason::Deadline),
        Class::ResultTooLarge => {
            AttemptEnd::Permanent(Problem::new("report_invalid", explained, Blame::Guest))
        }
        Class::Memory => retryable("plugin_memory_limit", explained),
        Class::Limit => retryable("plugin_limit", explained),
        Class::Exit(_) | Class::Trap => retryable("plugin_trap", explained),
    }
}

/// Whether the guest was interrupted because its time was up.
pub(crate) fn is_interrupt(cause: &wasmtime::Error) -> bool {
    matches!(cause.downcast_ref(), Some(Trap::Interrupt))
}

fn retryable(code: &str, message: String) -> AttemptEnd {
    AttemptEnd::Retryable {
        problem: Problem::new(code, message, Blame::Guest),
        after: None,
    }
}

enum Class<'a> {
    HostEnd(&'a HostEnd),
    /// More instances at once than the pool has slots for.
    HostFull,
    /// The machine refused memory or a descriptor.
    HostIo,
    OutOfTime,
    ResultTooLarge,
    Memory,
    Limit,
    Exit(i32),
    Trap,
}

fn class<'a>(cause: &'a wasmtime::Error, state: &State) -> Class<'a> {
    if let Some(end) = cause.downcast_ref::<HostEnd>() {
        return Class::HostEnd(end);
    }
    if cause.is::<PoolConcurrencyLimitError>() {
        return Class::HostFull;
    }
    if is_interrupt(cause) {
        return Class::OutOfTime;
    }
    match state.limiter().refused() {
        Some(Refused::Memory { .. }) => return Class::Memory,
        Some(Refused::Table { .. }) => return Class::Limit,
        None => {}
    }
    if is_copy_limit(cause) {
        // Without frames the guest had returned: it is its result that is too
        // large, and would be again.
        return match cause.downcast_ref::<WasmBacktrace>() {
            Some(_) => Class::Limit,
            None => Class::ResultTooLarge,
        };
    }
    if matches!(cause.downcast_ref(), Some(ResourceTableError::Full)) || is_handle_limit(cause) {
        return Class::Limit;
    }
    if let Some(exit) = cause.downcast_ref::<I32Exit>() {
        return Class::Exit(exit.0);
    }
    if cause.downcast_ref::<WasmBacktrace>().is_none() && cause.is::<std::io::Error>() {
        return Class::HostIo;
    }
    Class::Trap
}

// The engine has no type for these two errors; that the words are still the same
// after an update is shown by the tests of both limits.

fn is_copy_limit(cause: &wasmtime::Error) -> bool {
    cause
        .root_cause()
        .to_string()
        .contains("fuel allocated for hostcalls has been exhausted")
}

fn is_handle_limit(cause: &wasmtime::Error) -> bool {
    let text = cause.root_cause().to_string();
    text.contains("resource table") || text.contains("resource handles")
}

/// What happened, for people.
pub(crate) fn explain(cause: &wasmtime::Error, state: &State) -> String {
    let limits = state.limits();
    let trap = || text::one_line(cause.root_cause().to_string());
    let said = match class(cause, state) {
        Class::HostEnd(end) => end.to_string(),
        Class::HostFull => "the host runs as many guests as it has room for".to_owned(),
        Class::HostIo => format!("the host has no room for the guest: {}", trap()),
        Class::OutOfTime => "its time was up".to_owned(),
        Class::ResultTooLarge => format!(
            "the result has more than {} bytes; put large output into an artifact",
            limits.result_bytes
        ),
        Class::Memory => format!(
            "it wanted more memory than the limit of {} MiB ({})",
            limits.memory_bytes / (1 << 20),
            trap()
        ),
        Class::Limit if is_copy_limit(cause) => format!(
            "a call to the host carried more than {} bytes",
            limits.hostcall_bytes
        ),
        Class::Limit => match state.limiter().refused() {
            Some(Refused::Table { wanted }) => format!(
                "it wanted a table of {wanted} elements; at most {} are allowed",
                limits.table_elements
            ),
            _ => format!("it held more than {} handles at once", limits.handles),
        },
        Class::Exit(code) => format!("the plugin exited with status {code} instead of returning"),
        Class::Trap => trap(),
    };
    let mut said = text::cut(said, 1_000);
    let frames = match class(cause, state) {
        // The host ended it; where the guest was says nothing.
        Class::HostEnd(_) => Vec::new(),
        _ => frames(cause),
    };
    for frame in &frames {
        said.push_str("\n  at ");
        said.push_str(frame);
    }
    if !frames.is_empty() && frames.iter().all(|frame| frame.starts_with(UNNAMED)) {
        said.push_str(NAMELESS);
    }
    said
}

/// The name of a Rust function without the hashes of its symbol: the one that it
/// ends with, or those behind the names of crates.
fn without_hashes(name: &str) -> String {
    let is_hash = |text: &str| text.len() >= 14 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let name = match name.rsplit_once("::h") {
        Some((path, hash)) if is_hash(hash) => path,
        _ => name,
    };
    let mut parts = name.split('[');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((hash, rest)) if is_hash(hash) => plain.push_str(rest),
            _ => {
                plain.push('[');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Whether a frame is of what a panic passes through.
fn is_plumbing(frame: &str) -> bool {
    // The first one: types may hold more of them.
    let function = frame
        .split_once('!')
        .map_or(frame, |(_, function)| function);
    PLUMBING.iter().any(|known| function.starts_with(known))
}

/// The top frames of the guest's stack, with readable names.
fn frames(cause: &wasmtime::Error) -> Vec<String> {
    let Some(stack) = cause.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    // Its own form demangles the names of functions; each frame is a line
    // `3: 0x1f - module!function`.
    let shown = stack.to_string();
    let frame = |line: &str| {
        let (_, frame) = line.trim().split_once(" - ")?;
        // A module without a name has nothing to say.
        let frame = without_hashes(frame.strip_prefix("<unknown>!").unwrap_or(frame));
        Some(text::cut(text::one_line(frame), FRAME_BYTES))
    };
    let mut frames: Vec<String> = shown.lines().filter_map(frame).collect();
    // What is left is the plugin's own; where nothing is, all of it is shown.
    let plumbing = frames.iter().take_while(|frame| is_plumbing(frame)).count();
    if plumbing < frames.len() {
        frames.drain(..plumbing);
    }
    frames.truncate(FRAMES);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_shown_without_their_hashes() {
        for (symbol, shown) in [
            (
                "a.wasm!my_plugin::parse::h0123456789abcdef",
                "a.wasm!my_plugin::parse",
            ),
            (
                "a.wasm!std[a543996e6e7dbf1e]::fs::read",
                "a.wasm!std::fs::read",
            ),
            (
                "a.wasm!<my[b7974e8690430dd9]::T as core[c5930c85a12de822]::fmt::Debug>::fmt",
                "a.wasm!<my::T as core::fmt::Debug>::fmt",
            ),
            ("a.wasm!<[u8] as my::T>::run", "a.wasm!<[u8] as my::T>::run"),
            ("my::here::half", "my::here::half"),
        ] {
            assert_eq!(without_hashes(symbol), shown);
        }
    }

    #[test]
    fn a_panics_own_functions_are_told_from_the_plugins() {
        for frame in [
            "a.wasm!__rustc::rust_panic",
            "a.wasm!std::panicking::panic_handler::{closure#0}",
            "a.wasm!std::sys::backtrace::__rust_end_short_backtrace::<std::panicking::x, !>",
            "core::panicking::panic_bounds_check",
            "libc.so!abort",
            "rust_panic",
        ] {
            assert!(is_plumbing(frame), "{frame}");
        }
        for frame in [
            "a.wasm!my_plugin::abort",
            "cogo:executor/executor@0.1.0#execute",
        ] {
            assert!(!is_plumbing(frame), "{frame}");
        }
    }
}
