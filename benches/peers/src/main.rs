//! Job queues in Rust that the host is measured against, each in a process of
//! its own: `peers apalis|awa fill|drain URL JOBS`.
//!
//! `fill` makes the peer's tables in an empty database and queues the jobs.
//! `drain` gets ready, prints `ready`, waits for a line, starts the worker, and
//! prints `began` when the handler of the first job is called and `ran` when that
//! of the last one is: what is durable by then is for the database to say, so
//! whoever measures asks it. Then it waits, still at work, until its standard
//! input ends.
//!
//! No-op jobs at the settings the peer does best with, otherwise its defaults.
//! It must never be linked to the host, nor measure anything itself.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use apalis::prelude::{BoxDynError, TaskSink, WorkerBuilder};
use apalis_postgres::{Config, PgPool, PostgresStorage};
use awa::model::migrations;
use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobResult, QueueConfig, QueueStorage,
    QueueStorageConfig,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};
use tokio::sync::Notify;

const QUEUE: &str = "bench";
/// Jobs in one submission.
const SUBMITTED: usize = 1000;
/// Tasks that apalis fetches, and results that it writes, in one statement.
const APALIS_BATCH: usize = 100;
const AWA_WORKERS: u32 = 1024;
const AWA_POOL: u32 = 24;
const AWA_SHARDS: i16 = 4;

type Ended = Result<(), Box<dyn Error + Send + Sync>>;

static JOBS: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static LAST: Notify = Notify::const_new();

/// What every job does.
fn handle() {
    let handled = HANDLED.fetch_add(1, Ordering::Relaxed) + 1;
    if handled == 1 {
        println!("began");
    }
    if handled == JOBS.load(Ordering::Relaxed) {
        LAST.notify_one();
    }
}

/// Whoever measures, at the other end of the standard streams.
struct Measurer(BufReader<Stdin>);

impl Measurer {
    /// Returns when the jobs are to be started.
    async fn start(jobs: usize) -> Result<Self, std::io::Error> {
        JOBS.store(jobs, Ordering::Relaxed);
        let mut input = BufReader::new(tokio::io::stdin());
        println!("ready");
        input.read_line(&mut String::new()).await?;
        Ok(Self(input))
    }

    /// Returns when nobody needs this process any more.
    async fn wait(mut self) -> Ended {
        LAST.notified().await;
        println!("ran");
        self.0.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Ended {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [peer, action, url, jobs] = words[..] else {
        return Err("usage: peers apalis|awa fill|drain URL JOBS".into());
    };
    let jobs = jobs.parse()?;
    match (peer, action) {
        ("apalis", "fill") => fill_apalis(url, jobs).await?,
        ("apalis", "drain") => drain_apalis(url, jobs).await?,
        ("awa", "fill") => fill_awa(url, jobs).await?,
        ("awa", "drain") => drain_awa(url, jobs).await?,
        _ => return Err(format!("no such peer or action: {peer} {action}").into()),
    }
    // Its workers need no farewell, and may never give one.
    std::process::exit(0)
}

/// The sizes of the submissions that make so many jobs.
fn batches(jobs: usize) -> impl Iterator<Item = usize> {
    (0..jobs)
        .step_by(SUBMITTED)
        .map(move |begin| SUBMITTED.min(jobs - begin))
}

fn apalis(pool: &PgPool) -> PostgresStorage<u32> {
    let config = Config::default()
        .queue(QUEUE)
        .batch_size(APALIS_BATCH)
        .lock_tasks(false);
    PostgresStorage::new(pool).with_config(config)
}

async fn fill_apalis(url: &str, jobs: usize) -> Ended {
    let pool = PgPool::connect(url).await?;
    PostgresStorage::<()>::setup(&pool).await?;
    let mut storage = apalis(&pool);
    for batch in batches(jobs) {
        storage.push_bulk(vec![0; batch]).await?;
    }
    Ok(())
}

async fn drain_apalis(url: &str, jobs: usize) -> Ended {
    let pool = PgPool::connect(url).await?;
    let worker = WorkerBuilder::new(QUEUE)
        .backend(apalis(&pool))
        .build(apalis_job);
    let measurer = Measurer::start(jobs).await?;
    tokio::select! {
        ended = worker.run() => Err(format!("the worker of apalis ended: {ended:?}").into()),
        ended = measurer.wait() => ended,
    }
}

async fn apalis_job(_: u32) -> Result<(), BoxDynError> {
    handle();
    Ok(())
}

#[derive(Serialize, Deserialize, JobArgs)]
struct AwaJob {}

async fn awa(url: &str) -> Result<sqlx::PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(AWA_POOL)
        .connect(url)
        .await
}

async fn fill_awa(url: &str, jobs: usize) -> Ended {
    let pool = awa(url).await?;
    migrations::run(&pool).await?;
    let storage = QueueStorage::new(QueueStorageConfig::default())?;
    // What the first worker of a fresh installation does, here before the jobs.
    sqlx::query("SELECT awa.storage_auto_finalize_if_fresh($1)")
        .bind(storage.schema())
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO awa.queue_meta (queue, enqueue_shards) VALUES ($1, $2)")
        .bind(QUEUE)
        .bind(AWA_SHARDS)
        .execute(&pool)
        .await?;
    for batch in batches(jobs) {
        let job = InsertParams {
            kind: AwaJob::kind().to_owned(),
            args: AwaJob {}.to_args()?,
            opts: InsertOpts {
                queue: QUEUE.to_owned(),
                ..InsertOpts::default()
            },
        };
        storage
            .enqueue_params_copy(&pool, &vec![job; batch])
            .await?;
    }
    Ok(())
}

async fn drain_awa(url: &str, jobs: usize) -> Ended {
    let pool = awa(url).await?;
    let queue = QueueConfig {
        max_workers: AWA_WORKERS,
        ..QueueConfig::default()
    };
    let client = Client::builder(pool)
        .queue(QUEUE, queue)
        .register::<AwaJob, _, _>(|_, _| async {
            handle();
            Ok(JobResult::Completed)
        })
        .build()?;
    let measurer = Measurer::start(jobs).await?;
    client.start().await?;
    measurer.wait().await
}
