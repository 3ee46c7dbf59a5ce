//! `task list|show|cancel|retry`.

use chrono::{DateTime, Utc};
use clap::Subcommand;

use super::connection::{Connection, no_task};
use super::output::{Exit, Outcome};
use super::{Context, table};
use crate::ids::{MessageId, TraceId};
use crate::route::RouteKey;
use crate::store::TaskFilter;
use crate::task::{Status, TaskRow};
use crate::trace::TaskView;

#[derive(Subcommand)]
pub enum TaskCommand {
    /// List tasks, newest first.
    List {
        /// Only those in this state: queued, claimed, done or failed.
        #[arg(long)]
        status: Option<Status>,
        /// Only those of this `service/role`.
        #[arg(long)]
        route: Option<RouteKey>,
        /// Only those of this trace.
        #[arg(long)]
        trace: Option<TraceId>,
        /// Only those with this label.
        #[arg(long)]
        task_id: Option<String>,
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one task with its attempts.
    Show {
        /// As `task list` and `submit` show it.
        id: MessageId,
    },
    /// Cancel a task, waiting or running.
    Cancel {
        /// As `task list` and `submit` show it.
        id: MessageId,
    },
    /// Put a task that has ended on the bus once more, as a new task.
    Retry {
        /// As `task list` and `submit` show it.
        id: MessageId,
    },
}

pub async fn task(context: Context, command: TaskCommand) -> Outcome {
    let config = context.config()?;
    match command {
        TaskCommand::List {
            status,
            route,
            trace,
            task_id,
            limit,
        } => {
            let filter = TaskFilter {
                status,
                route,
                trace_id: trace,
                task_id,
                limit,
            };
            let connection = Connection::read(&config).await?;
            let tasks = connection.store.tasks(&filter).await?;
            context
                .output
                .answer("task-list", &tasks, || listing(&tasks))?;
        }
        TaskCommand::Show { id } => {
            let connection = Connection::read(&config).await?;
            let task = connection.store.task(id).await?;
            let task = task.ok_or_else(|| no_task(id))?;
            let view = TaskView::of(&*connection.store, task).await?;
            context.output.answer("task", &view, || details(&view))?;
        }
        TaskCommand::Cancel { id } => {
            let connection = Connection::write(&config).await?;
            let answer = connection.cancel(id, "local").await?;
            context.output.answer("task-cancel", &answer, || {
                format!("asked to cancel task {id}; `cogo-host task show {id}` tells how it ended")
            })?;
        }
        TaskCommand::Retry { id } => {
            let connection = Connection::write(&config).await?;
            let repeated = connection.repeat(id).await?;
            context.output.answer("task-retry", &repeated, || {
                format!(
                    "task {} repeats {id}; `cogo-host trace {}` shows both",
                    repeated.id, repeated.trace_id
                )
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn listing(tasks: &[TaskRow]) -> String {
    if tasks.is_empty() {
        return "no tasks; `cogo-host submit --help` shows how to put one on the bus".to_owned();
    }
    let header = ["ID", "ROUTE", "STATUS", "ATTEMPTS", "AGE", "RESULT"];
    let rows = tasks.iter().map(|task| {
        [
            task.id.to_string(),
            format!("{}/{}", task.service, task.role),
            task.status.as_str().to_owned(),
            task.attempts.to_string(),
            age(task.created_at),
            one_line(task),
        ]
    });
    table::table(header, rows)
}

fn one_line(task: &TaskRow) -> String {
    let text = match task.status {
        Status::Done => task.result_snippet.as_deref(),
        _ => task.error.as_deref(),
    };
    let line = text.unwrap_or_default().lines().next().unwrap_or_default();
    line.chars().take(60).collect()
}

fn age(created_at: DateTime<Utc>) -> String {
    // Whole seconds: what is under one is "0s".
    let seconds = (Utc::now() - created_at).num_seconds().max(0);
    let seconds = u64::try_from(seconds).unwrap_or_default();
    let shown = humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string();
    shown.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn details(view: &TaskView) -> String {
    let task = &view.task;
    let mut lines = vec![format!(
        "task {} on {}/{} is {}",
        task.id,
        task.service,
        task.role,
        task.status.as_str()
    )];
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {name:<10} {value}"));
        }
    };
    line("label", task.task_id.clone());
    line("trace", task.trace_id.clone());
    line("created", Some(task.created_at.to_rfc3339()));
    line("holder", task.claimed_by.clone());
    line(
        "lease",
        task.lease_expires_at
            .map(|at| format!("until {}", at.to_rfc3339())),
    );
    line(
        "retry",
        task.retry_at.map(|at| format!("at {}", at.to_rfc3339())),
    );
    line("error", task.error.clone());
    line("result", task.result_snippet.clone());
    line("url", task.result_url.clone());
    for attempt in &view.attempts {
        lines.push(format!(
            "  attempt {}: {} by {}{} after waiting {} ms, running {} ms{}",
            attempt.attempt,
            attempt.outcome,
            attempt.plugin.as_deref().unwrap_or("nobody"),
            attempt
                .version
                .as_ref()
                .map(|v| format!(" {v}"))
                .unwrap_or_default(),
            attempt.wait_ms,
            attempt.run_ms,
            attempt
                .code
                .as_ref()
                .map(|code| format!(" ({code})"))
                .unwrap_or_default(),
        ));
    }
    if let Some(trace) = &task.trace_id {
        lines.push(format!("`cogo-host trace {trace}` shows the whole story"));
    }
    lines.join("\n")
}
