//! Completions for shells, with live names: the tasks and traces on the bus, the
//! plugins that there are, the routes that are served.
//!
//! **Invariant:** completing never fails, prints nothing of its own and changes
//! nothing. What cannot be found out completes to nothing.

use std::collections::BTreeSet;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use serde_json::json;

use super::output::{Exit, Failure, Outcome};
use super::{Cli, Context, environment};
use crate::config::{Config, Layers};
use crate::plugin::bundled;
use crate::route::KnownRole;
use crate::store::{self, OpenMode, TaskFilter};
use crate::task::TaskRow;

/// The variable by which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";
/// As many as fit a screen; whoever wants an older one knows its beginning.
const NEWEST: u32 = 50;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host completions bash > ~/.local/share/bash-completion/completions/cogo-host\n  cogo-host completions zsh  > ~/.zfunc/_cogo-host\n  cogo-host completions fish > ~/.config/fish/completions/cogo-host.fish"
)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh.
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

/// Answers a shell that asks for completions, and ends; else does nothing.
pub fn answer_shell() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Prints what a shell is to be given once.
pub fn completions(context: &Context, args: &CompletionsArgs) -> Outcome {
    let shells = Shells::builtins();
    let unknown = || Failure::message(Exit::Usage, "usage", "there is no such shell");
    let shell = shells.completer(&args.shell).ok_or_else(unknown)?;
    let mut script = Vec::new();
    let name = env!("CARGO_PKG_NAME");
    shell
        .write_registration(VARIABLE, name, name, name, &mut script)
        .map_err(anyhow::Error::new)?;
    let script = String::from_utf8_lossy(&script).into_owned();
    let data = json!({ "shell": args.shell, "script": script });
    context.output.answer("completions", &data, || script)?;
    Ok(Exit::Ok)
}

/// The command line with live names for every argument that takes one.
fn command() -> Command {
    live(Cli::command(), "")
}

fn live(command: Command, parent: &str) -> Command {
    let name = command.get_name().to_owned();
    let own = name.clone();
    let parent = parent.to_owned();
    command
        .mut_args(move |arg| {
            let candidates = match (parent.as_str(), own.as_str(), arg.get_id().as_str()) {
                ("plugin", "new", _) => return arg,
                ("task", _, "id") => ArgValueCandidates::new(tasks),
                (_, "trace", "id") | (_, _, "trace") => ArgValueCandidates::new(traces),
                (_, _, "route") => ArgValueCandidates::new(routes),
                ("plugin", _, "name") => ArgValueCandidates::new(plugins),
                _ => return arg,
            };
            arg.add(candidates)
        })
        .mut_subcommands(move |command| live(command, &name))
}

fn config() -> Option<Config> {
    let mut layers = Layers::new(environment());
    layers
        .read_project(std::path::Path::new("cogo.toml"))
        .ok()?;
    Config::from_layers(&layers).ok()
}

fn plugins() -> Vec<CompletionCandidate> {
    let Some(config) = config() else {
        return Vec::new();
    };
    let bundled = bundled::candidates().filter_map(|candidate| candidate.name);
    let mut names: BTreeSet<String> = bundled.map(|name| name.to_string()).collect();
    names.extend(config.plugins.keys().map(ToString::to_string));
    let files = config.plugins_dir.map(std::fs::read_dir);
    let files = files.into_iter().flatten().flatten().flatten();
    names.extend(files.filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        Some(name.strip_suffix(".wasm")?.to_owned())
    }));
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn routes() -> Vec<CompletionCandidate> {
    let configured = config().map(|config| config.routes).unwrap_or_default();
    let known = KnownRole::ALL.into_iter().map(KnownRole::key);
    let all: BTreeSet<_> = configured.into_keys().chain(known).collect();
    all.into_iter()
        .map(|route| CompletionCandidate::new(route.to_string()))
        .collect()
}

fn tasks() -> Vec<CompletionCandidate> {
    let tasks = newest().into_iter();
    tasks
        .map(|task| {
            let help = format!("{}/{} {}", task.service, task.role, task.status.as_str());
            CompletionCandidate::new(task.id.to_string()).help(Some(help.into()))
        })
        .collect()
}

fn traces() -> Vec<CompletionCandidate> {
    let traces = newest().into_iter().filter_map(|task| task.trace_id);
    let traces: BTreeSet<String> = traces.collect();
    traces.into_iter().map(CompletionCandidate::new).collect()
}

/// The newest tasks of the bus, if it can be read.
fn newest() -> Vec<TaskRow> {
    let Some(config) = config() else {
        return Vec::new();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let read = async {
        let store = store::open(&config.bus, OpenMode::ReadOnly).await.ok()?;
        let filter = TaskFilter {
            limit: NEWEST,
            ..TaskFilter::default()
        };
        store.tasks(&filter).await.ok()
    };
    let found = runtime.ok().and_then(|runtime| runtime.block_on(read));
    found.unwrap_or_default()
}
