//! The plugins that are part of the program, loaded as the program loads them.

use cogo_host::attempt::{AttemptEnd, Kind};
use cogo_host::plugin::bundled;
use cogo_host::plugin::load::{Plugin, Settings};
use cogo_host::plugin::wasi::Profile;
use cogo_host::route::{KnownRole, Route};
use std::sync::Arc;

use super::harness::{Bench, attempt, loader};

async fn load(name: &str) -> Arc<Plugin> {
    let named = |c: &cogo_host::plugin::load::Candidate| {
        c.name.as_ref().is_some_and(|n| n.as_str() == name)
    };
    let candidate = bundled::candidates().find(named).unwrap();
    let loaded = loader().load(candidate, &Settings::default()).await;
    Arc::new(loaded.unwrap_or_else(|e| panic!("{e}\nhint: {}", e.hint())))
}

#[tokio::test]
async fn bundled_plugins_are_known_by_their_digest() {
    assert_eq!(load("mock").await.kind(), Kind::Mock);
    let worker = load("cogo-worker").await;
    assert_eq!(worker.kind(), Kind::Real);
    assert_eq!(worker.profile(), Profile::Minimal);
}

#[tokio::test]
async fn the_mock_does_every_role() {
    let mock = load("mock").await;
    for role in KnownRole::ALL {
        let mut task = attempt(&mock);
        task.route = Route::of(role.key());
        task.payload = r#"{"repo":".","spec":"x","command":"ls"}"#.into();
        let report = Bench::new().run_attempt(&mock, task).await;
        match report.end {
            AttemptEnd::Completed(outcome) => assert!(outcome.report.fits(&role.key())),
            other => panic!("{role:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn bundled_plugins_say_what_they_were_built_from() {
    for name in ["mock", "cogo-worker"] {
        assert!(load(name).await.source_digest().is_some(), "{name}");
    }
}
