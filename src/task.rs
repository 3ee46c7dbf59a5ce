//! A task: one bus row and what it asks. Holds the row's states, what a claim
//! hands out, and the one function that turns an attempt's end into the row's
//! next state.
//!
//! ```text
//!            claim (attempts+1, epoch+1, lease)
//!   queued ───────────────────────────────────▶ claimed ──▶ done
//!     ▲  │                                        │  │
//!     │  └── cancel, ttl ──▶ failed ◀── fail ─────┘  │
//!     └────────── retry, drain, host fault, rescue ──┘
//! ```
//!
//! `done` and `failed` are terminal: no function here leads out of them. A
//! repeat that an operator asks for is a new row. Nothing here reads a clock;
//! the database's instants arrive as durations.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attempt::{AttemptEnd, Blame, Fence, LeaseEpoch, Problem, StopReason, Usage};
use crate::breaker::{Probe, is_answer};
use crate::ids::{MessageId, TraceId};
use crate::report::Outcome;
use crate::retry::RetryPolicy;
use crate::route::Route;
use crate::selection::FixedSide;

/// The `status` column. Other programs read it, so there is no other value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Queued,
    Claimed,
    Done,
    Failed,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Queued, Self::Claimed, Self::Done, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

impl std::str::FromStr for Status {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| InvalidStatus(text.chars().take(80).collect()))
    }
}

/// Why a text is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a status: expected `queued`, `claimed`, `done` or `failed`")]
pub struct InvalidStatus(String);

/// A task to put on the bus.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub id: MessageId,
    pub route: Route,
    /// The producer's label.
    pub task_id: Option<String>,
    pub trace_id: TraceId,
    /// A JSON object.
    pub payload: Value,
    /// Higher goes first.
    pub priority: i32,
    /// `None` leaves it to the route.
    pub max_attempts: Option<u32>,
    /// Among tasks that have not ended, only one may hold a given key.
    pub unique_key: Option<String>,
    /// How long it stays queued before it is due.
    pub delay: Duration,
    /// The task that this one repeats, where an operator asked for a repeat.
    pub repeats: Option<MessageId>,
}

/// What became of a [`NewTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    New(MessageId),
    /// A task with the same unique key has not ended yet: this one.
    Existing(MessageId),
}

impl Enqueued {
    pub const fn id(self) -> MessageId {
        match self {
            Self::New(id) | Self::Existing(id) => id,
        }
    }
}

/// A row that was just claimed. The payload is not trusted yet.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: MessageId,
    pub epoch: LeaseEpoch,
    pub route: Route,
    pub task_id: Option<String>,
    pub trace_id: TraceId,
    pub payload: ClaimedPayload,
    /// Counted from 1; this claim is included.
    pub attempt: u32,
    pub max_attempts: Option<u32>,
    pub host_faults: u32,
    /// From the row's creation to this claim.
    pub age: Duration,
    /// From when it was due to this claim.
    pub wait: Duration,
    /// Drawn at the first claim in a rollout.
    pub side: Option<FixedSide>,
    pub cancel_requested: bool,
    /// What earlier attempts spent.
    pub spent: Usage,
}

impl Claim {
    pub const fn fence(&self) -> Fence {
        Fence {
            id: self.id,
            epoch: self.epoch,
        }
    }
}

/// The payload as the database holds it.
#[derive(Debug, Clone)]
pub enum ClaimedPayload {
    Text(String),
    /// Over the limit, and therefore not fetched.
    TooLarge {
        bytes: u64,
    },
}

/// The state that a claimed row goes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Done {
        result: Value,
        snippet: String,
        url: Option<String>,
    },
    Queued {
        /// Until it is due again.
        delay: Duration,
        refund: Refund,
        /// Absent where nothing went wrong, as on a drain.
        problem: Option<Problem>,
    },
    Failed {
        problem: Problem,
    },
}

/// Whether the attempt is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refund {
    None,
    /// The host drained.
    Drain,
    /// The host was at fault; `host_faults` counts it.
    HostFault,
    /// The host chose to try a real path that it takes for down, and it is.
    Probe,
}

/// The code of a task that was cancelled; also the text of its `error`.
pub const CANCELLED: &str = "cancelled";
/// The code of a task whose time to live ran out.
pub const TTL_EXCEEDED: &str = "ttl_exceeded";
/// The code of a task during which hosts died again and again.
pub const POISONED: &str = "poisoned";
/// The code of an attempt that was ended because its lease could not be renewed.
/// Where somebody else has the task by then, nothing of it is written but that.
pub const LEASE_UNCONFIRMED: &str = "lease_unconfirmed";
/// The code of a claim that is given back since its route is held.
pub const ROUTE_HELD: &str = "route_held";
/// How often a host may die under a task before it is taken for poison.
pub const POISON_DEATHS: u32 = 3;
/// How often an attempt is given back because of host faults.
pub const MAX_HOST_FAULTS: u32 = 20;

/// What decides over the end of an attempt besides the end itself.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// This attempt, counted from 1.
    pub attempt: u32,
    pub max_attempts: u32,
    pub host_faults: u32,
    /// What is left of the task's time to live when the attempt ended.
    pub ttl_left: Option<Duration>,
    /// The attempt probed a real path that is taken for down.
    pub probe: Option<Probe>,
}

/// The row's next state after an attempt, should the lease still be held when it
/// is written; if not, the fence refuses it and leaves a `lease_lost`.
///
/// `result` makes the `result` column from an accepted outcome.
pub fn next_state(
    end: AttemptEnd,
    standing: &Standing,
    retry: &RetryPolicy,
    jitter: f64,
    result: impl FnOnce(&Outcome) -> Value,
) -> Next {
    match end {
        AttemptEnd::Completed(outcome) => completed(outcome, result),
        AttemptEnd::Permanent(problem) => Next::Failed { problem },
        AttemptEnd::Stopped(StopReason::Cancelled) => Next::Failed {
            problem: Problem::new(CANCELLED, "cancelled on request", Blame::Guest),
        },
        AttemptEnd::Stopped(StopReason::Draining) => Next::Queued {
            delay: Duration::ZERO,
            refund: Refund::Drain,
            problem: None,
        },
        AttemptEnd::Stopped(StopReason::LeaseLost) => {
            let message = "the lease could not be renewed in time, so the attempt was ended";
            let problem = Problem::new(LEASE_UNCONFIRMED, message, Blame::Host);
            given_back(problem, standing, retry, jitter)
        }
        AttemptEnd::Stopped(StopReason::Deadline) => {
            let message = "the attempt ran into its deadline";
            let problem = Problem::new("deadline_exceeded", message, Blame::Guest);
            retried(problem, None, standing, retry, jitter)
        }
        AttemptEnd::Retryable { problem, after } => match standing.probe {
            Some(probe) if problem.blame == Blame::Worker && !is_answer(&problem.code) => {
                let usual = || retry.delay(standing.attempt, after, jitter);
                let delay = probe.stay_back.unwrap_or_else(usual);
                within_ttl(problem, delay, Refund::Probe, standing)
            }
            _ => retried(problem, after, standing, retry, jitter),
        },
        AttemptEnd::HostFault(problem) => given_back(problem, standing, retry, jitter),
    }
}

fn completed(outcome: Outcome, result: impl FnOnce(&Outcome) -> Value) -> Next {
    let result = result(&outcome);
    let snippet = outcome.snippet.unwrap_or_else(|| outcome.report.summary());
    let url = outcome
        .url
        .or_else(|| outcome.report.url().map(str::to_owned));
    Next::Done {
        result,
        snippet,
        url,
    }
}

fn retried(
    problem: Problem,
    after: Option<Duration>,
    standing: &Standing,
    retry: &RetryPolicy,
    jitter: f64,
) -> Next {
    let over = standing.ttl_left.is_some_and(|left| left.is_zero());
    if standing.attempt >= standing.max_attempts && !over {
        return Next::Failed { problem };
    }
    let delay = retry.delay(standing.attempt, after, jitter);
    within_ttl(problem, delay, Refund::None, standing)
}

fn given_back(problem: Problem, standing: &Standing, retry: &RetryPolicy, jitter: f64) -> Next {
    if standing.host_faults >= MAX_HOST_FAULTS {
        return Next::Failed { problem };
    }
    let delay = retry.delay(standing.host_faults + 1, None, jitter);
    within_ttl(problem, delay, Refund::HostFault, standing)
}

/// A retry that would start after the task's time to live is a failure now.
fn within_ttl(problem: Problem, delay: Duration, refund: Refund, standing: &Standing) -> Next {
    match standing.ttl_left {
        Some(left) if delay >= left => Next::Failed {
            problem: Problem::new(
                TTL_EXCEEDED,
                format!(
                    "no further attempt fits into the task's time to live; last problem: {}: {}",
                    problem.code, problem.message
                ),
                problem.blame,
            ),
        },
        _ => Next::Queued {
            delay,
            refund,
            problem: Some(problem),
        },
    }
}

/// One bus row as people and programs read it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskRow {
    pub id: MessageId,
    pub created_at: DateTime<Utc>,
    pub service: String,
    pub role: String,
    pub shard: i32,
    pub tenant: Option<String>,
    pub task_id: Option<String>,
    pub trace_id: Option<String>,
    pub status: Status,
    pub priority: i32,
    pub attempts: u32,
    pub max_attempts: Option<u32>,
    pub host_faults: u32,
    pub unique_key: Option<String>,
    pub claimed_by: Option<String>,
    pub claimed_at: Option<DateTime<Utc>>,
    pub lease_epoch: i64,
    pub lease_expires_at: Option<DateTime<Utc>>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub done_at: Option<DateTime<Utc>>,
    pub retry_at: Option<DateTime<Utc>>,
    pub last_error_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub result_snippet: Option<String>,
    pub result_url: Option<String>,
    pub result: Option<Value>,
    /// Absent in listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    const RETRY: RetryPolicy = RetryPolicy::DEFAULT;

    fn standing(attempt: u32, host_faults: u32, ttl_left: Option<Duration>) -> Standing {
        Standing {
            attempt,
            max_attempts: 5,
            host_faults,
            ttl_left,
            probe: None,
        }
    }

    #[test]
    fn a_probe_that_fails_is_given_back_whatever_attempt_it_was() {
        let retryable = |code, blame| AttemptEnd::Retryable {
            problem: Problem::new(code, "as told", blame),
            after: None,
        };
        let refund = |end, stay_back| {
            let probe = Some(Probe { stay_back });
            let standing = Standing {
                probe,
                ..standing(5, 0, None)
            };
            match next(end, &standing) {
                Next::Queued { delay, refund, .. } => Some((refund, delay)),
                _ => None,
            }
        };
        let back = Duration::from_secs(9);
        assert_eq!(
            refund(retryable("worker_unreachable", Blame::Worker), Some(back)),
            Some((Refund::Probe, back))
        );
        assert_eq!(
            refund(retryable("worker_error", Blame::Worker), None),
            Some((Refund::Probe, Duration::from_secs(16)))
        );
        // These say nothing against the worker: the task's own failures.
        assert_eq!(refund(retryable("worker_busy", Blame::Worker), None), None);
        assert_eq!(refund(retryable("plugin_trap", Blame::Guest), None), None);
        assert_eq!(refund(AttemptEnd::Permanent(problem()), None), None);
    }

    fn problem() -> Problem {
        Problem::new("worker_error", "HTTP 503", Blame::Worker)
    }

    fn next(end: AttemptEnd, standing: &Standing) -> Next {
        next_state(end, standing, &RETRY, 1.0, |outcome| {
            serde_json::to_value(&outcome.report).unwrap()
        })
    }

    /// Every way an attempt may end, with every standing that matters.
    #[test]
    fn every_end_leads_where_the_design_says() {
        let retryable = |after| AttemptEnd::Retryable {
            problem: problem(),
            after,
        };
        let failed = |next: Next| match next {
            Next::Failed { problem } => problem.code,
            other => panic!("expected failed, got {other:?}"),
        };
        let queued = |next: Next| match next {
            Next::Queued { delay, refund, .. } => (delay, refund),
            other => panic!("expected queued, got {other:?}"),
        };

        let first = standing(1, 0, None);
        let last = standing(5, 0, None);
        assert_eq!(queued(next(retryable(None), &first)).1, Refund::None);
        assert_eq!(failed(next(retryable(None), &last)), "worker_error");
        let after = Some(Duration::from_secs(7));
        assert_eq!(
            queued(next(retryable(after), &first)).0,
            Duration::from_secs(7)
        );
        let deadline = || AttemptEnd::Stopped(StopReason::Deadline);
        assert_eq!(queued(next(deadline(), &first)).1, Refund::None);
        assert_eq!(failed(next(deadline(), &last)), "deadline_exceeded");

        assert_eq!(
            failed(next(AttemptEnd::Permanent(problem()), &first)),
            "worker_error"
        );
        assert_eq!(
            failed(next(AttemptEnd::Stopped(StopReason::Cancelled), &last)),
            CANCELLED
        );
        assert_eq!(
            queued(next(AttemptEnd::Stopped(StopReason::Draining), &last)),
            (Duration::ZERO, Refund::Drain)
        );
        let unconfirmed = next(AttemptEnd::Stopped(StopReason::LeaseLost), &last);
        assert_eq!(queued(unconfirmed).1, Refund::HostFault);

        let fault = || AttemptEnd::HostFault(problem());
        assert_eq!(queued(next(fault(), &last)).1, Refund::HostFault);
        let worn = standing(1, MAX_HOST_FAULTS, None);
        assert_eq!(failed(next(fault(), &worn)), "worker_error");

        let short = standing(1, 0, Some(Duration::from_secs(3)));
        assert_eq!(failed(next(retryable(after), &short)), TTL_EXCEEDED);
        // What ended the last attempt was the time to live.
        let over = standing(5, 0, Some(Duration::ZERO));
        assert_eq!(failed(next(deadline(), &over)), TTL_EXCEEDED);
    }

    #[test]
    fn a_result_falls_back_on_what_the_report_says() {
        let outcome = Outcome {
            report: Report::BuildTest {
                passed: false,
                tests: 3,
                failures: 1,
                duration_ms: 5,
                report_url: Some("http://w/r".to_owned()),
            },
            snippet: None,
            url: None,
            attributes: Vec::new(),
        };
        let next = next(AttemptEnd::Completed(outcome), &standing(1, 0, None));
        let Next::Done {
            result,
            snippet,
            url,
        } = next
        else {
            panic!("expected done");
        };
        assert_eq!(result["passed"], false);
        assert_eq!(snippet, "1 of 3 tests failed");
        assert_eq!(url.as_deref(), Some("http://w/r"));
    }
}
