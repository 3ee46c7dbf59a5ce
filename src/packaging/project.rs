//! What a directory of sources is: which language, by the manifest that lies
//! there, and what it is called.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::ManifestError;
use super::manifest::Manifest;
use super::script::Script;
use super::source::Covered;

/// What plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    /// A cargo package on the SDK.
    Rust,
    /// A package of npm.
    JavaScript,
    /// A project with `pyproject.toml`.
    Python,
    /// WebAssembly's text form.
    Wat,
}

impl Language {
    /// All of them, the usual one first.
    pub const ALL: [Self; 4] = [Self::Rust, Self::JavaScript, Self::Python, Self::Wat];

    /// As commands write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::Wat => "wat",
        }
    }

    /// The file that makes a directory a plugin of this language.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::JavaScript => "package.json",
            Self::Python => "pyproject.toml",
            Self::Wat => "plugin.toml",
        }
    }

    /// How sources of this language say what the host calls.
    pub(super) const fn how_to_export(self) -> &'static str {
        match self {
            Self::Rust => {
                "depend on cogo-executor and name the executor with cogo_executor::export!"
            }
            Self::JavaScript => {
                "export `plugin` with describe() and `executor` with execute() from the main module"
            }
            Self::Python => {
                "define the classes `Plugin` with describe() and `Executor` with execute() in the module"
            }
            Self::Wat => {
                "export cogo:executor/plugin@0.1.0#describe and cogo:executor/executor@0.1.0#execute"
            }
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins are written in rust, javascript, python or wat")]
pub struct UnknownLanguage;

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(text: &str) -> Result<Self, UnknownLanguage> {
        let found = Self::ALL.into_iter().find(|known| known.as_str() == text);
        found.ok_or(UnknownLanguage)
    }
}

/// The sources of a plugin.
pub(super) enum Project {
    Rust(Manifest),
    Script(Script),
}

impl Project {
    /// Looks at `directory`.
    pub(super) fn read(directory: &Path) -> Result<Self, ManifestError> {
        let unreadable = |source| ManifestError::Directory {
            directory: directory.to_path_buf(),
            source,
        };
        let directory = directory.canonicalize().map_err(unreadable)?;
        let language = Language::ALL
            .into_iter()
            .find(|language| directory.join(language.manifest()).is_file());
        Ok(match language {
            None => return Err(ManifestError::NoPlugin { directory }),
            Some(Language::Rust) => Self::Rust(Manifest::read(&directory)?),
            Some(Language::JavaScript) => Self::Script(Script::javascript(directory)?),
            Some(Language::Python) => Self::Script(Script::python(directory)?),
            Some(Language::Wat) => Self::Script(Script::wat(directory)?),
        })
    }

    pub(super) fn language(&self) -> Language {
        match self {
            Self::Rust(_) => Language::Rust,
            Self::Script(script) => script.language(),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Rust(manifest) => &manifest.name,
            Self::Script(script) => &script.name,
        }
    }

    pub(super) fn version(&self) -> &str {
        match self {
            Self::Rust(manifest) => &manifest.version,
            Self::Script(script) => &script.version,
        }
    }

    /// What its component is built from.
    pub(super) fn covered(&self) -> Covered<'_> {
        match self {
            Self::Rust(manifest) => manifest.covered(),
            Self::Script(script) => script.covered(),
        }
    }
}
