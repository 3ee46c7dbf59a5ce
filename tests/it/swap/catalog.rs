//! Which versions the catalog keeps, for whom, and for how long.

use std::sync::Arc;

use cogo_host::plugin::catalog::{Catalog, Installed, KEPT_VERSIONS, RollbackError, Superseded};
use cogo_host::plugin::load::{Candidate, Plugin, Settings, Source};

use super::harness::{NAME, name, version};
use crate::sandbox::harness::{load, loader};

async fn load_version(n: u32) -> Arc<Plugin> {
    load(&version(n), Settings::default()).await
}

async fn bundled(n: u32) -> Arc<Plugin> {
    let candidate = Candidate {
        name: Some(name(NAME)),
        bytes: version(n).component().into(),
        source: Source::Bundled,
        place: "bundled guest".to_owned(),
        signer: None,
    };
    let loaded = loader().load(candidate, &Settings::default()).await;
    Arc::new(loaded.unwrap())
}

/// The version that serves, then those that served before; `-` marks one that
/// was rolled back.
fn versions(catalog: &Catalog) -> String {
    let [listed] = catalog.list().try_into().unwrap();
    let serving = listed.serving.map_or("none".to_owned(), |s| s.version);
    let previous = listed.previous.iter().map(|previous| {
        let mark = if previous.rolled_back { "-" } else { "" };
        format!(" {}{mark}", previous.version)
    });
    let all: String = std::iter::once(serving).chain(previous).collect();
    all.replace("1.0.", "")
}

#[tokio::test]
async fn the_latest_versions_are_kept_and_older_ones_let_go() {
    let catalog = Catalog::new();
    let mut digests = Vec::new();
    for n in 0..9 {
        let plugin = load_version(n).await;
        digests.push(plugin.digest());
        catalog.install(plugin);
    }
    assert_eq!(versions(&catalog), "8 7 6 5 4 3");
    let loaded: Vec<bool> = digests
        .iter()
        .map(|digest| catalog.by_digest(*digest).is_some())
        .collect();
    assert_eq!(loaded.iter().filter(|l| **l).count(), KEPT_VERSIONS + 1);
    assert!(loaded[..3].iter().all(|loaded| !loaded));
    // One that comes back is kept once.
    assert!(matches!(
        catalog.install(load_version(5).await),
        Installed::Replaced(_)
    ));
    assert_eq!(versions(&catalog), "5 8 7 6 4 3");
    assert!(matches!(
        catalog.install(load_version(5).await),
        Installed::Same
    ));
    assert_eq!(versions(&catalog), "5 8 7 6 4 3");
}

#[tokio::test]
async fn a_version_that_was_loaded_twice_is_found_while_either_is_held() {
    let catalog = Catalog::new();
    let first = load_version(0).await;
    catalog.install(Arc::clone(&first));
    catalog.install(load_version(0).await);
    for n in 1..9 {
        catalog.install(load_version(n).await);
    }
    let found = catalog.by_digest(first.digest()).unwrap();
    assert!(Arc::ptr_eq(&found, &first));
}

#[tokio::test]
async fn a_rollback_goes_back_and_not_forth() {
    let catalog = Catalog::new();
    let name = name(NAME);
    for n in 0..4 {
        catalog.install(load_version(n).await);
    }
    let back = || catalog.roll_back(&name, None).map(|_| versions(&catalog));
    assert_eq!(back().unwrap(), "2 3- 1 0");
    assert_eq!(back().unwrap(), "1 2- 3- 0");
    assert_eq!(back().unwrap(), "0 1- 2- 3-");
    assert_eq!(back(), Err(RollbackError::NothingBefore(name.clone())));

    let three = load_version(3).await.digest();
    assert_eq!(
        catalog.rolled_back_from(&name).unwrap(),
        load_version(1).await.digest()
    );
    let to = three.to_string()[..19].parse().unwrap();
    catalog.roll_back(&name, Some(&to)).unwrap();
    assert_eq!(versions(&catalog), "3 0- 1- 2-");
    let again = catalog.roll_back(&name, Some(&to)).unwrap_err();
    assert!(matches!(again, RollbackError::Serves { digest, .. } if digest == three));
    let unknown = "sha256:00000000".parse().unwrap();
    match catalog.roll_back(&name, Some(&unknown)).unwrap_err() {
        RollbackError::NoVersion { known, .. } => assert_eq!(known.len(), 3),
        other => panic!("{other}"),
    }
    let stranger = "stranger".parse().unwrap();
    assert_eq!(
        catalog.roll_back(&stranger, None).unwrap_err(),
        RollbackError::NoPlugin(stranger)
    );

    // Something new ends it.
    catalog.install(load_version(4).await);
    assert_eq!(catalog.rolled_back_from(&name), None);
    assert_eq!(versions(&catalog), "4 3 0- 1- 2-");
    assert_eq!(back().unwrap(), "3 4- 0- 1- 2-");
}

#[tokio::test]
async fn the_bundled_version_is_always_a_way_back() {
    let catalog = Catalog::new();
    let name = name(NAME);
    catalog.install(bundled(0).await);
    for n in 1..9 {
        catalog.install(load_version(n).await);
    }
    assert_eq!(versions(&catalog), "8 7 6 5 4 3");
    for _ in 0..KEPT_VERSIONS {
        catalog.roll_back(&name, None).unwrap();
    }
    let rolled_back = catalog.roll_back(&name, None).unwrap();
    assert_eq!(rolled_back.to.source(), Source::Bundled);
    catalog.install(load_version(9).await);
    let removed = catalog.remove(&name);
    assert_eq!(removed.now.unwrap().source(), Source::Bundled);
    assert_eq!(
        removed.before.unwrap().descriptor().version.to_string(),
        "1.0.9"
    );
    assert!(versions(&catalog).starts_with("0 9"));
}

#[tokio::test]
async fn a_removed_plugin_can_be_brought_back() {
    let catalog = Catalog::new();
    let name = name(NAME);
    catalog.install(load_version(0).await);
    assert!(catalog.remove(&name).now.is_none());
    assert!(catalog.get(&name).is_none());
    assert_eq!(versions(&catalog), "none 0");
    let rolled_back = catalog.roll_back(&name, None).unwrap();
    assert!(rolled_back.from.is_none());
    assert_eq!(versions(&catalog), "0");
}

#[tokio::test]
async fn what_was_being_loaded_does_not_undo_a_rollback() {
    let catalog = Catalog::new();
    let name = name(NAME);
    catalog.install(load_version(0).await);
    catalog.install(load_version(1).await);
    let ticket = catalog.ticket(&name);
    let loading = load_version(2).await;
    catalog.roll_back(&name, None).unwrap();
    let refused = catalog.install_unless_rolled_back(Arc::clone(&loading), ticket);
    assert_eq!(refused.unwrap_err(), Superseded);
    assert_eq!(versions(&catalog), "0 1-");
    let ticket = catalog.ticket(&name);
    let installed = catalog.install_unless_rolled_back(loading, ticket);
    assert!(matches!(installed, Ok(Installed::Replaced(_))));
    assert_eq!(versions(&catalog), "2 0 1-");
}
