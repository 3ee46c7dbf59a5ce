//! A hundred swaps, half of them broken, under a steady stream of tasks.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::attempt::{Attempt, AttemptControl, AttemptReport, Executor};
use cogo_host::bus::{self, BusHandle, BusSettings};
use cogo_host::host::LiveRoutes;
use cogo_host::ids::{Digest, HolderId, MessageId};
use cogo_host::plugin::catalog::{Catalog, KEPT_VERSIONS};
use cogo_host::plugin::sandbox::Sandbox;
use cogo_host::retry::RetryPolicy;
use cogo_host::stage::Stage;
use cogo_host::store::{Retention, Store};
use cogo_host::task::{NewTask, Status};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::harness::{Following, config, name, version};
use crate::guest::{Guest, RESULT};
use crate::sandbox::harness::{Shelf, runtimes};
use crate::support::hand;
use crate::support::process::PATIENCE;
use crate::support::sqlite;

const SWAPS: u32 = 100;
const FILE: &str = "guest.wasm";
const ROUTE: &str = "storm/run";

/// Takes a while, so that attempts are under way at every swap, and says then
/// which version it is.
fn slow(n: u32) -> Vec<u8> {
    let guest = version(n)
        .with_execute(&format!(
            "(call $block (call $sleep (i64.const 30000000))) (i32.const {RESULT})"
        ))
        .items(
            r#"(import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
                   (func $sleep (param i64) (result i32)))
               (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#,
        );
    Guest {
        handles: vec![ROUTE.to_owned()],
        returns: crate::guest::Returns::Custom(format!("{{\"version\":{n}}}")),
        ..guest
    }
    .component()
}

/// Puts a version into place, each in another way.
fn put(directory: &Path, n: u32, bytes: &[u8]) {
    let path = directory.join(FILE);
    match n % 4 {
        0 => {
            fs::write(directory.join("draft"), bytes).unwrap();
            fs::rename(directory.join("draft"), path).unwrap();
        }
        1 => fs::write(path, bytes).unwrap(),
        2 => {
            let _ = fs::rename(&path, directory.join("guest.wasm~"));
            fs::write(path, bytes).unwrap();
        }
        _ => {
            let mut file = File::create(&path).unwrap();
            for chunk in bytes.chunks(bytes.len() / 7 + 1) {
                file.write_all(chunk).unwrap();
            }
        }
    }
}

/// Puts something into place that must never serve.
fn break_it(directory: &Path, n: u32, good: &[u8]) {
    let path = directory.join(FILE);
    match n % 5 {
        0 => put(directory, n, &good[..good.len() / 2]),
        1 => put(directory, n, b"\x7fELF"),
        2 => put(directory, n, &[]),
        3 => {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(&[0xff; 64]).unwrap();
        }
        _ => {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("guest.wasm~", path).unwrap();
        }
    }
}

fn settings() -> BusSettings {
    BusSettings {
        stage: Stage::Development,
        concurrency: 32,
        lease: Duration::from_secs(30),
        poll: Duration::from_millis(50),
        retry: RetryPolicy::DEFAULT,
        drain: Duration::from_secs(20),
        stop_grace: Duration::from_secs(2),
        retention: Retention {
            tasks: None,
            events: None,
            batch: 100,
        },
        until_idle: false,
    }
}

fn task() -> NewTask {
    NewTask {
        payload: json!({}),
        ..hand::task(ROUTE)
    }
}

/// Lets every third attempt begin only after a swap that it was not assigned.
struct Belated {
    inner: Sandbox,
    catalog: Arc<Catalog>,
    count: AtomicUsize,
}

#[async_trait]
impl Executor for Belated {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        if self.count.fetch_add(1, Ordering::AcqRel).is_multiple_of(3) {
            let mut changes = self.catalog.changes();
            let other = changes.wait_for(|_| {
                let serving = self.catalog.get(&attempt.plugin.name);
                serving.is_none_or(|plugin| plugin.digest() != attempt.plugin.digest)
            });
            // Nothing is swapped any more at the end.
            let _ = tokio::time::timeout(Duration::from_secs(1), other).await;
        }
        self.inner.execute(attempt, control).await
    }
}

/// Submits tasks one after the other until it is told to end.
async fn feed(store: Arc<dyn Store>, bus: BusHandle, ended: Arc<AtomicBool>) -> Vec<MessageId> {
    let mut ids = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while !ended.load(Ordering::Acquire) {
        ticks.tick().await;
        let task = task();
        ids.push(task.id);
        store.enqueue(&[task]).await.unwrap();
        bus.wake();
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_lose_repeat_and_mix_nothing() {
    let bed = sqlite::bed().await;
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("plugins");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(FILE), slow(0)).unwrap();
    let config = config(temporary.path(), &[]);
    let mut here = Following::with(config.clone(), temporary).await;
    here.expect("plugin_loaded").await;
    let mut installed = HashMap::from([(here.serving("guest").unwrap(), 0)]);

    let catalog = Arc::clone(here.catalog());
    let routes =
        Arc::new(LiveRoutes::start(&config, Arc::clone(&catalog) as _, Arc::default()).unwrap());
    let sandbox = Sandbox::new(Arc::clone(&catalog), runtimes(), Arc::new(Shelf::default()));
    let holder = HolderId::generate("storm");
    let bus = bus::start(
        Arc::clone(&bed.store),
        Arc::new(Belated {
            inner: sandbox,
            catalog: Arc::clone(&catalog),
            count: AtomicUsize::new(0),
        }),
        Arc::clone(&routes) as _,
        holder.clone(),
        settings(),
    )
    .unwrap();
    let ending = CancellationToken::new();
    let following = tokio::spawn({
        let (changes, bus, ending) = (catalog.changes(), bus.clone(), ending.clone());
        async move { routes.follow(changes, || bus.wake(), ending).await }
    });
    let ended = Arc::new(AtomicBool::new(false));
    let feeding = tokio::spawn(feed(
        Arc::clone(&bed.store),
        bus.clone(),
        Arc::clone(&ended),
    ));

    for n in 1..=SWAPS {
        let serving = here.serving("guest");
        let bytes = slow(n);
        if n % 2 == 0 {
            break_it(&directory, n / 2, &bytes);
            // Seen gone for a moment, the plugin may come back first.
            while here.event().await.event_type != "plugin_rejected" {}
            let now = here.serving("guest");
            assert!(now == serving || now.is_none(), "{n}: a broken file serves");
        } else {
            let digest = Digest::of(&bytes);
            installed.insert(digest, n);
            if fs::symlink_metadata(directory.join(FILE))
                .unwrap()
                .is_symlink()
            {
                fs::remove_file(directory.join(FILE)).unwrap();
            }
            put(&directory, n / 2, &bytes);
            while here.event().await.payload.value()["to"]["digest"] != json!(digest) {}
            assert_eq!(here.serving("guest"), Some(digest));
        }
    }
    ended.store(true, Ordering::Release);
    let ids = feeding.await.unwrap();
    all_ended(&*bed.store).await;
    bus.drain();
    bus.finished().await;
    ending.cancel();
    following.await.unwrap();

    bed.watch.acknowledge(ids.iter().copied());
    bed.check().await;
    bed.watch.check_drained(&*bed.store, &holder).await;
    let mut used = std::collections::BTreeSet::new();
    for id in &ids {
        let n = ran_once(&*bed.store, *id, &installed).await;
        used.insert(n);
    }
    // The stream went on all the while.
    assert!(used.len() > SWAPS as usize / 4, "{used:?}");
    // What was replaced long ago is let go.
    let loaded = installed
        .keys()
        .filter(|d| catalog.by_digest(**d).is_some());
    assert!(loaded.count() <= 1 + KEPT_VERSIONS);
    assert!(catalog.get(&name("guest")).is_some());
}

/// Asserts that a task was executed once, wholly on one version that was once
/// installed, and tells which one.
async fn ran_once(store: &dyn Store, id: MessageId, installed: &HashMap<Digest, u32>) -> u32 {
    let task = store.task(id).await.unwrap().unwrap();
    assert_eq!(task.status, Status::Done, "{task:?}");
    assert_eq!(task.attempts, 1, "{task:?}");
    let attempts = store.attempts(id).await.unwrap();
    let (ran, given_back): (Vec<_>, Vec<_>) = attempts
        .iter()
        .partition(|attempt| attempt.outcome == "done");
    for attempt in given_back {
        // Claimed at the very moment when the file was seen gone: never begun.
        assert_eq!(attempt.outcome, "host-fault", "{attempt:?}");
        assert_eq!(attempt.code.as_deref(), Some("plugin_missing"));
    }
    let [attempt] = ran.as_slice() else {
        panic!("{id} ran {} times", ran.len());
    };
    let digest = attempt.digest.unwrap();
    let n = installed[&digest];
    let result = task.result.unwrap();
    assert_eq!(result["digest"], json!(digest), "{id}");
    assert_eq!(result["value"]["version"], n, "{id}: {result}");
    assert_eq!(attempt.version.as_deref(), Some(&*format!("1.0.{n}")));
    n
}

async fn all_ended(store: &dyn Store) {
    let ended = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            let depth = store.depth().await.unwrap();
            if depth.queued + depth.claimed == 0 {
                return;
            }
            ticks.tick().await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("the tasks did not end");
}
