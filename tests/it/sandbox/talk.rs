//! What a guest says to the host, and how its attempt ends by it.

use std::time::Duration;

use cogo_host::attempt::{Allowance, Attempt, AttemptEnd, AttemptReport, Blame, StopReason, Usage};
use cogo_host::payload::Budget;
use cogo_host::plugin::load::Settings;
use cogo_host::report::Report;
use cogo_host::route::Route;

use super::harness::{
    Bench, Controls, attempt, completed, limited, load, permanent, retryable, run,
};
use crate::guest::{Guest, RESULT, Returns};

const HOST: &str = "cogo:executor/host@0.1.0";

fn doing(text: &str) -> Guest {
    Guest::new(&format!("{text} (i32.const {RESULT})"))
}

/// Blocks until the host wants the attempt to end.
fn waiting(returns: Returns) -> Guest {
    Guest::returning(returns)
        .with_execute(&format!(
            "(call $block (call $signal)) (i32.const {RESULT})"
        ))
        .items(&format!(
            r#"(import "{HOST}" "stop-signal" (func $signal (result i32)))
           (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#
        ))
}

async fn run_on(guest: &Guest, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let plugin = load(guest, Settings::default()).await;
    let mut attempt = attempt(&plugin);
    change(&mut attempt);
    Bench::new().run_attempt(&plugin, attempt).await
}

#[tokio::test]
async fn every_report_reaches_the_role_that_it_is_for() {
    let cases = [
        ("code/build-test", Returns::BuildTest { passed: false }),
        (
            "codegen/generate",
            Returns::Codegen {
                edits_url: "http://h/e.json".to_owned(),
            },
        ),
        (
            "sandbox/run",
            Returns::Sandbox {
                exit_code: 7,
                stdout: "out".to_owned(),
            },
        ),
        ("docs/render", Returns::Custom(r#"{"pages":3}"#.to_owned())),
    ];
    for (route, returns) in &cases {
        let plugin = load(&Guest::returning(returns.clone()), Settings::default()).await;
        for (other, _) in &cases {
            let mut task = attempt(&plugin);
            task.route = Route::of(other.parse().unwrap());
            let report = Bench::new().run_attempt(&plugin, task).await;
            if other == route {
                assert!(completed(&report).report.fits(&other.parse().unwrap()));
            } else {
                assert_eq!(
                    permanent(&report).code,
                    "report_mismatch",
                    "{route} for {other}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_report_arrives_as_it_was_returned() {
    let guest = Guest::returning(Returns::BuildTest { passed: false });
    let report = run_on(&guest, |a| {
        a.route = Route::of("code/build-test".parse().unwrap())
    })
    .await;
    let expected = Report::BuildTest {
        passed: false,
        tests: 3,
        failures: 1,
        duration_ms: 5,
        report_url: None,
    };
    assert_eq!(completed(&report).report, expected);
}

#[tokio::test]
async fn a_custom_report_that_is_no_object_is_invalid() {
    for text in ["", "[1]", "{", "nonsense"] {
        let guest = Guest::returning(Returns::Custom(text.to_owned()));
        let report = run_on(&guest, |a| {
            a.route = Route::of("docs/render".parse().unwrap())
        })
        .await;
        assert_eq!(permanent(&report).code, "report_invalid", "{text}");
    }
}

#[tokio::test]
async fn failures_keep_their_class_code_and_delay() {
    let guest = Guest::returning(Returns::Retryable {
        code: "worker_busy".to_owned(),
        message: "\u{1b}[31mHTTP 429".to_owned(),
        after_ms: Some(7_000),
    });
    let AttemptEnd::Retryable { problem, after } = run(&guest).await.end else {
        panic!("expected retryable");
    };
    assert_eq!(
        (problem.code.as_str(), problem.blame),
        ("worker_busy", Blame::Worker)
    );
    assert_eq!(problem.message, "HTTP 429");
    assert_eq!(after, Some(Duration::from_secs(7)));

    let guest = Guest::returning(Returns::Permanent {
        code: "bad_ref".to_owned(),
        message: "no such branch".to_owned(),
    });
    let report = run(&guest).await;
    assert_eq!(permanent(&report).code, "bad_ref");
    assert_eq!(permanent(&report).blame, Blame::Guest);
}

#[tokio::test]
async fn the_task_arrives_in_the_guest() {
    // The result's output is the task's payload, which lies where the guest's
    // realloc put it: pointer and length are the 18th word on.
    let guest = doing(&format!(
        "(i64.store align=4 (i32.const {}) (i64.load align=4 (i32.add (local.get 0) (i32.const 80))))",
        RESULT + 20
    ));
    let report = run_on(&guest, |a| a.payload = r#"{"command":"echo hello"}"#.into()).await;
    let Report::Sandbox { stdout, .. } = &completed(&report).report else {
        panic!("expected a sandbox report");
    };
    assert_eq!(stdout, r#"{"command":"echo hello"}"#);
}

#[tokio::test]
async fn a_guest_that_is_asked_to_stop_gives_way() {
    let plugin = load(&waiting(Returns::Interrupted), Settings::default()).await;
    for reason in [
        StopReason::Cancelled,
        StopReason::Draining,
        StopReason::LeaseLost,
    ] {
        let controls = Controls::new();
        let bench = Bench::new();
        let running = bench
            .sandbox
            .run(plugin.clone(), attempt(&plugin), controls.control.clone());
        controls.stop.send_replace(Some(reason));
        assert_eq!(running.await.end, AttemptEnd::Stopped(reason));
    }
}

#[tokio::test]
async fn a_guest_that_ignores_the_stop_is_cut() {
    let guest = Guest::new("(loop $for_ever (br $for_ever)) unreachable");
    let plugin = load(&guest, Settings::default()).await;
    let controls = Controls::new();
    let bench = Bench::with_grace(Duration::from_millis(50));
    let running = bench
        .sandbox
        .run(plugin.clone(), attempt(&plugin), controls.control.clone());
    controls.stop.send_replace(Some(StopReason::Draining));
    assert_eq!(running.await.end, AttemptEnd::Stopped(StopReason::Draining));
}

#[tokio::test]
async fn what_is_finished_after_the_stop_counts_and_what_failed_gave_way() {
    let finishing = waiting(Returns::Sandbox {
        exit_code: 0,
        stdout: String::new(),
    });
    let failing = waiting(Returns::Retryable {
        code: "worker_down".to_owned(),
        message: String::new(),
        after_ms: None,
    });
    for (guest, completes) in [(finishing, true), (failing, false)] {
        let plugin = load(&guest, Settings::default()).await;
        let controls = Controls::new();
        controls.stop.send_replace(Some(StopReason::Cancelled));
        let bench = Bench::new();
        let report = bench
            .sandbox
            .run(plugin.clone(), attempt(&plugin), controls.control.clone())
            .await;
        match report.end {
            AttemptEnd::Completed(_) => assert!(completes),
            end => {
                assert!(!completes);
                assert_eq!(end, AttemptEnd::Stopped(StopReason::Cancelled));
            }
        }
    }
}

#[tokio::test]
async fn the_deadline_is_announced_before_it_strikes() {
    let plugin = load(&waiting(Returns::Interrupted), Settings::default()).await;
    let mut task = attempt(&plugin);
    task.deadline = Duration::from_secs(4);
    let report = Bench::new().run_attempt(&plugin, task).await;
    assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Deadline));
    // It gave way itself: a call that is cut leaves a span that never ended.
    let call = report.measured.spans.iter().find(|s| s.name == "call");
    assert!(call.unwrap().fields.is_empty(), "{call:?}");
}

#[tokio::test]
async fn giving_way_unasked_is_a_failure() {
    let report = run(&Guest::returning(Returns::Interrupted)).await;
    assert_eq!(retryable(&report).code, "interrupted_unasked");
}

#[tokio::test]
async fn a_flood_of_progress_leaves_the_last() {
    let guest = doing(
        "(local $n i32)
         (loop $again
            (call $progress (i32.const 1)
                (f64.div (f64.convert_i32_u (local.get $n)) (f64.const 100000))
                (i32.const 1024) (i32.const 300))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.le_u (local.get $n) (i32.const 100000))))
         (call $progress (i32.const 1) (f64.const nan) (i32.const 60000) (i32.const 4))",
    )
    .items(&format!(
        r#"(import "{HOST}" "progress" (func $progress (param i32 f64 i32 i32)))"#
    ))
    .tail(r#"(data (i32.const 60000) "a\0ab\00")"#);
    let plugin = load(&guest, Settings::default()).await;
    let controls = Controls::new();
    let bench = Bench::new();
    let report = bench
        .sandbox
        .run(plugin.clone(), attempt(&plugin), controls.control.clone())
        .await;
    completed(&report);
    let progress = controls.progress.borrow().clone().unwrap();
    assert_eq!((progress.fraction, progress.note.as_str()), (None, "a b"));
}

fn spending(cost: u64, tokens: u64, model: Option<&str>) -> Guest {
    let model = model.unwrap_or_default();
    doing(&format!(
        "(call $usage (i64.const {cost}) (i64.const {tokens})
            (i32.const {}) (i32.const 60000) (i32.const {}))",
        u8::from(!model.is_empty()),
        model.len()
    ))
    .items(&format!(
        r#"(import "{HOST}" "report-usage" (func $usage (param i64 i64 i32 i32 i32)))"#
    ))
    .tail(&format!(r#"(data (i32.const 60000) "{model}")"#))
}

fn allowing(max: u64, spent: u64, model: Option<&str>) -> Allowance {
    Allowance {
        budget: Budget {
            max_cost_micro_usd: Some(max),
            max_tokens: Some(max),
        },
        spent: Usage {
            cost_micro_usd: spent,
            tokens: spent,
            model: None,
        },
        model: model.map(str::to_owned),
    }
}

#[tokio::test]
async fn budget_obeyed_and_violated() {
    let run = async |cost, tokens, spent| {
        let guest = spending(cost, tokens, Some("m"));
        run_on(&guest, |a| a.allowance = allowing(100, spent, None)).await
    };
    let report = run(60, 60, 40).await;
    completed(&report);
    assert_eq!(report.measured.usage.cost_micro_usd, 60);
    assert_eq!(report.measured.usage.model.as_deref(), Some("m"));
    for (cost, tokens, spent) in [(61, 0, 40), (0, 61, 40), (101, 0, 0), (u64::MAX >> 1, 0, 1)] {
        let report = run(cost, tokens, spent).await;
        assert_eq!(permanent(&report).code, "budget_exceeded");
        // What was spent is spent.
        assert_eq!(report.measured.usage.cost_micro_usd, cost);
    }
}

#[tokio::test]
async fn model_obeyed_and_violated() {
    let run = async |model, allowed| {
        let guest = spending(1, 1, model);
        run_on(&guest, |a| a.allowance = allowing(100, 0, allowed)).await
    };
    completed(&run(Some("small"), Some("small")).await);
    completed(&run(None, Some("small")).await);
    completed(&run(Some("large"), None).await);
    let report = run(Some("large"), Some("small")).await;
    assert_eq!(permanent(&report).code, "model_policy_violation");
    assert_eq!(permanent(&report).blame, Blame::Guest);
}

/// Stores `bytes` zeros under the path, and answers with the result's tag as exit
/// code: 0, or 1 + the error's case.
fn storing(path: &str, bytes: u32, count: u32) -> Guest {
    let mut guest = doing(&format!(
        "(local $n i32)
         (loop $again
            ;; Another path each time: its first letter counts.
            (i32.store8 (i32.const 60000) (i32.add (i32.load8_u (i32.const 60000)) (i32.const 1)))
            (call $store (i32.const 60000) (i32.const {}) (i32.const 61000) (i32.const 10)
                (i32.const 131072) (i32.const {bytes}) (i32.const 62000))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {count}))))
         (if (i32.load8_u (i32.const 62000)) (then
            (i32.store (i32.const {}) (i32.add (i32.const 1) (i32.load8_u (i32.const 62008))))))",
        path.len(),
        RESULT + 16,
    ))
    .items(&format!(
        r#"(import "{HOST}" "store-artifact"
              (func $store (param i32 i32 i32 i32 i32 i32 i32)))"#
    ))
    .tail(&format!(
        r#"(data (i32.const 60000) "{path}") (data (i32.const 61000) "text/plain")"#
    ));
    guest.memory = "200".to_owned();
    guest
}

fn exit_code(report: &AttemptReport) -> i32 {
    match &completed(report).report {
        Report::Sandbox { exit_code, .. } => *exit_code,
        other => panic!("expected a sandbox report, got {other:?}"),
    }
}

#[tokio::test]
async fn artifacts_obeyed() {
    let plugin = load(
        &storing("`/report.json", 4 * 1024 * 1024, 1),
        Settings::default(),
    )
    .await;
    let bench = Bench::new();
    let report = bench.run(&plugin).await;
    assert_eq!(exit_code(&report), 0);
    let [artifact] = report.artifacts.as_slice() else {
        panic!("expected one artifact");
    };
    assert_eq!(artifact.path, "a/report.json");
    assert_eq!(artifact.content_type, "text/plain");
    assert_eq!(artifact.bytes, 4 * 1024 * 1024);
    assert_eq!(bench.shelf.0.lock().len(), 1);
}

#[tokio::test]
async fn artifacts_violated() {
    for (path, bytes, count, code) in [
        // invalid-path is case 0, too-large 1, not-found 2, unavailable 3.
        ("./../x", 1, 1, 1),
        ("`/../x", 1, 1, 1),
        ("`//x", 1, 1, 1),
        ("`", 4 * 1024 * 1024 + 1, 1, 2),
        // Some of the letters make no path.
        ("!", 1, 70, 4),
        ("`", 4 * 1024 * 1024, 9, 4),
    ] {
        let report = run(&storing(path, bytes, count)).await;
        assert_eq!(exit_code(&report), code, "{path} {bytes} {count}");
        assert!(report.artifacts.len() <= 64);
    }
}

#[tokio::test]
async fn edits_of_codegen_are_checked_whatever_plugin_wrote_them() {
    // Zeros are no JSON.
    let plugin = load(&storing("ddits.json", 8, 1), Settings::default()).await;
    let mut task = attempt(&plugin);
    task.route = Route::of("codegen/generate".parse().unwrap());
    let report = Bench::new().run_attempt(&plugin, task).await;
    let problem = permanent(&report);
    assert_eq!(problem.code, "invalid_edits");
    assert!(problem.message.contains("`edits.json`"), "{problem:?}");
    assert!(report.artifacts.is_empty());

    // Elsewhere a file of that name is a file like any other.
    let report = Bench::new().run(&plugin).await;
    assert_eq!(report.artifacts.len(), 1);
}

#[tokio::test]
async fn configuration_holds_what_was_granted() {
    // Asks for a key and exits with whether it got a value.
    let asking = |key: &str| {
        doing(&format!(
            "(call $config (i32.const 60000) (i32.const {}) (i32.const 61000))
             (i32.store (i32.const {}) (i32.load8_u (i32.const 61000)))",
            key.len(),
            RESULT + 16
        ))
        .items(&format!(
            r#"(import "{HOST}" "config" (func $config (param i32 i32 i32)))"#
        ))
        .tail(&format!(r#"(data (i32.const 60000) "{key}")"#))
    };
    for (key, found) in [("URL", 1), ("HOME", 0), ("PATH", 0), ("", 0)] {
        let mut settings = limited(Default::default());
        settings
            .config
            .insert("URL".to_owned(), "http://w".to_owned());
        let plugin = load(&asking(key), settings).await;
        assert_eq!(exit_code(&Bench::new().run(&plugin).await), found, "{key}");
    }
}
