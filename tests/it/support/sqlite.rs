//! A bus in a file of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::store::{OpenMode, SqliteStore, Store};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row};
use tempfile::TempDir;

use super::bed::{Backdoor, Bed};
use super::invariants::Watch;

pub async fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let store = open(&path).await;
    let door = FileDoor::open(&path, Some(dir));
    Bed {
        store: Arc::new(store),
        door: Box::new(door),
        watch: Watch::default(),
    }
}

/// A migrated store in the file at `path`.
pub async fn open(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path, OpenMode::Create).await.unwrap();
    store.migrate(false).await.unwrap();
    store
}

/// What SQLite itself says of the file at `path`: `ok`, or what is wrong.
pub async fn quick_check(path: &Path) -> String {
    let door = FileDoor::open(path, None);
    let rows = sqlx::query("PRAGMA quick_check")
        .fetch_all(&door.pool)
        .await;
    let said: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    said.join("\n")
}

/// Another program with the same file open.
pub struct FileDoor {
    pool: SqlitePool,
    /// Removed when the test ends.
    _dir: Option<TempDir>,
}

impl FileDoor {
    pub fn open(path: &Path, dir: Option<TempDir>) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options);
        Self { pool, _dir: dir }
    }
}

#[async_trait]
impl Backdoor for FileDoor {
    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        query.fetch_one(&self.pool).await.unwrap().get(0)
    }

    fn keeps_broken_json(&self) -> bool {
        true
    }

    async fn age(&self, table: &str, column: &str, by: Duration, which: &str) {
        let ms = by.as_secs_f64();
        let sql = format!(
            "UPDATE {table} SET {column} = strftime('%Y-%m-%dT%H:%M:%fZ', {column}, '-{ms:.3} seconds')
             WHERE {which}"
        );
        self.execute(&sql).await;
    }
}
