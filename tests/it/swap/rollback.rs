//! The way back: instant, and in force until the file holds something else.

use std::fs;

use cogo_host::api::SwapCounts;
use cogo_host::ids::Digest;

use super::harness::{Following, NAME, name, named, version};
use crate::support::process::until;

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
    let counted = |applied, refused, rolled_back| SwapCounts {
        applied,
        refused,
        rolled_back,
    };
    assert_eq!(here.swapper.counts()[&name(NAME)], counted(2, 0, 1));

    // Written again as it was, and gone wrong and come back: still what it was.
    here.put(FILE, &two);
    here.stays().await;
    here.put(FILE, b"broken");
    here.expect("plugin_rejected").await;
    assert_eq!(here.swapper.counts()[&name(NAME)], counted(2, 1, 1));
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
    assert_eq!(loaded.payload.value()["to"]["version"], "1.0.1");
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
    assert_eq!(loaded.payload.value()["to"]["version"], "1.0.2");
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

/// Waits until it is written down that these versions served, latest first.
async fn written(here: &Following, versions: &[u32]) {
    let file = here.directory.with_file_name("state");
    let file = file.join(format!("plugins/{NAME}/served.json"));
    let digest = |n: &u32| Digest::of(&version(*n).component()).to_string();
    let wanted: Vec<String> = versions.iter().map(digest).collect();
    let mut found = move || {
        let text = fs::read(&file).ok()?;
        let all: Vec<serde_json::Value> = serde_json::from_slice(&text).ok()?;
        let digests = all.iter().map(|entry| entry["digest"].as_str().unwrap());
        digests.eq(wanted.iter().map(String::as_str)).then_some(())
    };
    let waiting = move || until("what served is written down", &mut found);
    tokio::task::spawn_blocking(waiting).await.unwrap();
}

#[tokio::test]
async fn what_served_before_a_restart_can_be_gone_back_to() {
    let mut here = swapped_twice(&[]).await;
    here.put(FILE, &version(3).component());
    here.expect("plugin_swapped").await;
    written(&here, &[3, 2, 1]).await;
    // Replaced while no host ran: what served last is one to go back to, too.
    let four = here.put(FILE, &version(4).component());
    let mut here = here.restart().await;
    here.expect("plugin_loaded").await;
    here.swapper.recalled().await;
    let previous = |here: &Following| -> Vec<String> {
        let listed = here.listed(NAME).previous.into_iter();
        listed.map(|version| version.version).collect()
    };
    // By events the fourth may have come before the end of the first host.
    let found = previous(&here);
    assert!(
        found.ends_with(&["1.0.2".to_owned(), "1.0.1".to_owned()]),
        "{found:?}"
    );
    here.stays().await;
    assert_eq!(here.serving(NAME), Some(four));

    let one = Digest::of(&version(1).component());
    let to = one.hex()[..8].parse().unwrap();
    here.swapper.roll_back(&name(NAME), Some(&to)).unwrap();
    assert_eq!(here.serving(NAME), Some(one));
    written(&here, &[1, 4, 3, 2]).await;

    // Once more: what was taken out of service is passed over still.
    let mut here = here.restart().await;
    here.expect("plugin_loaded").await;
    here.swapper.recalled().await;
    assert_eq!(here.serving(NAME), Some(one));
    let listed = here.listed(NAME);
    let taken_back: Vec<_> = listed.previous.iter().map(|v| v.rolled_back).collect();
    assert_eq!(taken_back, [true, false, false], "{listed:?}");
    let back = here.swapper.roll_back(&name(NAME), None).unwrap();
    assert_eq!(back.to.digest(), Digest::of(&version(3).component()));
}

#[tokio::test]
async fn a_version_that_is_gone_is_no_fault_of_what_serves() {
    let here = swapped_twice(&[]).await;
    written(&here, &[2, 1]).await;
    let one = Digest::of(&version(1).component());
    let state = here.directory.with_file_name("state");
    fs::remove_file(state.join(format!("plugins/{NAME}/{}.wasm", one.hex()))).unwrap();
    let mut here = here.restart().await;
    here.expect("plugin_loaded").await;
    here.swapper.recalled().await;
    let listed = here.listed(NAME);
    assert!(listed.previous.is_empty(), "{listed:?}");
    assert!(listed.last_failure.is_none(), "{listed:?}");
}
