//! What only a file can do to its host: be missing, locked, damaged, newer,
//! full, or read-only.

use std::path::Path;
use std::time::Duration;

use cogo_host::store::{BusUrl, OpenMode, SqliteStore, Store, StoreError};
use cogo_host::task::Status;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::support::bed::Backdoor;
use crate::support::hand::{DOCS, Hand, done, settlement, task, tasks};
use crate::support::process::Installation;
use crate::support::sqlite::{FileDoor, open};

async fn refused(path: &Path, mode: OpenMode) -> StoreError {
    let error = SqliteStore::open(path, mode).await.unwrap_err();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
    error
}

/// The version of the schema that this build knows.
const KNOWN: i64 = 8;

#[tokio::test]
async fn a_file_that_is_not_there_is_missing_unless_it_may_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        assert!(matches!(refused(&path, mode).await, StoreError::Missing(_)));
    }
    assert!(!path.exists());
    let nowhere = dir.path().join("no/bus.db");
    let error = refused(&nowhere, OpenMode::Create).await;
    assert!(matches!(&error, StoreError::Missing(m) if m.contains("directory")));
    let error = refused(dir.path(), OpenMode::Create).await;
    assert!(matches!(error, StoreError::Missing(_)));
}

#[tokio::test]
async fn a_migration_is_shown_done_and_then_done_already() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    let error = store.check_schema().await.unwrap_err();
    assert!(matches!(error, StoreError::NotMigrated));
    let planned = store.migrate(true).await.unwrap();
    assert_eq!((planned.from, planned.to), (0, KNOWN));
    let shown = planned.statements.join("\n");
    assert!(shown.contains("CREATE TABLE agent_messages"), "{shown}");
    assert!(store.check_schema().await.is_err());
    assert_eq!(store.migrate(false).await.unwrap(), planned);
    store.check_schema().await.unwrap();
    let again = store.migrate(false).await.unwrap();
    assert_eq!((again.from, again.statements.len()), (KNOWN, 0));
}

#[tokio::test]
async fn a_file_of_the_schema_before_keeps_its_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    std::fs::write(&path, "").unwrap();
    let door = FileDoor::open(&path, None);
    door.execute(include_str!("../../../src/store/sqlite/schema/1_bus.sql"))
        .await;
    door.execute("PRAGMA user_version = 1").await;
    door.execute("INSERT INTO agent_messages (service, role) VALUES ('docs', 'render')")
        .await;
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::NotMigrated)
    ));
    let done = store.migrate(false).await.unwrap();
    assert_eq!((done.from, done.to), (1, KNOWN));
    assert!(store.controls().await.unwrap().pauses.is_empty());
    assert_eq!(store.depth().await.unwrap().queued, 1);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    let door = FileDoor::open(&path, None);
    door.execute("PRAGMA user_version = 99").await;
    for error in [
        store.check_schema().await.unwrap_err(),
        store.migrate(false).await.unwrap_err(),
        refused(&path, OpenMode::Existing).await,
    ] {
        assert!(
            matches!(error, StoreError::Newer { found: 99, .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_or_a_damaged_one_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(
        &path,
        "this is no database, and long enough to be sure\n".repeat(99),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = refused(&path, OpenMode::Create).await;
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    store.enqueue(&tasks(DOCS, 200)).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in bytes.iter_mut().skip(8192).take(60_000) {
        *byte = 0xa5;
    }
    std::fs::write(&path, bytes).unwrap();
    let error = refused(&path, OpenMode::Existing).await;
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_read_only_file_is_read_but_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let owner = open(&path).await;
    let new = task(DOCS);
    owner.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let reader = SqliteStore::open(&path, OpenMode::ReadOnly).await.unwrap();
    reader.check_schema().await.unwrap();
    assert!(reader.task(new.id).await.unwrap().is_some());
    let error = reader.enqueue(&[task(DOCS)]).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    owner.close().await.unwrap();
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    let error = refused(&path, OpenMode::Existing).await;
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
}

#[tokio::test]
async fn a_lock_by_another_program_stops_writers_but_not_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let error = store.enqueue(&[task(DOCS)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.is_transient());
    assert!(error.to_string().contains("bus.db"), "{error}");
    store.depth().await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.enqueue(&[task(DOCS)]).await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_leaves_one_file_and_refuses_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    store.enqueue(&[task(DOCS)]).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let wal = dir.path().join("bus.db-wal");
    assert!(!wal.exists(), "the WAL was moved into the file");
    for error in [
        store.enqueue(&[task(DOCS)]).await.unwrap_err(),
        store.depth().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    assert_eq!(store.depth().await.unwrap().queued, 1);
    store.verify().await.unwrap();
}

/// What the process held when it ended without a word is still held, and comes
/// back by its lease.
#[tokio::test]
async fn a_new_process_finds_what_the_last_one_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let hand = Hand::new();
    let store = open(&path).await;
    store.enqueue(&tasks(DOCS, 2)).await.unwrap();
    let claims = hand.claim(&store, DOCS, 2).await;
    let settled = [settlement(&claims[0], done())];
    store.settle(&hand.id, &settled).await.unwrap();
    drop(store);
    let store = open(&path).await;
    let status = async |i: usize| store.task(claims[i].id).await.unwrap().unwrap().status;
    assert_eq!(status(0).await, Status::Done);
    assert_eq!(status(1).await, Status::Claimed);
    let door = FileDoor::open(&path, None);
    let hour = Duration::from_secs(3600);
    door.age("agent_messages", "lease_expires_at", hour, "1 = 1")
        .await;
    assert_eq!(store.rescue(10, 5).await.unwrap().len(), 1);
    assert_eq!(status(1).await, Status::Queued);
}

#[tokio::test]
async fn a_url_leads_to_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("my bus.db").display());
    let url: BusUrl = url.replace(' ', "%20").parse().unwrap();
    let store = cogo_host::store::open(&url, OpenMode::Create)
        .await
        .unwrap();
    store.migrate(false).await.unwrap();
    store.check_schema().await.unwrap();
    assert!(dir.path().join("my bus.db").exists());
}

/// Another program may write text that is none: SQLite does not look.
#[tokio::test]
async fn text_that_is_no_utf8_does_not_stop_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    let door = FileDoor::open(&path, None);
    door.execute(
        "INSERT INTO agent_messages (service, role, payload, trace_id, tenant, task_id)
         VALUES ('docs', 'render', CAST(x'7bff7d' AS TEXT), CAST(x'ff' AS TEXT),
           CAST(x'61ff' AS TEXT), CAST(x'ff62' AS TEXT))",
    )
    .await;
    let new = task(DOCS);
    store.enqueue(std::slice::from_ref(&new)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&store, DOCS, 9).await;
    assert_eq!(claims.len(), 2);
    // Tasks without a tenant have the first turn.
    assert_eq!(claims[1].route.tenant.as_deref(), Some("a\u{FFFD}"));
    assert_eq!(claims[1].task_id.as_deref(), Some("\u{FFFD}b"));
    assert_eq!(claims[1].trace_id.as_str().len(), 32);
    let ends: Vec<_> = claims.iter().map(|c| settlement(c, done())).collect();
    store.settle(&hand.id, &ends).await.unwrap();
    let depth = store.depth().await.unwrap();
    assert_eq!((depth.queued, depth.claimed, depth.done), (0, 0, 2));
}

#[test]
fn doctor_examines_a_file_and_what_lies_around_it() {
    let here = Installation::new();
    // Nothing is there yet, and nothing is made by looking.
    let report = here.run(&["doctor", "--json"]).expect(0).data();
    assert_eq!(report["checks"][1]["state"], "unknown", "{report}");
    assert!(!here.path().join(".cogo").exists());
    let _ = here.run(&["migrate"]).expect(0);
    let report = here.run(&["doctor", "--json"]).expect(0).data();
    for id in ["journal", "synchronous", "owner", "space", "integrity"] {
        let id = format!("sqlite.{id}");
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["id"] == *id);
        assert_eq!(check.unwrap()["state"], "pass", "{report}");
    }
    let here = here
        .with("COGO_PLUGINS_DIR", "nowhere")
        .with("COGO_WORKER_URL", "http://127.0.0.1:1");
    let finished = here.run(&["doctor"]).expect(1);
    for part in [
        "nowhere",
        "127.0.0.1:1",
        "COGO_PLUGINS_DIR",
        "start the worker",
    ] {
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
    }
}
