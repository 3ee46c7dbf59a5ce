//! Components that other languages' tools made of the contract: they bring all
//! of WASI along and are run in the profile of that name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cogo_host::plugin::compile::{Cache, CompileCommand, CompileLimits, Compiler, SUBCOMMAND};
use cogo_host::plugin::inspect::inspect;
use cogo_host::plugin::load::{Loader, Plugin, Settings};
use cogo_host::plugin::wasi::Profile;
use cogo_host::report::Report;
use cogo_host::route::Route;

use super::harness::{Bench, attempt, candidate, completed, engines, runtimes};

/// Loads what `examples/plugins/NAME/build.sh` built. The machine code is kept
/// beside it, since a whole interpreter takes a while to compile.
async fn load(language: &str) -> Arc<Plugin> {
    let guests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/guests");
    let path = guests.join(format!("{language}.wasm"));
    let bytes = std::fs::read(&path).unwrap_or_else(|cause| {
        panic!(
            "{}: {cause}\nhint: run examples/plugins/{language}/build.sh first",
            path.display()
        )
    });
    let found = inspect(&bytes);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(found.component.unwrap().profile, Profile::Wasi);
    let command = CompileCommand {
        program: PathBuf::from(env!("CARGO_BIN_EXE_cogo-host")),
        args: vec![SUBCOMMAND.to_owned()],
    };
    let cache = Cache::open(guests.join("code")).unwrap();
    // The compiler itself is built without optimisation here.
    let limits = CompileLimits {
        cpu: Duration::from_secs(600),
        wall: Duration::from_secs(600),
        ..CompileLimits::default()
    };
    let compiler = Compiler::in_child(command, limits, cache);
    let loader = Loader::new(engines(), compiler, runtimes().guest);
    let loaded = loader.load(candidate(bytes), &Settings::default()).await;
    Arc::new(loaded.unwrap_or_else(|e| panic!("{e}\nhint: {}", e.hint())))
}

async fn does_a_build_test(language: &str) {
    let plugin = load(language).await;
    assert_eq!(plugin.profile(), Profile::Wasi);
    let mut task = attempt(&plugin);
    task.route = Route::of("code/build-test".parse().unwrap());
    task.payload = r#"{"task_id":"task-1","repo":".","greet":"tester"}"#.into();
    let bench = Bench::new();
    let report = bench.run_attempt(&plugin, task).await;
    let log = &report.measured.log;
    match &completed(&report).report {
        Report::BuildTest { tests, .. } => assert!(*tests > 0),
        other => panic!("expected a build-test report, got {other:?}"),
    }
    assert!(
        log.iter().any(|line| line.message.contains("tester")),
        "{log:?}"
    );
    assert!(report.measured.usage.tokens > 0);
    assert!(report.measured.peak_memory_bytes > 1024 * 1024);
}

#[tokio::test]
async fn a_javascript_component_does_a_build_test() {
    does_a_build_test("javascript").await;
}

#[tokio::test]
async fn a_python_component_does_a_build_test() {
    does_a_build_test("python").await;
}
