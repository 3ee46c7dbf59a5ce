//! Why a task is not done yet, in sentences.
//!
//! Pure: from the row, its route as this host sees it, and the time.

use chrono::{DateTime, Utc};

use super::route::breaker;
use super::shown::{When, duration};
use crate::api::facts::{ExecutorNow, RouteView};
use crate::selection::HoldReason;
use crate::task::{Status, TaskRow};

/// What the answer depends on besides the row.
pub(super) struct Around<'a> {
    /// Absent where this host knows nothing of the route.
    pub(super) route: Option<&'a RouteView>,
    pub(super) draining: bool,
    pub(super) now: DateTime<Utc>,
}

/// One sentence for each thing that the task waits for; none once it has ended.
pub(super) fn reasons(task: &TaskRow, around: &Around<'_>) -> Vec<String> {
    match task.status {
        Status::Queued => queued(task, around),
        Status::Claimed => claimed(task, around.now),
        Status::Done | Status::Failed => Vec::new(),
    }
}

fn until(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<u64> {
    u64::try_from((to - from).num_milliseconds())
        .ok()
        .filter(|ms| *ms > 0)
}

fn claimed(task: &TaskRow, now: DateTime<Utc>) -> Vec<String> {
    let holder = task.claimed_by.as_deref().unwrap_or("somebody");
    let mut found = Vec::new();
    found.push(match task.lease_expires_at {
        Some(expires) => match (until(now, expires), until(expires, now)) {
            (Some(left), _) => format!("lease held by {holder}, {} left", duration(left)),
            (None, past) => format!(
                "the lease of {holder} ran out {} ago; a host takes the task back",
                duration(past.unwrap_or(0))
            ),
        },
        None => format!(
            "held by {holder} without a lease: another program works on it, and hosts leave it alone unless the route sets `reclaim_foreign_after`"
        ),
    });
    if let Some(asked) = task.cancel_requested_at {
        let asked = When::of(asked).utc;
        found.push(format!(
            "its end was asked for at {asked} UTC; its holder has yet to end it"
        ));
    }
    found
}

fn queued(task: &TaskRow, around: &Around<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let due = task.retry_at.unwrap_or(task.created_at);
    if let Some(left) = until(around.now, due) {
        let at = When::of(due).utc;
        let verb = match task.attempts {
            0 => "is due",
            _ => "retries",
        };
        found.push(format!("{verb} at {at} UTC, in {}", duration(left)));
    }
    let Some(view) = around.route else {
        let (service, role) = (&task.service, &task.role);
        found.push(format!(
            "this host knows no route {service}/{role}; another one may claim it"
        ));
        return found;
    };
    match &view.now {
        ExecutorNow::Held { reason } => found.push(held(view, *reason)),
        ExecutorNow::Missing { problem } => {
            found.push(format!("{} cannot run here: {problem}", view.route));
        }
        ExecutorNow::Runs { .. } if !view.served => found.push(format!(
            "this host does not claim tasks of {}; another one may",
            view.route
        )),
        ExecutorNow::Runs { .. } => {}
    }
    if around.draining {
        found.push("this host is draining and claims nothing".to_owned());
    }
    if found.is_empty() {
        let since = until(due, around.now).unwrap_or(0);
        found.push(format!(
            "due for {}; it waits for its turn and a free place on {}",
            duration(since),
            view.route
        ));
    }
    found
}

fn held(view: &RouteView, reason: HoldReason) -> String {
    let route = &view.route;
    let more = match reason {
        HoldReason::Paused => view.decided.pause.as_ref().map(|pause| {
            let why = pause.reason.as_ref().map(|why| format!(": {why}"));
            format!(" by {}{}", pause.actor, why.unwrap_or_default())
        }),
        HoldReason::BreakerOpen => {
            let row = view.decided.breaker.as_ref();
            let said = row.and_then(|row| breaker(&row.state));
            said.map(|(_, said)| format!(": {said}"))
        }
        HoldReason::FlagOff => None,
    };
    format!(
        "route {route} is held, {}{}",
        reason.said(),
        more.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::api::facts::RouteDecided;
    use crate::control::PauseRow;
    use crate::ids::MessageId;
    use crate::route::Policy;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn task(status: Status) -> TaskRow {
        TaskRow {
            id: MessageId(uuid::Uuid::nil()),
            created_at: now(),
            service: "code".to_owned(),
            role: "build-test".to_owned(),
            shard: 0,
            tenant: None,
            task_id: None,
            trace_id: None,
            status,
            priority: 0,
            attempts: 0,
            max_attempts: None,
            host_faults: 0,
            unique_key: None,
            claimed_by: None,
            claimed_at: None,
            lease_epoch: 0,
            lease_expires_at: None,
            cancel_requested_at: None,
            done_at: None,
            retry_at: None,
            last_error_at: None,
            error: None,
            result_snippet: None,
            result_url: None,
            result: None,
            payload: None,
        }
    }

    fn said(task: &TaskRow, route: Option<&RouteView>) -> String {
        let around = Around {
            route,
            draining: false,
            now: now(),
        };
        reasons(task, &around).join(" | ")
    }

    fn paused() -> RouteView {
        let route = "code/build-test";
        RouteView {
            route: route.parse().unwrap(),
            policy: Policy::Required,
            plugins: None,
            served: true,
            now: ExecutorNow::Held {
                reason: HoldReason::Paused,
            },
            decided: RouteDecided {
                pause: Some(PauseRow {
                    route: route.parse().unwrap(),
                    actor: "ann".to_owned(),
                    reason: Some("the worker moves".to_owned()),
                    paused_at: now(),
                }),
                ..RouteDecided::default()
            },
        }
    }

    #[test]
    fn a_lease_is_held_ran_out_or_is_none() {
        let mut task = task(Status::Claimed);
        task.claimed_by = Some("h2".to_owned());
        assert!(said(&task, None).starts_with("held by h2 without a lease"));
        task.lease_expires_at = Some(now() + TimeDelta::seconds(12));
        assert_eq!(said(&task, None), "lease held by h2, 12.0 s left");
        task.lease_expires_at = Some(now() - TimeDelta::seconds(3));
        task.cancel_requested_at = Some(now());
        let both = said(&task, None);
        assert!(
            both.contains("ran out 3.0 s ago") && both.contains("its end was asked for"),
            "{both}"
        );
    }

    #[test]
    fn a_task_that_waits_says_for_what() {
        let mut task = task(Status::Queued);
        assert!(said(&task, None).contains("knows no route code/build-test"));
        task.attempts = 1;
        task.retry_at = Some(now() + TimeDelta::milliseconds(500));
        let route = paused();
        assert_eq!(
            said(&task, Some(&route)),
            "retries at 2026-01-02 03:04:05 UTC, in 500 ms | route code/build-test is held, paused by ann: the worker moves"
        );
    }

    #[test]
    fn what_has_ended_waits_for_nothing() {
        assert_eq!(said(&task(Status::Done), None), "");
        assert_eq!(said(&task(Status::Failed), Some(&paused())), "");
    }
}
