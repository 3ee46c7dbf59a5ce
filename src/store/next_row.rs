//! What the end of an attempt makes of its row: the columns of the next state,
//! in the words of no database, so that every store writes the same.
//!
//! Pure, and on the way of every task: borrows whatever it does not make. What
//! the next state is has been decided before ([`crate::task::next_state`]).

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use super::audit;
use crate::task::{Next, Refund, Status};

/// The columns of a row after an attempt of it ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NextRow<'a> {
    pub(super) status: Status,
    /// Until it is due again; none for what has ended.
    pub(super) delay: Option<Duration>,
    /// The attempt is given back.
    pub(super) refunded: bool,
    /// It counts as a fault of the host.
    pub(super) host_fault: bool,
    pub(super) error: Option<Cow<'a, str>>,
    /// Nothing is known that could stand in place of the last error.
    pub(super) keep_error: bool,
    pub(super) result: Option<&'a Value>,
    pub(super) snippet: Option<&'a str>,
    pub(super) url: Option<&'a str>,
}

impl<'a> NextRow<'a> {
    pub(super) fn of(next: &'a Next) -> Self {
        let blank = Self {
            status: Status::Queued,
            delay: None,
            refunded: false,
            host_fault: false,
            error: None,
            keep_error: false,
            result: None,
            snippet: None,
            url: None,
        };
        match next {
            Next::Done {
                result,
                snippet,
                url,
            } => Self {
                status: Status::Done,
                result: Some(result),
                snippet: Some(snippet),
                url: url.as_deref(),
                ..blank
            },
            Next::Queued {
                delay,
                refund,
                problem,
            } => Self {
                delay: Some(*delay),
                refunded: *refund != Refund::None,
                host_fault: *refund == Refund::HostFault,
                error: problem.as_ref().map(audit::error_text),
                keep_error: problem.is_none(),
                ..blank
            },
            Next::Failed { problem } => Self {
                status: Status::Failed,
                error: Some(audit::error_text(problem)),
                ..blank
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{Blame, Problem};
    use crate::task::CANCELLED;
    use serde_json::json;

    const DELAY: Duration = Duration::from_millis(1500);

    fn problem(code: &str) -> Problem {
        Problem::new(code, "as told", Blame::Worker)
    }

    fn queued(refund: Refund, problem: Option<Problem>) -> Next {
        Next::Queued {
            delay: DELAY,
            refund,
            problem,
        }
    }

    #[test]
    fn a_done_task_has_its_result_and_no_error() {
        let result = json!({ "passed": true });
        let next = Next::Done {
            result: result.clone(),
            snippet: "12 passed".to_owned(),
            url: Some("https://ci.example/1".to_owned()),
        };
        let expected = NextRow {
            status: Status::Done,
            delay: None,
            refunded: false,
            host_fault: false,
            error: None,
            keep_error: false,
            result: Some(&result),
            snippet: Some("12 passed"),
            url: Some("https://ci.example/1"),
        };
        assert_eq!(NextRow::of(&next), expected);
    }

    #[test]
    fn what_failed_says_why_and_is_never_due_again() {
        let cases = [
            ("worker_error", "worker_error: as told"),
            // Other programs look for the bare word.
            (CANCELLED, CANCELLED),
        ];
        for (code, text) in cases {
            let next = Next::Failed {
                problem: problem(code),
            };
            let expected = NextRow {
                status: Status::Failed,
                delay: None,
                refunded: false,
                host_fault: false,
                error: Some(text.into()),
                keep_error: false,
                result: None,
                snippet: None,
                url: None,
            };
            assert_eq!(NextRow::of(&next), expected, "{code}");
        }
    }

    /// Every way back into the queue: what is given back, whose fault it was,
    /// and which error then stands in the row.
    #[test]
    fn what_waits_again_is_due_after_its_delay() {
        let cases = [
            (Refund::None, false, false),
            (Refund::Drain, true, false),
            (Refund::HostFault, true, true),
            (Refund::Probe, true, false),
        ];
        for (refund, refunded, host_fault) in cases {
            for said in [Some("busy"), None] {
                let next = queued(refund, said.map(problem));
                let expected = NextRow {
                    status: Status::Queued,
                    delay: Some(DELAY),
                    refunded,
                    host_fault,
                    error: said.map(|code| format!("{code}: as told").into()),
                    keep_error: said.is_none(),
                    result: None,
                    snippet: None,
                    url: None,
                };
                assert_eq!(NextRow::of(&next), expected, "{refund:?}, {said:?}");
            }
        }
    }
}
