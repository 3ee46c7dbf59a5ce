//! Why a plugin was not loaded, with a code, a place and a cure.

use std::fmt;
use std::time::Duration;

use crate::ids::{Digest, PluginName};
use crate::plugin::compile::CompileError;
use crate::plugin::egress::InvalidGrant;
use crate::plugin::engine::EngineError;
use crate::plugin::signature::SignatureError;
use crate::plugin::text;
use crate::plugin::world::{Difference, FileKind};
use crate::stage::Stage;

use super::MAX_BYTES;

/// A plugin that was not loaded.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct LoadError {
    /// A path, or `bundled mock`.
    pub place: String,
    pub cause: LoadCause,
}

impl LoadError {
    pub const fn new(place: String, cause: LoadCause) -> Self {
        Self { place, cause }
    }

    /// Stable, for machines: `P101` and the like.
    pub const fn code(&self) -> &'static str {
        self.cause.code()
    }

    /// What can be done about it.
    pub fn hint(&self) -> String {
        self.cause.hint()
    }
}

/// What kept a plugin from being loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadCause {
    #[error("the file has {bytes} bytes; at most {MAX_BYTES} are allowed")]
    TooLarge { bytes: u64 },
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    #[error("its digest is {found}, but the operator pinned {pin}")]
    NotPinned { pin: Digest, found: Digest },
    #[error("{stage} runs only plugins whose digest the operator pinned")]
    Unpinned { stage: Stage, digest: Digest },
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the bus holds other bytes under this digest: {found}")]
    OtherBytes { found: Digest },
    #[error("it is no component: {0}")]
    NotComponent(NotComponent),
    #[error("the file is damaged at byte {offset}: {cause}")]
    Damaged { offset: u64, cause: String },
    #[error("it does not fit the world `executor-plugin`: {}", list(.0))]
    World(Vec<Difference>),
    #[error("an import or export has another type than the contract's: {0}")]
    Types(String),
    #[error("it does not compile: {0}")]
    Compile(#[from] CompileError),
    #[error("it failed while it was asked to describe itself: {0}")]
    Describe(String),
    #[error("it did not describe itself within {0:?}")]
    DescribeTimedOut(Duration),
    #[error("its descriptor's `{field}` {problem}")]
    Descriptor {
        field: &'static str,
        problem: String,
    },
    #[error("it calls itself `{found}`, but is installed as `{expected}`")]
    OtherName {
        expected: PluginName,
        found: PluginName,
    },
    #[error("the operator's `allow`: {0}")]
    Allow(InvalidGrant),
    #[error("its descriptor's `egress`: {0}")]
    Egress(InvalidGrant),
    #[error("the host cannot load plugins: {0}")]
    Host(String),
}

impl LoadCause {
    pub(in crate::plugin) fn damaged(cause: &wasmparser::BinaryReaderError) -> Self {
        Self::Damaged {
            offset: cause.offset() as u64,
            cause: text::cut(cause.message().to_owned(), 500),
        }
    }

    pub(super) fn host(cause: wasmtime::Error) -> Self {
        Self::Host(format!("{cause:#}"))
    }

    pub(super) fn link(cause: wasmtime::Error) -> Self {
        Self::Types(text::cut(text::one_line(format!("{cause:#}")), 1_000))
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "P101",
            Self::Unreadable(_) => "P102",
            Self::NotPinned { .. } => "P103",
            Self::Unpinned { .. } => "P104",
            Self::Signature(SignatureError::Missing) => "P105",
            Self::Signature(_) => "P106",
            Self::OtherBytes { .. } => "P107",
            Self::NotComponent(_) => "P110",
            Self::Damaged { .. } => "P111",
            Self::World(_) => "P120",
            Self::Types(_) => "P121",
            Self::Compile(CompileError::Refused(_)) => "P130",
            Self::Compile(CompileError::Died(_)) => "P131",
            Self::Compile(CompileError::TimedOut(_)) => "P132",
            Self::Compile(_) => "P133",
            Self::Describe(_) => "P140",
            Self::DescribeTimedOut(_) => "P141",
            Self::Descriptor { .. } => "P142",
            Self::OtherName { .. } => "P143",
            Self::Allow(_) => "P150",
            Self::Egress(_) => "P151",
            Self::Host(_) => "P190",
        }
    }

    fn hint(&self) -> String {
        let hint = match self {
            Self::TooLarge { .. } => "strip debug information, or compile for size",
            Self::Unreadable(_) => "check the file's permissions, and that it is a regular file",
            Self::NotPinned { found, .. } => {
                return format!("if this version is meant to run, set `digest = \"{found}\"`");
            }
            Self::Unpinned { digest, .. } => {
                return format!("if this version is meant to run, set `digest = \"{digest}\"`");
            }
            Self::Signature(error) => error.hint(),
            Self::OtherBytes { .. } => {
                "somebody changed the table `executor_published`: retract the version and publish a new one"
            }
            Self::NotComponent(what) => what.cure(),
            Self::Damaged { .. } => {
                "copy or build it again; put it in place by renaming, not by writing"
            }
            Self::World(differences) => return cures(differences),
            Self::Types(_) => "rebuild it against the `wit/` directory of this host's version",
            Self::Compile(CompileError::Refused(_)) => {
                "build it without the proposals that are switched off here: gc, threads, memory64, exceptions, stack switching"
            }
            Self::Compile(CompileError::Died(_) | CompileError::TimedOut(_)) => {
                "make the component smaller or simpler; do not load it if you do not know its author"
            }
            Self::Compile(_) => "check the directory for compiled code: room, owner, and mode 0700",
            Self::Describe(_) | Self::DescribeTimedOut(_) => {
                "`describe` must return constants: no configuration, no network, no state"
            }
            Self::Descriptor { .. } => "correct the descriptor and rebuild the plugin",
            Self::OtherName { found, .. } => return format!("name the file `{found}.wasm`"),
            Self::Allow(_) => "correct the entry in `allow` of this plugin's section in cogo.toml",
            Self::Egress(_) => {
                "correct the entry in the descriptor and rebuild the plugin, or correct the configured value that it refers to"
            }
            Self::Host(_) => "see `cogo-host doctor`",
        };
        hint.to_owned()
    }
}

impl From<EngineError> for LoadCause {
    fn from(cause: EngineError) -> Self {
        Self::Host(cause.to_string())
    }
}

fn list(differences: &[Difference]) -> String {
    let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn cures(differences: &[Difference]) -> String {
    let mut cures: Vec<&str> = differences.iter().map(Difference::cure).collect();
    cures.dedup();
    cures.join("; ")
}

/// What a file is instead of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotComponent {
    Empty,
    CoreModule,
    Native,
    Text,
    Unknown,
}

impl From<FileKind> for NotComponent {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Empty => Self::Empty,
            FileKind::CoreModule => Self::CoreModule,
            FileKind::Native => Self::Native,
            FileKind::Text => Self::Text,
            FileKind::Unknown | FileKind::Component => Self::Unknown,
        }
    }
}

impl NotComponent {
    const fn cure(self) -> &'static str {
        match self {
            Self::Empty => "copy or build it again",
            Self::CoreModule => {
                "wrap the module as a component with `wasm-tools component new`, or build it with `cogo-host plugin build`"
            }
            Self::Native => "install the component itself; the host compiles it",
            Self::Text => "assemble it with `wasm-tools parse`",
            Self::Unknown => "expected a WebAssembly component, which begins with `\\0asm`",
        }
    }
}

impl fmt::Display for NotComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty",
            Self::CoreModule => "it is a core module",
            Self::Native => "it is native or precompiled code, which is never loaded from outside",
            Self::Text => "it is WebAssembly's text form",
            Self::Unknown => "it is no WebAssembly at all",
        })
    }
}
