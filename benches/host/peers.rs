//! No-op jobs a second, next to other job queues on the same durable cluster, in
//! turns: ours from one host process, with a fresh sandbox, an attempt's row and
//! two events a task; the peers from one process each, by themselves.
//!
//! A round fills a fresh database and vacuums, analyzes and checkpoints it
//! before anything is timed. The clock is always this process's:
//! - It starts for ours when the host, loaded and connected, is told to begin,
//!   and for a peer only when the handler of its first job is called, so that
//!   no time in which a peer gets going counts against it.
//! - It stops once the database says, to another connection, that no job is left
//!   that is not durably finished. That is asked first when the host has ended,
//!   drained, or the handler of a peer's last job was called, and every few
//!   milliseconds from then on.
//!
//! The programs lie in `benches/peers`, apart from the host's dependencies; this
//! builds them, for which it needs the registries of Rust and npm. Hence it runs
//! only when it is asked for.

use std::path::{Path, PathBuf};
use std::process::{Command as Tool, Stdio};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::middle;
use crate::postgres::{Bench, DRAIN, ROUNDS, TASKS};

/// For one round of one of them, with all that it prepares.
const LIMIT: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Its view `awa.jobs` takes seconds to say the same.
const AWA_DONE: &str = "
    (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)
    + (SELECT count(*) FROM awa.done_entries WHERE state = 'completed')
    + (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)";

/// Somebody who drains a queue.
struct Contender {
    name: &'static str,
    settings: &'static str,
    program: PathBuf,
    /// Between the program's name and what it is to do.
    words: Vec<String>,
    kind: Kind,
    jobs: usize,
    /// Counts the jobs that are not durably finished.
    left: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Peer,
}

fn contenders() -> Vec<Contender> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    build(&peers);
    let script = peers.join("graphile/drain.mjs").display().to_string();
    let rust = peers.join("target/release/peers");
    vec![
        Contender {
            name: "ours, one host process",
            settings: "fresh sandbox, attempt and events kept",
            program: std::env::current_exe().unwrap(),
            words: Vec::new(),
            kind: Kind::Ours,
            jobs: TASKS,
            left: "SELECT count(*) FROM agent_messages WHERE status <> 'done'".to_owned(),
        },
        Contender {
            name: "graphile-worker 0.17.3",
            settings: "concurrency 10, localQueue 100",
            program: "node".into(),
            words: vec![script],
            kind: Kind::Peer,
            jobs: TASKS,
            left: "SELECT count(*) FROM graphile_worker._private_jobs".to_owned(),
        },
        Contender {
            name: "apalis-postgres 1.0.0",
            settings: "batch 100, lock_tasks(false), half the jobs",
            program: rust.clone(),
            words: vec!["apalis".to_owned()],
            kind: Kind::Peer,
            // What its statements cost grows with the table: fewer do it justice.
            jobs: TASKS / 2,
            left: "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'".to_owned(),
        },
        Contender {
            name: "awa 0.6.9",
            settings: "1024 workers, 4 enqueue shards, pool 24",
            program: rust,
            words: vec!["awa".to_owned()],
            kind: Kind::Peer,
            jobs: TASKS,
            left: format!("SELECT {TASKS} - ({AWA_DONE})::bigint"),
        },
    ]
}

/// Builds the peers as their lock files have them.
fn build(peers: &Path) {
    let graphile = peers.join("graphile");
    let npm = "comes with Node.js 20 or later, https://nodejs.org; \
               Debian, Ubuntu: `apt-get install nodejs npm`";
    run(Tool::new("node").arg("--version"), npm);
    run(
        Tool::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(graphile),
        npm,
    );
    let mut cargo = Tool::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(peers.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(peers.join("target"));
    // What `cargo bench` says of this package would have some crates built anew.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    run(&mut cargo, "comes with Rust, https://rustup.rs");
}

/// Runs a tool and shows on standard error what it says.
///
/// # Panics
/// Where it fails, or is missing; then it says how to get it.
fn run(tool: &mut Tool, source: &str) {
    let name = tool.get_program().to_owned();
    eprintln!("peers: {tool:?}");
    let status = tool.stdout(std::io::stderr()).status();
    let status = status.unwrap_or_else(|error| {
        panic!("{name:?} is needed to measure the peers and does not run ({error}): it {source}")
    });
    assert!(status.success(), "{tool:?} failed: {status}");
}

impl Contender {
    /// Jobs a second.
    async fn round(&self, bench: &Bench) -> f64 {
        let drained = tokio::time::timeout(LIMIT, self.drained(bench)).await;
        let Ok(took) = drained else {
            panic!(
                "{}: {} jobs were not filled and drained within {LIMIT:?}; it was ended",
                self.name, self.jobs
            );
        };
        self.jobs as f64 / took.as_secs_f64()
    }

    async fn drained(&self, bench: &Bench) -> Duration {
        let url = self.filled(bench).await;
        let mut conn = PgConnection::connect(&url).await.unwrap();
        assert_eq!(self.left(&mut conn).await, self.jobs, "{} to do", self.name);
        let took = self.timed(&url, &mut conn).await;
        conn.close().await.unwrap();
        let (_, database) = url.rsplit_once('/').unwrap();
        bench.cluster.discard(database).await;
        took
    }

    async fn filled(&self, bench: &Bench) -> String {
        if self.kind == Kind::Ours {
            return bench.filled(self.jobs).await;
        }
        let url = bench.cluster.fresh("template1").await;
        let filled = self.command("fill", &url).status().await.unwrap();
        assert!(filled.success(), "{} was not filled: {filled}", self.name);
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for sql in ["VACUUM ANALYZE", "CHECKPOINT"] {
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
        url
    }

    /// Ends with whoever waits for it.
    fn command(&self, action: &str, url: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.words).args([action, url]);
        if self.kind == Kind::Peer {
            command.arg(self.jobs.to_string());
        }
        command.kill_on_drop(true);
        command
    }

    /// From the first job to the last durable completion.
    async fn timed(&self, url: &str, conn: &mut PgConnection) -> Duration {
        let action = match self.kind {
            Kind::Ours => DRAIN,
            Kind::Peer => "drain",
        };
        let mut process = self
            .command(action, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = process.stdin.take().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = said.next_line().await.unwrap();
        assert_eq!(ready.as_deref(), Some("ready"), "{}", self.name);
        let mut begun = Instant::now();
        input.write_all(b"\n").await.unwrap();
        // The host says no more, but ends.
        while let Some(line) = said.next_line().await.unwrap() {
            match line.as_str() {
                "began" => begun = Instant::now(),
                "ran" => break,
                line => panic!("{} says {line:?}", self.name),
            }
        }
        while self.left(conn).await > 0 {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "{} gave up: {ended:?}", self.name);
            tokio::time::sleep(ASK_AGAIN).await;
        }
        let took = begun.elapsed();
        drop(input);
        let ended = process.wait().await.unwrap();
        assert!(ended.success(), "{} failed: {ended}", self.name);
        took
    }

    async fn left(&self, conn: &mut PgConnection) -> usize {
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(self.left.as_str()))
            .fetch_one(conn)
            .await
            .unwrap();
        usize::try_from(count).unwrap()
    }
}

pub fn throughput() {
    let contenders = contenders();
    let bench = Bench::new();
    let round = || -> Vec<f64> {
        let rate = |contender: &Contender| bench.io.block_on(contender.round(&bench));
        contenders.iter().map(rate).collect()
    };
    // The first warms caches.
    let rounds: Vec<Vec<f64>> = (0..=ROUNDS)
        .map(|number| {
            let rates = round();
            eprintln!("peers: round {number} of {ROUNDS}: {rates:.0?} tasks/s");
            rates
        })
        .skip(1)
        .collect();
    for (place, contender) in contenders.iter().enumerate() {
        let rate = middle(rounds.iter().map(|round| round[place]).collect());
        let ratio = middle(rounds.iter().map(|round| round[0] / round[place]).collect());
        println!(
            "peers: {:<24} {:<44} {rate:8.0} tasks/s, ours to it {ratio:6.2}",
            contender.name, contender.settings
        );
    }
}
