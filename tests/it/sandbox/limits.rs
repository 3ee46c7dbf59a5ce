//! Each limit in a pair: kept to, and overstepped.

use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Blame, StopReason};
use cogo_host::plugin::limits::Limits;

use super::harness::{Bench, attempt, completed, limited, load, retryable, run, run_with};
use crate::guest::{Guest, Returns};

fn ok(text: &str) -> Guest {
    Guest::new(&format!("{text} (i32.const 2048)"))
}

#[tokio::test]
async fn a_guest_that_behaves_completes() {
    let report = run(&ok("")).await;
    let outcome = completed(&report);
    assert_eq!(outcome.report.case(), "sandbox");
    let names: Vec<&str> = report
        .measured
        .spans
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(names, ["instantiate", "call"]);
    assert_eq!(report.measured.peak_memory_bytes, 2 * 65536);
}

#[tokio::test]
async fn time_obeyed() {
    let busy = ok("(local $n i32)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 1000000))))");
    completed(&run(&busy).await);
}

#[tokio::test]
async fn time_violated() {
    let plugin = load(
        &Guest::new("(loop $for_ever (br $for_ever)) unreachable"),
        Default::default(),
    )
    .await;
    let mut short = attempt(&plugin);
    short.deadline = Duration::from_millis(200);
    let report = Bench::new().run_attempt(&plugin, short).await;
    assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Deadline));
}

#[tokio::test]
async fn trap_names_its_function() {
    let guest = Guest::new("(call $boom) (i32.const 0)").items("(func $boom unreachable)");
    let report = run(&guest).await;
    let problem = retryable(&report);
    assert_eq!(
        (problem.code.as_str(), problem.blame),
        ("plugin_trap", Blame::Guest)
    );
    assert!(
        problem.message.contains("unreachable"),
        "{}",
        problem.message
    );
    assert!(problem.message.contains("boom"), "{}", problem.message);
}

#[tokio::test]
async fn memory_obeyed_and_violated() {
    let grow = |pages: u32| {
        Guest::new(&format!(
            "(if (i32.eq (i32.const -1) (memory.grow (i32.const {pages}))) (then unreachable)) (i32.const 2048)"
        ))
    };
    let limits = Limits {
        memory_bytes: 4 * 65536,
        ..Limits::DEFAULT
    };
    let obeyed = run_with(&grow(2), limited(limits.clone())).await;
    completed(&obeyed);
    assert_eq!(obeyed.measured.peak_memory_bytes, 4 * 65536);
    let violated = run_with(&grow(3), limited(limits)).await;
    assert_eq!(retryable(&violated).code, "plugin_memory_limit");
    let _ = Returns::Interrupted;
}
