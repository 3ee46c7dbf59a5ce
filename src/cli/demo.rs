//! `demo`: the whole path on this machine, nothing replaced. Starts the example
//! worker, runs a host, submits a real build-test, prints trace and verdict.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connection::Connection;
use super::output::{Exit, Failure, Outcome, Output};
use super::{Config, Context, gate, run, submit, trace};
use crate::gate::Scope;
use crate::host::Host;

/// Setting up the worker's surroundings may take a package download.
const WORKER_PATIENCE: Duration = Duration::from_secs(180);
const WORKER: &str = "examples/cogo-worker";
const PROJECT: &str = "examples/sample-project";

#[derive(Args)]
pub struct DemoArgs {
    /// What to build and test instead of the sample project.
    #[arg(long, value_name = "URL|PATH", default_value = PROJECT)]
    repo: String,
    /// A branch, tag or commit of the repository.
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,
    /// Use this worker instead of starting the example.
    #[arg(long, value_name = "URL")]
    worker_url: Option<String>,
    /// End after the verdict, which is the exit code; else keep serving.
    #[arg(long)]
    exit: bool,
}

pub fn demo(mut context: Context, args: DemoArgs) -> Outcome {
    let output = context.output;
    let state_dir = context.config()?.state_dir;
    let repo = submit::absolute(&args.repo);
    let worker = match &args.worker_url {
        Some(url) => RunningWorker::elsewhere(url),
        None => {
            output.note("starting the example worker (examples/cogo-worker)");
            RunningWorker::start(&state_dir, &repo)?
        }
    };
    output.note(format_args!("the worker listens on {}", worker.url));
    context.layers.set_flag("stage", "demo", "development");
    context
        .layers
        .set_flag("enable_cogo_worker", "demo", "true");
    context
        .layers
        .set_flag("cogo_worker_url", "demo", worker.url.clone());
    if args.exit {
        context.layers.set_flag("port", "demo", "0");
    }
    let config = context.config()?;
    run::on_host(&config, async |host| {
        output.note(format_args!("the host serves {}", host.api_url()));
        let exit = build_test(&config, host, output, &args, &repo).await?;
        if !args.exit {
            output.note(format_args!(
                "the host keeps serving {}, which is its dashboard in a browser; Ctrl-C ends it",
                host.api_url()
            ));
            let signals = run::Signals::listen().map_err(anyhow::Error::new)?;
            run::until_signal(host, signals).await;
        }
        Ok(exit)
    })
}

async fn build_test(
    config: &Config,
    host: &Host,
    output: Output,
    args: &DemoArgs,
    repo: &str,
) -> Outcome {
    let connection = Connection::to_host(config, host)?;
    let submitted = connection
        .submit(json!({
            "service": "code",
            "role": "build-test",
            "task_id": "demo",
            "payload": { "repo": repo, "ref": args.git_ref },
        }))
        .await?;
    output.note(format_args!(
        "submitted build-test of {} as task {}",
        args.repo, submitted.id
    ));
    let task = submit::wait(&connection, &submitted, output).await?;
    let id = &submitted.trace_id;
    let story = trace::story(&connection, config, id, true).await?;
    let scope = Scope::Trace(id.clone());
    let data = json!({ "task": task, "trace": story });
    output.answer("demo", &data, || {
        format!(
            "{}\n\n{}\n\n{}",
            submit::ended(&task),
            trace::timeline(&story),
            gate::table(&story.gate, &scope)
        )
    })?;
    Ok(gate::exit(story.gate.verdict))
}

/// The example worker; ends with this process's demo.
struct RunningWorker {
    url: String,
    process: Option<Child>,
}

impl RunningWorker {
    fn elsewhere(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            process: None,
        }
    }

    fn start(state_dir: &Path, repo: &str) -> Outcome<Self> {
        let program = Path::new(WORKER);
        if !program.exists() {
            return Err(Failure::message(
                Exit::Usage,
                "worker_missing",
                format!("there is no {WORKER} here"),
            )
            .hint(
                "run the demo in the directory of the sources, or name a worker with --worker-url",
            ));
        }
        let mut command = Command::new("python3");
        command
            .arg(program)
            .args(["--port", "0", "--state-dir"])
            .arg(state_dir.join("worker"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // The worker reads only where it is told to.
        let mut roots = vec![PathBuf::from(".")];
        let repo = Path::new(repo);
        if repo.is_dir() {
            roots.push(repo.to_owned());
        } else if let Some(directory) = repo.parent().filter(|_| repo.is_file()) {
            roots.push(directory.to_owned());
        }
        for root in roots {
            command.arg("--allow-root").arg(root);
        }
        let mut process = command.spawn().map_err(|error| {
            let error = anyhow::Error::new(error).context("cannot start python3");
            Failure::new(Exit::Unavailable, "worker_unavailable", error)
                .hint("install Python 3, or name a worker with --worker-url")
        })?;
        match announced(&mut process) {
            Some(url) => Ok(Self {
                url,
                process: Some(process),
            }),
            None => {
                // It has ended or is of no use; either way it must not stay.
                let _ = process.kill();
                let _ = process.wait();
                Err(Failure::message(
                    Exit::Unavailable,
                    "worker_unavailable",
                    "the example worker did not start; its own messages are above",
                ))
            }
        }
    }
}

/// The URL that the worker announces, unless it ends or stays silent.
fn announced(process: &mut Child) -> Option<String> {
    let stdout = process.stdout.take()?;
    let (found, url) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Read to the end, so that the worker never writes into a closed pipe.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("cogo-worker listening on ") {
                let _ = found.send(url.trim().to_owned());
            }
        }
    });
    url.recv_timeout(WORKER_PATIENCE).ok()
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        // Its own children end with it only if it may clean up.
        if let Some(pid) = rustix::process::Pid::from_raw(process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = process.wait();
    }
}
