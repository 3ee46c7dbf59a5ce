//! A trace in time: bars for what waited, ran and was asked of others.
//!
//! Pure: from the story and the time. Bars are parts of a thousand, so that a
//! page draws them at any width.

use chrono::{DateTime, Utc};

use super::shown::{duration, first_line, micros};
use crate::attempt::Span;
use crate::task::Status;
use crate::trace::{AttemptView, TaskView, TraceView};

/// More rows than one looks through; the API has all.
pub(super) const ROWS: usize = 500;
/// A bar that is thinner cannot be seen.
const THINNEST: u32 = 3;
/// The width of the whole.
const WHOLE: u32 = 1_000;

pub(super) struct Waterfall {
    pub(super) rows: Vec<Row>,
    /// How long all of it took.
    pub(super) took: String,
    /// Rows that are left out.
    pub(super) more: usize,
}

pub(super) struct Row {
    /// `task`, `attempt` or `span`.
    pub(super) class: &'static str,
    pub(super) label: String,
    /// What the bars say, in words.
    pub(super) detail: String,
    pub(super) bars: Vec<Bar>,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bar {
    /// `wait`, `done`, `failed`, `busy` or `span`.
    pub(super) class: &'static str,
    pub(super) x: u32,
    pub(super) width: u32,
}

/// From when to when the picture goes.
struct Scale {
    start: DateTime<Utc>,
    whole_us: i64,
}

impl Waterfall {
    pub(super) fn of(view: &TraceView, now: DateTime<Utc>) -> Self {
        let scale = Scale::of(view, now);
        let mut rows = Vec::new();
        for task in &view.tasks {
            rows.push(scale.task(task, now));
            for attempt in &task.attempts {
                rows.push(scale.attempt(attempt));
                rows.extend(attempt.spans.iter().map(|span| scale.span(attempt, span)));
            }
        }
        let more = rows.len().saturating_sub(ROWS);
        rows.truncate(ROWS);
        Self {
            rows,
            took: duration(u64::try_from(scale.whole_us / 1_000).unwrap_or(0)),
            more,
        }
    }
}

/// When an attempt began.
fn begun(attempt: &AttemptView) -> DateTime<Utc> {
    let ran = chrono::TimeDelta::milliseconds(i64::try_from(attempt.run_ms).unwrap_or(0));
    attempt.claimed_at.unwrap_or(attempt.ended_at - ran)
}

impl Scale {
    fn of(view: &TraceView, now: DateTime<Utc>) -> Self {
        let tasks = || view.tasks.iter();
        let events = || view.events.iter().map(|event| event.created_at);
        let created = tasks().map(|task| task.task.created_at);
        let start = created.chain(events()).min().unwrap_or(now);
        let ended = tasks().flat_map(|task| task.attempts.iter().map(|a| a.ended_at));
        let under_way = tasks().any(|task| !task.task.status.is_terminal());
        let end = ended.chain(events()).chain(under_way.then_some(now)).max();
        let end = end.unwrap_or(now).max(start);
        Self {
            start,
            whole_us: (end - start).num_microseconds().unwrap_or(i64::MAX).max(1),
        }
    }

    /// Where an instant lies.
    fn x(&self, at: DateTime<Utc>) -> u32 {
        let since = (at - self.start).num_microseconds().unwrap_or(0).max(0);
        let part = since.min(self.whole_us) as f64 / self.whole_us as f64;
        // From 0 to 1000: nothing is lost.
        (part * f64::from(WHOLE)).round() as u32
    }

    fn bar(&self, class: &'static str, from: DateTime<Utc>, to: DateTime<Utc>) -> Bar {
        let x = self.x(from).min(WHOLE - THINNEST);
        let width = self.x(to).saturating_sub(x).max(THINNEST);
        Bar { class, x, width }
    }

    fn task(&self, view: &TaskView, now: DateTime<Utc>) -> Row {
        let task = &view.task;
        let mut from = task.created_at;
        let mut bars = Vec::new();
        for attempt in &view.attempts {
            let begun = begun(attempt);
            bars.push(self.bar("wait", from, begun));
            bars.push(self.bar(class(&attempt.outcome), begun, attempt.ended_at));
            from = attempt.ended_at;
        }
        match (task.status, task.claimed_at) {
            (Status::Queued, _) => bars.push(self.bar("wait", from, now)),
            (Status::Claimed, claimed) => {
                let claimed = claimed.unwrap_or(now);
                bars.push(self.bar("wait", from, claimed));
                bars.push(self.bar("busy", claimed, now));
            }
            (Status::Done | Status::Failed, _) => {}
        }
        let label = task
            .task_id
            .as_deref()
            .map(|label| format!(" · {}", first_line(label, 40)));
        Row {
            class: "task",
            label: format!(
                "{}/{}{}",
                task.service,
                task.role,
                label.unwrap_or_default()
            ),
            detail: format!("{}, {}", task.status.as_str(), tries(view.attempts.len())),
            bars,
        }
    }

    fn attempt(&self, attempt: &AttemptView) -> Row {
        let begun = begun(attempt);
        let plugin = attempt.plugin.as_deref().unwrap_or("no executor");
        let code = attempt.code.as_deref().map(|code| format!(" ({code})"));
        Row {
            class: "attempt",
            label: format!("attempt {} · {plugin}", attempt.attempt),
            detail: format!(
                "{}{}, waited {}, ran {}",
                attempt.outcome,
                code.unwrap_or_default(),
                duration(attempt.wait_ms),
                duration(attempt.run_ms)
            ),
            bars: vec![self.bar(class(&attempt.outcome), begun, attempt.ended_at)],
        }
    }

    fn span(&self, attempt: &AttemptView, span: &Span) -> Row {
        let us =
            |us: u64| chrono::TimeDelta::microseconds(i64::try_from(us).unwrap_or(i64::MAX / 4));
        let from = begun(attempt).checked_add_signed(us(span.start_us));
        let from = from.unwrap_or(attempt.ended_at);
        let to = from.checked_add_signed(us(span.duration_us));
        let fields: Vec<&str> = span.fields.values().map(String::as_str).collect();
        let fields = first_line(&fields.join(" "), 60);
        Row {
            class: "span",
            label: format!("{} {fields}", span.name),
            detail: format!(
                "took {}, at {}",
                micros(span.duration_us),
                micros(span.start_us)
            ),
            bars: vec![self.bar("span", from, to.unwrap_or(attempt.ended_at))],
        }
    }
}

fn tries(attempts: usize) -> String {
    match attempts {
        1 => "1 attempt has ended".to_owned(),
        n => format!("{n} attempts have ended"),
    }
}

fn class(outcome: &str) -> &'static str {
    match outcome {
        "done" => "done",
        "retry" | "drained" | "probe" => "again",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    #[test]
    fn bars_stay_within_the_picture() {
        let scale = Scale {
            start: at(0),
            whole_us: 10_000_000,
        };
        let bar = |from, to| {
            let bar = scale.bar("wait", at(from), at(to));
            (bar.x, bar.width)
        };
        assert_eq!(bar(0, 10_000), (0, 1_000));
        assert_eq!(bar(2_500, 5_000), (250, 250));
        // Seen however short, and never beyond the end.
        assert_eq!(bar(10_000, 10_000), (997, 3));
        // A clock that went back does not turn a bar around.
        assert_eq!(bar(5_000, 1_000), (500, 3));
        assert_eq!(bar(-1_000, 90_000), (0, 1_000));
    }
}
