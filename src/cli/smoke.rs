//! `smoke`: the acceptance checklist of the real path against a running host,
//! end to end, line by line.
//!
//! Reads and writes nothing but the host's API, so that it works from wherever
//! the API is reached. What each line says is decided by [`checklist`].

mod checklist;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::client::Client;
use super::connection::{Submitted, host_of};
use super::gate::{exit, mark};
use super::output::{Exit, Failure, Outcome, Output};
use super::{Context, submit};
use crate::api::RouteView;
use crate::event::Event;
use crate::gate::Verdict;
use crate::ids::{MessageId, TraceId};
use crate::route::{KnownRole, RouteKey};
use crate::stage::Stage;
use crate::trace::TaskView;
use checklist::{ATTEMPTS, GateSeen, Line, OF_TASKS, Seen};

/// How often the tasks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a cancelled task may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
const PROJECT: &str = "examples/sample-project";
/// Never resolves, anywhere: RFC 6761, section 6.4.
const NOWHERE: &str = "https://smoke.invalid/sources.tar.gz";

#[derive(Args)]
#[command(after_help = "Examples:
  cogo-host smoke
  cogo-host smoke --host http://staging.example:7171 --repo https://git.example/team/small --json

Two tasks are left on the bus, one of which fails on purpose. Their traces begin with `cogosmoke`:
gates over a window, rollouts and breakers leave them out.")]
pub struct SmokeArgs {
    /// The host's API; the default is the host of this bus.
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// Sources whose tests pass, where the worker can get them: a git URL, an
    /// archive, or a directory; the sample project where there is one.
    #[arg(long, value_name = "URL|PATH")]
    repo: Option<String>,
    /// A branch, tag or commit of the repository.
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// Sources that the worker cannot get, now or later.
    #[arg(long, value_name = "URL", default_value = NOWHERE)]
    failing_repo: String,
    #[arg(long)]
    shard: Option<i32>,
    #[arg(long)]
    tenant: Option<String>,
    /// After this, what has not ended is cancelled.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Do it in production, too, where it leaves a failed task in the audit.
    #[arg(long)]
    yes: bool,
}

/// What `/api/integration/status` says, as far as it matters here.
#[derive(Deserialize)]
struct Status {
    stage: Stage,
    version: String,
    routes: Vec<RouteView>,
}

/// The answer.
#[derive(Serialize)]
struct Report {
    verdict: Verdict,
    host: String,
    version: String,
    stage: Stage,
    route: RouteKey,
    checks: Vec<Line>,
    /// Absent where nothing was put on the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Pair>,
}

/// The two tasks of a test.
#[derive(Clone, Serialize)]
struct Pair {
    success: Submitted,
    failure: Submitted,
}

pub async fn smoke(context: Context, args: SmokeArgs) -> Outcome {
    let output = context.output;
    let host = host(&context, &args).await?;
    let repo = repo(&args)?;
    let status: Status = host.get("/api/integration/status").await?;
    if status.stage == Stage::Production && !args.yes {
        return Err(consent(&host));
    }
    let route = KnownRole::BuildTest.key();
    let first = checklist::real_path(&route, &status.routes);
    let mut report = Report {
        verdict: Verdict::Inconclusive,
        host: host.base().to_owned(),
        version: status.version,
        stage: status.stage,
        route: route.clone(),
        checks: vec![first],
        tasks: None,
    };
    if checklist::verdict(&report.checks) == Verdict::Pass {
        let test = Test {
            host: &host,
            args: &args,
            route: &route,
            output,
        };
        let pair = test.submit(&repo).await?;
        report.tasks = Some(pair.clone());
        report.checks.extend(test.judge(&pair).await?);
    } else {
        // A mock's results would say nothing, and stay in the audit.
        let untried = |asked: checklist::Ask| {
            asked.open(
                "not tried: nothing was put on the bus",
                "see the line `real_path_enabled`",
            )
        };
        report.checks.extend(OF_TASKS.map(untried));
    }
    report.verdict = checklist::verdict(&report.checks);
    output.answer("smoke", &report, || shown(&report))?;
    Ok(exit(report.verdict))
}

async fn host(context: &Context, args: &SmokeArgs) -> Outcome<Client> {
    let config = context.config()?;
    if let Some(url) = &args.host {
        return Client::new(url, config.listen.token);
    }
    host_of(&config).await?.ok_or_else(|| {
        let problem = "no host runs on this bus";
        Failure::message(Exit::Unavailable, "no_host", problem)
            .hint("start one with `cogo-host run`, or name another with --host URL")
    })
}

fn repo(args: &SmokeArgs) -> Outcome<String> {
    match &args.repo {
        Some(repo) => Ok(submit::absolute(repo)),
        None if std::path::Path::new(PROJECT).is_dir() => Ok(submit::absolute(PROJECT)),
        None => Err(Failure::message(
            Exit::Usage,
            "repo_missing",
            format!("there is no {PROJECT} here"),
        )
        .hint("name small sources whose tests pass, where the worker can get them, with --repo")),
    }
}

fn consent(host: &Client) -> Failure {
    let problem = format!(
        "{} is in production: the test would leave a task there that fails on purpose, and its events in the audit for good",
        host.base()
    );
    Failure::message(Exit::Usage, "consent_missing", problem)
        .hint("add --yes if that is what you want; gates and rollouts leave such tasks out")
}

/// A test under way.
struct Test<'a> {
    host: &'a Client,
    args: &'a SmokeArgs,
    route: &'a RouteKey,
    output: Output,
}

impl Test<'_> {
    async fn submit(&self, repo: &str) -> Outcome<Pair> {
        let git_ref = self.args.git_ref.as_deref();
        let success = self.submit_one("smoke-success", repo, git_ref).await?;
        let failing = &self.args.failing_repo;
        let failure = self.submit_one("smoke-failure", failing, None).await;
        match failure {
            Ok(failure) => Ok(Pair { success, failure }),
            Err(failure) => {
                self.cancel(success.id).await;
                Err(failure)
            }
        }
    }

    async fn submit_one(
        &self,
        label: &str,
        repo: &str,
        git_ref: Option<&str>,
    ) -> Outcome<Submitted> {
        let submission = json!({
            "service": self.route.service(),
            "role": self.route.role(),
            "shard": self.args.shard.unwrap_or_default(),
            "tenant": self.args.tenant,
            "task_id": label,
            "trace_id": TraceId::generate_smoke(),
            "max_attempts": ATTEMPTS,
            "payload": { "repo": repo, "ref": git_ref },
        });
        self.host.post("/api/tasks", &submission).await
    }

    /// Follows both tasks to their end, or until the time is up, and checks every
    /// line. Nothing of the test is left to run.
    async fn judge(&self, pair: &Pair) -> Outcome<Vec<Line>> {
        let (success, failure) = self.follow(pair).await?;
        let success = self.seen(success).await?;
        let failure = self.seen(failure).await?;
        let gate = self.gate(&pair.success.trace_id).await?;
        let refused = self.gate(&pair.failure.trace_id).await?;
        for seen in [&success, &failure] {
            if !seen.task.task.status.is_terminal() {
                self.cancel(seen.task.task.id).await;
            }
        }
        let mut lines = Vec::new();
        lines.extend(checklist::success(self.route, &success));
        lines.extend(checklist::failure(self.route, &failure));
        lines.push(checklist::trace_ids(&[&success, &failure]));
        lines.push(checklist::gate(&gate));
        lines.push(checklist::gate_refuses(&refused));
        Ok(lines)
    }

    async fn follow(&self, pair: &Pair) -> Outcome<(TaskView, TaskView)> {
        let progress = Progress::new(self.output, pair);
        let deadline = Instant::now() + self.args.timeout;
        loop {
            let success = self.task(pair.success.id).await?;
            let failure = self.task(pair.failure.id).await?;
            let all = [&success, &failure];
            let ended = all.iter().all(|view| view.task.status.is_terminal());
            if ended || Instant::now() >= deadline {
                progress.clear();
                return Ok((success, failure));
            }
            progress.show(&success, &failure);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Cancels a task that nobody needs any more; one that cannot be cancelled
    /// ends by itself.
    async fn cancel(&self, id: MessageId) {
        let path = format!("/api/tasks/{id}/cancel");
        let body = json!({});
        let cancelled = self.host.post::<serde_json::Value>(&path, &body);
        match tokio::time::timeout(CANCEL_PATIENCE, cancelled).await {
            Ok(Ok(_)) => {}
            _ => self
                .output
                .note(format_args!("task {id} could not be cancelled")),
        }
    }

    async fn task(&self, id: MessageId) -> Outcome<TaskView> {
        self.host.get(&format!("/api/tasks/{id}")).await
    }

    async fn seen(&self, task: TaskView) -> Outcome<Seen> {
        #[derive(Deserialize)]
        struct Events {
            events: Vec<Event>,
        }
        let id = task.task.id;
        let path = format!("/api/metrics/bus/events?task={id}&limit=1000");
        let Events { events } = self.host.get(&path).await?;
        Ok(Seen { task, events })
    }

    async fn gate(&self, trace: &TraceId) -> Outcome<GateSeen> {
        // Letters and digits alone: a trace of a smoke test needs no escapes.
        let path = format!("/api/workflows/gate?trace={trace}&require_real=true");
        self.host.get(&path).await
    }
}

/// A line that moves on a terminal, and one at the start elsewhere.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(output: Output, pair: &Pair) -> Self {
        if !std::io::stderr().is_terminal() {
            output.note(format_args!(
                "waiting for the tasks {} and {}",
                pair.success.id, pair.failure.id
            ));
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    fn show(&self, success: &TaskView, failure: &TaskView) {
        let told = |view: &TaskView| {
            let attempts = view.task.attempts;
            format!("{}, attempt {attempts}", view.task.status.as_str())
        };
        if let Some(bar) = &self.0 {
            bar.set_message(format!(
                "to pass: {}; to fail: {}",
                told(success),
                told(failure)
            ));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn shown(report: &Report) -> String {
    let mut text = format!(
        "smoke of {} on {} ({} {}): {}",
        report.route, report.host, report.stage, report.version, report.verdict
    );
    for line in &report.checks {
        text += &format!(
            "\n  {} {}: {}\n      {}",
            mark(line.verdict),
            line.name,
            line.wanted,
            line.found
        );
        if let Some(fix) = &line.fix {
            text += &format!("\n      fix: {fix}");
        }
    }
    if let Some(pair) = &report.tasks {
        text += &format!(
            "\n`cogo-host trace {}` shows the success, `cogo-host trace {}` the failure",
            pair.success.trace_id, pair.failure.trace_id
        );
    }
    text
}
