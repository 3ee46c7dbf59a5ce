//! The binary: everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A task is made on one thread and ends on another, which the system's
/// allocator is slow at.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cogo_host::cli::main()
}
