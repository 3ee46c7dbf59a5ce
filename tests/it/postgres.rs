//! What only a Postgres bus has: tables that were there before, hints, poolers,
//! values that nothing else knows. The rest is the conformance suite's.

mod connections;
mod events;
mod examine;
mod existing;
mod hints;
mod lanes;
mod load;
mod migration;
mod rows;
mod supabase;
mod tls;

use sqlx::{Connection as _, PgConnection};

use crate::support::postgres::{connect, texts};

/// How many index entries of a table were read in this database, and how often
/// the table was from end to end.
async fn reads(conn: &mut PgConnection, table: &str) -> (i64, i64) {
    let number = async |conn: &mut PgConnection, sql: String| -> i64 {
        let texts = texts(conn, &sql).await;
        texts[0].as_deref().unwrap_or("0").parse().unwrap()
    };
    let entries =
        format!("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = '{table}'");
    let scans = format!("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = '{table}'");
    (number(conn, entries).await, number(conn, scans).await)
}

/// A new connection, once no other is left of this database: a connection
/// reports what it has read when it ends, at the latest.
async fn reconnect(conn: PgConnection, url: &str) -> PgConnection {
    conn.close().await.unwrap();
    let mut conn = connect(url).await;
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while texts(&mut conn, others).await != [Some("0".to_owned())] {}
    conn
}
