//! A Rust toolchain that was unpacked into a cache directory instead of being
//! installed, where it would be in rustup's way. `plugins/toolchain` does that
//! with Debian's packages, for machines on which rustup can add no target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How to get it, for those who cannot do it the usual way.
pub(super) const HOW: &str =
    "where neither is to be had: plugins/toolchain of cogo-host's sources unpacks Debian's";

/// Names another place than the user's cache.
const PLACE: &str = "COGO_TOOLCHAIN_CACHE";

/// What the compiler and cargo are to be started with, if there are some.
pub(super) fn environment() -> Option<Vec<(&'static str, OsString)>> {
    let root = place()?.join("root");
    let programs = root.join("usr/bin");
    if !programs.join("rustc").is_file() {
        return None;
    }
    let mut environment = vec![
        ("PATH", before(std::slice::from_ref(&programs), "PATH")?),
        (
            "LD_LIBRARY_PATH",
            before(&libraries(&root.join("usr/lib")), "LD_LIBRARY_PATH")?,
        ),
    ];
    if let Some(linker) = linker(&programs) {
        environment.push(("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.into()));
    }
    Some(environment)
}

fn place() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(PLACE) {
        return Some(named.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Some(cache?.join("cogo-host/debian-toolchain"))
}

/// The directories, and behind them what the variable holds already.
fn before(directories: &[PathBuf], variable: &str) -> Option<OsString> {
    let present = std::env::var_os(variable).unwrap_or_default();
    let present = std::env::split_paths(&present).filter(|path| !path.as_os_str().is_empty());
    std::env::join_paths(directories.iter().cloned().chain(present)).ok()
}

/// Debian's places for shared libraries: one for the machine's kind, and one of
/// LLVM's own.
fn libraries(lib: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .flat_map(|path| [path.join("lib"), path])
        .filter(|path| holds_libraries(path))
        .collect();
    found.sort();
    found
}

fn holds_libraries(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().contains(".so"))
}

fn linker(programs: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(programs).ok()?.flatten();
    let mut linkers: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with("wasm-ld"))
        })
        .collect();
    linkers.sort();
    linkers.pop()
}
