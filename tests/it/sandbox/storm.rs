//! Many attempts at once, and attempts that nobody waits for any more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cogo_host::artifacts::{ArtifactError, ArtifactPath, Artifacts};
use cogo_host::attempt::{AttemptEnd, Executor, StagedArtifact, StopReason};
use cogo_host::ids::TraceId;
use cogo_host::plugin::catalog::Catalog;
use cogo_host::plugin::limits::Limits;
use cogo_host::plugin::load::Settings;
use cogo_host::plugin::sandbox::Sandbox;
use cogo_host::report::Report;

use super::harness::{Bench, Controls, attempt, completed, limited, load, runtimes};
use crate::guest::{Guest, RESULT, Returns};

fn spinning() -> Guest {
    Guest::new("(loop $for_ever (br $for_ever)) unreachable")
}

fn parked() -> Guest {
    Guest::new(&format!(
        "(call $block (call $sleep (i64.const 3600000000000))) (i32.const {RESULT})"
    ))
    .items(
        r#"(import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
               (func $sleep (param i64) (result i32)))
           (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#,
    )
}

/// Once, dropping a call in the middle brought the host down.
#[tokio::test]
async fn a_thousand_attempts_dropped_in_the_middle() {
    let bench = Bench::new();
    let settings = || {
        limited(Limits {
            concurrency: 32,
            ..Limits::DEFAULT
        })
    };
    let guests = [
        load(&spinning(), settings()).await,
        load(&parked(), settings()).await,
    ];
    for n in 0..1_000_u64 {
        let plugin = &guests[(n % 2) as usize];
        let dropped = bench.run(plugin);
        let _ = tokio::time::timeout(Duration::from_micros(n % 400), dropped).await;
    }
    let healthy = load(&Guest::returning(Returns::Interrupted), Settings::default()).await;
    assert!(matches!(
        bench.run(&healthy).await.end,
        AttemptEnd::Retryable { .. }
    ));
    // All permits come back: as many attempts as ever fit at once.
    for plugin in &guests {
        let mut short = attempt(plugin);
        short.deadline = Duration::from_millis(500);
        let runs = (0..32).map(|_| bench.run_attempt(plugin, short.clone()));
        for report in futures::future::join_all(runs).await {
            assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Deadline));
        }
    }
}

#[tokio::test]
async fn guests_that_spin_leave_room_for_others() {
    let bench = Arc::new(Bench::with_grace(Duration::from_millis(50)));
    let spinning = load(&spinning(), Settings::default()).await;
    let controls: Vec<Controls> = (0..8).map(|_| Controls::new()).collect();
    let spins: Vec<_> = controls
        .iter()
        .map(|c| {
            let (bench, plugin, control) = (bench.clone(), spinning.clone(), c.control.clone());
            let attempt = attempt(&plugin);
            tokio::spawn(async move { bench.sandbox.run(plugin, attempt, control).await })
        })
        .collect();
    let fine = Guest::new(&format!("(i32.const {RESULT})"));
    let fine = load(&fine, Settings::default()).await;
    for _ in 0..20 {
        completed(&bench.run(&fine).await);
    }
    for (controls, spin) in controls.iter().zip(spins) {
        controls.stop.send_replace(Some(StopReason::Cancelled));
        let report = spin.await.unwrap();
        assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Cancelled));
    }
}

#[tokio::test]
async fn a_plugin_runs_only_so_many_attempts_at_once() {
    let bench = Bench::with_grace(Duration::from_millis(50));
    let one = Limits {
        concurrency: 1,
        ..Limits::DEFAULT
    };
    let plugin = load(&parked(), limited(one)).await;
    let first = Controls::new();
    let second = Controls::new();
    let run = |controls: &Controls, deadline| {
        let mut attempt = attempt(&plugin);
        attempt.deadline = Duration::from_millis(deadline);
        bench
            .sandbox
            .run(plugin.clone(), attempt, controls.control.clone())
    };
    let running = run(&first, 60_000);
    tokio::pin!(running);
    assert!(futures::poll!(running.as_mut()).is_pending());
    // It never got its turn, so the host takes the blame.
    match run(&second, 50).await.end {
        AttemptEnd::HostFault(problem) => assert_eq!(problem.code, "plugin_busy"),
        other => panic!("expected a host fault, got {other:?}"),
    }
    second.stop.send_replace(Some(StopReason::Draining));
    assert_eq!(
        run(&second, 60_000).await.end,
        AttemptEnd::Stopped(StopReason::Draining)
    );
    first.stop.send_replace(Some(StopReason::Cancelled));
    assert_eq!(
        running.await.end,
        AttemptEnd::Stopped(StopReason::Cancelled)
    );
}

#[tokio::test]
async fn the_catalog_serves_by_name_and_by_digest() {
    let bench = Bench::new();
    let plugin = load(
        &Guest::new(&format!("(i32.const {RESULT})")),
        Settings::default(),
    )
    .await;
    let task = attempt(&plugin);
    let execute = || bench.sandbox.execute(task.clone(), Controls::new().control);
    match execute().await.end {
        AttemptEnd::HostFault(problem) => assert_eq!(problem.code, "plugin_gone"),
        other => panic!("expected a host fault, got {other:?}"),
    }
    bench.catalog.install(plugin.clone());
    completed(&execute().await);
    let [listed] = bench.catalog.list().try_into().unwrap();
    assert_eq!(listed.serving.unwrap().digest, plugin.digest());

    // Replaced: the old version is there as long as somebody holds it, and for
    // a while after that.
    let mut newer = Guest::new(&format!("(i32.const {RESULT})"));
    for patch in 1..=9 {
        newer.version = format!("1.1.{patch}");
        bench
            .catalog
            .install(load(&newer, Settings::default()).await);
    }
    completed(&execute().await);
    drop(plugin);
    match execute().await.end {
        AttemptEnd::HostFault(problem) => assert_eq!(problem.code, "plugin_gone"),
        other => panic!("expected a host fault, got {other:?}"),
    }
}

/// Stands for any fault in a host call.
struct Panicking;

#[async_trait::async_trait]
impl Artifacts for Panicking {
    async fn stage(
        &self,
        _path: ArtifactPath,
        _content_type: String,
        _body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        panic!("while staging");
    }

    fn url(&self, task_id: &str, _path: &ArtifactPath) -> String {
        match task_id {
            "inline" => panic!("within the host call"),
            _ => String::new(),
        }
    }

    async fn read(&self, _trace_id: &TraceId, _url: &str) -> Result<Bytes, ArtifactError> {
        Err(ArtifactError::NotFound)
    }
}

#[tokio::test]
async fn a_panic_in_a_host_call_is_the_hosts_fault_and_nobody_elses() {
    let guest = Guest::new(&format!(
        "(call $store (i32.const 60000) (i32.const 1) (i32.const 60000) (i32.const 1)
            (i32.const 60000) (i32.const 1) (i32.const 61000))
         (i32.store (i32.const {}) (i32.load8_u (i32.const 61008)))
         (i32.const {RESULT})",
        RESULT + 16
    ))
    .items(
        r#"(import "cogo:executor/host@0.1.0" "store-artifact"
              (func $store (param i32 i32 i32 i32 i32 i32 i32)))"#,
    )
    .tail(r#"(data (i32.const 60000) "a")"#);
    let plugin = load(&guest, Settings::default()).await;
    let sandbox = Sandbox::new(Arc::new(Catalog::new()), runtimes(), Arc::new(Panicking));
    let mut task = attempt(&plugin);
    task.task_id = "inline".to_owned();
    let control = Controls::new().control;
    match sandbox.run(plugin.clone(), task, control.clone()).await.end {
        AttemptEnd::HostFault(problem) => {
            assert_eq!(problem.code, "host_panic");
            assert!(
                problem.message.contains("within the host call"),
                "{}",
                problem.message
            );
        }
        other => panic!("expected a host fault, got {other:?}"),
    }
    // Elsewhere it is an answer to the guest: `unavailable`, case 3.
    let report = sandbox.run(plugin.clone(), attempt(&plugin), control).await;
    match &completed(&report).report {
        Report::Sandbox { exit_code, .. } => assert_eq!(*exit_code, 3),
        other => panic!("expected a sandbox report, got {other:?}"),
    }
}
