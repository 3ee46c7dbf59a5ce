//! `/ui/tasks/{id}`: what became of a task, what was tried, why it waits.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use chrono::Utc;

use super::action::{Action, Command};
use super::events::trace_link;
use super::frame::{Frame, Section};
use super::shown::{Badge, Excerpt, TEXT_SHOWN, Tone, When, bytes, duration, link, micros};
use super::tasks::{attempts, is_fallback};
use super::waits::{Around, reasons};
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::events::newest;
use crate::api::facts::RouteView;
use crate::api::path::Id;
use crate::api::query::Params;
use crate::api::tasks::Shown;
use crate::codes;
use crate::ids::MessageId;
use crate::task::{Status, TaskRow};
use crate::trace::AttemptView;

/// The latest attempts are those that matter; the API has all.
const ATTEMPTS: usize = 40;
/// Log lines and spans of one attempt; the API has all.
const LINES: usize = 200;

#[derive(Template)]
#[template(path = "task.html", config = "src/api/pages/askama.toml")]
struct TaskPage {
    frame: Frame,
    id: String,
    route: String,
    status: Badge,
    fallback: bool,
    waits: Vec<String>,
    progress: Option<Progress>,
    facts: Vec<Fact>,
    error: Option<Trouble>,
    /// What the task came to, in a line.
    snippet: Option<String>,
    /// Where the whole of it lies, and whether that can be followed.
    url: Option<(String, Option<String>)>,
    payload: Option<Excerpt>,
    result: Option<Excerpt>,
    attempts: Vec<AttemptShown>,
    /// Earlier attempts that are not shown.
    earlier: usize,
    shadows: Vec<String>,
    /// The same as JSON.
    json: String,
}

struct Progress {
    percent: Option<u8>,
    note: String,
}

/// A name and what it is.
struct Fact {
    name: &'static str,
    value: Value,
}

enum Value {
    Text(String),
    Link(String, String),
    Time(When),
}

/// What went wrong, with what is known of it.
pub(super) struct Trouble {
    pub(super) code: String,
    pub(super) said: String,
    pub(super) explained: Option<&'static codes::Entry>,
}

impl Trouble {
    /// From a text such as `plugin_trap: out of bounds`, or a code alone.
    fn of(text: &str) -> Self {
        let (code, said) = text.split_once(": ").unwrap_or((text, ""));
        let explained = codes::find(code).map(|(_, entry)| entry);
        let named = !code.contains(char::is_whitespace);
        match named {
            true => Self {
                code: code.to_owned(),
                said: said.to_owned(),
                explained,
            },
            false => Self {
                code: String::new(),
                said: text.to_owned(),
                explained: None,
            },
        }
    }
}

/// An attempt as a card.
pub(super) struct AttemptShown {
    pub(super) number: u32,
    pub(super) anchor: String,
    pub(super) outcome: Badge,
    pub(super) trouble: Option<Trouble>,
    pub(super) blame: String,
    pub(super) plugin: String,
    pub(super) digest: String,
    pub(super) digest_short: String,
    pub(super) kind: Option<Badge>,
    pub(super) why: String,
    pub(super) host: String,
    pub(super) stage: String,
    pub(super) claimed: Option<When>,
    pub(super) ended: When,
    pub(super) waited: String,
    pub(super) ran: String,
    pub(super) memory: String,
    pub(super) requests: u32,
    pub(super) spans: Vec<SpanLine>,
    pub(super) log: Vec<LogShown>,
    /// Log lines that are not shown here, and those that were not even kept.
    pub(super) log_more: usize,
    pub(super) log_dropped: u32,
}

pub(super) struct SpanLine {
    pub(super) at: String,
    pub(super) took: String,
    pub(super) name: String,
    pub(super) fields: String,
}

pub(super) struct LogShown {
    pub(super) at: String,
    pub(super) level: Badge,
    pub(super) message: String,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<MessageId>,
    RawQuery(query): RawQuery,
) -> Answer {
    Params::read(query.as_deref(), &[])?;
    let after = newest(&shared).await?;
    let shown = Shown::read(&shared, id).await?;
    let routes = shared.api.facts.routes();
    let draining = shared.api.bus.is_draining();
    let page = page(&shared, shown, &routes, draining).after(after);
    Ok(rendered(StatusCode::OK, &page))
}

fn page(shared: &Shared, shown: Shown, routes: &[RouteView], draining: bool) -> TaskPage {
    let Shown {
        view,
        progress,
        links,
    } = shown;
    let task = &view.task;
    let route = routes
        .iter()
        .find(|view| view.route.service() == task.service && view.route.role() == task.role);
    let around = Around {
        route,
        draining,
        now: Utc::now(),
    };
    let earlier = view.attempts.len().saturating_sub(ATTEMPTS);
    let told = match task.status {
        Status::Done => None,
        Status::Queued | Status::Claimed | Status::Failed => task.error.as_deref(),
    };
    TaskPage {
        id: task.id.to_string(),
        route: format!("{}/{}", task.service, task.role),
        status: Badge::of_outcome(task.status.as_str()),
        fallback: is_fallback(task),
        waits: reasons(task, &around),
        progress: progress.map(|progress| Progress {
            // Between 0 and 100: nothing is lost.
            percent: progress
                .fraction
                .map(|part| (part.clamp(0.0, 1.0) * 100.0).round() as u8),
            note: progress.note,
        }),
        facts: facts(task),
        error: told.map(Trouble::of),
        snippet: task.result_snippet.clone(),
        url: task.result_url.clone().map(|url| {
            let link = link(&url);
            (url, link)
        }),
        payload: task.payload.as_ref().map(|v| Excerpt::json(v, TEXT_SHOWN)),
        result: task.result.as_ref().map(|v| Excerpt::json(v, TEXT_SHOWN)),
        attempts: view
            .attempts
            .iter()
            .skip(earlier)
            .map(AttemptShown::of)
            .collect(),
        earlier,
        shadows: view.shadows.iter().map(|run| run.said()).collect(),
        frame: frame(
            shared,
            task,
            [Some(links.task.clone()), links.trace, links.gate],
        ),
        json: links.task,
    }
}

impl TaskPage {
    fn after(mut self, event: i64) -> Self {
        self.frame = self.frame.after(event);
        self
    }
}

fn frame(shared: &Shared, task: &TaskRow, paths: [Option<String>; 3]) -> Frame {
    let id = task.id.to_string();
    let mut frame = Frame::new(shared, Section::Tasks, format!("Task {id}"))
        .command(Command::new("task show").about(&id))
        .actions(actions(task, &id));
    if let Some(trace) = &task.trace_id {
        frame = frame.command(Command::new("trace").about(trace));
    }
    frame.paths.extend(paths.into_iter().flatten());
    frame
}

fn actions(task: &TaskRow, id: &str) -> Vec<Action> {
    let action = |says, words: &str, call: &str| {
        let call = format!("POST /api/tasks/{id}/{call}");
        Action::new(says, Command::new(words).about(id), call)
    };
    match task.status {
        Status::Queued | Status::Claimed => vec![action("End it", "task cancel", "cancel")],
        Status::Done | Status::Failed => {
            vec![action(
                "Run it once more, as a new task",
                "task retry",
                "retry",
            )]
        }
    }
}

fn facts(task: &TaskRow) -> Vec<Fact> {
    let text = |text: &Option<String>| text.clone().map(Value::Text);
    let time = |at| Value::Time(When::of(at));
    let trace = task.trace_id.as_deref().map(|trace| {
        let (trace, href) = trace_link(trace);
        Value::Link(trace, href)
    });
    let tenant = match (task.shard, &task.tenant) {
        (0, None) => None,
        (shard, None) => Some(format!("shard {shard}")),
        (shard, Some(tenant)) => Some(format!("shard {shard}, tenant {tenant}")),
    };
    let priority = (task.priority != 0).then(|| task.priority.to_string());
    let refunded = (task.host_faults > 0).then(|| format!("{} given back", task.host_faults));
    let all = [
        ("Label", text(&task.task_id)),
        ("Trace", trace),
        ("Shard and tenant", tenant.map(Value::Text)),
        ("Priority", priority.map(Value::Text)),
        ("Unique key", text(&task.unique_key)),
        ("Attempts", Some(Value::Text(attempts(task)))),
        ("Host faults", refunded.map(Value::Text)),
        ("Created", Some(time(task.created_at))),
        ("Held by", text(&task.claimed_by)),
        ("Claimed", task.claimed_at.map(time)),
        ("Lease until", task.lease_expires_at.map(time)),
        ("Retry at", task.retry_at.map(time)),
        ("Last error", task.last_error_at.map(time)),
        ("Cancel asked for", task.cancel_requested_at.map(time)),
        ("Ended", task.done_at.map(time)),
    ];
    let all = all.into_iter();
    let known = all.filter_map(|(name, value)| {
        Some(Fact {
            name,
            value: value?,
        })
    });
    known.collect()
}

impl AttemptShown {
    pub(super) fn of(attempt: &AttemptView) -> Self {
        let log = attempt.log.iter();
        Self {
            number: attempt.attempt,
            anchor: format!("{}-{}", attempt.message_id, attempt.lease_epoch),
            outcome: Badge::of_outcome(&attempt.outcome),
            trouble: attempt.code.as_deref().map(Trouble::of),
            blame: attempt.blame.clone().unwrap_or_default(),
            plugin: match (&attempt.plugin, &attempt.version) {
                (Some(name), Some(version)) => format!("{name} {version}"),
                _ => "no executor".to_owned(),
            },
            digest: attempt.digest.map(|d| d.to_string()).unwrap_or_default(),
            digest_short: attempt.digest.map(|d| d.short()).unwrap_or_default(),
            kind: attempt.kind.as_deref().map(kind),
            why: why(attempt),
            host: attempt.host.clone(),
            stage: attempt.stage.clone().unwrap_or_default(),
            claimed: attempt.claimed_at.map(When::of),
            ended: When::of(attempt.ended_at),
            waited: duration(attempt.wait_ms),
            ran: duration(attempt.run_ms),
            memory: bytes(attempt.peak_memory_bytes),
            requests: attempt.outbound_requests,
            spans: attempt.spans.iter().take(LINES).map(SpanLine::of).collect(),
            log_more: attempt.log.len().saturating_sub(LINES),
            log: log
                .take(LINES)
                .map(|line| LogShown {
                    at: micros(line.at_us),
                    level: level(line.level.as_str()),
                    message: line.message.clone(),
                })
                .collect(),
            log_dropped: attempt.log_dropped,
        }
    }
}

impl SpanLine {
    fn of(span: &crate::attempt::Span) -> Self {
        let fields: Vec<String> = span
            .fields
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        Self {
            at: micros(span.start_us),
            took: micros(span.duration_us),
            name: span.name.to_string(),
            fields: fields.join(" "),
        }
    }
}

fn kind(kind: &str) -> Badge {
    let tone = match kind {
        "real" => Tone::Good,
        _ => Tone::Quiet,
    };
    Badge::new(tone, kind)
}

fn level(level: &str) -> Badge {
    let tone = match level {
        "error" => Tone::Bad,
        "warn" => Tone::Warn,
        _ => Tone::Quiet,
    };
    Badge::new(tone, level)
}

/// Why this executor: a later build may write what this one does not know, so
/// the words are taken as they are.
fn why(attempt: &AttemptView) -> String {
    let Some(why) = &attempt.why else {
        return String::new();
    };
    let field = |name: &str| why.get(name).and_then(serde_json::Value::as_str);
    let flag = |name: &str| why.get(name).and_then(serde_json::Value::as_bool) == Some(true);
    let mut said = format!(
        "{} path by {}",
        field("path").unwrap_or("unknown"),
        field("basis").unwrap_or("unknown").replace('_', " ")
    );
    if flag("fallback") {
        said += ", mock fallback";
    }
    if let Some(approval) = field("approval") {
        said += &format!(" under {approval}");
    }
    if flag("probe") {
        said += ", a probe";
    }
    if let Some(rollout) = why.get("rollout") {
        let of = |name: &str| rollout.get(name).and_then(serde_json::Value::as_str);
        if let (Some(side), Some(id)) = (of("side"), of("id")) {
            said += &format!(", {side} of {id}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_code_and_what_was_said() {
        let known = Trouble::of("plugin_trap: out of bounds");
        assert_eq!(
            (&*known.code, &*known.said),
            ("plugin_trap", "out of bounds")
        );
        assert!(known.explained.is_some());
        let own = Trouble::of("no_way");
        assert_eq!((&*own.code, &*own.said), ("no_way", ""));
        assert!(own.explained.is_none());
        let prose = Trouble::of("it broke: badly");
        assert_eq!((&*prose.code, &*prose.said), ("", "it broke: badly"));
    }
}
