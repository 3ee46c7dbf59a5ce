//! From a plugin's file that is replaced to the first task on the new version,
//! under a steady stream of tasks: quiet time, both reads, the compiling child,
//! the probe and the claim are all in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cogo_host::attempt::{Attempt, AttemptControl, AttemptReport, Executor};
use cogo_host::bus;
use cogo_host::config::{Config, Layers};
use cogo_host::host::{LiveRoutes, Started, Swapper};
use cogo_host::ids::{Digest, HolderId};
use cogo_host::plugin::compile::{self, Cache, CompileCommand, CompileLimits, Compiler};
use cogo_host::plugin::engine::Engines;
use cogo_host::plugin::load::Loader;
use cogo_host::plugin::sandbox::Sandbox;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{bus as bus_bench, percentile, sandbox};

const SWAPS: usize = 60;
/// The stream: 20 tasks a second.
const EVERY: Duration = Duration::from_millis(50);

/// Tells on which version each attempt starts.
struct Watched {
    inner: Sandbox,
    started: mpsc::UnboundedSender<(Instant, Digest)>,
}

#[async_trait]
impl Executor for Watched {
    async fn execute(&self, attempt: Attempt, control: AttemptControl) -> AttemptReport {
        let digest = attempt.plugin.digest;
        // The measurement may be over.
        let _ = self.started.send((Instant::now(), digest));
        self.inner.execute(attempt, control).await
    }
}

/// The bundled mock with a number in it, so that it is another version.
fn marked(n: usize) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/prebuilt/mock.wasm");
    let mut bytes = std::fs::read(path).unwrap();
    bytes.extend([0, 9, 4]);
    bytes.extend(b"mark");
    bytes.extend(u32::try_from(n).unwrap().to_le_bytes());
    bytes
}

fn loader(directory: &Path, guests: &Handle) -> Loader {
    let command = CompileCommand {
        program: env!("CARGO_BIN_EXE_cogo-host").into(),
        args: vec![compile::SUBCOMMAND.to_owned()],
    };
    let cache = Cache::open(directory.join("cache")).unwrap();
    let compiler = Compiler::in_child(command, CompileLimits::default(), cache);
    Loader::new(Arc::new(Engines::new().unwrap()), compiler, guests.clone())
}

fn config(directory: &Path) -> Config {
    let plugins = directory.join("plugins").display().to_string();
    let state = directory.join("state").display().to_string();
    let set = [("COGO_PLUGINS_DIR", plugins), ("COGO_STATE_DIR", state)];
    let set = set.map(|(name, value)| (name.to_owned(), value));
    Config::from_layers(&Layers::new(set)).unwrap()
}

pub fn latency() {
    let (guests, io) = (sandbox::runtime(1), sandbox::runtime(2));
    let dir = tempfile::tempdir().unwrap();
    let waits = io.block_on(measure(dir.path(), guests.handle()));
    let show = |percent| percentile(waits.clone(), percent).as_secs_f64() * 1e3;
    println!(
        "swap: {} times another build of the bundled mock (Rust), {} tasks a second meanwhile",
        waits.len(),
        1_000 / EVERY.as_millis()
    );
    println!(
        "swap: file to first task, p50            {:8.0} ms",
        show(50)
    );
    println!(
        "swap: file to first task, p95 (≤ 1000)   {:8.0} ms",
        show(95)
    );
}

async fn measure(directory: &Path, guests: &Handle) -> Vec<Duration> {
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let config = config(directory);
    let loader = loader(directory, guests);
    let Started {
        swapper, watcher, ..
    } = Swapper::start(&config, loader).await.unwrap();
    let catalog = Arc::clone(swapper.catalog());
    let routes = LiveRoutes::start(&config, Arc::clone(&catalog) as _, Arc::default()).unwrap();
    let (started, mut starts) = mpsc::unbounded_channel();
    let executor = Watched {
        inner: sandbox::over(&catalog, guests, &Handle::current()),
        started,
    };
    let store = bus_bench::filled(&directory.join("bus.db"), 0).await;
    let bus = bus::start(
        Arc::clone(&store),
        Arc::new(executor),
        Arc::new(routes),
        HolderId::generate("bench"),
        bus_bench::settings(false),
    )
    .unwrap();
    let ending = CancellationToken::new();
    let following = tokio::spawn({
        let ending = ending.clone();
        async move { swapper.follow(watcher.unwrap(), |_| {}, ending).await }
    });
    let ended = Arc::new(AtomicBool::new(false));
    let feeding = tokio::spawn({
        let (store, bus, ended) = (Arc::clone(&store), bus.clone(), Arc::clone(&ended));
        async move {
            let mut ticks = tokio::time::interval(EVERY);
            while !ended.load(Ordering::Acquire) {
                ticks.tick().await;
                store.enqueue(&[bus_bench::task()]).await.unwrap();
                bus.wake();
            }
        }
    });
    let mut waits = Vec::with_capacity(SWAPS);
    for n in 0..SWAPS {
        let bytes = marked(n);
        let new = Digest::of(&bytes);
        std::fs::write(plugins.join("draft"), bytes).unwrap();
        let begun = Instant::now();
        std::fs::rename(plugins.join("draft"), plugins.join("mock.wasm")).unwrap();
        loop {
            let (at, digest) = starts.recv().await.unwrap();
            if digest == new {
                waits.push(at - begun);
                break;
            }
        }
    }
    ended.store(true, Ordering::Release);
    feeding.await.unwrap();
    ending.cancel();
    following.await.unwrap();
    bus.drain();
    bus.finished().await;
    store.close().await.unwrap();
    waits
}
