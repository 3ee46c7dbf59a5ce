//! `pipeline start|status|list|cancel`: codegen, build-test and gate as one run.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::output::{Exit, Failure, Outcome};
use super::submit::{absolute, payload};
use super::{Context, gate, table};
use crate::config::Config;
use crate::pipeline::{Order, Run, State};
use crate::runs::RunView;
use crate::store::{RunCancelled, Started};

#[derive(Subcommand)]
pub enum PipelineCommand {
    /// Have code written, built and tested, and the whole judged. The same order
    /// again is the same run.
    Start(StartArgs),
    /// Show how a run stands.
    Status {
        /// As `pipeline start --task-id` named it.
        task_id: String,
        /// Wait for its end.
        #[arg(long)]
        wait: bool,
    },
    /// List runs, newest first.
    List {
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// End a run, and the task that it waits for.
    Cancel {
        /// As `pipeline start --task-id` named it.
        task_id: String,
    },
}

#[derive(Args)]
pub struct StartArgs {
    /// Names the run and its artifacts.
    #[arg(long)]
    task_id: String,
    /// What codegen is to write: text, JSON, or @FILE.
    #[arg(long)]
    spec: String,
    /// Git URL, archive or directory.
    #[arg(long)]
    repo: Option<String>,
    /// Branch, tag or commit.
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    #[arg(long)]
    trace_id: Option<String>,
    #[arg(long)]
    tenant: Option<String>,
    /// More of the order, as JSON, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON")]
    order: Option<String>,
    /// Wait for the end; the exit code is the gate's.
    #[arg(long)]
    wait: bool,
    /// Stop waiting after this; the run goes on.
    #[arg(long, value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Option<Duration>,
}

/// How often a run that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub async fn pipeline(context: Context, command: PipelineCommand) -> Outcome {
    let config = context.config()?;
    match command {
        PipelineCommand::Start(args) => start(context, &config, args).await,
        PipelineCommand::Status { task_id, wait } => {
            let connection = Connection::read(&config).await?;
            let mut run = found(&connection, &task_id).await?;
            if wait {
                run = ended(&connection, run).await?;
            }
            show(context, &connection, run).await
        }
        PipelineCommand::List { limit } => {
            let connection = Connection::read(&config).await?;
            let runs = connection.store.runs(limit).await?;
            context
                .output
                .answer("pipeline-list", &runs, || listing(&runs))?;
            Ok(Exit::Ok)
        }
        PipelineCommand::Cancel { task_id } => {
            let connection = Connection::write(&config).await?;
            connection.cancel_run(&task_id).await?;
            let run = found(&connection, &task_id).await?;
            context.output.answer("pipeline-cancel", &run, || {
                format!("the pipeline of {task_id} ends as soon as its task has")
            })?;
            Ok(Exit::Ok)
        }
    }
}

async fn start(context: Context, config: &Config, args: StartArgs) -> Outcome {
    let order = order(&args)?;
    let connection = Connection::write(config).await?;
    let run = connection.start_run(&order, &args.task_id).await?;
    if !args.wait {
        context.output.answer("pipeline-start", &run, || {
            format!(
                "the pipeline of {} is in `{}`, trace {}",
                run.task_id,
                run.state.as_str(),
                run.trace_id
            )
        })?;
        if !connection.has_host().await? {
            context
                .output
                .note("no host serves this bus now; `cogo-host run` drives the pipeline");
        }
        return Ok(Exit::Ok);
    }
    let waiting = ended(&connection, run);
    let run = match args.timeout {
        Some(timeout) => tokio::time::timeout(timeout, waiting).await.map_err(|_| {
            Failure::message(
                Exit::Inconclusive,
                "still_running",
                format!("the pipeline of {} has not ended yet", args.task_id),
            )
            .hint(format!(
                "`cogo-host pipeline status {}` tells how it stands",
                args.task_id
            ))
        })??,
        None => waiting.await?,
    };
    show(context, &connection, run).await
}

/// What was typed, as the API takes it.
fn order(args: &StartArgs) -> Outcome<Value> {
    let mut order: Map<String, Value> = match &args.order {
        Some(text) => payload(text)?,
        None => Map::new(),
    };
    let repo = args.repo.as_deref().map(absolute);
    let fields = [
        ("taskId", Some(args.task_id.as_str())),
        ("repo", repo.as_deref()),
        ("ref", args.git_ref.as_deref()),
        ("traceId", args.trace_id.as_deref()),
        ("tenant", args.tenant.as_deref()),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            order.insert(field.to_owned(), json!(value));
        }
    }
    order.insert("spec".to_owned(), spec(&args.spec)?);
    Ok(Value::Object(order))
}

/// JSON where it is an object or a list, else text.
fn spec(text: &str) -> Outcome<Value> {
    let text = match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| {
            let error = anyhow::Error::new(error).context(format!("cannot read {file}"));
            Failure::new(Exit::Usage, "spec_unreadable", error)
        })?,
        None => text.to_owned(),
    };
    Ok(match serde_json::from_str::<Value>(&text) {
        Ok(spec @ (Value::Object(_) | Value::Array(_))) => spec,
        _ => Value::String(text),
    })
}

async fn found(connection: &Connection, task_id: &str) -> Outcome<Run> {
    let run = connection.store.run(task_id).await?;
    run.ok_or_else(|| no_run(task_id))
}

fn no_run(task_id: &str) -> Failure {
    let message = format!("there is no pipeline of task {task_id}");
    Failure::message(Exit::NotFound, "pipeline_unknown", message)
        .hint("`cogo-host pipeline list` shows those that there are")
}

async fn ended(connection: &Connection, mut run: Run) -> Outcome<Run> {
    while !run.state.is_terminal() {
        tokio::time::sleep(LOOK).await;
        run = found(connection, &run.task_id).await?;
    }
    Ok(run)
}

async fn show(context: Context, connection: &Connection, run: Run) -> Outcome {
    let view = RunView::of(&*connection.store, run).await?;
    context.output.answer("pipeline", &view, || shown(&view))?;
    if view.state.is_terminal() {
        context.output.note(format_args!(
            "`cogo-host trace {}` shows the whole story",
            view.trace_id
        ));
    }
    Ok(exit(&view))
}

fn shown(view: &RunView) -> String {
    let mut text = format!("pipeline of {}: {}", view.task_id, view.state.as_str());
    if let Some(verdict) = view.verdict() {
        text += &format!(", the gate says {verdict}");
    }
    if let Some(error) = &view.error {
        text += &format!("\n  {error}");
    }
    let stages = [
        ("codegen", view.ids.codegen),
        ("build-test", view.ids.build_test),
    ];
    for (stage, id) in stages {
        if let Some(id) = id {
            text += &format!("\n  {stage} is task {id}");
        }
    }
    for check in view.checks() {
        text += &format!("\n  {}", gate::line(&check));
    }
    text
}

/// The gate's word; a run that goes on says nothing yet.
fn exit(view: &RunView) -> Exit {
    match (view.state, view.verdict()) {
        (State::Done, Some("pass")) => Exit::Ok,
        (State::Done, Some("inconclusive")) => Exit::Inconclusive,
        (State::Done | State::Cancelled, _) => Exit::Negative,
        (State::Codegen | State::BuildTest, _) => Exit::Ok,
    }
}

fn listing(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "no pipeline was started yet".to_owned();
    }
    let header = ["TASK", "STATE", "VERDICT", "STARTED", "TRACE"];
    let rows = runs.iter().map(|run| {
        let verdict = run
            .decision
            .as_ref()
            .and_then(|d| d.get("verdict")?.as_str());
        [
            run.task_id.clone(),
            run.state.as_str().to_owned(),
            verdict.unwrap_or("-").to_owned(),
            run.created_at.to_rfc3339(),
            run.trace_id.to_string(),
        ]
    });
    table::table(header, rows)
}

impl Connection {
    async fn start_run(&self, order: &Value, task_id: &str) -> Outcome<Run> {
        if let Some(host) = &self.host {
            let path = "/api/pipeline/codeBuildTest?wait_ms=0";
            host.post::<Value>(path, order).await?;
            return found(self, task_id).await;
        }
        let order: Order = serde_json::from_value(order.clone())
            .map_err(|error| Failure::new(Exit::Usage, "order_invalid", error))?;
        let new = order
            .accept("local", self.served())
            .map_err(super::connection::refused)?;
        match self.store.start_run(&new).await? {
            Started::New(run) => Ok(*run),
            Started::Existing(run) if run.order == new.order => Ok(*run),
            Started::Existing(run) => Err(Failure::message(
                Exit::Usage,
                "pipeline_differs",
                format!(
                    "there is a pipeline of task {} with another order",
                    run.task_id
                ),
            )),
        }
    }

    async fn cancel_run(&self, task_id: &str) -> Outcome<()> {
        if let Some(host) = &self.host {
            let task =
                percent_encoding::utf8_percent_encode(task_id, percent_encoding::NON_ALPHANUMERIC);
            let path = format!("/api/pipeline/codeBuildTest/{task}/cancel");
            host.post::<Value>(&path, &json!({})).await?;
            return Ok(());
        }
        match self.store.cancel_run(task_id, "local").await? {
            None => Err(no_run(task_id)),
            Some(RunCancelled::Requested) => Ok(()),
            Some(RunCancelled::Ended(state)) => Err(Failure::message(
                Exit::Negative,
                "pipeline_ended",
                format!("the pipeline of {task_id} is `{}` already", state.as_str()),
            )),
        }
    }
}
