//! The bus on Postgres with durable commits: tasks a second against a loop of
//! plain SQL that makes the same writes, two host processes against one, the
//! time from a submission to its start on an idle pair of hosts, and what that
//! costs who submits. A cluster of its own, which shares the machine with what
//! it is measured by.

mod floor;
mod producers;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cogo_host::plugin::engine::Engines;
use cogo_host::plugin::load::Plugin;
use cogo_host::store::{BusUrl, PostgresStore, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cluster::Cluster;
use crate::sandbox::Bare;
use crate::{bus, pairs, percentile, sandbox};

pub const TASKS: usize = 40_000;
const BATCH: i64 = 100;
pub const ROUNDS: usize = 5;
const SUBMISSIONS: usize = 300;
const TEMPLATE: &str = "bench_template";
/// What makes this program a host that drains the bus which follows.
pub const DRAIN: &str = "drain-postgres";

/// As an installation that cares has it; the harness's own cluster forgets.
const DURABLE: [&str; 5] = [
    "ALTER SYSTEM SET fsync = on",
    "ALTER SYSTEM SET full_page_writes = on",
    "ALTER SYSTEM SET synchronous_commit = on",
    "ALTER SYSTEM SET shared_buffers = '1GB'",
    "ALTER SYSTEM SET max_wal_size = '8GB'",
];

/// A durable cluster, and what it takes to run a host on it.
pub struct Bench {
    pub cluster: Cluster,
    pub io: Runtime,
    guests: Runtime,
    bare: Bare,
    plugin: Arc<Plugin>,
}

impl Bench {
    pub fn new() -> Self {
        let engines = Arc::new(Engines::new().unwrap());
        let (guests, io) = (sandbox::runtime(1), sandbox::runtime(2));
        let plugin = sandbox::mock(&engines, &guests);
        let cluster = Cluster::start();
        io.block_on(async {
            let mut conn = PgConnection::connect(&cluster.url("postgres"))
                .await
                .unwrap();
            for sql in DURABLE {
                sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            }
            conn.close().await.unwrap();
        });
        cluster.stop_fast();
        cluster.start_again();
        io.block_on(async {
            cluster.create(TEMPLATE, "template1").await;
            let store = open(&cluster.url(TEMPLATE)).await;
            store.migrate(false).await.unwrap();
            store.close().await.unwrap();
        });
        Self {
            cluster,
            io,
            guests,
            bare: Bare::new(&engines),
            plugin,
        }
    }

    /// A bus with so many tasks, as an autovacuum would have left it.
    pub async fn filled(&self, tasks: usize) -> String {
        let url = self.cluster.fresh(TEMPLATE).await;
        let store = open(&url).await;
        bus::fill(store.as_ref(), tasks).await;
        store.close().await.unwrap();
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for sql in ["VACUUM ANALYZE agent_messages", "CHECKPOINT"] {
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
        url
    }

    async fn floor(&self) -> f64 {
        let url = self.filled(TASKS).await;
        floor::drain(&url, BATCH, &self.bare).await
    }

    async fn ours(&self) -> f64 {
        let url = self.filled(TASKS).await;
        let store = open(&url).await;
        let executor = sandbox::executor(&self.plugin, &self.guests, &self.io);
        let begun = Instant::now();
        bus::drain(&store, executor, &self.plugin).await;
        let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
        store.close().await.unwrap();
        assert_eq!(done(&url).await, TASKS);
        rate
    }

    /// Tasks a second by so many host processes.
    fn processes(&self, count: usize) -> f64 {
        let url = self.io.block_on(self.filled(TASKS));
        let hosts: Vec<(Child, ChildStdin)> = (0..count).map(|_| host(&url)).collect();
        let begun = Instant::now();
        let (mut hosts, starts): (Vec<Child>, Vec<ChildStdin>) = hosts.into_iter().unzip();
        for mut start in starts {
            start.write_all(b"\n").unwrap();
        }
        for host in &mut hosts {
            assert!(host.wait().unwrap().success());
        }
        let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(self.io.block_on(done(&url)), TASKS);
        rate
    }
}

async fn open(url: &str) -> Arc<dyn Store> {
    let BusUrl::Postgres(url) = url.parse().unwrap() else {
        panic!("no URL of Postgres: {url}");
    };
    Arc::new(PostgresStore::open(&url).await.unwrap())
}

async fn done(url: &str) -> usize {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let sql = "SELECT count(*) FROM agent_messages WHERE status = 'done'";
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    usize::try_from(count).unwrap()
}

/// A host in a process of its own, ready and waiting for a line.
fn host(url: &str) -> (Child, ChildStdin) {
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args([DRAIN, url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(host.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert_eq!(ready, "ready\n");
    let start = host.stdin.take().unwrap();
    (host, start)
}

/// What such a process does.
pub fn drain_as_host(url: &str) {
    let engines = Arc::new(Engines::new().unwrap());
    let (guests, io) = (sandbox::runtime(1), sandbox::runtime(2));
    let plugin = sandbox::mock(&engines, &guests);
    let executor = sandbox::executor(&plugin, &guests, &io);
    let store = io.block_on(open(url));
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    io.block_on(async {
        bus::drain(&store, executor, &plugin).await;
        store.close().await.unwrap();
    });
}

pub fn throughput() {
    let bench = Bench::new();
    let rate = pairs(
        ROUNDS,
        || bench.io.block_on(bench.floor()),
        || bench.io.block_on(bench.ours()),
    );
    println!(
        "postgres: plain SQL and bare sandboxes   {:8.0} tasks/s (batch {BATCH})",
        rate.floor
    );
    println!(
        "postgres: end to end (aim ≥ 12,000)      {:8.0} tasks/s",
        rate.ours
    );
    println!(
        "postgres: ratio (aim ≥ 0.7)              {:8.2}",
        rate.ratio
    );
    let hosts = pairs(ROUNDS, || bench.processes(1), || bench.processes(2));
    println!(
        "postgres: two processes                  {:8.0} tasks/s",
        hosts.ours
    );
    println!(
        "postgres: two processes to one (≥ 1.3)   {:8.2}",
        hosts.ratio
    );
}

pub fn latency() {
    let bench = Bench::new();
    let (floor, ours) = bench.io.block_on(waits(&bench));
    for (waits, what) in [
        (floor, "submit to claim, SQL, "),
        (ours, "submit to start, idle,"),
    ] {
        for (percent, name) in [(50, "p50         "), (95, "p95 (aim ≤ 2)")] {
            println!(
                "postgres: {what} {name} {:6.2} ms",
                percentile(waits.clone(), percent).as_secs_f64() * 1e3
            );
        }
    }
}

pub fn submissions() {
    let bench = Bench::new();
    let rate = pairs(
        ROUNDS,
        || bench.io.block_on(producers::rate(&bench, false)),
        || bench.io.block_on(producers::rate(&bench, true)),
    );
    println!(
        "postgres: single tasks, no host waits    {:8.0} tasks/s",
        rate.floor
    );
    println!(
        "postgres: the same, two hosts wait       {:8.0} tasks/s",
        rate.ours
    );
    println!(
        "postgres: ratio (nobody pays for a hint) {:8.2}",
        rate.ratio
    );
}

/// From the submission to the claim by plain SQL; and to the start of the
/// attempt, two idle hosts waiting. In turns, each on a bus of its own.
async fn waits(bench: &Bench) -> (Vec<Duration>, Vec<Duration>) {
    let mut relay = floor::Relay::start(&bench.filled(0).await).await;
    let mut floor = Vec::with_capacity(SUBMISSIONS);
    let url = bench.filled(0).await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let executor = Arc::new(bus::Watched {
            inner: sandbox::executor(&bench.plugin, &bench.guests, &bench.io),
            started: started.clone(),
        });
        let store = open(&url).await;
        let bus = bus::start(Arc::clone(&store), executor, &bench.plugin, false);
        hosts.push((store, bus));
    }
    let producer = open(&url).await;
    let mut waits = Vec::with_capacity(SUBMISSIONS);
    for _ in 0..SUBMISSIONS {
        // Idle: the task before has settled, and both hosts wait again.
        while hosts.iter().any(|(_, bus)| bus.in_flight() > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        producer.enqueue(&[bus::task()]).await.unwrap();
        waits.push(starts.recv().await.unwrap() - begun);
        tokio::time::sleep(Duration::from_millis(20)).await;
        floor.push(relay.wait().await);
    }
    for (store, bus) in hosts {
        bus.drain();
        bus.finished().await;
        store.close().await.unwrap();
    }
    producer.close().await.unwrap();
    (floor, waits)
}
