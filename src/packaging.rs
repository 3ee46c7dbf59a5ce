//! From the sources of a plugin to a component, and back to the question
//! whether a component is still the one of its sources.
//!
//! [`build`] compiles a cargo package for `wasm32-unknown-unknown`, wraps the
//! core module as a component of the contract's world and stamps it: name,
//! version, and the [`SourceDigest`] of everything it was made from. [`verify`]
//! computes that digest again and compares; it needs no toolchain, so a test can
//! tell that a committed component was left behind by its sources.
//!
//! **Invariant:** nothing here runs, instantiates or trusts a component. What may
//! run is decided where plugins are loaded.

mod component;
mod manifest;
mod source;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

pub use component::{Stamp, StampError};
pub use manifest::ManifestError;
pub use source::{SourceDigest, SourceError};
pub use toolchain::ToolchainError;

use manifest::Manifest;

/// How [`build`] goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockFile {
    /// Cargo may bring `Cargo.lock` up to date.
    #[default]
    Update,
    /// `Cargo.lock` is taken as it is; a build that needs another one fails.
    Keep,
}

/// A component fresh from its sources.
#[derive(Debug, Clone)]
pub struct Packaged {
    /// What it says of itself.
    pub stamp: Stamp,
    /// The component.
    pub bytes: Vec<u8>,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cargo could not build {package} ({status}); its messages are above")]
    Compile { package: String, status: ExitStatus },
    #[error("cargo built no library from {package}; a plugin is a package with src/lib.rs")]
    NoLibrary { package: String },
    #[error("cannot read the module that cargo built, {path}")]
    ReadModule {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{package} is no executor plugin: it does not export what the host calls; depend on \
         cogo-executor and name the executor with cogo_executor::export!"
    )]
    NotAPlugin { package: String },
    #[error("the module of {package} cannot become a component")]
    Wrap {
        package: String,
        #[source]
        source: anyhow::Error,
    },
}

/// Builds the plugin in `directory`, a cargo package, and stamps the component.
/// Cargo's messages go to standard error as they come.
///
/// # Errors
///
/// When the directory is no package, the toolchain is missing (the error says
/// what to install), the package does not compile, or is no plugin.
pub fn build(directory: &Path, lock_file: LockFile) -> Result<Packaged, BuildError> {
    let manifest = Manifest::read(directory)?;
    let toolchain = toolchain::find(&manifest)?;
    let module_path = toolchain.compile(&manifest, lock_file)?;
    let module = std::fs::read(&module_path).map_err(|source| BuildError::ReadModule {
        path: module_path,
        source,
    })?;
    // After the build: it may have brought the lock file up to date.
    let source = source::digest(&manifest)?;
    let stamp = Stamp {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        source,
    };
    let bytes = component::wrap(&module, &stamp)?;
    Ok(Packaged { stamp, bytes })
}

/// Why a component cannot be said to be the one of its sources.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum VerifyError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Stamp(#[from] StampError),
    #[error("the component was not built from these sources: {}", describe_changes(.changed))]
    Stale {
        /// What the component says it was built from.
        built_from: String,
        /// What lies there now.
        present: String,
        /// The files that differ, relative to the package.
        changed: Vec<String>,
    },
}

/// Compares the sources in `directory` with those that `component` says it was
/// built from. Needs no toolchain and executes nothing.
///
/// # Errors
///
/// [`VerifyError::Stale`] when they differ; the others when they cannot be
/// compared.
pub fn verify(component: &[u8], directory: &Path) -> Result<(), VerifyError> {
    let stamp = Stamp::read(component)?;
    let present = source::digest(&Manifest::read(directory)?)?;
    if stamp.source == present {
        return Ok(());
    }
    Err(VerifyError::Stale {
        changed: stamp.source.changes(&present),
        built_from: stamp.source.digest,
        present: present.digest,
    })
}

/// How many file names a message holds.
const SHOWN_CHANGES: usize = 5;

fn describe_changes(changed: &[String]) -> String {
    if changed.is_empty() {
        return "the way they are built has changed".into();
    }
    let shown = changed.iter().take(SHOWN_CHANGES).map(String::as_str);
    let names = shown.collect::<Vec<_>>().join(", ");
    match changed.len().saturating_sub(SHOWN_CHANGES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}
