//! Files that are no plugin, or not one that may run here.

use std::collections::BTreeMap;
use std::time::Duration;

use cogo_host::attempt::Kind;
use cogo_host::ids::Digest;
use cogo_host::plugin::engine::Allocation;
use cogo_host::plugin::limits::Limits;
use cogo_host::plugin::load::{LoadError, MAX_BYTES, Settings};
use cogo_host::plugin::wasi::Profile;

use super::harness::{Bench, candidate, completed, engines, limited, load, load_bytes, loader};
use crate::guest::{Guest, RESULT, Returns, componentize_as};

fn good() -> Guest {
    Guest::returning(Returns::Interrupted)
}

async fn refused(bytes: Vec<u8>) -> LoadError {
    let refused = load_bytes(bytes).await.unwrap_err();
    assert!(!refused.hint().is_empty());
    assert!(refused.to_string().starts_with("guest.wasm: "), "{refused}");
    refused
}

async fn refused_with(guest: &Guest, settings: Settings) -> LoadError {
    let loaded = loader().load(candidate(guest.component()), &settings).await;
    loaded.unwrap_err()
}

#[tokio::test]
async fn a_plugin_says_what_it_is() {
    let plugin = load(&good(), Settings::default()).await;
    assert_eq!(plugin.name().as_str(), "guest");
    assert_eq!(plugin.profile(), Profile::Minimal);
    assert_eq!(plugin.allocation(), Allocation::Pooled);
    assert_eq!(plugin.version().digest, Digest::of(&good().component()));
    // Nobody but the operator makes a plugin real.
    assert_eq!(plugin.kind(), Kind::Mock);
    let real = Settings {
        kind: Some(Kind::Real),
        ..Settings::default()
    };
    assert_eq!(load(&good(), real).await.kind(), Kind::Real);
}

#[tokio::test]
async fn files_that_are_no_component() {
    let module = wat::parse_str("(module)").unwrap();
    let engine = engines();
    let engine = engine.get(Allocation::OnDemand).unwrap();
    let native = engine.precompile_component(&good().component()).unwrap();
    for (bytes, code, part) in [
        (Vec::new(), "P110", "empty"),
        (module, "P110", "core module"),
        (b"(component)".to_vec(), "P110", "text form"),
        (b"MZ\x90\0".to_vec(), "P110", "no WebAssembly"),
        (native, "P110", "never loaded"),
        (vec![0; MAX_BYTES as usize + 1], "P101", "at most"),
        (
            wat::parse_str("(component)").unwrap(),
            "P120",
            "plugin@0.1.0` is missing",
        ),
    ] {
        let refused = refused(bytes).await;
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.to_string().contains(part), "{refused}");
    }
}

#[tokio::test]
async fn a_component_that_was_cut_off_anywhere_is_refused() {
    let whole = good().component();
    for part in 1..64 {
        let cut = whole[..whole.len() * part / 64].to_vec();
        let refused = refused(cut).await;
        assert!(
            ["P110", "P111", "P120"].contains(&refused.code()),
            "{refused}"
        );
    }
}

/// Whatever a flipped bit makes of a component, it is loaded or refused with a
/// reason; nothing breaks.
#[tokio::test]
async fn a_component_with_a_flipped_bit_breaks_nothing() {
    let whole = good().component();
    let mut loaded = 0;
    for n in 0..256_usize {
        let mut flipped = whole.clone();
        let at = whole.len() * n / 256;
        flipped[at] ^= 1 << (n % 8);
        match load_bytes(flipped).await {
            Ok(_) => loaded += 1,
            Err(refused) => assert_ne!(refused.code(), "P190", "byte {at}: {refused}"),
        }
    }
    assert!(loaded < 256);
}

const OTHER_WORLD: &str = "
    package cogo:executor@0.2.0;
    interface plugin { describe: func() -> string; }
    interface executor { execute: func(task: string) -> string; }
    world executor-plugin { export plugin; export executor; }";

#[tokio::test]
async fn another_version_of_the_contract_is_named() {
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "cogo:executor/plugin@0.2.0#describe") (result i32) unreachable)
        (func (export "cogo:executor/executor@0.2.0#execute") (param i32 i32) (result i32) unreachable))"#;
    let refused = refused(componentize_as(text, OTHER_WORLD)).await;
    assert_eq!(refused.code(), "P120");
    assert!(
        refused
            .to_string()
            .contains("`cogo:executor/plugin@0.2.0` is of another version"),
        "{refused}"
    );
    assert!(refused.hint().contains("rebuild"));
}

#[tokio::test]
async fn the_same_names_with_other_types_are_refused() {
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "cogo:executor/plugin@0.1.0#describe") (result i32) unreachable)
        (func (export "cogo:executor/executor@0.1.0#execute") (param i32 i32) (result i32) unreachable))"#;
    let world = OTHER_WORLD.replace("0.2.0", "0.1.0");
    let refused = refused(componentize_as(text, &world)).await;
    assert_eq!(refused.code(), "P121", "{refused}");
}

#[tokio::test]
async fn an_import_that_is_not_offered_is_named() {
    let world = format!(
        "{} world with-extra {{}}",
        OTHER_WORLD.replace("0.2.0", "0.1.0").replace(
            "world executor-plugin {",
            "interface billing { charge: func(); } world executor-plugin { import billing;"
        )
    );
    let text = r#"(module
        (import "cogo:executor/billing@0.1.0" "charge" (func))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "cogo:executor/plugin@0.1.0#describe") (result i32) unreachable)
        (func (export "cogo:executor/executor@0.1.0#execute") (param i32 i32) (result i32) unreachable))"#;
    let refused = refused(componentize_as(text, &world)).await;
    assert_eq!(refused.code(), "P120");
    assert!(
        refused
            .to_string()
            .contains("`cogo:executor/billing@0.1.0` is not offered"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_missing_export_is_named() {
    let world = "
        package cogo:executor@0.1.0;
        interface plugin { describe: func() -> string; }
        world executor-plugin { export plugin; }";
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "cogo:executor/plugin@0.1.0#describe") (result i32) unreachable))"#;
    let refused = refused(componentize_as(text, world)).await;
    assert_eq!(refused.code(), "P120");
    assert!(
        refused
            .to_string()
            .contains("the export `cogo:executor/executor@0.1.0` is missing"),
        "{refused}"
    );
}

#[tokio::test]
async fn proposals_that_are_off_are_refused() {
    for tail in ["(memory 1 1 shared)", "(memory i64 1)", "(tag)"] {
        let refused = refused(good().tail(tail).component_unchecked()).await;
        assert_eq!(refused.code(), "P130", "{tail}: {refused}");
    }
}

#[tokio::test]
async fn a_description_that_never_comes_is_given_up() {
    let impatient = || {
        limited(Limits {
            deadline: Duration::from_millis(150),
            ..Limits::DEFAULT
        })
    };
    let mut looping = good();
    looping.describe = "(loop $for_ever (br $for_ever)) unreachable".to_owned();
    assert_eq!(refused_with(&looping, impatient()).await.code(), "P141");
    let mut starting = good();
    starting.tail = "(start $spin) (func $spin (loop $for_ever (br $for_ever)))".to_owned();
    assert_eq!(refused_with(&starting, impatient()).await.code(), "P141");
    let mut trapping = good();
    trapping.describe = "unreachable".to_owned();
    let refused = refused_with(&trapping, Settings::default()).await;
    assert_eq!(refused.code(), "P140");
    assert!(refused.to_string().contains("unreachable"), "{refused}");
    let mut bombing = good();
    bombing.describe = "(if (i32.eq (i32.const -1) (memory.grow (i32.const 60000))) (then unreachable)) (i32.const 1024)".to_owned();
    let refused = refused_with(&bombing, Settings::default()).await;
    assert!(refused.to_string().contains("more memory"), "{refused}");
}

/// What a plugin says of itself cannot depend on where it is installed.
#[tokio::test]
async fn a_description_gets_no_configuration() {
    let mut asking = good().items(
        r#"(import "cogo:executor/host@0.1.0" "config" (func $config (param i32 i32 i32)))"#,
    );
    asking.describe = "(call $config (i32.const 1024) (i32.const 1) (i32.const 61000))
        (if (i32.load8_u (i32.const 61000)) (then unreachable)) (i32.const 1024)"
        .to_owned();
    // The byte at 1024 is the low one of the name's address.
    let key = "\0".to_owned();
    let settings = Settings {
        config: BTreeMap::from([(key, "secret".to_owned())]),
        ..Settings::default()
    };
    load(&asking, settings).await;
}

#[tokio::test]
async fn descriptors_and_settings_are_checked() {
    let mut nameless = good();
    nameless.name = "Not A Name".to_owned();
    assert_eq!(
        refused_with(&nameless, Settings::default()).await.code(),
        "P142"
    );

    let mut other = candidate(good().component());
    other.name = Some("another".parse().unwrap());
    let refused = loader()
        .load(other, &Settings::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "P143");
    assert!(refused.hint().contains("guest.wasm"), "{}", refused.hint());

    let pinned = Settings {
        pin: Some(Digest::of(b"another")),
        ..Settings::default()
    };
    let refused = refused_with(&good(), pinned).await;
    assert_eq!(refused.code(), "P103");
    assert!(
        refused
            .hint()
            .contains(&Digest::of(&good().component()).to_string())
    );

    let allowing = Settings {
        allow: vec!["https://*".to_owned()],
        ..Settings::default()
    };
    assert_eq!(refused_with(&good(), allowing).await.code(), "P150");
    let wanting = good().egress(&["anything"]);
    assert_eq!(
        refused_with(&wanting, Settings::default()).await.code(),
        "P151"
    );
}

/// An instance of so many globals has no slot in the pool, and needs none.
#[tokio::test]
async fn a_component_that_is_too_large_for_the_pool_runs_on_demand() {
    let mut large = Guest::new(&format!("(i32.const {RESULT})"));
    large.tail = "(global (mut i64) (i64.const 0))".repeat(80_000);
    let plugin = load(&large, Settings::default()).await;
    assert_eq!(plugin.allocation(), Allocation::OnDemand);
    completed(&Bench::new().run(&plugin).await);
}

#[tokio::test]
async fn a_memory_that_starts_too_large_is_refused() {
    let mut large = Guest::new(&format!("(i32.const {RESULT})"));
    large.memory = "2049".to_owned();
    let refused = refused_with(&large, Settings::default()).await;
    assert_eq!(refused.code(), "P140", "{refused}");
    assert!(
        refused.to_string().contains("more memory than the limit"),
        "{refused}"
    );
}
