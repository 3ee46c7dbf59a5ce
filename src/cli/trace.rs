//! `trace`: everything that happened under one trace id, as a timeline.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use clap::Args;

use super::connection::Connection;
use super::output::{Exit, Failure, Outcome};
use super::{Config, Context, gate};
use crate::attempt::Span;
use crate::event::Event;
use crate::gate::Scope;
use crate::ids::TraceId;
use crate::trace::{AttemptView, TaskView, TraceView};

#[derive(Args)]
pub struct TraceArgs {
    /// The trace id, as `submit` and `task show` tell it.
    id: TraceId,
}

pub async fn trace(context: Context, args: TraceArgs) -> Outcome {
    let config = context.config()?;
    let connection = Connection::read(&config).await?;
    let require_real = gate::requires_real(&config, false);
    let story = story(&connection, &config, &args.id, require_real).await?;
    context.output.answer("trace", &story, || {
        let scope = Scope::Trace(args.id.clone());
        format!(
            "{}\n\n{}",
            timeline(&story),
            gate::table(&story.gate, &scope)
        )
    })?;
    Ok(Exit::Ok)
}

/// Reads and judges the trace.
pub async fn story(
    connection: &Connection,
    config: &Config,
    id: &TraceId,
    require_real: bool,
) -> Outcome<TraceView> {
    let policy = |route: &_| config.policy(route);
    let judging = gate::judging(config, &policy, require_real);
    let story = TraceView::read(&*connection.store, id, &judging).await?;
    story.ok_or_else(|| {
        Failure::message(
            Exit::NotFound,
            "trace_unknown",
            format!("the bus knows nothing of trace {id}"),
        )
        .hint("`cogo-host task list` shows what is on the bus")
    })
}

/// The story in the order in which it happened: tasks, attempts with what they
/// did, events. Times count from the first task.
pub fn timeline(story: &TraceView) -> String {
    let start = story.tasks.first().map(|task| task.task.created_at);
    let mut text = format!("trace {}", story.trace_id);
    for task in &story.tasks {
        text.push('\n');
        task_lines(&mut text, task);
    }
    text.push_str("\n\nevents");
    for event in &story.events {
        event_line(&mut text, event, start);
    }
    if story.truncated {
        text.push_str("\n  … more than is shown");
    }
    text
}

fn task_lines(text: &mut String, view: &TaskView) {
    let task = &view.task;
    let label = task.task_id.as_deref().map(|label| format!(" ({label})"));
    line(
        text,
        format_args!(
            "task {}{} on {}/{}: {}{}",
            task.id,
            label.unwrap_or_default(),
            task.service,
            task.role,
            task.status.as_str(),
            said(task.result_snippet.as_deref().or(task.error.as_deref())),
        ),
    );
    if let Some(url) = &task.result_url {
        line(text, format_args!("  result {url}"));
    }
    for attempt in &view.attempts {
        attempt_lines(text, attempt);
    }
    for run in &view.shadows {
        line(text, format_args!("  {}", run.said()));
    }
}

fn attempt_lines(text: &mut String, attempt: &AttemptView) {
    let plugin = match (&attempt.plugin, &attempt.version, &attempt.kind) {
        (Some(name), Some(version), Some(kind)) => format!("{name} {version}, {kind}"),
        _ => "no executor".to_owned(),
    };
    line(
        text,
        format_args!(
            "  attempt {}: {} by {plugin}{}",
            attempt.attempt,
            attempt.outcome,
            said(attempt.code.as_deref()),
        ),
    );
    line(
        text,
        format_args!(
            "    waited {} ms, ran {} ms, peak memory {:.1} MiB, {} requests, on {}",
            attempt.wait_ms,
            attempt.run_ms,
            mebibytes(attempt.peak_memory_bytes),
            attempt.outbound_requests,
            attempt.host,
        ),
    );
    if let Some(digest) = attempt.digest {
        let why = attempt.why.as_ref().map(why).unwrap_or_default();
        line(text, format_args!("    {digest}{why}"));
    }
    for span in &attempt.spans {
        line(text, format_args!("    {}", span_line(span)));
    }
    for logged in &attempt.log {
        line(
            text,
            format_args!(
                "    {:>10.1} ms  log {:?}: {}",
                millis(logged.at_us),
                logged.level,
                logged.message
            ),
        );
    }
    if attempt.log_dropped > 0 {
        line(
            text,
            format_args!(
                "    {} log lines over the limit were dropped",
                attempt.log_dropped
            ),
        );
    }
}

/// Why the executor was chosen, in a few words.
fn why(why: &serde_json::Value) -> String {
    let field = |name: &str| why.get(name).and_then(serde_json::Value::as_str);
    let path = field("path").unwrap_or("unknown");
    let basis = field("basis").unwrap_or("unknown").replace('_', " ");
    let fallback = why.get("fallback").and_then(serde_json::Value::as_bool);
    let stands_in = if fallback == Some(true) {
        ", a fallback"
    } else {
        ""
    };
    format!(", {path} path by {basis}{stands_in}")
}

fn span_line(span: &Span) -> String {
    let fields: Vec<String> = span
        .fields
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!(
        "{:>10.1} ms +{:.1} ms  {} {}",
        millis(span.start_us),
        millis(span.duration_us),
        span.name,
        fields.join(" ")
    )
    .trim_end()
    .to_owned()
}

fn event_line(text: &mut String, event: &Event, start: Option<DateTime<Utc>>) {
    let since = start.map_or(0, |start| (event.created_at - start).num_milliseconds());
    line(
        text,
        format_args!(
            "  {since:>8} ms  {}{}{}",
            event.event_type,
            decided(&event.payload),
            said(event.reason.as_deref())
        ),
    );
}

/// What an operator decided, and who that was.
fn decided(payload: &serde_json::Value) -> String {
    let Some(actor) = payload.get("actor").and_then(|actor| actor.as_str()) else {
        return String::new();
    };
    let share = payload.get("share").and_then(serde_json::Value::as_u64);
    let to = match (
        payload.get("to").and_then(serde_json::Value::as_bool),
        share,
    ) {
        (Some(true), _) => " to on".to_owned(),
        (Some(false), _) => " to off".to_owned(),
        (None, Some(share)) => format!(" at {share} %"),
        (None, None) => String::new(),
    };
    format!("{to} by {actor}")
}

fn said(text: Option<&str>) -> String {
    let first = text.and_then(|text| text.lines().next());
    first.map(|line| format!(": {line}")).unwrap_or_default()
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{line}");
}

fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
