//! The plugins that are part of the program.
//!
//! They are committed as built components, and a check compares them with the
//! sources they were built from. What counts as real work is known by digest.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::attempt::Kind;
use crate::ids::{Digest, PluginName};
use crate::plugin::load::{Candidate, Source};

/// A component inside of the program.
struct Bundled {
    name: &'static str,
    bytes: &'static [u8],
    kind: Kind,
}

const BUNDLED: [Bundled; 2] = [
    Bundled {
        name: "mock",
        bytes: include_bytes!("../../plugins/prebuilt/mock.wasm"),
        kind: Kind::Mock,
    },
    Bundled {
        name: "cogo-worker",
        bytes: include_bytes!("../../plugins/prebuilt/cogo-worker.wasm"),
        kind: Kind::Real,
    },
];

/// The digests of the bundled plugins, computed once.
static KINDS: LazyLock<[(Digest, Kind); 2]> =
    LazyLock::new(|| BUNDLED.map(|bundled| (Digest::of(bundled.bytes), bundled.kind)));

/// The bundled plugins, ready to be loaded.
pub fn candidates() -> impl Iterator<Item = Candidate> {
    BUNDLED.iter().filter_map(|bundled| {
        let name: PluginName = bundled.name.parse().ok()?;
        Some(Candidate {
            place: format!("bundled {name}"),
            name: Some(name),
            bytes: Bytes::from_static(bundled.bytes),
            source: Source::Bundled,
            signer: None,
        })
    })
}

/// What a bundled component is, by its digest.
pub fn kind_of(digest: Digest) -> Option<Kind> {
    let found = KINDS.iter().find(|(known, _)| *known == digest);
    found.map(|(_, kind)| *kind)
}
