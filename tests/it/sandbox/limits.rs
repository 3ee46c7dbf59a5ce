//! Each limit in a pair: kept to, and overstepped. The overstepped one asserts
//! the exact end.

use std::time::Duration;

use cogo_host::attempt::{AttemptEnd, Blame, LogLevel, StopReason};
use cogo_host::plugin::limits::{Limits, LogLimits};
use cogo_host::plugin::load::Settings;

use super::harness::{
    Bench, attempt, completed, limited, load, load_bytes, permanent, retryable, run, run_with,
};
use crate::guest::{Guest, RESULT, Returns};

/// A guest that does this and returns its result.
fn doing(text: &str) -> Guest {
    Guest::new(&format!("{text} (i32.const {RESULT})"))
}

const HOST: &str = "cogo:executor/host@0.1.0";

fn with_log(guest: Guest) -> Guest {
    guest.items(&format!(
        r#"(import "{HOST}" "log" (func $log (param i32 i32 i32)))"#
    ))
}

/// Repeats the text so many times.
fn times(count: u32, text: &str) -> String {
    format!(
        "(local $n i32)
         (loop $again
            {text}
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {count}))))"
    )
}

#[tokio::test]
async fn a_guest_that_behaves_completes() {
    let report = run(&doing("")).await;
    assert_eq!(completed(&report).report.case(), "sandbox");
    let names: Vec<&str> = report.measured.spans.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["instantiate", "call"]);
    assert_eq!(report.measured.peak_memory_bytes, 2 * 65536);
}

#[tokio::test]
async fn time_obeyed() {
    completed(&run(&doing(&times(1_000_000, ""))).await);
}

#[tokio::test]
async fn time_violated() {
    let guest = Guest::new("(loop $for_ever (br $for_ever)) unreachable");
    cut_at_the_deadline(&guest).await;
}

#[tokio::test]
async fn time_violated_in_realloc() {
    let mut guest = doing("");
    guest.realloc = "(loop $for_ever (br $for_ever)) unreachable".to_owned();
    cut_at_the_deadline(&guest).await;
}

#[tokio::test]
async fn time_violated_by_copying_memory() {
    let mut guest = Guest::new(
        "(loop $for_ever
            (memory.copy (i32.const 65536) (i32.const 0) (i32.const 33554432))
            (br $for_ever)) unreachable",
    );
    guest.memory = "1024".to_owned();
    cut_at_the_deadline(&guest).await;
}

/// Parked in the host, where no epoch interrupts anything.
#[tokio::test]
async fn time_violated_by_sleeping() {
    let guest = doing("(call $block (call $sleep (i64.const 3600000000000)))").items(
        r#"(import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
               (func $sleep (param i64) (result i32)))
           (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#,
    );
    cut_at_the_deadline(&guest).await;
}

async fn cut_at_the_deadline(guest: &Guest) {
    let plugin = load(guest, Settings::default()).await;
    let mut short = attempt(&plugin);
    short.deadline = Duration::from_millis(150);
    let report = Bench::new().run_attempt(&plugin, short).await;
    assert_eq!(report.end, AttemptEnd::Stopped(StopReason::Deadline));
}

#[tokio::test]
async fn a_trap_names_its_functions() {
    let guest = doing("(call $boom)").items("(func $boom unreachable)");
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
async fn every_kind_of_trap_is_retryable() {
    for text in [
        "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
        "(drop (i32.load (i32.const -8)))",
        "(call_indirect $table (i32.const 3))",
        "(drop (i32.trunc_f32_u (f32.const nan)))",
    ] {
        let guest = doing(text).items("(table $table 4 funcref)");
        assert_eq!(retryable(&run(&guest).await).code, "plugin_trap", "{text}");
    }
}

#[tokio::test]
async fn results_that_point_nowhere_are_traps() {
    for text in ["(i32.const -8)", "(i32.const 3)"] {
        assert_eq!(
            retryable(&run(&Guest::new(text)).await).code,
            "plugin_trap",
            "{text}"
        );
    }
    // A text that is no UTF-8.
    let guest = doing(&format!(
        "(i32.store8 (i32.load (i32.const {})) (i32.const 255))",
        RESULT + 20
    ));
    assert_eq!(retryable(&run(&guest).await).code, "plugin_trap");
}

#[tokio::test]
async fn stack_obeyed_and_violated() {
    let recursing = |depth: u32| {
        doing(&format!("(drop (call $down (i32.const {depth})))")).items(
            "(func $down (param i32) (result i32)
                (if (result i32) (local.get 0)
                    (then (i32.add (i32.const 1)
                        (call $down (i32.sub (local.get 0) (i32.const 1)))))
                    (else (i32.const 0))))",
        )
    };
    completed(&run(&recursing(1_000)).await);
    let report = run(&recursing(100_000_000)).await;
    let problem = retryable(&report);
    assert_eq!(problem.code, "plugin_trap");
    assert!(
        problem.message.contains("call stack exhausted"),
        "{}",
        problem.message
    );
}

fn growing(pages: u32) -> Guest {
    doing(&format!(
        "(if (i32.eq (i32.const -1) (memory.grow (i32.const {pages}))) (then unreachable))"
    ))
}

#[tokio::test]
async fn memory_obeyed_and_violated() {
    let limits = Limits {
        memory_bytes: 4 * 65536,
        ..Limits::DEFAULT
    };
    let obeyed = run_with(&growing(2), limited(limits.clone())).await;
    completed(&obeyed);
    assert_eq!(obeyed.measured.peak_memory_bytes, 4 * 65536);
    let violated = run_with(&growing(3), limited(limits)).await;
    assert_eq!(retryable(&violated).code, "plugin_memory_limit");
}

#[tokio::test]
async fn the_default_memory_is_what_the_pool_holds() {
    completed(&run(&growing(2_046)).await);
    assert_eq!(
        retryable(&run(&growing(2_047)).await).code,
        "plugin_memory_limit"
    );
}

#[tokio::test]
async fn more_memory_than_the_pool_holds_is_allocated_on_demand() {
    let large = Limits {
        memory_bytes: 256 * 1024 * 1024,
        ..Limits::DEFAULT
    };
    let report = run_with(&growing(3_000), limited(large)).await;
    completed(&report);
    assert_eq!(report.measured.peak_memory_bytes, 3_002 * 65536);
}

/// A guest that can live without the memory it did not get is left alone.
#[tokio::test]
async fn a_refused_growth_alone_is_no_failure() {
    completed(&run(&doing("(drop (memory.grow (i32.const 60000)))")).await);
}

#[tokio::test]
async fn memory_is_counted_over_all_memories() {
    // Seven memories beside the guest's own, which has two pages.
    let growing = |pages: u32| {
        let grow = |memory: u32| {
            format!(
                "(if (i32.eq (i32.const -1) (memory.grow $m{memory} (i32.const {pages})))
                    (then unreachable))"
            )
        };
        let mut guest = doing(&(0..7).map(grow).collect::<String>());
        guest.tail = (0..7).map(|m| format!("(memory $m{m} 0)")).collect();
        guest
    };
    let limits = Limits {
        memory_bytes: 16 * 65536,
        ..Limits::DEFAULT
    };
    let obeyed = run_with(&growing(2), limited(limits.clone())).await;
    completed(&obeyed);
    assert_eq!(obeyed.measured.peak_memory_bytes, 16 * 65536);
    let violated = run_with(&growing(3), limited(limits)).await;
    assert_eq!(retryable(&violated).code, "plugin_memory_limit");
}

#[tokio::test]
async fn table_obeyed_and_violated() {
    let growing = |elements: u32| {
        doing(&format!(
            "(if (i32.eq (i32.const -1)
                    (table.grow $t (ref.null func) (i32.const {elements})))
                (then unreachable))"
        ))
        .items("(table $t 0 funcref)")
    };
    completed(&run(&growing(20_000)).await);
    let report = run(&growing(20_001)).await;
    let problem = retryable(&report);
    assert_eq!(problem.code, "plugin_limit");
    assert!(problem.message.contains("20001"), "{}", problem.message);
}

#[tokio::test]
async fn handles_obeyed_and_violated() {
    let taking = |handles: u32| {
        doing(&times(handles, "(drop (call $signal))")).items(&format!(
            r#"(import "{HOST}" "stop-signal" (func $signal (result i32)))"#
        ))
    };
    // A signal is a pollable and what it waits for.
    completed(&run(&taking(500)).await);
    let report = run(&taking(501)).await;
    let problem = retryable(&report);
    assert_eq!(problem.code, "plugin_limit");
    assert!(problem.message.contains("handles"), "{}", problem.message);
}

#[tokio::test]
async fn handles_of_the_component_obeyed_and_violated() {
    // Fewer than the table holds, so that the other limit is met first.
    let plugin = |handles| Limits {
        handles,
        ..Limits::DEFAULT
    };
    let taking = doing(&times(10, "(drop (call $signal))")).items(&format!(
        r#"(import "{HOST}" "stop-signal" (func $signal (result i32)))"#
    ));
    completed(&run_with(&taking, limited(plugin(20))).await);
    assert_eq!(
        retryable(&run_with(&taking, limited(plugin(9))).await).code,
        "plugin_limit"
    );
}

#[tokio::test]
async fn bytes_of_a_call_obeyed_and_violated() {
    let logging = |bytes: u32| {
        let mut guest = with_log(doing(&format!(
            "(call $log (i32.const 2) (i32.const 65536) (i32.const {bytes}))"
        )));
        guest.memory = "200".to_owned();
        guest
    };
    completed(&run(&logging(8 * 1024 * 1024)).await);
    let report = run(&logging(8 * 1024 * 1024 + 1)).await;
    let problem = retryable(&report);
    assert_eq!(problem.code, "plugin_limit");
    assert!(
        problem.message.contains("carried more"),
        "{}",
        problem.message
    );
}

/// Returns so many zeros as its output, from memory that nothing was written to.
fn returning_stdout(bytes: u32) -> Guest {
    let mut guest = doing(&format!(
        "(i32.store (i32.const {}) (i32.const 1048576))
         (i32.store (i32.const {}) (i32.const {bytes}))",
        RESULT + 20,
        RESULT + 24
    ));
    guest.memory = "200".to_owned();
    guest
}

#[tokio::test]
async fn result_obeyed_and_violated() {
    let mib = 1024 * 1024;
    let report = run(&returning_stdout(mib)).await;
    completed(&report);
    // Just over, and so much that the engine itself refuses to copy it.
    for bytes in [mib + 1, 9 * mib] {
        let report = run(&returning_stdout(bytes)).await;
        let problem = permanent(&report);
        assert_eq!(problem.code, "report_invalid", "{bytes}");
        assert!(problem.message.contains("artifact"), "{}", problem.message);
    }
}

#[tokio::test]
async fn error_text_obeyed_and_violated() {
    for (bytes, kept) in [(8 * 1024, 8 * 1024), (8 * 1024 + 1, 8 * 1024)] {
        let report = run(&Guest::returning(Returns::Retryable {
            code: "worker_down".to_owned(),
            message: "x".repeat(bytes),
            after_ms: Some(7_000),
        }))
        .await;
        assert_eq!(retryable(&report).message.len(), kept);
    }
}

#[tokio::test]
async fn log_obeyed() {
    let report = run(&with_log(doing(&times(
        200,
        "(call $log (i32.const 3) (i32.const 1024) (i32.const 5))",
    ))))
    .await;
    completed(&report);
    assert_eq!(report.measured.log.len(), 200);
    assert_eq!(report.measured.log_dropped, 0);
    assert_eq!(report.measured.log[0].level, LogLevel::Warn);
}

#[tokio::test]
async fn log_violated_in_number_and_rate() {
    let logging = with_log(doing(&times(
        5_000,
        "(call $log (i32.const 2) (i32.const 1024) (i32.const 5))",
    )));
    // All within one second, so the rate decides.
    let report = run(&logging).await;
    completed(&report);
    let kept = report.measured.log.len();
    assert!((200..=1_000).contains(&kept), "{kept}");
    assert_eq!(report.measured.log_dropped as usize, 5_000 - kept);
    // Without a rate, the number does.
    let unhurried = Limits {
        log: LogLimits {
            per_second: u32::MAX,
            ..Limits::DEFAULT.log
        },
        ..Limits::DEFAULT
    };
    let report = run_with(&logging, limited(unhurried)).await;
    assert_eq!(report.measured.log.len(), 1_000);
    assert_eq!(report.measured.log_dropped, 4_000);
}

#[tokio::test]
async fn log_violated_in_size() {
    let mut logging = with_log(doing(&times(
        100,
        "(call $log (i32.const 2) (i32.const 65536) (i32.const 100000))",
    )));
    // Letters, since what is not printable is stripped before it is counted.
    logging.memory = "4".to_owned();
    logging.execute = format!(
        "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 100000)) {}",
        logging.execute
    );
    logging.execute = logging.execute.replacen("(local $n i32)", "", 1);
    logging.execute = format!("(local $n i32) {}", logging.execute);
    let report = run(&logging).await;
    completed(&report);
    let sizes: Vec<usize> = report
        .measured
        .log
        .iter()
        .map(|l| l.message.len())
        .collect();
    assert!(sizes.iter().all(|size| *size <= 8 * 1024), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() <= 256 * 1024, "{sizes:?}");
    assert_eq!(report.measured.log_dropped as usize, 100 - sizes.len());
}

#[tokio::test]
async fn log_is_stripped_of_what_terminals_obey() {
    let guest = with_log(doing(
        "(call $log (i32.const 2) (i32.const 60000) (i32.const 22))",
    ))
    .tail(r#"(data (i32.const 60000) "\1b[31mred\1b[0m\00\07\0d\1b]0;t\07")"#);
    let report = run(&guest).await;
    assert_eq!(report.measured.log[0].message, "red");
}

#[tokio::test]
async fn instances_memories_and_tables_violated() {
    let mut memories = doing("");
    memories.tail = "(memory 0)".repeat(8);
    let mut tables = doing("");
    tables.tail = "(table 0 funcref)".repeat(17);
    for guest in [memories, tables] {
        let refused = load_bytes(guest.component()).await.unwrap_err();
        assert_eq!(refused.code(), "P140", "{refused}");
        assert!(refused.to_string().contains("too high"), "{refused}");
    }
    let mut memories = doing("");
    memories.tail = "(memory 0)".repeat(7);
    completed(&run(&memories).await);
    let mut tables = doing("");
    tables.tail = "(table 0 funcref)".repeat(14);
    completed(&run(&tables).await);
}
