//! The way back: instant, and in force until the file holds something else.

use std::fs;

use super::harness::{Following, NAME, name, version};

const FILE: &str = "guest.wasm";

async fn swapped_twice(environment: &[(&str, &str)]) -> Following {
    let mut here = Following::start(environment).await;
    here.put(FILE, &version(1).component());
    here.expect("plugin_loaded").await;
    here.put(FILE, &version(2).component());
    here.expect("plugin_swapped").await;
    here
}

#[tokio::test]
async fn a_rollback_holds_until_the_file_holds_something_else() {
    // Looked at again and again, as if events were lost.
    let mut here = swapped_twice(&[("COGO_PLUGINS_RESCAN_MS", "50")]).await;
    let [one, two, three] = [1, 2, 3].map(|n| version(n).component());
    here.swapper.roll_back(&name(NAME), None).unwrap();
    let serving = || here.listed(NAME).serving.unwrap().version;
    assert_eq!(serving(), "1.0.1");
    here.stays().await;

    // Written again as it was, and gone wrong and come back: still what it was.
    here.put(FILE, &two);
    here.stays().await;
    here.put(FILE, b"broken");
    here.expect("plugin_rejected").await;
    here.put(FILE, &two);
    let mut changes = here.catalog().changes();
    while here.listed(NAME).last_failure.is_some() {
        changes.changed().await.unwrap();
    }
    here.stays().await;
    let listed = here.listed(NAME);
    assert_eq!(listed.serving.unwrap().version, "1.0.1");
    assert_eq!(
        listed.rolled_back_from,
        Some(cogo_host::ids::Digest::of(&two))
    );

    here.put(FILE, &three);
    here.expect("plugin_swapped").await;
    let listed = here.listed(NAME);
    assert_eq!(listed.serving.unwrap().version, "1.0.3");
    assert_eq!(listed.rolled_back_from, None);

    // The one that was rolled back is a version like any by now.
    here.put(FILE, &two);
    here.expect("plugin_swapped").await;
    here.put(FILE, &one);
    here.expect("plugin_swapped").await;
}

#[tokio::test]
async fn removing_the_file_ends_a_rollback() {
    let mut here = swapped_twice(&[]).await;
    here.swapper.roll_back(&name(NAME), None).unwrap();
    fs::remove_file(here.at(FILE)).unwrap();
    here.expect("plugin_swapped").await;
    assert_eq!(here.serving(NAME), None);
    let two = here.put(FILE, &version(2).component());
    here.expect("plugin_loaded").await;
    assert_eq!(here.serving(NAME), Some(two));
}

#[tokio::test]
async fn a_named_version_is_gone_back_to() {
    let mut here = swapped_twice(&[]).await;
    for n in 3..=5 {
        here.put(FILE, &version(n).component());
        here.expect("plugin_swapped").await;
    }
    let two = cogo_host::ids::Digest::of(&version(2).component());
    let to = two.hex()[..8].parse().unwrap();
    here.swapper.roll_back(&name(NAME), Some(&to)).unwrap();
    assert_eq!(here.serving(NAME), Some(two));
    here.stays().await;
}
