//! Whether a file is a component of the contract's world, judged by its outline
//! alone: nothing is compiled and nothing runs.
//!
//! The linker would refuse what does not fit as well, but late and in its own
//! words. Here every difference is named with its reason and its cure.

use std::fmt;

use semver::Version;
use serde::Serialize;
use wasmparser::{ComponentExternalKind, Parser, Payload};

use crate::plugin::wasi::Profile;

mod shown;

pub use shown::Stray;

/// Our package and its version in `wit/executor.wit`.
const PACKAGE: &str = "cogo:executor";
const VERSION: Version = Version::new(0, 1, 0);
/// What a component of the world must export.
const EXPORTS: [&str; 2] = ["cogo:executor/plugin", "cogo:executor/executor"];
/// What the profile `minimal` offers besides the types of the contract.
const MINIMAL: [&str; 9] = [
    "cogo:executor/contract",
    "cogo:executor/host",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:http/types",
    "wasi:http/outgoing-handler",
];
/// What the profile `wasi` offers on top of it.
const WASI: [&str; 20] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:sockets/instance-network",
    "wasi:sockets/network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
];
/// The rest of it, kept apart only to keep the arrays readable.
const WASI_UDP: [&str; 2] = ["wasi:sockets/udp", "wasi:sockets/udp-create-socket"];

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Component,
    CoreModule,
    /// Machine code, such as the compiler's cache holds.
    Native,
    /// WebAssembly in its text form.
    Text,
    Empty,
    Unknown,
}

impl FileKind {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Empty,
            [0, b'a', b's', b'm', _, _, 0, 0, ..] => Self::CoreModule,
            [0, b'a', b's', b'm', _, _, 1, 0, ..] => Self::Component,
            [0x7f, b'E', b'L', b'F', ..] => Self::Native,
            _ if bytes.trim_ascii_start().starts_with(b"(") => Self::Text,
            _ => Self::Unknown,
        }
    }
}

/// The names that a component imports and exports, and what it carries along.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Outline {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The digest of the sources it was built from, where its build left one.
    pub source_digest: Option<String>,
}

/// The custom section in which a build leaves its stamp, and how that begins;
/// the fourth line is the digest of the sources.
const STAMP_SECTION: &str = "cogo:source";
const STAMP_HEAD: &str = "cogo-source 1";

impl Outline {
    /// Reads the outline of a component.
    ///
    /// # Errors
    /// The parser's, with the offset, when the file is damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut outline = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        outline.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export?;
                        if export.kind == ComponentExternalKind::Instance {
                            outline.exports.push(export.name.name.to_owned());
                        }
                    }
                }
                Payload::CustomSection(section)
                    if depth == 0 && section.name() == STAMP_SECTION =>
                {
                    outline.source_digest = source_digest(section.data());
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    /// How this differs from what the world asks for and the host offers, and
    /// the profile that it needs.
    pub fn compare(&self) -> (Profile, Vec<Difference>) {
        let mut profile = Profile::Minimal;
        let mut differences = Vec::new();
        for wanted in EXPORTS {
            match self.exports.iter().find(|name| interface(name) == wanted) {
                None => differences.push(Difference::MissingExport(wanted)),
                Some(found) if !fits(found, &VERSION) => {
                    differences.push(Difference::OtherVersion(found.clone()));
                }
                Some(_) => {}
            }
        }
        for import in &self.imports {
            match offered(import) {
                Ok(needed) => profile = widest(profile, needed),
                Err(difference) => differences.push(difference),
            }
        }
        (profile, differences)
    }
}

fn source_digest(stamp: &[u8]) -> Option<String> {
    let mut lines = std::str::from_utf8(stamp).ok()?.lines();
    if lines.next() != Some(STAMP_HEAD) {
        return None;
    }
    let digest = lines.nth(2)?;
    Some(digest.chars().take(100).collect())
}

const fn widest(one: Profile, other: Profile) -> Profile {
    match (one, other) {
        (Profile::Minimal, Profile::Minimal) => Profile::Minimal,
        _ => Profile::Wasi,
    }
}

/// A point in which a component does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "difference", content = "name")]
pub enum Difference {
    MissingExport(&'static str),
    /// Of our own package.
    OtherVersion(String),
    /// Of an import that is offered in another version.
    OtherImportVersion(String),
    UnknownImport(String),
}

impl Difference {
    /// What can be done about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::MissingExport(_) => {
                "build the component for the world `executor-plugin` of `wit/executor.wit`"
            }
            Self::OtherVersion(_) => {
                "rebuild it against the `wit/` directory of this host's version"
            }
            Self::OtherImportVersion(_) => {
                "rebuild it with a toolchain for WASI 0.2, the version that this host offers"
            }
            Self::UnknownImport(name) if name.starts_with("wasi:http/incoming-handler") => {
                "a plugin is called by the host and serves no HTTP: remove the import"
            }
            Self::UnknownImport(name) if name.starts_with("wasi:") => {
                "the host offers WASI 0.2 and `wasi:http/outgoing-handler`; do without this interface"
            }
            Self::UnknownImport(_) => {
                "compose the component with one that provides the import, or remove it: a plugin reaches only what its world names"
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingExport(name) => write!(f, "the export `{name}@{VERSION}` is missing"),
            Self::OtherVersion(name) => {
                write!(f, "`{name}` is of another version than {VERSION}")
            }
            Self::OtherImportVersion(name) => {
                write!(f, "the import `{name}` is of a version that is not offered")
            }
            Self::UnknownImport(name) => write!(f, "the import `{name}` is not offered"),
        }
    }
}

fn offered(import: &str) -> Result<Profile, Difference> {
    let name = interface(import);
    let profile = if MINIMAL.contains(&name) {
        Profile::Minimal
    } else if WASI.contains(&name) || WASI_UDP.contains(&name) {
        Profile::Wasi
    } else {
        return Err(Difference::UnknownImport(
            import.chars().take(200).collect(),
        ));
    };
    let own = name.starts_with(PACKAGE);
    let offered = if own { VERSION } else { Version::new(0, 2, 0) };
    match fits(import, &offered) {
        true => Ok(profile),
        false if own => Err(Difference::OtherVersion(import.to_owned())),
        false => Err(Difference::OtherImportVersion(import.to_owned())),
    }
}

/// The name without its version.
fn interface(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// Whether the version in a name is compatible with this one: below 1.0 the
/// minor number must agree.
fn fits(name: &str, version: &Version) -> bool {
    name.split_once('@')
        .and_then(|(_, found)| Version::parse(found).ok())
        .is_some_and(|found| {
            found.pre.is_empty() && found.major == version.major && found.minor == version.minor
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(imports: &[&str], exports: &[&str]) -> Outline {
        Outline {
            imports: imports.iter().map(|n| (*n).to_owned()).collect(),
            exports: exports.iter().map(|n| (*n).to_owned()).collect(),
            source_digest: None,
        }
    }

    const OURS: [&str; 2] = ["cogo:executor/plugin@0.1.0", "cogo:executor/executor@0.1.7"];

    #[test]
    fn what_fits_gets_the_smallest_profile() {
        let minimal = outline(
            &[
                "cogo:executor/host@0.1.0",
                "wasi:http/outgoing-handler@0.2.3",
            ],
            &OURS,
        );
        assert_eq!(minimal.compare(), (Profile::Minimal, vec![]));
        let wasi = outline(
            &["wasi:filesystem/types@0.2.6", "wasi:io/poll@0.2.6"],
            &OURS,
        );
        assert_eq!(wasi.compare(), (Profile::Wasi, vec![]));
    }

    #[test]
    fn every_difference_is_named() {
        let (_, differences) = outline(
            &[
                "cogo:executor/host@0.2.0",
                "wasi:http/types@0.3.0",
                "wasi:nn/tensor@0.2.0",
                "acme:billing/charge",
            ],
            &["cogo:executor/plugin@0.3.0"],
        )
        .compare();
        let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "`cogo:executor/plugin@0.3.0` is of another version than 0.1.0",
                "the export `cogo:executor/executor@0.1.0` is missing",
                "`cogo:executor/host@0.2.0` is of another version than 0.1.0",
                "the import `wasi:http/types@0.3.0` is of a version that is not offered",
                "the import `wasi:nn/tensor@0.2.0` is not offered",
                "the import `acme:billing/charge` is not offered",
            ]
        );
    }

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let module = wat::parse_str("(module)").unwrap();
        let component = wat::parse_str("(component)").unwrap();
        assert_eq!(FileKind::of(&module), FileKind::CoreModule);
        assert_eq!(FileKind::of(&component), FileKind::Component);
        assert_eq!(FileKind::of(b"\n (component)"), FileKind::Text);
        assert_eq!(FileKind::of(b""), FileKind::Empty);
        assert_eq!(FileKind::of(b"\x7fELF..."), FileKind::Native);
        assert_eq!(FileKind::of(b"MZ"), FileKind::Unknown);
    }
}
