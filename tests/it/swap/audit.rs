//! Swaps are recorded, and do not wait for the database that records them.

use std::sync::Arc;

use cogo_host::host::Recorder;
use cogo_host::store::EventFilter;
use tokio_util::sync::CancellationToken;

use super::harness::{Following, version};
use crate::support::bed::Backdoor as _;
use crate::support::sqlite::{self, FileDoor};

#[tokio::test]
async fn a_database_that_is_away_delays_the_record_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus.db");
    let store = Arc::new(sqlite::open(&path).await);
    let ending = CancellationToken::new();
    let (recorder, writing) = Recorder::start(Arc::clone(&store) as _, ending.clone());
    let mut here = Following::start(&[]).await;

    let door = FileDoor::open(&path, None);
    door.execute("BEGIN IMMEDIATE").await;
    let mut traces = Vec::new();
    for n in 0..3 {
        let digest = here.put("guest.wasm", &version(n).component());
        let event = here.event().await;
        assert_eq!(here.serving("guest"), Some(digest));
        traces.push(event.trace_id.to_string());
        recorder.record(event);
    }
    let events = async || {
        use cogo_host::store::Store as _;
        let filter = EventFilter {
            limit: 100,
            ..EventFilter::default()
        };
        store.events(&filter).await.unwrap()
    };
    assert!(events().await.is_empty());
    door.execute("COMMIT").await;

    // Nobody is left to send: the writer ends once all is written.
    drop(recorder);
    writing.await.unwrap();
    let events = events().await;
    let types: Vec<&str> = events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(types, ["plugin_loaded", "plugin_swapped", "plugin_swapped"]);
    let recorded: Vec<String> = events.iter().filter_map(|e| e.trace_id.clone()).collect();
    assert_eq!(recorded, traces);
    for event in &events {
        assert_eq!(event.message_id, None);
        assert_eq!(event.payload["name"], "guest");
    }
}

#[tokio::test]
async fn the_end_of_the_host_is_not_held_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus.db");
    let store = Arc::new(sqlite::open(&path).await);
    let ending = CancellationToken::new();
    let (recorder, writing) = Recorder::start(store as _, ending.clone());
    let door = FileDoor::open(&path, None);
    door.execute("BEGIN IMMEDIATE").await;
    let mut here = Following::start(&[]).await;
    here.put("guest.wasm", &version(1).component());
    recorder.record(here.event().await);
    ending.cancel();
    writing.await.unwrap();
}
