//! Compiling in a child process of the real program, and what it leaves behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cogo_host::plugin::compile::{Cache, CompileCommand, CompileLimits, Compiler, SUBCOMMAND};
use cogo_host::plugin::load::{LoadError, Loader, Plugin, Settings};

use super::harness::{candidate, engines, runtimes};
use crate::guest::{Guest, Returns};

fn program() -> CompileCommand {
    CompileCommand {
        program: PathBuf::from(env!("CARGO_BIN_EXE_cogo-host")),
        args: vec![SUBCOMMAND.to_owned()],
    }
}

/// A stand-in for a compiler that goes wrong.
fn shell(script: &str) -> CompileCommand {
    CompileCommand {
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".to_owned(), script.to_owned()],
    }
}

async fn load(
    bytes: Vec<u8>,
    command: CompileCommand,
    limits: CompileLimits,
    directory: &Path,
) -> Result<Plugin, LoadError> {
    let cache = Cache::open(directory.join("code")).unwrap();
    let compiler = Compiler::in_child(command, limits, cache);
    let loader = Loader::new(engines(), compiler, runtimes().guest);
    loader.load(candidate(bytes), &Settings::default()).await
}

fn guest() -> Vec<u8> {
    Guest::returning(Returns::Interrupted).component()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("code")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

#[tokio::test]
async fn a_child_compiles_once_and_the_code_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = load(
        guest(),
        program(),
        CompileLimits::default(),
        directory.path(),
    )
    .await;
    assert_eq!(first.unwrap().name().as_str(), "guest");
    assert_eq!(files(directory.path(), "cwasm").len(), 1);
    assert!(files(directory.path(), "draft").is_empty());
    // A compiler that only fails shows that none is asked.
    let broken = shell("exit 1");
    let again = load(
        guest(),
        broken.clone(),
        CompileLimits::default(),
        directory.path(),
    )
    .await;
    assert!(again.is_ok());
    // Code that was touched is made again, which here cannot work.
    let code = &files(directory.path(), "cwasm")[0];
    let mut bytes = std::fs::read(code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(code, bytes).unwrap();
    let refused = load(guest(), broken, CompileLimits::default(), directory.path()).await;
    assert_eq!(refused.unwrap_err().code(), "P131");
    let mended = load(
        guest(),
        program(),
        CompileLimits::default(),
        directory.path(),
    )
    .await;
    assert!(mended.is_ok());
}

#[tokio::test]
async fn a_component_that_does_not_compile_is_refused_in_the_compilers_words() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Guest::returning(Returns::Interrupted)
        .tail("(memory 1 1 shared)")
        .component_unchecked();
    let limits = CompileLimits::default();
    let refused = load(shared, program(), limits, directory.path())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "P130", "{refused}");
    assert!(refused.to_string().contains("threads"), "{refused}");
    assert!(files(directory.path(), "draft").is_empty());
}

#[tokio::test]
async fn a_compiler_that_dies_or_hangs_costs_only_the_plugin() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = CompileCommand {
        program: "/nonexistent".into(),
        args: Vec::new(),
    };
    let patient = CompileLimits::default();
    let impatient = CompileLimits {
        wall: Duration::from_millis(300),
        ..patient
    };
    let cases = [
        (shell("kill -9 $$"), patient, "P131"),
        (shell("kill -SEGV $$"), patient, "P131"),
        (shell("echo thread panicked >&2; exit 101"), patient, "P131"),
        (shell("cat >/dev/null; sleep 3600"), impatient, "P132"),
        (shell("yes >&2"), impatient, "P132"),
        // Says that all is well and leaves nonsense.
        (shell("cat >/dev/null; echo nonsense"), patient, "P133"),
        (nowhere, patient, "P133"),
    ];
    for (command, limits, code) in cases {
        let refused = load(guest(), command.clone(), limits, directory.path()).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), code, "{command:?}: {refused}");
    }
    // What the nonsense left does not stand in the way.
    let loaded = load(
        guest(),
        program(),
        CompileLimits::default(),
        directory.path(),
    )
    .await;
    assert!(loaded.is_ok());
}

#[tokio::test]
async fn memory_and_time_of_the_compiler_violated() {
    let directory = tempfile::tempdir().unwrap();
    // Less than the program takes to start its threads.
    let memory = CompileLimits {
        memory_bytes: 16 * 1024 * 1024,
        ..CompileLimits::default()
    };
    let refused = load(guest(), program(), memory, directory.path()).await;
    assert_eq!(refused.unwrap_err().code(), "P131");
    let time = CompileLimits {
        cpu: Duration::from_secs(1),
        ..CompileLimits::default()
    };
    let busy = shell("while :; do :; done");
    let refused = load(guest(), busy, time, directory.path()).await;
    assert_eq!(refused.unwrap_err().code(), "P131");
}

#[tokio::test]
async fn the_child_compiles_nothing_but_what_was_admitted() {
    let directory = tempfile::tempdir().unwrap();
    // Compiles something else than what it is given.
    let program = env!("CARGO_BIN_EXE_cogo-host");
    let swapping = shell(&format!("echo other | {program} {SUBCOMMAND} $0"));
    let limits = CompileLimits::default();
    let refused = load(guest(), swapping, limits, directory.path())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("arrived as"), "{refused}");
}
