use std::time::Duration;

use super::*;
use crate::attempt::{Denial, Measured};

fn report(end: AttemptEnd) -> AttemptReport {
    AttemptReport {
        end,
        measured: Measured {
            run: Duration::from_millis(40),
            ..Measured::default()
        },
        artifacts: Vec::new(),
    }
}

fn outcome(report: Report) -> AttemptEnd {
    AttemptEnd::Completed(Outcome {
        report,
        snippet: None,
        url: None,
        attributes: Vec::new(),
    })
}

fn build_test(passed: bool, tests: u32, failures: u32) -> AttemptEnd {
    outcome(Report::BuildTest {
        passed,
        tests,
        failures,
        duration_ms: 1,
        report_url: None,
    })
}

fn sandbox(exit_code: i32, stdout: &str) -> AttemptEnd {
    outcome(Report::Sandbox {
        exit_code,
        stdout: stdout.to_owned(),
        stderr: String::new(),
        truncated: false,
        duration_ms: 1,
    })
}

fn retryable(code: &str, blame: Blame) -> AttemptEnd {
    AttemptEnd::Retryable {
        problem: Problem::new(code, "m", blame),
        after: None,
    }
}

fn permanent(code: &str) -> AttemptEnd {
    AttemptEnd::Permanent(Problem::new(code, "m", Blame::Guest))
}

/// Agreement and differences, as the table below writes them.
fn shown(stable: &AttemptEnd, candidate: &AttemptEnd) -> String {
    let [stable, candidate] = [stable, candidate].map(|end| Seen::of(&report(end.clone())));
    let found = compare(&stable, &candidate);
    let agrees = match found.agrees {
        Some(true) => "agrees",
        Some(false) => "differs",
        None => "says nothing",
    };
    format!("{agrees} [{}]", told(&stable, &candidate, &found))
}

#[test]
fn the_whole_table() {
    let good = build_test(true, 4, 0);
    let lost = retryable("plugin_trap", Blame::Guest);
    for (stable, candidate, expected) in [
        (&good, &good, "agrees []"),
        (
            &good,
            &build_test(true, 5, 0),
            "differs [counts: tests 4 → 5]",
        ),
        (
            &good,
            &build_test(false, 4, 2),
            "differs [verdict: passed → failed; counts: failures 0 → 2]",
        ),
        (
            &good,
            &lost,
            "differs [outcome: done (4 tests passed) → failed (plugin_trap)]",
        ),
        (
            &lost,
            &good,
            "differs [outcome: failed (plugin_trap) → done (4 tests passed)]",
        ),
        (&lost, &lost, "agrees []"),
        (
            &lost,
            &retryable("worker_timeout", Blame::Worker),
            "agrees [code: failed (plugin_trap) → failed (worker_timeout)]",
        ),
        (
            &lost,
            &permanent("plugin_trap"),
            "differs [outcome: failed (plugin_trap) → failed (plugin_trap)]",
        ),
        (
            &sandbox(0, "a"),
            &sandbox(0, "b"),
            "agrees [content: not the same]",
        ),
        (
            &sandbox(0, "a"),
            &sandbox(3, "a"),
            "differs [verdict: passed → failed; counts: exit_code 0 → 3]",
        ),
        (
            &good,
            &AttemptEnd::Stopped(StopReason::Deadline),
            "differs [outcome: done (4 tests passed) → failed (deadline_exceeded)]",
        ),
        // What the host or the operator brought about is no candidate's doing.
        (
            &good,
            &AttemptEnd::Stopped(StopReason::Draining),
            "says nothing []",
        ),
        (
            &good,
            &retryable("plugin_busy", Blame::Host),
            "says nothing []",
        ),
        (
            &good,
            &AttemptEnd::HostFault(Problem::new("host_panic", "m", Blame::Host)),
            "says nothing []",
        ),
    ] {
        assert_eq!(
            shown(stable, candidate),
            expected,
            "{stable:?} {candidate:?}"
        );
    }
}

#[test]
fn a_run_that_was_refused_its_effects_says_nothing_unless_it_did_without() {
    let refused = |end| {
        let mut report = report(end);
        report
            .measured
            .outbound_denied
            .insert(Denial::SideEffect, 1);
        Seen::of(&report).end
    };
    let end = refused(retryable("worker_unreachable", Blame::Worker));
    assert!(matches!(end, End::Nothing { code, .. } if code == EFFECTS_REFUSED));
    assert!(matches!(refused(build_test(true, 1, 0)), End::Done(_)));
}

#[test]
fn slow_is_both_a_multiple_and_a_while_longer() {
    let slow = |stable_ms, candidate_ms| {
        let seen = |run_ms| Seen {
            run_ms,
            ..Seen::of(&report(build_test(true, 1, 0)))
        };
        let found = compare(&seen(stable_ms), &seen(candidate_ms));
        assert_eq!(found.agrees, Some(true));
        !found.differences.is_empty()
    };
    assert!(!slow(1, 100));
    assert!(slow(1, 102));
    assert!(!slow(1_000, 2_000));
    assert!(slow(1_000, 2_001));
}

#[test]
fn files_are_compared_where_they_are_the_result() {
    let file = |content: &[u8]| StagedArtifact {
        path: "edits.json".to_owned(),
        content_type: String::new(),
        digest: Digest::of(content),
        bytes: 1,
    };
    let seen = |content: &[u8]| {
        let end = outcome(Report::Codegen {
            edits_url: "u".to_owned(),
            files: 1,
            duration_ms: 1,
        });
        Seen::of(&AttemptReport {
            artifacts: vec![file(content)],
            ..report(end)
        })
    };
    let found = compare(&seen(b"a"), &seen(b"b"));
    assert_eq!(
        (found.agrees, found.differences),
        (Some(true), vec![Kind::Content])
    );
    assert!(compare(&seen(b"a"), &seen(b"a")).differences.is_empty());
}

#[test]
fn a_report_without_a_type_is_compared_by_what_it_counts() {
    let seen = |pages: u64, took: u64| {
        let value = serde_json::json!({ "pages": pages, "took_ms": took, "passed": true });
        let value = value.as_object().cloned().unwrap();
        Seen::of(&report(outcome(Report::Custom { value })))
    };
    let found = compare(&seen(3, 10), &seen(3, 20));
    assert_eq!(
        (found.agrees, found.differences),
        (Some(true), vec![Kind::Content])
    );
    let found = compare(&seen(3, 10), &seen(4, 10));
    assert_eq!(found.agrees, Some(false));
}

#[test]
fn what_is_kept_reads_back() {
    for end in [
        build_test(true, 1, 0),
        permanent("p"),
        AttemptEnd::Stopped(StopReason::Cancelled),
    ] {
        let seen = Seen::of(&report(end));
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Seen>(&text).unwrap(), seen);
        assert!(text.contains(seen.end.as_str()), "{text}");
    }
}
