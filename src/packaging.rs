//! From the sources of a plugin to a component, and back to the question
//! whether a component is still the one of its sources.
//!
//! [`template`] writes the sources of a plugin to start from. [`build`] makes a
//! component of the contract's world of them, whatever their [`Language`], and
//! stamps it: name, version, and the [`SourceDigest`] of everything it was made
//! from. [`verify`] computes that digest again and compares; it needs no
//! toolchain, so a test can tell that a component was left behind by its sources.
//!
//! **Invariant:** nothing here runs, instantiates or trusts a component. What may
//! run is decided where plugins are loaded.

mod component;
mod contract;
mod difference;
mod error;
mod manifest;
mod project;
mod rust;
mod script;
mod source;
pub mod template;
pub mod toolchain;
mod watch;

use std::path::Path;

pub use component::{Stamp, StampError};
pub use difference::difference;
pub use error::{BuildError, VerifyError};
pub use manifest::ManifestError;
pub use project::Language;
pub use source::{SourceDigest, SourceError};
pub use toolchain::ToolchainError;
pub use watch::Watch;

use project::Project;

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
    /// What it was written in.
    pub language: Language,
    /// The component.
    pub bytes: Vec<u8>,
}

/// What a directory of sources is, without building anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// What it is written in.
    pub language: Language,
    /// Of the plugin.
    pub name: String,
    /// Of the plugin.
    pub version: String,
}

/// The world that components are built for, with its version.
pub fn world() -> String {
    contract::name()
}

/// Looks at what lies in `directory`.
///
/// # Errors
///
/// When it holds no plugin's sources, or their manifest is not valid.
pub fn outline(directory: &Path) -> Result<Outline, ManifestError> {
    let project = Project::read(directory)?;
    Ok(Outline {
        language: project.language(),
        name: project.name().to_owned(),
        version: project.version().to_owned(),
    })
}

/// Builds the plugin in `directory` and stamps the component. The messages of
/// compilers go to standard error as they come.
///
/// # Errors
///
/// When the directory holds no plugin's sources, the toolchain is missing (the
/// error says what to install), they do not compile, or are no plugin.
pub fn build(directory: &Path, lock_file: LockFile) -> Result<Packaged, BuildError> {
    let project = Project::read(directory)?;
    let component = match &project {
        Project::Rust(manifest) => {
            component::encode(manifest, &rust::compile(manifest, lock_file)?)?
        }
        Project::Script(script) => script.compile()?,
    };
    // After the build: it may have brought the lock file up to date.
    let source = source::digest(&project.covered())?;
    let stamp = Stamp {
        name: project.name().to_owned(),
        version: project.version().to_owned(),
        source,
    };
    if !component::is_plugin(&component) {
        return Err(BuildError::NotAPlugin {
            package: stamp.name,
            language: project.language(),
        });
    }
    let bytes = component::stamp(&component, &stamp).map_err(|source| BuildError::Wrap {
        package: stamp.name.clone(),
        source,
    })?;
    Ok(Packaged {
        stamp,
        language: project.language(),
        bytes,
    })
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
    let present = source::digest(&Project::read(directory)?.covered())?;
    if stamp.source == present {
        return Ok(());
    }
    Err(VerifyError::Stale {
        changed: stamp.source.changes(&present),
        built_from: stamp.source.digest,
        present: present.digest,
    })
}
