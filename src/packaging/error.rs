//! Why there is no component, or none of these sources, and what to do about it.

use std::path::PathBuf;
use std::process::ExitStatus;

use super::{Language, ManifestError, SourceError, StampError, ToolchainError};

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
    #[error("{program} could not build {package} ({status}); its messages are above")]
    Compile {
        program: &'static str,
        package: String,
        status: ExitStatus,
    },
    #[error("cargo built no library from {package}; a plugin is a package with src/lib.rs")]
    NoLibrary { package: String },
    #[error("{path} is not valid WebAssembly text\n{message}")]
    Text { path: PathBuf, message: String },
    #[error("cannot read {path}, which the build made")]
    ReadOutput {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the build has no place to work in")]
    Scratch(#[source] std::io::Error),
    #[error("{package} is no executor plugin: it does not export what the host calls")]
    NotAPlugin { package: String, language: Language },
    #[error("the module of {package} cannot become a component")]
    Wrap {
        package: String,
        #[source]
        source: anyhow::Error,
    },
}

impl BuildError {
    /// Stable, for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "not_a_plugin",
            Self::Toolchain(_) => "toolchain_missing",
            _ => "build_failed",
        }
    }

    /// What to do about it, where more can be said than the message does.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Manifest(ManifestError::NoPlugin { .. }) => {
                Some("`cogo-host plugin new NAME` makes a plugin to start from".to_owned())
            }
            Self::Toolchain(error) => Some(error.cure()),
            Self::NotAPlugin { language, .. } => Some(language.how_to_export().to_owned()),
            Self::Wrap { .. } => Some(
                "`wit/executor.wit` says what a plugin imports and exports, and how".to_owned(),
            ),
            _ => None,
        }
    }
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
