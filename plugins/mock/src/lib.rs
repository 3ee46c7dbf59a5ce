//! Simulates every role of the bus, for development and as the way out when the
//! real path is down.
//!
//! Deterministic: what it reports is derived from the task's id and from what
//! the payload asks for, never from time or chance, so a repeated attempt
//! reports the same. Without a `mock` object in the payload it passes at once.
//! With one, it does what [`Steering`] was told:
//!
//! | key | value | meaning |
//! | --- | --- | --- |
//! | `behaviour` | `pass` | the default: a positive report |
//! | | `tests-fail` | a negative report: failing tests, exit code 1; codegen has none |
//! | | `retryable`, `permanent` | a failure of that kind |
//! | | `trap` | aborts |
//! | | `loop` | computes for ever and never looks at the stop signal |
//! | | `allocate` | takes memory until it is refused, or up to `allocate_mb` and passes |
//! | | `stall` | waits until it is asked to stop |
//! | | `wrong-report` | a report of another role |
//! | | `log-flood` | logs `log_lines` lines of 200 bytes, then passes |
//! | `delay_ms` | number | waits first; ends early when asked to stop |
//! | `retries` | number | fails retryably on that many first attempts |
//! | `code`, `message` | text | of the failure |
//! | `retry_after_ms` | number | of a retryable failure |
//! | `usage` | `{cost_micro_usd, tokens, model}` | is reported, before anything else |
//! | `progress` | number | that many steps are reported, after the delay |
//! | `artifact` | `true` | stores the report as an artifact and links it |
//! | `allocate_mb`, `log_lines` | number | see above |
//! | `tests`, `failures`, `exit_code`, `duration_ms` | number | instead of the derived value |
//!
//! Any other key, or a value of another type, is a permanent `payload_invalid`.

mod report;
mod steering;

use std::time::Duration;

use cogo_executor::payload::{self, Role};
use cogo_executor::{Descriptor, Executor, Failure, Host, Kind, Level, Outcome, Task};

pub use steering::{Behaviour, Steering};

/// A stall that nobody stops ends with the attempt's deadline, long before this.
const STALL: Duration = Duration::from_secs(24 * 60 * 60);
/// Taken at a time, to end close to a limit.
const ALLOCATION_BYTES: usize = 1024 * 1024;
/// Length of a line of a flood.
const FLOOD_LINE_BYTES: usize = 200;

/// The plugin.
pub struct Mock;

impl Executor for Mock {
    fn describe() -> Descriptor {
        Descriptor::new("mock", env!("CARGO_PKG_VERSION"), Kind::Mock)
            .handling(Role::ALL.map(Role::path))
    }

    fn execute(task: Task, host: &impl Host) -> Result<Outcome, Failure> {
        let role = Role::of(&task.route)?;
        let object = payload::parse(&task)?;
        let work = report::Work::read(role, &task, &object)?;
        let steering = Steering::read(role, &object)?;
        prelude(&steering, &task, host)?;
        behave(&steering, host)?;
        work.report(&steering, host)
    }
}

cogo_executor::export!(Mock);

/// What comes before any behaviour: usage, delay, progress, the first failures.
fn prelude(steering: &Steering, task: &Task, host: &impl Host) -> Result<(), Failure> {
    if let Some(usage) = &steering.usage {
        host.report_usage(usage);
    }
    if let Some(delay) = steering.delay {
        host.sleep(delay)?;
    }
    for step in 1..=steering.progress {
        let fraction = f64::from(step) / f64::from(steering.progress);
        host.progress(Some(fraction), "simulating");
    }
    if task.attempt <= steering.retries {
        let message = format!("fails on its first {} attempts", steering.retries);
        return Err(steering.retryable("mock_retry", &message));
    }
    Ok(())
}

/// Does what ends without a report, and the rest of what takes effort.
fn behave(steering: &Steering, host: &impl Host) -> Result<(), Failure> {
    match steering.behaviour {
        Behaviour::Pass | Behaviour::TestsFail | Behaviour::WrongReport => {}
        Behaviour::Retryable => {
            return Err(steering.retryable("mock_retryable", "fails, as it was told to"));
        }
        Behaviour::Permanent => {
            return Err(steering.permanent("mock_permanent", "fails for good, as it was told to"));
        }
        Behaviour::Trap => std::process::abort(),
        Behaviour::Loop => spin(),
        Behaviour::Allocate => allocate(steering.allocate_mb),
        Behaviour::Stall => loop {
            host.sleep(STALL)?;
        },
        Behaviour::LogFlood => {
            let line = "~".repeat(FLOOD_LINE_BYTES);
            for _ in 0..steering.log_lines {
                host.log(Level::Info, &line);
            }
        }
    }
    Ok(())
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

/// Takes and touches memory, up to a limit or until there is no more: that is a trap.
fn allocate(limit_mb: Option<u32>) {
    let mut held = Vec::new();
    while limit_mb.is_none_or(|limit| held.len() < limit as usize) {
        held.push(vec![1_u8; ALLOCATION_BYTES]);
    }
    std::hint::black_box(&held);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cogo_executor::testing::{FakeHost, task};
    use cogo_executor::{Problem, Report, StopReason};

    use super::*;

    fn run(route: &str, payload: &str, host: &FakeHost) -> Result<Outcome, Failure> {
        Mock::execute(task(route, payload), host)
    }

    fn build_test(payload: &str) -> Result<Outcome, Failure> {
        run("code/build-test", payload, &FakeHost::new())
    }

    #[test]
    fn a_plain_task_passes_and_touches_nothing() {
        let host = FakeHost::new();
        let outcome = run("code/build-test", r#"{"repo":"r"}"#, &host).expect("passes");
        let Report::BuildTest(report) = outcome.report else {
            panic!("a build-test report");
        };
        assert!(report.passed && report.tests > 0 && report.failures == 0);
        assert!(host.log.borrow().is_empty() && host.artifacts.borrow().is_empty());
    }

    #[test]
    fn the_report_depends_on_task_and_input_and_on_nothing_else() {
        let first = build_test(r#"{"repo":"r","trace_id":"a"}"#);
        assert_eq!(first, build_test(r#"{ "trace_id":"b", "repo":"r" }"#));
        assert_ne!(first, build_test(r#"{"repo":"another"}"#));
    }

    #[test]
    fn codegen_stores_edits_and_reports_where() {
        let host = FakeHost::new();
        let payload = r#"{"spec":"say \"hi\"","ref":"main"}"#;
        let outcome = run("codegen/generate", payload, &host).expect("passes");
        let Report::Codegen(report) = outcome.report else {
            panic!("a codegen report");
        };
        assert_eq!(
            (report.edits_url.as_str(), report.files),
            ("artifact:edits.json", 1)
        );
        let artifacts = host.artifacts.borrow();
        let document = String::from_utf8(artifacts["edits.json"].clone()).expect("text");
        assert!(document.contains(r#""version":1"#) && document.contains(r#""digest":"sha256:"#));
        let edits = cogo_edits::Edits::parse(document.as_bytes()).expect("valid");
        assert_eq!(edits.task_id(), Some("task-1"));
        assert_eq!(edits.base_ref(), Some("main"));
        let edit = &edits.edits()[0];
        assert!(edit.path.ends_with(".md"), "{}", edit.path);
        let cogo_edits::Change::Content(text) = &edit.change else {
            panic!("a new file");
        };
        assert!(text.contains("say \"hi\""), "{text}");
    }

    #[test]
    fn sandbox_runs_exit_as_told() {
        let outcome = run(
            "sandbox/run",
            r#"{"command":"ls","mock":{"exit_code":7}}"#,
            &FakeHost::new(),
        );
        let Ok(Outcome {
            report: Report::Sandbox(report),
            ..
        }) = outcome
        else {
            panic!("a sandbox report");
        };
        assert_eq!(report.exit_code, 7);
        assert!(report.stdout.contains("ls"));
    }

    #[test]
    fn failing_tests_are_a_report() {
        let outcome = build_test(r#"{"mock":{"behaviour":"tests-fail","tests":9,"failures":4}}"#);
        let Ok(Outcome {
            report: Report::BuildTest(report),
            ..
        }) = outcome
        else {
            panic!("a build-test report");
        };
        assert_eq!(
            (report.passed, report.tests, report.failures),
            (false, 9, 4)
        );
    }

    #[test]
    fn failures_carry_what_they_were_told_to() {
        let failing = build_test(
            r#"{"mock":{"behaviour":"retryable","code":"busy","message":"later","retry_after_ms":1500}}"#,
        );
        assert_eq!(
            failing,
            Err(Failure::Retryable(Problem {
                code: "busy".into(),
                message: "later".into(),
                retry_after_ms: Some(1500),
            }))
        );
        let failing = build_test(r#"{"mock":{"behaviour":"permanent"}}"#);
        assert!(
            matches!(failing, Err(Failure::Permanent(problem)) if problem.code == "mock_permanent")
        );
    }

    #[test]
    fn first_attempts_fail_then_it_passes() {
        let mut attempt = task("code/build-test", r#"{"mock":{"retries":2}}"#);
        for number in 1..=2 {
            attempt.attempt = number;
            let result = Mock::execute(attempt.clone(), &FakeHost::new());
            assert!(
                matches!(result, Err(Failure::Retryable(_))),
                "attempt {number}"
            );
        }
        attempt.attempt = 3;
        assert!(Mock::execute(attempt, &FakeHost::new()).is_ok());
    }

    #[test]
    fn usage_progress_and_delay_reach_the_host() {
        let host = FakeHost::new();
        let payload = r#"{"mock":{"usage":{"cost_micro_usd":5,"tokens":7,"model":"m"},"progress":2,"delay_ms":250}}"#;
        run("code/build-test", payload, &host).expect("passes");
        assert_eq!(host.usage.borrow()[0].tokens, 7);
        assert_eq!(host.progress.borrow()[1].0, Some(1.0));
        assert_eq!(host.slept.get(), Duration::from_millis(250));
    }

    #[test]
    fn a_stop_interrupts_delay_and_stall() {
        for steering in [r#"{"delay_ms":60000}"#, r#"{"behaviour":"stall"}"#] {
            let host = FakeHost::new().stopping(StopReason::Cancelled);
            let payload = format!(r#"{{"mock":{steering}}}"#);
            assert_eq!(
                run("code/build-test", &payload, &host),
                Err(Failure::Interrupted)
            );
        }
    }

    #[test]
    fn a_wrong_report_is_of_another_role() {
        for (route, payload) in [
            (
                "code/build-test",
                r#"{"mock":{"behaviour":"wrong-report"}}"#,
            ),
            (
                "sandbox/run",
                r#"{"command":"a","mock":{"behaviour":"wrong-report"}}"#,
            ),
            (
                "codegen/generate",
                r#"{"spec":"a","mock":{"behaviour":"wrong-report"}}"#,
            ),
        ] {
            let outcome = run(route, payload, &FakeHost::new()).expect("passes");
            let right = match outcome.report {
                Report::BuildTest(_) => "code/build-test",
                Report::Codegen(_) => "codegen/generate",
                Report::Sandbox(_) => "sandbox/run",
                Report::Custom(_) => "",
            };
            assert_ne!(right, route);
        }
    }

    #[test]
    fn an_artifact_is_stored_and_linked() {
        let host = FakeHost::new();
        let outcome =
            run("code/build-test", r#"{"mock":{"artifact":true}}"#, &host).expect("passes");
        let Report::BuildTest(report) = outcome.report else {
            panic!("a build-test report");
        };
        assert_eq!(report.report_url.as_deref(), Some("artifact:report.json"));
        let artifacts = host.artifacts.borrow();
        let stored: serde_json::Value =
            serde_json::from_slice(&artifacts["report.json"]).expect("JSON");
        assert_eq!(stored["tests"], report.tests);
    }

    #[test]
    fn memory_up_to_a_limit_passes_and_a_flood_is_logged() {
        assert!(build_test(r#"{"mock":{"behaviour":"allocate","allocate_mb":2}}"#).is_ok());
        let host = FakeHost::new();
        run(
            "code/build-test",
            r#"{"mock":{"behaviour":"log-flood","log_lines":3}}"#,
            &host,
        )
        .expect("passes");
        assert_eq!(host.log.borrow().len(), 3);
        assert_eq!(host.log.borrow()[0].1.len(), 200);
    }

    #[test]
    fn an_unknown_role_is_refused() {
        let result = run("code/deploy", "{}", &FakeHost::new());
        assert!(
            matches!(result, Err(Failure::Permanent(problem)) if problem.code == "role_unsupported")
        );
    }
}
