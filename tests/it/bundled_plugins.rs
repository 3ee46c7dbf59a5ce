//! The committed components are the ones of the committed sources, and reach for
//! nothing that the contract does not offer. No toolchain is needed: sources are
//! compared by digest. `plugins/build.sh` mends a failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cogo_host::packaging::{self, Stamp, VerifyError};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

const BUNDLED: [&str; 2] = ["mock", "cogo-worker"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn component(plugin: &str) -> Vec<u8> {
    let path = repository()
        .join("plugins/prebuilt")
        .join(plugin)
        .with_extension("wasm");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Copies everything of `plugins/` and `wit/` that is no build output.
fn copy_of_sources() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for part in ["plugins", "wit"] {
        copy_directory(&repository().join(part), &copy.path().join(part));
    }
    copy
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_file() {
            fs::copy(entry.path(), target).expect("writable");
        } else if entry.file_name() != "target" {
            copy_directory(&entry.path(), &target);
        }
    }
}

#[test]
fn bundled_components_match_their_sources() {
    for plugin in BUNDLED {
        let sources = repository().join("plugins").join(plugin);
        if let Err(error) = packaging::verify(&component(plugin), &sources) {
            panic!("{plugin}: {error}; run plugins/build.sh and commit the result");
        }
        let stamp = Stamp::read(&component(plugin)).expect("verified");
        assert_eq!(stamp.name, plugin);
    }
}

#[test]
fn a_change_of_any_source_is_noticed() {
    for (plugin, tampered) in [
        ("mock", "plugins/mock/src/lib.rs"),
        ("mock", "plugins/sdk/src/json.rs"),
        ("mock", "plugins/edits/src/path.rs"),
        ("mock", "plugins/Cargo.lock"),
        ("mock", "plugins/Cargo.toml"),
        ("cogo-worker", "plugins/cogo-worker/src/answer.rs"),
        ("cogo-worker", "plugins/cogo-worker/Cargo.toml"),
        ("cogo-worker", "wit/executor.wit"),
        ("cogo-worker", "wit/deps/http.wit"),
    ] {
        let copy = copy_of_sources();
        let path = copy.path().join(tampered);
        let mut content = fs::read(&path).expect("readable");
        content.push(b'\n');
        fs::write(&path, content).expect("writable");

        let sources = copy.path().join("plugins").join(plugin);
        let error = packaging::verify(&component(plugin), &sources).expect_err(tampered);
        let VerifyError::Stale { changed, .. } = error else {
            panic!("{tampered}: expected a stale component, got {error}");
        };
        let changed: Vec<PathBuf> = changed.iter().map(|name| sources.join(name)).collect();
        let [changed] = changed.as_slice() else {
            panic!("{tampered}: {changed:?}");
        };
        assert_eq!(
            changed.canonicalize().expect("is there"),
            path.canonicalize().expect("is there")
        );
    }
}

#[test]
fn a_copy_elsewhere_is_still_the_same_source() {
    let copy = copy_of_sources();
    for plugin in BUNDLED {
        let sources = copy.path().join("plugins").join(plugin);
        packaging::verify(&component(plugin), &sources).expect("the same sources");
    }
}

/// The interfaces a component imports and exports.
fn world(component: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let DecodedWasm::Component(resolve, world) =
        wit_component::decode(component).expect("a component")
    else {
        panic!("expected a component");
    };
    names(&resolve, world)
}

fn contract() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(repository().join("wit"))
        .expect("valid WIT");
    let world = resolve
        .select_world(&[package], Some("executor-plugin"))
        .expect("is there");
    names(&resolve, world)
}

fn names(resolve: &Resolve, world: WorldId) -> (BTreeSet<String>, BTreeSet<String>) {
    let world = &resolve.worlds[world];
    let name = |(key, item): (&WorldKey, &WorldItem)| {
        assert!(
            matches!(item, WorldItem::Interface { .. }),
            "{key:?} is no interface"
        );
        resolve.name_world_key(key)
    };
    (
        world.imports.iter().map(name).collect(),
        world.exports.iter().map(name).collect(),
    )
}

#[test]
fn bundled_components_are_of_the_contracts_world() {
    let (offered, wanted) = contract();
    for plugin in BUNDLED {
        let (imports, exports) = world(&component(plugin));
        assert_eq!(exports, wanted, "{plugin}");
        let beyond: Vec<&String> = imports.difference(&offered).collect();
        assert!(
            beyond.is_empty(),
            "{plugin} imports what the contract does not offer: {beyond:?}"
        );
        for forbidden in ["wasi:cli", "wasi:filesystem", "wasi:random", "wasi:sockets"] {
            assert!(
                !imports.iter().any(|import| import.starts_with(forbidden)),
                "{plugin} imports {forbidden}"
            );
        }
    }
}

#[test]
fn the_mock_cannot_even_ask_for_the_network() {
    let (imports, _) = world(&component("mock"));
    assert!(
        !imports.iter().any(|import| import.starts_with("wasi:http")),
        "{imports:?}"
    );
}

#[test]
fn no_path_of_the_building_machine_is_left_in_a_component() {
    for plugin in BUNDLED {
        let bytes = component(plugin);
        let text = String::from_utf8_lossy(&bytes);
        for place in ["/home/", "/root/", "/Users/", ".cargo", "registry/src"] {
            assert!(!text.contains(place), "{plugin} names {place}");
        }
    }
}
