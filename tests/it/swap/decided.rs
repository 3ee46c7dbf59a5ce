//! Candidates, and versions that serve since somebody decided so on the bus.

use std::fs;

use cogo_host::control::{ServingCause, ServingRow};
use cogo_host::event::NewEvent;
use cogo_host::host::{Decisions, LoadedPlugins as _, SwapEvent};
use cogo_host::ids::{Digest, HolderId, TraceId};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::harness::{Following, NAME, name, named, version};

const FILE: &str = "guest.wasm";

async fn staging() -> Following {
    Following::start(&[("COGO_STAGE", "staging")]).await
}

fn decide(plugin: &str, digest: Digest, cause: ServingCause) -> Decisions {
    let row = ServingRow {
        plugin: name(plugin),
        digest,
        cause,
        actor: "anna".to_owned(),
        reason: None,
        trace_id: TraceId::generate(),
        changed_at: chrono::DateTime::UNIX_EPOCH,
    };
    Decisions::from([(name(plugin), row)])
}

fn recorded(events: Vec<SwapEvent>) -> Vec<NewEvent> {
    let holder = HolderId::generate("test-host");
    let events = events.into_iter();
    events.map(|event| event.into_event(&holder)).collect()
}

/// As a host does it: first what is ready, then the rest.
async fn follow(here: &Following, decisions: &Decisions) -> Vec<NewEvent> {
    let mut events = here.swapper.follow_decided(decisions);
    let never = CancellationToken::new();
    let fetched = here.swapper.fetch_decided(None, &never);
    events.extend(fetched.await.events);
    recorded(events)
}

#[tokio::test]
async fn in_staging_a_file_becomes_a_candidate() {
    let mut here = staging().await;
    let bundled = here.serving("mock").unwrap();
    let one = here.put("mock.wasm", &named("mock", "9.0.1").component());
    let event = here.expect("plugin_loaded").await;
    assert_eq!(event.payload.value()["state"], "candidate");
    assert_eq!(event.payload.value()["from"]["digest"], json!(bundled));
    assert_eq!(event.payload.value()["to"]["digest"], json!(one));
    assert_eq!(here.serving("mock"), Some(bundled));

    // Another one waits beside it; written again as it was, it is no news.
    let two = here.put("mock.wasm", &named("mock", "9.0.2").component());
    here.expect("plugin_loaded").await;
    here.put("mock.wasm", &named("mock", "9.0.2").component());
    here.stays().await;
    let waiting = || -> Vec<Digest> {
        let listed = here.listed("mock").candidates.into_iter();
        listed.map(|candidate| candidate.digest).collect()
    };
    assert_eq!(waiting(), [two, one]);
    let ready = here.catalog().ready();
    assert!(
        [bundled, one, two]
            .iter()
            .all(|digest| ready.contains(digest))
    );
    for digest in [one, two] {
        let catalog = &**here.catalog();
        let found = catalog.by_digest(digest).unwrap();
        assert_eq!(found.digest(), digest);
        let loaded = cogo_host::host::LoadedPlugins::get(catalog, &name("mock"), Some(digest));
        assert_eq!(loaded.unwrap().version.digest, digest);
    }
    assert!(
        here.catalog()
            .all()
            .iter()
            .all(|plugin| plugin.version.digest != two)
    );

    fs::remove_file(here.at("mock.wasm")).unwrap();
    let event = here.expect("plugin_withdrawn").await;
    assert_eq!(event.payload.value()["digest"], json!(two));
    assert_eq!(waiting_of(&here), [one]);
    assert_eq!(here.serving("mock"), Some(bundled));
}

fn waiting_of(here: &Following) -> Vec<Digest> {
    let listed = here.listed("mock").candidates.into_iter();
    listed.map(|candidate| candidate.digest).collect()
}

#[tokio::test]
async fn a_promoted_candidate_serves_whatever_becomes_of_its_file() {
    let mut here = staging().await;
    let bundled = here.serving("mock").unwrap();
    let one = here.put("mock.wasm", &named("mock", "9.0.1").component());
    here.expect("plugin_loaded").await;
    let promoted = decide("mock", one, ServingCause::Promotion);
    let events = follow(&here, &promoted).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].event_type, "plugin_swapped");
    assert_eq!(events[0].trace_id, promoted[&name("mock")].trace_id);
    assert_eq!(events[0].payload.value()["from"]["digest"], json!(bundled));
    assert_eq!(events[0].payload.value()["actor"], "anna");
    assert_eq!(here.serving("mock"), Some(one));
    assert!(here.listed("mock").candidates.is_empty());
    assert_eq!(follow(&here, &promoted).await, []);

    let two = here.put("mock.wasm", &named("mock", "9.0.2").component());
    here.expect("plugin_loaded").await;
    assert_eq!(here.serving("mock"), Some(one));
    fs::remove_file(here.at("mock.wasm")).unwrap();
    let event = here.expect("plugin_withdrawn").await;
    assert_eq!(event.payload.value()["digest"], json!(two));
    assert_eq!(here.serving("mock"), Some(one));

    // The next host has it from its own store.
    let here = here.restart().await;
    assert_eq!(here.serving("mock"), Some(bundled));
    let events = follow(&here, &promoted).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(here.serving("mock"), Some(one));

    // Nothing is decided any more: the host's own rule.
    let events = follow(&here, &Decisions::new()).await;
    assert_eq!(events[0].payload.value()["to"]["digest"], json!(bundled));
    assert_eq!(here.serving("mock"), Some(bundled));
}

#[tokio::test]
async fn a_version_that_is_not_here_is_asked_for_once_and_followed_when_it_comes() {
    let mut here = staging().await;
    let bundled = here.serving("mock");
    let bytes = named("mock", "9.0.1").component();
    let wanted = decide("mock", Digest::of(&bytes), ServingCause::Promotion);
    let events = follow(&here, &wanted).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].event_type, "plugin_rejected");
    assert_eq!(events[0].payload.value()["code"], "P161");
    assert_eq!(here.listed("mock").last_failure.unwrap().code, "P161");
    assert_eq!(here.serving("mock"), bundled);
    assert_eq!(follow(&here, &wanted).await, []);

    here.put("mock.wasm", &bytes);
    here.expect("plugin_loaded").await;
    let events = follow(&here, &wanted).await;
    assert_eq!(events[0].event_type, "plugin_swapped");
    assert_eq!(here.serving("mock"), Some(Digest::of(&bytes)));
    assert!(here.listed("mock").last_failure.is_none());
}

#[tokio::test]
async fn what_is_lacking_is_forgotten_once_it_is_not_wanted_any_more() {
    let mut here = staging().await;
    let bundled = here.serving("mock").unwrap();
    let one = here.put("mock.wasm", &named("mock", "9.0.1").component());
    here.expect("plugin_loaded").await;
    let gone = Digest::of(b"nowhere");
    let lacking = || here.listed("mock").last_failure.map(|failure| failure.code);
    for then in [Some(one), Some(bundled), None] {
        let _ = follow(&here, &decide("mock", gone, ServingCause::Promotion)).await;
        assert_eq!(lacking(), Some("P161"));
        let decisions = match then {
            Some(digest) => decide("mock", digest, ServingCause::Promotion),
            None => Decisions::new(),
        };
        let _ = follow(&here, &decisions).await;
        assert_eq!(lacking(), None);
    }
}

#[tokio::test]
async fn in_development_a_file_that_changes_later_beats_what_was_decided() {
    let mut here = Following::start(&[]).await;
    let [one, two, three] = [1, 2, 3].map(|n| version(n).component());
    for bytes in [&one, &two] {
        here.put(FILE, bytes);
        let _ = here.event().await;
    }
    let back = decide(NAME, Digest::of(&one), ServingCause::Rollback);
    assert_eq!(follow(&here, &back).await.len(), 1);
    assert_eq!(here.serving(NAME), Some(Digest::of(&one)));
    assert_eq!(here.listed(NAME).rolled_back_from, Some(Digest::of(&two)));
    let mut here = here.restart().await;
    here.expect("plugin_loaded").await;
    assert_eq!(here.serving(NAME), Some(Digest::of(&one)));
    assert_eq!(follow(&here, &back).await, []);

    let three = here.put(FILE, &three);
    here.expect("plugin_swapped").await;
    assert_eq!(follow(&here, &back).await, []);
    assert_eq!(here.serving(NAME), Some(three));
    let here = here.restart().await;
    assert_eq!(follow(&here, &back).await, []);
    assert_eq!(here.serving(NAME), Some(three));

    // What is decided after it beats the file again.
    let again = decide(NAME, Digest::of(&one), ServingCause::Promotion);
    assert_eq!(follow(&here, &again).await.len(), 1);
    assert_eq!(here.serving(NAME), Some(Digest::of(&one)));
    assert_eq!(follow(&here, &Decisions::new()).await.len(), 1);
    assert_eq!(here.serving(NAME), Some(three));
}
