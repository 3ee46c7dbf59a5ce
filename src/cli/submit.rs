//! `submit`: puts a task on the bus and, where asked, waits for its end.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::connection::{Connection, Submitted, no_task};
use super::output::{Exit, Failure, Outcome, Output};
use super::{Config, Context};
use crate::ids::MessageId;
use crate::shadow::ShadowRunRow;
use crate::store::ShadowRunFilter;
use crate::task::{Status, TaskRow};

/// How often a waiting command looks.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long what `run --compare` finds is waited for: it may have found no place.
const COMPARING: Duration = Duration::from_secs(10);
/// More than ever watch one task.
const SHADOWS: u32 = 10;

#[derive(Args)]
#[command(after_help = "Examples:
  cogo-host submit --service code --role build-test --repo ./my-project --wait
  cogo-host submit --service sandbox --role run --payload '{\"command\":\"ls\"}'
  cogo-host submit --service codegen --role generate --payload @spec.json")]
pub struct SubmitArgs {
    #[arg(long)]
    service: String,
    #[arg(long)]
    role: String,
    /// What to build: a git URL, a directory, or a source archive.
    #[arg(long, value_name = "URL|PATH")]
    repo: Option<String>,
    /// A branch, tag or commit of the repository.
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// Edits to apply before testing.
    #[arg(long, value_name = "URL")]
    edits_url: Option<String>,
    /// The payload: JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    payload: Option<String>,
    /// The producer's label of the task.
    #[arg(long)]
    task_id: Option<String>,
    #[arg(long)]
    trace_id: Option<String>,
    #[arg(long)]
    shard: Option<i32>,
    #[arg(long)]
    tenant: Option<String>,
    /// Higher goes first.
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Refer to the task of this key that has not ended, if there is one.
    #[arg(long)]
    unique_key: Option<String>,
    /// Not before this has passed, such as `30s`.
    #[arg(long, value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Wait for the end. A failed task, or failing tests, end with 1.
    #[arg(long)]
    wait: bool,
    /// Stop waiting after this; the task goes on.
    #[arg(long, value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Option<Duration>,
}

pub async fn submit(context: Context, args: SubmitArgs) -> Outcome {
    let config = context.config()?;
    let submission = submission(&args)?;
    let connection = Connection::write(&config).await?;
    let submitted = connection.submit(submission).await?;
    if !args.wait {
        context.output.answer("submit", &submitted, || {
            let verb = if submitted.existing {
                "waits already as"
            } else {
                "is"
            };
            format!(
                "the task {verb} {}, trace {}",
                submitted.id, submitted.trace_id
            )
        })?;
        tell_of_no_host(&connection, context.output).await?;
        return Ok(Exit::Ok);
    }
    tell_of_no_host(&connection, context.output).await?;
    let waiting = wait(&connection, &submitted, context.output);
    let task = match args.timeout {
        Some(timeout) => tokio::time::timeout(timeout, waiting).await.map_err(|_| {
            Failure::message(
                Exit::Inconclusive,
                "still_running",
                format!("task {} has not ended yet", submitted.id),
            )
            .hint(format!(
                "`cogo-host task show {}` tells how it stands",
                submitted.id
            ))
        })??,
        None => waiting.await?,
    };
    let shadows = compared(&connection, &config, submitted.id).await?;
    let shown = Waited {
        task: &task,
        shadows: &shadows,
    };
    context.output.answer("task", &shown, || {
        let lines = shadows.iter().map(ShadowRunRow::said);
        [ended(&task)]
            .into_iter()
            .chain(lines)
            .collect::<Vec<_>>()
            .join("\n  ")
    })?;
    context.output.note(format_args!(
        "`cogo-host trace {}` shows the whole story",
        submitted.trace_id
    ));
    Ok(exit(&task))
}

/// A task that nobody executes waits without a word; so does who waits for it.
async fn tell_of_no_host(connection: &Connection, output: Output) -> Outcome<()> {
    if !connection.has_host().await? {
        output.note("no host serves this bus now; `cogo-host run` executes the task");
    }
    Ok(())
}

/// A task that has ended, and what other versions came to beside it.
#[derive(serde::Serialize)]
struct Waited<'a> {
    #[serde(flatten)]
    task: &'a TaskRow,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    shadows: &'a [ShadowRunRow],
}

/// What the other executor of the route came to, where the host compares.
async fn compared(
    connection: &Connection,
    config: &Config,
    id: MessageId,
) -> Outcome<Vec<ShadowRunRow>> {
    let said = match &connection.host {
        Some(host) => host.get::<Value>("/api/integration/status").await.ok(),
        None => None,
    };
    let said = said.and_then(|status| status.pointer("/host/compare").and_then(Value::as_bool));
    let patience = match said.unwrap_or(config.compare) {
        true => COMPARING,
        false => Duration::ZERO,
    };
    let filter = ShadowRunFilter {
        task: Some(id),
        limit: SHADOWS,
        ..ShadowRunFilter::default()
    };
    let begun = Instant::now();
    loop {
        let found = connection.store.shadow_runs(&filter).await?;
        if !found.is_empty() || begun.elapsed() >= patience {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was typed, as the API takes it.
fn submission(args: &SubmitArgs) -> Outcome<Value> {
    let mut payload = match &args.payload {
        Some(text) => payload(text)?,
        None => Map::new(),
    };
    let repo = args.repo.as_deref().map(absolute);
    let fields = [
        ("repo", repo.as_deref()),
        ("ref", args.git_ref.as_deref()),
        ("edits_url", args.edits_url.as_deref()),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            payload.insert(field.to_owned(), json!(value));
        }
    }
    let mut submission = json!({
        "service": args.service,
        "role": args.role,
        "shard": args.shard.unwrap_or_default(),
        "tenant": args.tenant,
        "task_id": args.task_id,
        "trace_id": args.trace_id,
        "priority": args.priority.unwrap_or_default(),
        "max_attempts": args.max_attempts,
        "unique_key": args.unique_key,
        "delay_ms": args.delay.map_or(0, crate::millis::millis),
    });
    if let Some(object) = submission.as_object_mut() {
        object.insert("payload".to_owned(), Value::Object(payload));
    }
    Ok(submission)
}

/// A path means what it means here, not where the worker runs.
pub fn absolute(repo: &str) -> String {
    if repo.contains("://") {
        return repo.to_owned();
    }
    match std::fs::canonicalize(repo) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => repo.to_owned(),
    }
}

/// A JSON object as it was typed, or from where `@FILE` or `-` say.
pub fn payload(text: &str) -> Outcome<Map<String, Value>> {
    let unreadable = |what: &str, error: std::io::Error| {
        let error = anyhow::Error::new(error).context(format!("cannot read {what}"));
        Failure::new(Exit::Usage, "payload_unreadable", error)
    };
    let (place, json) = match text.strip_prefix('@') {
        Some(file) => {
            let path = PathBuf::from(file);
            let json = std::fs::read_to_string(&path).map_err(|error| unreadable(file, error))?;
            (file.to_owned(), json)
        }
        None if text == "-" => {
            let mut json = String::new();
            std::io::stdin()
                .read_to_string(&mut json)
                .map_err(|error| unreadable("standard input", error))?;
            ("standard input".to_owned(), json)
        }
        None => ("--payload".to_owned(), text.to_owned()),
    };
    match serde_json::from_str(&json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failure::message(
            Exit::Usage,
            "payload_invalid",
            format!("{place}: the payload must be a JSON object"),
        )),
        Err(error) => Err(Failure::message(
            Exit::Usage,
            "payload_invalid",
            format!("{place}: the payload is not JSON: {error}"),
        )),
    }
}

/// Waits until the task has ended, showing how it stands on a terminal.
pub async fn wait(
    connection: &Connection,
    submitted: &Submitted,
    output: Output,
) -> Outcome<TaskRow> {
    let progress = Progress::new(submitted.id, output);
    loop {
        let task = connection.store.task(submitted.id).await?;
        let task = task.ok_or_else(|| no_task(submitted.id))?;
        if task.status.is_terminal() {
            progress.clear();
            return Ok(task);
        }
        progress.show(connection, &task).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A line that moves on a terminal, and one at the start elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(id: MessageId, output: Output) -> Self {
        if !std::io::stderr().is_terminal() {
            output.note(format_args!("waiting for task {id}"));
            return Self { bar: None };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    async fn show(&self, connection: &Connection, task: &TaskRow) {
        let Some(bar) = &self.bar else { return };
        let mut text = match task.status {
            Status::Queued => match task.retry_at {
                Some(at) if task.attempts > 0 => format!(
                    "attempt {} failed ({}); the next is due {}",
                    task.attempts,
                    task.error.as_deref().unwrap_or("no reason"),
                    at.format("%H:%M:%S")
                ),
                _ => "queued".to_owned(),
            },
            _ => format!("attempt {} is running", task.attempts),
        };
        if let (Status::Claimed, Some(host)) = (task.status, &connection.host) {
            let path = format!("/api/tasks/{}", task.id);
            // Progress is a courtesy: without it the wait goes on.
            if let Ok(shown) = host.get::<Value>(&path).await
                && let Some(note) = shown.pointer("/progress/note").and_then(Value::as_str)
            {
                text = format!("{text}: {note}");
            }
        }
        bar.set_message(text);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How the task ended, in a line or two.
pub fn ended(task: &TaskRow) -> String {
    let text = match task.status {
        Status::Done => task.result_snippet.as_deref(),
        _ => task.error.as_deref(),
    };
    let mut line = format!(
        "task {} is {} after {} attempt{}: {}",
        task.id,
        task.status.as_str(),
        task.attempts,
        if task.attempts == 1 { "" } else { "s" },
        text.unwrap_or("no reason")
    );
    if let Some(url) = &task.result_url {
        line += &format!("\n  {url}");
    }
    line
}

/// A task that failed, or tests that did, are a negative answer.
pub fn exit(task: &TaskRow) -> Exit {
    let passed = task.result.as_ref().and_then(|result| result.get("passed"));
    match (task.status, passed) {
        (Status::Done, Some(Value::Bool(false))) | (Status::Failed, _) => Exit::Negative,
        _ => Exit::Ok,
    }
}
