//! What a claim costs on Postgres, whatever the table has behind it: a backlog,
//! a million tasks that ended since the last vacuum, a snapshot that somebody
//! keeps open. A cluster of its own, with autovacuum off where it matters.

use std::time::{Duration, Instant};

use cogo_host::ids::HolderId;
use cogo_host::route::KnownRole;
use cogo_host::store::{BusUrl, ClaimRequest, PostgresStore, Store, Want};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::cluster::Cluster;
use crate::percentile;

const CLAIMS: usize = 800;
const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;
/// At once in one statement, so that what it undoes stays small.
const CHUNK: u64 = 100_000;

/// A bus as a measurement finds it.
struct Case {
    name: &'static str,
    /// Ended since the last vacuum, before what is queued came.
    ended: u64,
    queued: u64,
    /// Somebody keeps a snapshot of before all that open.
    snapshot: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "fresh, 1,000 queued",
        ended: 0,
        queued: FEW,
        snapshot: false,
    },
    Case {
        name: "1,000,000 queued",
        ended: 0,
        queued: MANY,
        snapshot: false,
    },
    Case {
        name: "1,000,000 ended, no vacuum",
        ended: MANY,
        queued: FEW,
        snapshot: false,
    },
    Case {
        name: "the same under an old snapshot",
        ended: MANY,
        queued: FEW,
        snapshot: true,
    },
];

pub fn flat() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start();
        let template = "claims_template";
        cluster.create(template, "template1").await;
        let store = open(&cluster.url(template)).await;
        store.migrate(false).await.unwrap();
        store.close().await.unwrap();
        println!(
            "\nclaims of one task on Postgres        p50       p99   to fresh   looking each time"
        );
        let mut fresh = None;
        for case in &CASES {
            let url = cluster.fresh(template).await;
            let [known, looking] = measure(&url, case).await;
            let p50 = percentile(known.clone(), 50);
            let floor = *fresh.get_or_insert(p50);
            println!(
                "  {:<32} {:>7.0} µs {:>6.0} µs {:>8.2}x {:>10.0} µs",
                case.name,
                micros(p50),
                micros(percentile(known, 99)),
                micros(p50) / micros(floor),
                micros(percentile(looking, 50)),
            );
        }
    });
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

async fn open(url: &str) -> PostgresStore {
    let BusUrl::Postgres(url) = url.parse().unwrap() else {
        panic!("no URL of Postgres: {url}");
    };
    PostgresStore::open(&url).await.unwrap()
}

async fn execute(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(conn)
        .await
        .unwrap();
}

/// The times of claims as a host makes them, and of claims that look at all
/// lanes first, as each would without what the store remembers.
async fn measure(url: &str, case: &Case) -> [Vec<Duration>; 2] {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let mut reader = PgConnection::connect(url).await.unwrap();
    let off = "ALTER TABLE agent_messages SET (autovacuum_enabled = false)";
    execute(&mut conn, off.to_owned()).await;
    if case.snapshot {
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM agent_messages";
        execute(&mut reader, sql.to_owned()).await;
    }
    queue(&mut conn, case.ended).await;
    for _ in 0..case.ended.div_ceil(CHUNK) {
        let sql = format!(
            "UPDATE agent_messages SET status = 'done', done_at = now()
             WHERE id IN (SELECT id FROM agent_messages WHERE status = 'queued' LIMIT {CHUNK})"
        );
        execute(&mut conn, sql).await;
    }
    queue(&mut conn, case.queued).await;
    if case.snapshot {
        // It can take nothing away.
        execute(&mut conn, "VACUUM agent_messages".to_owned()).await;
    }
    execute(&mut conn, "ANALYZE agent_messages; CHECKPOINT".to_owned()).await;
    let store = open(url).await;
    let known = claims(&store).await;
    queue(&mut conn, FEW).await;
    store.trust_looks_for(Duration::ZERO);
    let looking = claims(&store).await;
    store.close().await.unwrap();
    [known, looking]
}

async fn queue(conn: &mut PgConnection, n: u64) {
    for from in (0..n).step_by(usize::try_from(CHUNK).unwrap()) {
        let chunk = CHUNK.min(n - from);
        let sql = format!(
            "INSERT INTO agent_messages
               (created_at, service, role, payload, lease_epoch, trace_id)
             SELECT clock_timestamp(), 'code', 'build-test', '{{\"repo\":\"r\"}}', 0, 'trace'
             FROM generate_series(1, {chunk})"
        );
        execute(conn, sql).await;
    }
}

async fn claims(store: &PostgresStore) -> Vec<Duration> {
    let holder = HolderId::generate("bench");
    let request = ClaimRequest {
        holder: &holder,
        lease: Duration::from_secs(3600),
        wants: vec![Want {
            key: KnownRole::BuildTest.key(),
            shard: None,
            tenant: None,
            limit: 1,
            reclaim_foreign_after: None,
            draw: None,
        }],
        limit: 1,
    };
    // Connections, plans and caches are not what is measured.
    for _ in 0..50 {
        store.claim(&request).await.unwrap();
    }
    let mut times = Vec::with_capacity(CLAIMS);
    for _ in 0..CLAIMS {
        let begun = Instant::now();
        let claimed = store.claim(&request).await.unwrap();
        times.push(begun.elapsed());
        assert_eq!(claimed.len(), 1);
    }
    times
}
