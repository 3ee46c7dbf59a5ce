//! What claims cost is a matter of the plans that SQLite makes for them.

use sqlx::{AssertSqlSafe, Row};

use super::LIST_DUE;
use super::lanes::LIST_LANES;
use crate::store::{OpenMode, SqliteStore, Store};

async fn plan(sql: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bus.db");
    let store = SqliteStore::open(&path, OpenMode::Create).await;
    let store = store.expect("a new file opens");
    store.migrate(false).await.expect("a new file migrates");
    let mut conn = store.readers.acquire().await.expect("a reader");
    let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
    let rows = rows.fetch_all(&mut *conn).await.expect("the statement");
    rows.iter().map(|row| row.get("detail")).collect()
}

#[tokio::test]
async fn due_tasks_come_from_the_index_in_its_order() {
    let plan = plan(LIST_DUE).await;
    // Route, shard, priority, then tenant and due time, which are expressions.
    let seek = "SEARCH agent_messages USING INDEX agent_messages_turn \
        (service=? AND role=? AND shard=? AND priority=? AND <expr>=? AND <expr><?)";
    assert!(plan.iter().any(|step| step == seek), "{plan:#?}");
    assert!(
        !plan.iter().any(|step| step.contains("B-TREE")),
        "{plan:#?}"
    );
}

#[tokio::test]
async fn lanes_are_sought_and_never_sorted() {
    let plan = plan(LIST_LANES).await;
    let seeks = plan
        .iter()
        .filter(|step| step.contains("agent_messages_turn"));
    assert_eq!(seeks.count(), 4, "{plan:#?}");
    let sorted = plan.iter().any(|step| step.contains("TEMP B-TREE"));
    let walked = plan.iter().any(|step| step.starts_with("SCAN m"));
    assert!(!sorted && !walked, "{plan:#?}");
}
