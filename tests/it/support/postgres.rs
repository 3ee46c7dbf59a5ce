//! A bus in a database of its own, in a cluster that lives as long as the test
//! binary.
//!
//! Fails where the server's binaries are missing: a test that is skipped shows
//! nothing.

pub mod cluster;
pub mod pooler;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::store::{BusUrl, PostgresStore, Store};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use self::cluster::{Cluster, SUPERUSER};
use super::bed::{Backdoor, Bed};
use super::invariants::Watch;

/// A migrated database that nobody connects to, for `CREATE DATABASE` to copy.
const TEMPLATE: &str = "cogo_template";

/// The cluster of this test binary, with its template.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start();
        // Tests have runtimes of their own; this outlives them.
        let make = || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(make_template(&cluster));
        };
        std::thread::scope(|scope| scope.spawn(make).join().unwrap());
        cluster
    })
}

async fn make_template(cluster: &Cluster) {
    cluster.create(TEMPLATE, "template1").await;
    let store = open(&cluster.url(TEMPLATE)).await;
    store.migrate(false).await.unwrap();
    store.close().await.unwrap();
}

/// A fresh, migrated database; its URL.
pub async fn migrated() -> String {
    cluster().fresh(TEMPLATE).await
}

/// A fresh, empty database; its URL.
pub async fn empty() -> String {
    cluster().fresh("template1").await
}

pub async fn bed() -> Bed {
    let url = migrated().await;
    Bed {
        store: Arc::new(open(&url).await),
        door: Box::new(ServerDoor::open(&url)),
        watch: Watch::default(),
    }
}

/// The same, by way of a pooler of transactions.
pub async fn pooled_bed() -> Bed {
    let url = migrated().await;
    Bed {
        store: Arc::new(open(&pooled(&url)).await),
        door: Box::new(ServerDoor::open(&url)),
        watch: Watch::default(),
    }
}

/// The way to the same database through the pooler.
pub fn pooled(url: &str) -> String {
    static PORT: OnceLock<u16> = OnceLock::new();
    let port = *PORT.get_or_init(|| pooler::start(cluster()));
    let direct = format!(":{}/", cluster().port());
    format!(
        "{}?pgbouncer=true",
        url.replace(&direct, &format!(":{port}/"))
    )
}

/// The store at `url`, not migrated. It looks at everything before each claim,
/// so that what a claim takes does not depend on when it last looked.
pub async fn open(url: &str) -> PostgresStore {
    let store = open_as_shipped(url).await;
    store.trust_looks_for(Duration::ZERO);
    store
}

/// The same, as a host has it.
pub async fn open_as_shipped(url: &str) -> PostgresStore {
    let BusUrl::Postgres(url) = url.parse().unwrap() else {
        panic!("no URL of Postgres: {url}");
    };
    PostgresStore::open(&url).await.unwrap()
}

/// The way to the same database with each statement in the server's log.
pub fn logged(url: &str) -> String {
    format!("{url}?options=-c%20log_statement%3Dall")
}

/// One connection, as another program would have it.
pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Runs statements, separated by semicolons.
pub async fn execute(conn: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(conn)
        .await;
    done.unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
}

/// The first column of all rows, as text.
pub async fn texts(conn: &mut PgConnection, sql: &str) -> Vec<Option<String>> {
    let sql = AssertSqlSafe(format!("SELECT t.x::text FROM ({sql}) AS t(x)"));
    let rows = sqlx::query(sql).fetch_all(conn).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Another program with the same database open.
pub struct ServerDoor {
    pool: PgPool,
    database: String,
}

impl ServerDoor {
    pub fn open(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(1);
        Self {
            pool: pool.connect_lazy(url).unwrap(),
            database: url.rsplit('/').next().unwrap().to_owned(),
        }
    }
}

#[async_trait]
impl Backdoor for ServerDoor {
    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT t.x::bigint FROM ({sql}) AS t(x)"));
        let row = sqlx::query(sql).fetch_one(&self.pool).await.unwrap();
        row.get(0)
    }

    fn keeps_broken_json(&self) -> bool {
        false
    }

    async fn discard(&self) {
        self.pool.close().await;
        cluster().discard(&self.database).await;
    }

    async fn age(&self, table: &str, column: &str, by: Duration, which: &str) {
        let seconds = by.as_secs_f64();
        let sql = format!(
            "UPDATE {table} SET {column} = {column} - interval '{seconds} seconds' WHERE {which}"
        );
        self.execute(&sql).await;
    }
}

/// The administrator's connection to a database of the cluster.
pub async fn superuser(cluster: &Cluster, database: &str) -> PgConnection {
    connect(&cluster.url_as(SUPERUSER, database)).await
}
