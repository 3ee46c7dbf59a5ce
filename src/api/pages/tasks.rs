//! `/ui/tasks`: what is and was on the bus, newest first.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::action::Command;
use super::events::trace_link;
use super::form::{asking, filled};
use super::frame::{Frame, Section};
use super::shown::{Badge, LongId, When, first_line};
use super::{Answer, rendered};
use crate::api::Shared;
use crate::api::events::newest;
pub(super) use crate::api::tasks::FILTERS;
use crate::api::tasks::{Listing, TASKS_DEFAULT, TASKS_MAX, filter};
use crate::store::{Depth, TaskFilter};
use crate::task::{Status, TaskRow};

/// More of a label than fits a line.
const LABEL: usize = 60;
/// More of a result than fits a line.
const LINE: usize = 90;

#[derive(Template)]
#[template(path = "tasks.html", config = "src/api/pages/askama.toml")]
struct TasksPage {
    frame: Frame,
    tabs: Vec<Tab>,
    asked: Asked,
    routes: Vec<String>,
    tasks: Vec<TaskLine>,
    /// Where more of them are, if there are more.
    more: Option<String>,
    truncated: bool,
    narrowed: bool,
}

/// A state to look at.
struct Tab {
    label: &'static str,
    href: String,
    here: bool,
    /// On the whole bus.
    tasks: Option<u64>,
}

/// The filters as they were given.
struct Asked {
    status: Option<Status>,
    route: String,
    trace: String,
    task_id: String,
}

/// A task as a line.
pub(super) struct TaskLine {
    pub(super) id: LongId,
    pub(super) href: String,
    pub(super) created: When,
    pub(super) route: String,
    pub(super) status: Badge,
    pub(super) fallback: bool,
    pub(super) attempts: String,
    pub(super) label: String,
    /// The trace and its page.
    pub(super) trace: Option<(String, String)>,
    pub(super) said: String,
}

impl TaskLine {
    pub(super) fn of(task: &TaskRow) -> Self {
        let said = match task.status {
            Status::Done => task.result_snippet.as_deref(),
            Status::Queued | Status::Claimed | Status::Failed => task.error.as_deref(),
        };
        Self {
            id: LongId::of(task.id),
            href: format!("/ui/tasks/{}", task.id),
            created: When::of(task.created_at),
            route: format!("{}/{}", task.service, task.role),
            status: Badge::of_outcome(task.status.as_str()),
            fallback: is_fallback(task),
            attempts: attempts(task),
            label: first_line(task.task_id.as_deref().unwrap_or_default(), LABEL),
            trace: task.trace_id.as_deref().map(trace_link),
            said: first_line(said.unwrap_or_default(), LINE),
        }
    }
}

/// Whether a mock did it in place of the real executor.
pub(super) fn is_fallback(task: &TaskRow) -> bool {
    let result = task.result.as_ref();
    let stamp = result.and_then(|result| result.get("fallback"));
    stamp.and_then(Value::as_bool) == Some(true)
}

pub(super) fn attempts(task: &TaskRow) -> String {
    match task.max_attempts {
        Some(most) => format!("{} of {most}", task.attempts),
        None => task.attempts.to_string(),
    }
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Answer {
    let after = newest(&shared).await?;
    let params = filled(query.as_deref(), FILTERS)?;
    let filter = filter(&params)?;
    let asked = Asked::of(&filter);
    let Listing { tasks, truncated } = Listing::read(&shared, &filter).await?;
    let depth = shared.store().depth().await?;
    let routes = shared.api.facts.routes().into_iter();
    let page = TasksPage {
        frame: frame(&shared, &asked, &filter, after),
        tabs: tabs(&asked, &depth),
        routes: routes.map(|view| view.route.to_string()).collect(),
        tasks: tasks.iter().map(TaskLine::of).collect(),
        more: more(&asked, &filter, truncated),
        truncated,
        narrowed: asked.narrows(),
        asked,
    };
    Ok(rendered(StatusCode::OK, &page))
}

impl Asked {
    fn of(filter: &TaskFilter) -> Self {
        let text = |text: Option<String>| text.unwrap_or_default();
        Self {
            status: filter.status,
            route: text(filter.route.as_ref().map(ToString::to_string)),
            trace: text(filter.trace_id.as_ref().map(ToString::to_string)),
            task_id: text(filter.task_id.clone()),
        }
    }

    /// By more than the state.
    fn narrows(&self) -> bool {
        [&self.route, &self.trace, &self.task_id]
            .iter()
            .any(|text| !text.is_empty())
    }

    fn fields(
        &self,
        status: Option<Status>,
        limit: Option<u32>,
    ) -> [(&'static str, Option<String>); 5] {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        [
            ("status", status.map(|status| status.as_str().to_owned())),
            ("route", given(&self.route)),
            ("trace", given(&self.trace)),
            ("task_id", given(&self.task_id)),
            ("limit", limit.map(|limit| limit.to_string())),
        ]
    }
}

fn frame(shared: &Shared, asked: &Asked, filter: &TaskFilter, after: i64) -> Frame {
    let limit = Some(filter.limit).filter(|limit| *limit != TASKS_DEFAULT);
    let fields = asked.fields(asked.status, limit);
    let mut command = Command::new("task list");
    let options = ["--status", "--route", "--trace", "--task-id", "--limit"];
    for (option, (_, value)) in options.into_iter().zip(&fields) {
        if let Some(value) = value {
            command = command.option(option, value);
        }
    }
    Frame::new(shared, Section::Tasks, "Tasks")
        .after(after)
        .path(asking("/api/tasks", fields))
        .command(command)
}

fn tabs(asked: &Asked, depth: &Depth) -> Vec<Tab> {
    let all = depth.queued + depth.claimed + depth.done + depth.failed;
    let tab = |status: Option<Status>, label, tasks| Tab {
        label,
        href: asking("/ui/tasks", asked.fields(status, None)),
        here: status == asked.status,
        // The counts are of the whole bus.
        tasks: Some(tasks).filter(|_| !asked.narrows()),
    };
    vec![
        tab(None, "all", all),
        tab(Some(Status::Queued), "queued", depth.queued),
        tab(Some(Status::Claimed), "claimed", depth.claimed),
        tab(Some(Status::Done), "done", depth.done),
        tab(Some(Status::Failed), "failed", depth.failed),
    ]
}

fn more(asked: &Asked, filter: &TaskFilter, truncated: bool) -> Option<String> {
    let next = [100, 200, TASKS_MAX]
        .into_iter()
        .find(|n| *n > filter.limit);
    let next = next.filter(|_| truncated)?;
    Some(asking("/ui/tasks", asked.fields(asked.status, Some(next))))
}
