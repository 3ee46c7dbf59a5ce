//! `plugin run`: one attempt of a component, on the spot.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::super::output::{Exit, Failure, Outcome, explain_line};
use super::subject;
use crate::attempt::{Blame, LogLine, Progress, StopReason};
use crate::cli::Context;
use crate::codes;
use crate::millis::millis;
use crate::plugin::outbound::{HttpMock, Wire};
use crate::route::RouteKey;
use crate::trial::{
    Given, LimitsProfile, Observed, ObservedProblem, OutcomeName, Setup, Steering, Trial,
    TrialError, TrialLimits, Trials,
};

/// How often files are looked at with `--watch`.
const LOOK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  cogo-host plugin run my-plugin.wasm --task repo=./project ref=main
  cogo-host plugin run my-plugin.wasm --task task.json --http-mock answers.json
  cogo-host plugin run my-plugin.wasm --task task.json > task.expect.json
  echo '{\"command\":\"ls\"}' | cogo-host plugin run mock --route sandbox/run --task -

What the files hold: cogo-host explain golden-tasks, cogo-host explain http-mock.
Ends with 0 when the task completed, with 1 when it failed.";

/// When a file was changed, and its size.
type Stamp = (std::time::SystemTime, u64);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The component, the directory that it was built in, or the name of a
    /// bundled plugin.
    file: PathBuf,
    /// The task: a JSON file, `-` for stdin, JSON itself, or fields of the
    /// payload, whose values are JSON where they can be; fields go last and win.
    #[arg(long, num_args = 1.., value_name = "FILE|-|KEY=VALUE")]
    task: Vec<String>,
    /// The route, where the plugin handles several.
    #[arg(long, value_name = "SERVICE/ROLE")]
    route: Option<RouteKey>,
    /// A value that the plugin reads as its configuration; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// What the plugin may call, such as `http://localhost:8080`; may be repeated.
    #[arg(long, value_name = "ORIGIN")]
    allow_host: Vec<String>,
    /// Answer requests from this file instead of the network.
    #[arg(long, value_name = "FILE", conflicts_with = "allow_host")]
    http_mock: Option<PathBuf>,
    /// `production`, which is the default, or `development`: more memory, time
    /// and log.
    #[arg(long, value_name = "PROFILE")]
    limits: Option<LimitsProfile>,
    /// Run again whenever one of the files changes.
    #[arg(long)]
    watch: bool,
}

/// The answer of the command with `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    result: &'a Observed,
    took_ms: u64,
    peak_memory_bytes: u64,
    memory_limit_bytes: usize,
    outbound_requests: u32,
    log: &'a [LogLine],
    log_dropped: u32,
}

pub fn run(context: &Context, args: RunArgs) -> Outcome {
    let tap = Arc::new(|line: &LogLine| say(line));
    subject::with_trials(context, Some(tap), async |trials| {
        let stop = interrupts();
        if !args.watch {
            return once(context, &args, trials, stop).await;
        }
        loop {
            let before = args.stamps();
            if let Err(failure) = once(context, &args, trials, stop.clone()).await {
                context.output.failure(&failure);
            }
            context.output.note("waiting for a change; Ctrl-C ends");
            let mut ended = stop.clone();
            tokio::select! {
                () = changed(&args, &before) => {}
                _ = ended.wait_for(Option::is_some) => return Ok(Exit::Ok),
            }
        }
    })
}

async fn once(
    context: &Context,
    args: &RunArgs,
    trials: &Trials,
    stop: watch::Receiver<Option<StopReason>>,
) -> Outcome {
    let given = args.given()?;
    let setup = args.setup(&given)?;
    let candidate = subject::read(&args.file)?;
    let (progress, shown) = watch::channel(None);
    let steering = Steering {
        stop: Some(stop),
        progress: Some(progress),
    };
    let running = trials.run(candidate, &setup, &given.task, steering);
    let trial = tokio::select! {
        trial = running => trial.map_err(not_run)?,
        never = show_progress(shown) => match never {},
    };
    answer(context, &setup, &trial)?;
    Ok(exit(trial.observed.outcome))
}

/// The exit code of an outcome.
pub const fn exit(outcome: OutcomeName) -> Exit {
    match outcome {
        OutcomeName::Completed => Exit::Ok,
        OutcomeName::Retryable | OutcomeName::Permanent | OutcomeName::Stopped => Exit::Negative,
        OutcomeName::HostFault => Exit::Unavailable,
    }
}

pub fn not_run(error: TrialError) -> Failure {
    let exit = match &error {
        TrialError::Load(_) => Exit::Negative,
        TrialError::RouteOpen(_) => Exit::Usage,
        TrialError::RouteForeign { .. } => Exit::NotFound,
        TrialError::Broken(_) => Exit::Internal,
    };
    let (code, hint) = (error.code(), error.hint());
    Failure::new(exit, code, error).hint(hint)
}

fn answer(context: &Context, setup: &Setup, trial: &Trial) -> Outcome<()> {
    let (observed, measured) = (&trial.observed, &trial.measured);
    let answer = Answer {
        result: observed,
        took_ms: millis(trial.took),
        peak_memory_bytes: measured.peak_memory_bytes,
        memory_limit_bytes: setup.limits.limits.memory_bytes,
        outbound_requests: measured.outbound_requests,
        log: &measured.log,
        log_dropped: measured.log_dropped,
    };
    let output = context.output;
    output.answer("plugin-run", &answer, || {
        serde_json::to_string_pretty(observed).unwrap_or_default()
    })?;
    if let Some(problem) = &observed.problem {
        output.note(failed(problem));
    }
    if observed.reason == Some(StopReason::Deadline) {
        let message = "it did not end before its deadline".to_owned();
        output.note(failed(&ObservedProblem {
            code: "deadline_exceeded".to_owned(),
            message,
            blame: Blame::Guest,
            retry_after_ms: None,
        }));
    }
    output.note(closing(setup, trial));
    Ok(())
}

/// Why there is no report, and what can be done about it.
fn failed(problem: &ObservedProblem) -> String {
    let mut text = format!("error[{}]: {}", problem.code, problem.message);
    if let Some((_, entry)) = codes::find(&problem.code) {
        text.push_str(&format!("\n hint: {}", entry.fix));
    }
    if let Some(line) = explain_line(&problem.code) {
        text.push_str(&format!("\n{line}"));
    }
    text
}

/// The last line: how it ended and what it took.
fn closing(setup: &Setup, trial: &Trial) -> String {
    let measured = &trial.measured;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let many = |count: u32, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let reason = trial
        .observed
        .reason
        .map(|reason| format!(" ({})", reason.as_str()));
    let lines = u32::try_from(measured.log.len()).unwrap_or(u32::MAX);
    let mut line = format!(
        "{}{} in {} ms · peak {:.1} of {:.0} MiB · {} · {}",
        trial.observed.outcome.as_str(),
        reason.unwrap_or_default(),
        millis(trial.took),
        mib(measured.peak_memory_bytes),
        mib(setup.limits.limits.memory_bytes as u64),
        many(measured.outbound_requests, "request"),
        many(lines, "log line"),
    );
    if measured.log_dropped > 0 {
        line.push_str(&format!(" ({} dropped)", measured.log_dropped));
    }
    line
}

/// A line of the plugin's log.
fn say(line: &LogLine) {
    let ms = line.at_us as f64 / 1000.0;
    let mut texts = line.message.lines();
    let first = texts.next().unwrap_or_default();
    let mut text = format!("{ms:9.1} ms {:5} {first}\n", line.level.as_str());
    for more in texts {
        text.push_str(&format!("{:19}{more}\n", ""));
    }
    // Nothing is left to do if stderr is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

async fn show_progress(mut shown: watch::Receiver<Option<Progress>>) -> std::convert::Infallible {
    while shown.changed().await.is_ok() {
        if let Some(progress) = shown.borrow_and_update().clone() {
            let share = progress.fraction.map(|f| format!("{:3.0} % ", f * 100.0));
            let _ = writeln!(
                std::io::stderr(),
                "             progress {}{}",
                share.unwrap_or_default(),
                progress.note
            );
        }
    }
    std::future::pending().await
}

/// The first Ctrl-C asks the plugin to stop, as a cancel would; the second ends
/// the command.
fn interrupts() -> watch::Receiver<Option<StopReason>> {
    let (ask, stop) = watch::channel(None);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = writeln!(
                std::io::stderr(),
                "asking the plugin to stop; Ctrl-C again ends at once"
            );
            ask.send_replace(Some(StopReason::Cancelled));
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
        std::future::pending::<()>().await;
    });
    stop
}

impl RunArgs {
    /// The task, put together from what was typed.
    fn given(&self) -> Outcome<Given> {
        let (fields, whole): (Vec<&String>, Vec<&String>) =
            self.task.iter().partition(|text| is_field(text));
        let mut given = match whole.as_slice() {
            [] => Given::payload(&Map::new()),
            [one] => read_task(one)?,
            [_, second, ..] => {
                let message = format!("`{second}` is a second task; one task is one attempt");
                return Err(usage(message).hint("a field of the payload is written KEY=VALUE"));
            }
        };
        given
            .task
            .set(fields.into_iter().filter_map(|text| field(text)));
        if self.route.is_some() {
            given.task.route.clone_from(&self.route);
        }
        Ok(given)
    }

    fn setup(&self, given: &Given) -> Outcome<Setup> {
        let mut config = given.config.clone();
        config.extend(pairs(&self.config)?);
        let mut rules = match &given.http {
            Some(Value::Array(rules)) => Some(rules.clone()),
            _ => None,
        };
        if let Some(path) = &self.http_mock {
            let own = read_rules(path)?;
            rules = Some(own.into_iter().chain(rules.unwrap_or_default()).collect());
        }
        let wire = match rules {
            None => Wire::Network,
            Some(rules) => {
                let mock = HttpMock::parse(&Value::Array(rules)).map_err(bad_mock)?;
                Wire::Mock(Arc::new(mock))
            }
        };
        let profile = self.limits.map(TrialLimits::from);
        Ok(Setup {
            config,
            allow: self
                .allow_host
                .iter()
                .flat_map(|host| origins(host))
                .collect(),
            limits: profile.or_else(|| given.limits.clone()).unwrap_or_default(),
            wire,
        })
    }

    /// What the files look like; another value means that one has changed.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        let tasks = self.task.iter().filter(|text| !is_field(text));
        let paths = tasks.map(|text| Path::new(text.trim_start_matches('@')));
        let component = match self.file.is_dir() {
            true => subject::component_of(&self.file).ok(),
            false => None,
        };
        let paths = paths
            .chain([component.as_deref().unwrap_or(&self.file)])
            .chain(self.http_mock.as_deref());
        paths
            .map(|path| {
                let found = std::fs::metadata(path).ok()?;
                Some((found.modified().ok()?, found.len()))
            })
            .collect()
    }
}

/// Until the files differ from `before` and have been left alone for a moment.
async fn changed(args: &RunArgs, before: &[Option<Stamp>]) {
    let mut last = before.to_vec();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = args.stamps();
        // A file that is being replaced is absent for a moment.
        let gone =
            |(now, before): (&Option<Stamp>, &Option<Stamp>)| before.is_some() && now.is_none();
        if now == last && now != before && !now.iter().zip(before).any(gone) {
            return;
        }
        last = now;
    }
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::message(Exit::Usage, "task_invalid", message)
}

fn is_field(text: &str) -> bool {
    !text.starts_with(['{', '@', '-', '/', '.']) && text.contains('=')
}

/// A field of the payload: JSON where it can be, else text.
fn field(text: &str) -> Option<(String, Value)> {
    let (key, value) = text.split_once('=')?;
    let json = serde_json::from_str(value).ok();
    Some((key.to_owned(), json.unwrap_or_else(|| value.into())))
}

fn read_task(text: &str) -> Outcome<Given> {
    let (place, text) = match text {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|cause| usage(format!("stdin cannot be read: {cause}")))?;
            ("stdin".to_owned(), text)
        }
        json if json.trim_start().starts_with('{') => ("--task".to_owned(), json.to_owned()),
        path => {
            let path = Path::new(path.trim_start_matches('@'));
            (path.display().to_string(), subject::read_text(path)?)
        }
    };
    Given::parse(&text).map_err(|cause| {
        usage(format!("{place}: {cause}")).hint(
            "a task is a payload, or an object with `payload`; see `cogo-host explain golden-tasks`",
        )
    })
}

fn read_rules(path: &Path) -> Outcome<Vec<Value>> {
    let text = subject::read_text(path)?;
    let rules: Vec<Value> = serde_json::from_str(&text).map_err(|cause| {
        let message = format!("{}: expected an array of rules: {cause}", path.display());
        Failure::message(Exit::Usage, "mock_invalid", message)
            .hint("`cogo-host explain http-mock` shows one")
    })?;
    // By itself first, so that a mistake is told with its file.
    HttpMock::parse(&Value::Array(rules.clone())).map_err(|cause| {
        let message = format!("{}: {cause}", path.display());
        Failure::message(Exit::Usage, "mock_invalid", message)
            .hint("`cogo-host explain http-mock` shows one")
    })?;
    Ok(rules)
}

fn bad_mock(error: crate::plugin::outbound::InvalidMock) -> Failure {
    Failure::new(Exit::Usage, "mock_invalid", error).hint("`cogo-host explain http-mock` shows one")
}

fn pairs(texts: &[String]) -> Outcome<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            let message = format!("--config `{text}`: expected KEY=VALUE");
            Err(Failure::message(Exit::Usage, "usage", message)
                .hint("`plugin run` reads no configuration file; give each value by itself"))
        }
    };
    texts.iter().map(pair).collect()
}

/// The origins that a host stands for: both schemes where it names none.
fn origins(host: &str) -> Vec<String> {
    if host.contains("://") || host.starts_with("config:") {
        return vec![host.trim_end_matches('/').to_owned()];
    }
    ["http", "https"]
        .map(|scheme| format!("{scheme}://{host}"))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_json_where_it_can_be() {
        let value = |text| field(text).unwrap().1;
        assert_eq!(value("n=3"), 3);
        assert_eq!(value("ok=true"), true);
        assert_eq!(value("repo=./x"), "./x");
        assert_eq!(value("q=a=b"), "a=b");
        assert!(!is_field("tasks/t.json") && !is_field("{\"a\":\"=\"}") && !is_field("./a=b.json"));
    }

    #[test]
    fn a_host_without_a_scheme_is_meant_with_both() {
        assert_eq!(origins("w:8080"), ["http://w:8080", "https://w:8080"]);
        assert_eq!(origins("http://w/"), ["http://w"]);
    }
}
