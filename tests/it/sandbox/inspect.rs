//! Files that are looked at without being run.

use cogo_host::plugin::bundled;
use cogo_host::plugin::inspect::inspect;
use cogo_host::plugin::wasi::Profile;

use crate::guest::{Guest, Returns};

#[test]
fn a_plugin_shows_its_world() {
    let candidate = bundled::candidates().next().unwrap();
    let found = inspect(&candidate.bytes);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let component = found.component.unwrap();
    assert_eq!(component.profile, Profile::Minimal);
    assert!(component.source_digest.is_some());
    let wit = component.wit.unwrap();
    assert!(wit.contains("export cogo:executor/executor@0.1.0"), "{wit}");
    assert!(wit.contains("import cogo:executor/host@0.1.0"), "{wit}");
}

#[test]
fn what_does_not_fit_is_shown_with_the_difference() {
    let component = wat::parse_str(
        r#"(component
            (import "acme:billing/charge@1.0.0" (instance (export "charge" (func)))))"#,
    )
    .unwrap();
    let found = inspect(&component);
    let [problem] = found.problems.as_slice() else {
        panic!("expected one problem");
    };
    assert_eq!(problem.code, "P120");
    assert!(problem.message.contains("acme:billing/charge@1.0.0"));
    assert_eq!(
        found.component.unwrap().imports,
        ["acme:billing/charge@1.0.0"]
    );
}

#[test]
fn anything_at_all_can_be_looked_at() {
    let whole = Guest::returning(Returns::Interrupted).component();
    for part in 0..64 {
        let found = inspect(&whole[..whole.len() * part / 64]);
        assert!(!found.problems.is_empty(), "{part}");
    }
    for n in 0..256_usize {
        let mut flipped = whole.clone();
        flipped[whole.len() * n / 256] ^= 1 << (n % 8);
        assert_eq!(inspect(&flipped).bytes, whole.len() as u64);
    }
    let module = wat::parse_str("(module)").unwrap();
    assert_eq!(inspect(&module).problems[0].code, "P110");
}
