//! Where the compilers of plugins are, and what to install where they are not.
//!
//! Nothing is installed from here: what a machine gets is its owner's business.

mod unpacked;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Language;

/// What Rust plugins are compiled for.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// The oldest Node.js that the JavaScript tool runs on.
const NODE_MAJOR: u32 = 20;
const COMPONENTIZE_JS: &str = "@bytecodealliance/componentize-js";
const COMPONENTIZE_PY: &str = "componentize-py";

/// Why plugins of a language cannot be built here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ToolchainError {
    #[error("there is no Rust compiler (rustc) in PATH")]
    NoCompiler(#[source] std::io::Error),
    #[error("rustc does not answer: {0}")]
    Broken(String),
    #[error("the Rust compiler cannot build for {TARGET}")]
    NoTarget { rustup: bool },
    #[error("there is no Node.js (node) in PATH")]
    NoNode,
    #[error("Node.js {found} is too old")]
    OldNode { found: String },
    #[error("there is no Python 3 (python3) in PATH")]
    NoPython,
    #[error("{COMPONENTIZE_JS} is not installed in {directory}")]
    NoComponentizeJs { directory: PathBuf, listed: bool },
    #[error("{COMPONENTIZE_PY} is neither in {directory}/.venv nor in PATH")]
    NoComponentizePy { directory: PathBuf, listed: bool },
}

impl ToolchainError {
    /// What to install, as commands where there are some.
    pub fn cure(&self) -> String {
        match self {
            Self::NoCompiler(_) => format!(
                "install Rust 1.95 or later (https://rustup.rs), then: rustup target add {TARGET}"
            ),
            Self::Broken(_) => "see `rustc --version` in the plugin's directory".to_owned(),
            Self::NoTarget { rustup: true } => {
                format!("rustup target add {TARGET}\n       {}", unpacked::HOW)
            }
            Self::NoTarget { rustup: false } => format!(
                "install what your system calls Rust's standard library for {TARGET} \
                 (Debian: apt-get install libstd-rust-dev-wasm32 lld)\n       {}",
                unpacked::HOW
            ),
            Self::NoNode | Self::OldNode { .. } => format!(
                "install Node.js {NODE_MAJOR} or later with npm (Debian: apt-get install nodejs npm)"
            ),
            Self::NoPython => {
                "install Python 3.9 or later (Debian: apt-get install python3 python3-venv)"
                    .to_owned()
            }
            Self::NoComponentizeJs { directory, listed } => {
                let install = if *listed {
                    "npm install".to_owned()
                } else {
                    format!("npm install --save-dev {COMPONENTIZE_JS}")
                };
                format!("(cd {} && {install})", directory.display())
            }
            Self::NoComponentizePy { directory, listed } => {
                let what = if *listed {
                    "-r requirements.txt"
                } else {
                    COMPONENTIZE_PY
                };
                format!(
                    "(cd {} && python3 -m venv .venv && .venv/bin/pip install {what})\n       \
                     (Debian: apt-get install python3-venv)",
                    directory.display()
                )
            }
        }
    }
}

/// A compiler that can build Rust plugins.
pub(super) struct RustCompiler {
    pub std: StandardLibrary,
    pub sysroot: PathBuf,
    /// What it and cargo are started with.
    environment: Vec<(&'static str, OsString)>,
}

/// Where the target's standard library comes from.
pub(super) enum StandardLibrary {
    /// It came with the compiler.
    Installed,
    /// Only its sources did; it is built along, which stable cargo does when it
    /// is told to forget that it is stable.
    FromSource,
}

/// Looks at the compiler that cargo will use in `directory`, and, where that
/// cannot build for the target, for one that was unpacked for the purpose.
pub(super) fn rust(directory: &Path) -> Result<RustCompiler, ToolchainError> {
    match rust_in(directory, Vec::new()) {
        Err(missing) => match unpacked::environment() {
            Some(environment) => rust_in(directory, environment),
            None => Err(missing),
        },
        found => found,
    }
}

fn rust_in(
    directory: &Path,
    environment: Vec<(&'static str, OsString)>,
) -> Result<RustCompiler, ToolchainError> {
    let ask = |arguments: &[&str]| rustc(directory, &environment, arguments);
    let sysroot = ask(&["--print", "sysroot"])?;
    let std = match ask(&["--print", "target-libdir", "--target", TARGET]) {
        Ok(libraries) if holds_core(&libraries) => StandardLibrary::Installed,
        _ if has_sources(&sysroot) => StandardLibrary::FromSource,
        _ => {
            let rustup = starts("rustup").is_some();
            return Err(ToolchainError::NoTarget { rustup });
        }
    };
    Ok(RustCompiler {
        std,
        sysroot,
        environment,
    })
}

impl RustCompiler {
    /// A cargo that uses this compiler.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = program("cargo", &self.environment);
        cargo.envs(self.environment.iter().map(|(name, value)| (name, value)));
        cargo
    }
}

fn rustc(
    directory: &Path,
    environment: &[(&'static str, OsString)],
    arguments: &[&str],
) -> Result<PathBuf, ToolchainError> {
    let output = program("rustc", environment)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(ToolchainError::NoCompiler)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ToolchainError::Broken(words));
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// A program of the `PATH` that the environment names: by itself a command is
/// looked up in this process's.
fn program(name: &str, environment: &[(&'static str, OsString)]) -> Command {
    let path = environment.iter().find(|(name, _)| *name == "PATH");
    let found = path.and_then(|(_, path)| find_in(path, name));
    Command::new(found.unwrap_or_else(|| name.into()))
}

fn find_in(path: &OsString, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn holds_core(libraries: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libraries) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/std/Cargo.toml")
        .is_file()
}

/// What a program says of its version, if it is there.
fn starts(program: &str) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A Node.js that finds the tool for components from `directory`.
pub(super) fn node(directory: &Path) -> Result<&'static str, ToolchainError> {
    node_version()?;
    let installed = directory.ancestors().any(|directory| {
        let package = directory.join("node_modules").join(COMPONENTIZE_JS);
        package.join("package.json").is_file()
    });
    if !installed {
        return Err(ToolchainError::NoComponentizeJs {
            directory: directory.to_path_buf(),
            listed: mentions(&directory.join("package.json"), COMPONENTIZE_JS),
        });
    }
    Ok("node")
}

/// Whether a machine has what plugins of a language are built with, as far as
/// that does not lie with the plugin, and what it is.
///
/// # Errors
///
/// When something is missing; [`ToolchainError::cure`] says what to install.
pub fn of_machine(language: Language) -> Result<String, ToolchainError> {
    match language {
        Language::Rust | Language::Wat => examine(language, Path::new(".")),
        Language::JavaScript => Ok(format!("node {}", node_version()?)),
        Language::Python => starts("python3").ok_or(ToolchainError::NoPython),
    }
}

fn node_version() -> Result<String, ToolchainError> {
    let version = starts("node").ok_or(ToolchainError::NoNode)?;
    let major = version.trim_start_matches('v').split('.').next();
    if major.and_then(|major| major.parse().ok()) < Some(NODE_MAJOR) {
        return Err(ToolchainError::OldNode { found: version });
    }
    Ok(version)
}

/// Where `componentize-py` lies.
pub(super) struct Componentize(pub PathBuf);

/// The tool of the project's own environment, of the active one, or in `PATH`.
pub(super) fn componentize_py(directory: &Path) -> Result<Componentize, ToolchainError> {
    let own = directory.join(".venv/bin");
    let active = std::env::var_os("VIRTUAL_ENV").map(|active| Path::new(&active).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(own)
        .chain(active)
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(COMPONENTIZE_PY))
        .find(|candidate| candidate.is_file());
    found
        .map(Componentize)
        .ok_or_else(|| ToolchainError::NoComponentizePy {
            directory: directory.to_path_buf(),
            listed: mentions(&directory.join("requirements.txt"), COMPONENTIZE_PY),
        })
}

fn mentions(file: &Path, name: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(name))
}

/// Whether plugins of a language can be built in `directory`, and with what.
///
/// # Errors
///
/// When something is missing; [`ToolchainError::cure`] says what to install.
pub fn examine(language: Language, directory: &Path) -> Result<String, ToolchainError> {
    Ok(match language {
        Language::Rust => {
            let compiler = rust(directory)?;
            let std = match compiler.std {
                StandardLibrary::Installed => "with its standard library",
                StandardLibrary::FromSource => "with the standard library's sources",
            };
            format!("{} for {TARGET}, {std}", compiler.sysroot.display())
        }
        Language::JavaScript => {
            node(directory)?;
            format!("node {}", starts("node").unwrap_or_default())
        }
        Language::Python => componentize_py(directory)?.0.display().to_string(),
        Language::Wat => "part of this program".to_owned(),
    })
}
