//! The way back: instant, and in force until the file holds something else.

use std::fs;

use cogo_host::ids::Digest;

use super::harness::{Following, NAME, name, named, version};

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
    assert_eq!(listed.rolled_back_from, Some(Digest::of(&two)));

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
    let two = Digest::of(&version(2).component());
    let to = two.hex()[..8].parse().unwrap();
    here.swapper.roll_back(&name(NAME), Some(&to)).unwrap();
    assert_eq!(here.serving(NAME), Some(two));
    here.stays().await;
}

#[tokio::test]
async fn a_rollback_outlives_the_host() {
    let here = swapped_twice(&[]).await;
    here.swapper.roll_back(&name(NAME), None).unwrap();
    let mut here = here.restart().await;
    let loaded = here.expect("plugin_loaded").await;
    assert_eq!(loaded.payload["to"]["version"], "1.0.1");
    let two = version(2).component();
    assert_eq!(here.listed(NAME).rolled_back_from, Some(Digest::of(&two)));
    // Still in force, and over once the file changes, for the next host, too.
    here.put(FILE, &two);
    here.stays().await;
    here.put(FILE, &version(3).component());
    here.expect("plugin_swapped").await;
    here.put(FILE, &two);
    here.expect("plugin_swapped").await;
    let mut here = here.restart().await;
    let loaded = here.expect("plugin_loaded").await;
    assert_eq!(loaded.payload["to"]["version"], "1.0.2");
    assert_eq!(here.listed(NAME).rolled_back_from, None);
}

#[tokio::test]
async fn a_rollback_to_the_bundled_version_outlives_the_host() {
    let mut here = Following::start(&[]).await;
    let bundled = here.serving("mock");
    let own = here.put("mock.wasm", &named("mock", "9.0.0").component());
    here.expect("plugin_swapped").await;
    here.swapper.roll_back(&name("mock"), None).unwrap();
    let here = here.restart().await;
    assert_eq!(here.serving("mock"), bundled);
    assert_eq!(here.listed("mock").rolled_back_from, Some(own));

    // Changed while no host ran.
    let third = here.put("mock.wasm", &named("mock", "9.0.1").component());
    let here = here.restart().await;
    assert_eq!(here.serving("mock"), Some(third));
    let here = here.restart().await;
    assert_eq!(here.serving("mock"), Some(third));
}

#[tokio::test]
async fn what_was_rolled_back_does_not_serve_even_if_the_way_back_is_lost() {
    let here = swapped_twice(&[]).await;
    let one = here.swapper.roll_back(&name(NAME), None).unwrap().to;
    let state = here.directory.with_file_name("state");
    let kept = format!("plugins/{NAME}/{}.wasm", one.digest().hex());
    fs::write(state.join(kept), "damaged").unwrap();
    let mut here = here.restart().await;
    let event = here.expect("plugin_rejected").await;
    assert!(event.reason.unwrap().contains("gone or damaged"));
    assert_eq!(here.serving(NAME), None);
    here.stays().await;
    here.put(FILE, &version(3).component());
    here.expect("plugin_loaded").await;
}
