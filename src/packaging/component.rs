//! Wraps a core module as a component, and writes and reads its stamp.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wasm_encoder::{ComponentSection, CustomSection};
use wasm_metadata::{AddMetadata, AddMetadataField};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::manifest::Manifest;
use super::source::SourceDigest;
use super::{BuildError, contract};

/// Holds the [`Stamp`].
const STAMP_SECTION: &str = "cogo:source";
/// Begins the stamp; another layout is another line.
const STAMP_HEAD: &str = "cogo-source 1";
/// Where registries and tools look for a component's version.
const VERSION_SECTION: &str = "version";
/// What a plugin exports, of whichever version.
const EXPORTS: [&str; 2] = ["cogo:executor/plugin@", "cogo:executor/executor@"];

/// What a component says of how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Of the package.
    pub name: String,
    /// Of the package.
    pub version: String,
    /// What it was built from.
    pub source: SourceDigest,
}

/// Why there is no stamp to read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StampError {
    #[error("this is no WebAssembly component")]
    Parse(#[source] wasmparser::BinaryReaderError),
    #[error(
        "the component does not say which sources it was built from; build it with `plugin build`"
    )]
    Absent,
    #[error("the component's stamp cannot be read: line {line}")]
    Malformed { line: usize },
}

/// Makes a component of the core module that cargo built, which carries its
/// world along.
pub(super) fn encode(manifest: &Manifest, module: &[u8]) -> Result<Vec<u8>, BuildError> {
    componentize(module).map_err(|source| BuildError::Wrap {
        package: manifest.name.clone(),
        source,
    })
}

/// Makes a component of a core module that knows nothing of worlds, such as one
/// written by hand.
pub(super) fn encode_plain(package: &str, module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let encode = || {
        let (resolve, world) = contract::resolve()?;
        let mut module = module.to_vec();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
        componentize(&module)
    };
    encode().map_err(|source| BuildError::Wrap {
        package: package.to_owned(),
        source,
    })
}

fn componentize(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .validate(true)
        .encode()
}

/// Says in a component what it is and what it was made from.
pub(super) fn stamp(component: &[u8], stamp: &Stamp) -> anyhow::Result<Vec<u8>> {
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set(stamp.name.clone());
    metadata.processed_by = vec![(
        env!("CARGO_PKG_NAME").into(),
        env!("CARGO_PKG_VERSION").into(),
    )];
    let mut component = metadata.to_wasm(component)?;
    for (name, data) in [
        (VERSION_SECTION, stamp.version.clone()),
        (STAMP_SECTION, stamp.write()),
    ] {
        let section = CustomSection {
            name: name.into(),
            data: data.into_bytes().into(),
        };
        section.append_to_component(&mut component);
    }
    Ok(component)
}

/// Whether a component exports what the host calls, of whichever version.
pub(super) fn is_plugin(component: &[u8]) -> bool {
    EXPORTS
        .iter()
        .all(|interface| exports(component, interface))
}

fn exports(component: &[u8], interface: &str) -> bool {
    let payloads = Parser::new(0).parse_all(component);
    payloads.flatten().any(|payload| match payload {
        Payload::ComponentExportSection(section) => section
            .into_iter()
            .flatten()
            .any(|export| export.name.name.starts_with(interface)),
        _ => false,
    })
}

impl Stamp {
    /// Reads the stamp of a component.
    ///
    /// # Errors
    ///
    /// When `component` is none, or was not built by [`build`](super::build).
    pub fn read(component: &[u8]) -> Result<Self, StampError> {
        // Those of the modules and components inside are not this one's.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(StampError::Parse)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section)
                    if depth == 0 && section.name() == STAMP_SECTION =>
                {
                    let text = String::from_utf8_lossy(section.data());
                    return Self::parse(&text);
                }
                _ => {}
            }
        }
        Err(StampError::Absent)
    }

    fn write(&self) -> String {
        let mut text = format!(
            "{STAMP_HEAD}\n{}\n{}\n{}\n",
            self.name, self.version, self.source.digest
        );
        for (name, hash) in &self.source.files {
            let _ = writeln!(text, "{hash} {name}");
        }
        text
    }

    fn parse(text: &str) -> Result<Self, StampError> {
        let mut lines = text.lines();
        if lines.next() != Some(STAMP_HEAD) {
            return Err(StampError::Malformed { line: 1 });
        }
        let mut field = |line| {
            let field = lines.next().filter(|field| !field.is_empty());
            field
                .map(str::to_owned)
                .ok_or(StampError::Malformed { line })
        };
        let (name, version, digest) = (field(2)?, field(3)?, field(4)?);
        let files: Option<BTreeMap<String, String>> = lines
            .map(|line| {
                line.split_once(' ')
                    .map(|(hash, name)| (name.to_owned(), hash.to_owned()))
            })
            .collect();
        let files = files.ok_or(StampError::Malformed { line: 5 })?;
        Ok(Self {
            name,
            version,
            source: SourceDigest { digest, files },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let files = [("../Cargo.lock", "00ff"), ("src/a file.rs", "12ab")];
        Stamp {
            name: "one".into(),
            version: "1.2.3".into(),
            source: SourceDigest {
                digest: "sha256:0123".into(),
                files: files.map(|(name, hash)| (name.into(), hash.into())).into(),
            },
        }
    }

    fn component_with(name: &str, text: &str) -> Vec<u8> {
        let mut component = wasm_encoder::Component::new().finish();
        let section = CustomSection {
            name: name.into(),
            data: text.as_bytes().into(),
        };
        section.append_to_component(&mut component);
        component
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let component = component_with(STAMP_SECTION, &stamp().write());
        assert_eq!(Stamp::read(&component).expect("stamped"), stamp());
    }

    #[test]
    fn what_has_no_stamp_is_told_apart() {
        let unstamped = component_with("other", "");
        assert!(matches!(Stamp::read(&unstamped), Err(StampError::Absent)));
        assert!(matches!(
            Stamp::read(b"no component"),
            Err(StampError::Parse(_))
        ));
        for (text, line) in [
            ("", 1),
            ("cogo-source 2\n", 1),
            ("cogo-source 1\none\n", 3),
            ("cogo-source 1\na\nb\nc\nx", 5),
        ] {
            let component = component_with(STAMP_SECTION, text);
            let error = Stamp::read(&component).expect_err(text);
            assert!(
                matches!(error, StampError::Malformed { line: at } if at == line),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn a_stamp_of_a_component_within_does_not_count() {
        let inner = component_with(STAMP_SECTION, &stamp().write());
        let mut outer = wasm_encoder::Component::new();
        outer.section(&wasm_encoder::RawSection {
            id: 4,
            data: &inner,
        });
        assert!(matches!(
            Stamp::read(&outer.finish()),
            Err(StampError::Absent)
        ));
    }

    #[test]
    fn a_component_that_exports_nothing_is_no_plugin() {
        assert!(!is_plugin(&wasm_encoder::Component::new().finish()));
    }
}
