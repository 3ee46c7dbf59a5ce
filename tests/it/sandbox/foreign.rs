//! The example plugins, one in each language, as `plugin build` made them. Those
//! with an engine inside bring all of WASI along and are run in the profile of
//! that name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cogo_host::packaging;
use cogo_host::plugin::compile::{Cache, CompileCommand, CompileLimits, Compiler, SUBCOMMAND};
use cogo_host::plugin::inspect::inspect;
use cogo_host::plugin::load::{Loader, Plugin, Settings};
use cogo_host::plugin::wasi::Profile;
use cogo_host::report::Report;
use cogo_host::route::Route;

use super::harness::{Bench, attempt, candidate, completed, engines, runtimes};

/// Loads what `tests/setup` built of the sources as they are now. The machine
/// code is kept beside it, since a whole interpreter takes a while to compile.
async fn load(language: &str, profile: Profile) -> Arc<Plugin> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guests = root.join("target/guests");
    let path = guests.join(format!("{language}.wasm"));
    let shown = path.display();
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|cause| panic!("{shown}: {cause}\nhint: run tests/setup first"));
    let sources = root.join("examples/plugins").join(language);
    packaging::verify(&bytes, &sources)
        .unwrap_or_else(|cause| panic!("{shown}: {cause}\nhint: run tests/setup again"));
    let found = inspect(&bytes);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(found.component.unwrap().profile, profile);
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
    let plugin = loaded.unwrap_or_else(|e| panic!("{e}\nhint: {}", e.hint()));
    assert_eq!(plugin.name().as_str(), format!("{language}-example"));
    Arc::new(plugin)
}

async fn does_a_build_test(language: &str, profile: Profile, greeting: &str) {
    let plugin = load(language, profile).await;
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
        log.iter().any(|line| line.message.contains(greeting)),
        "{log:?}"
    );
    assert!(report.measured.usage.tokens > 0);
    assert!(report.measured.peak_memory_bytes > 64 * 1024);
}

#[tokio::test]
async fn a_rust_component_does_a_build_test() {
    does_a_build_test("rust", Profile::Minimal, "Hello, tester!").await;
}

#[tokio::test]
async fn a_javascript_component_does_a_build_test() {
    does_a_build_test("javascript", Profile::Wasi, "Hello, tester!").await;
}

#[tokio::test]
async fn a_python_component_does_a_build_test() {
    does_a_build_test("python", Profile::Wasi, "Hello, tester!").await;
}

#[tokio::test]
async fn a_component_written_by_hand_does_a_build_test() {
    does_a_build_test("wat", Profile::Minimal, "Hello, world!").await;
}
