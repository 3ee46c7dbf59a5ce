//! The command line: what was typed, turned into calls of the library.
//!
//! Every command takes `--json`, prints its answer on stdout and everything
//! else on stderr, and ends with one of the codes of [`output::Exit`]. `anyhow`
//! is allowed here and in `main`, nowhere else.

mod client;
mod complete;
mod connection;
mod decide;
mod demo;
mod doctor;
mod examples;
mod explain;
mod fallback;
mod flag;
mod gate;
mod junit;
mod migrate;
mod output;
mod pipeline;
mod plugin;
mod rollout;
mod route;
mod run;
mod settings;
mod shadow;
mod smoke;
mod submit;
mod table;
mod task;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{Config, Layers};
use crate::telemetry::{self, Verbosity};
use output::{Exit, Failure, Outcome, Output};

/// Runs executor plugins, sandboxed WebAssembly components, for the COGO job bus.
#[derive(Parser)]
#[command(
    name = "cogo-host",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 negative (task or gate failed), 2 usage or configuration,\n3 inconclusive, 4 not found, 5 denied, 6 unavailable, 7 internal."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Read settings from this file; it goes before the environment.
    #[arg(long, global = true, value_name = "FILE")]
    // A text, as `plugin run` takes `--config KEY=VALUE` in its place.
    config: Option<String>,
    /// Where the embedded bus, artifacts and caches live.
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What to log on stderr, in the syntax of RUST_LOG.
    #[arg(long, global = true, value_name = "FILTER", env = "COGO_LOG")]
    log_filter: Option<String>,
    /// Log more.
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Log errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the host: claim tasks, execute them, serve the API and the dashboard.
    Run(run::RunArgs),
    /// Show the whole path: a host, the example worker, a real build-test.
    Demo(demo::DemoArgs),
    /// Put a task on the bus.
    Submit(submit::SubmitArgs),
    /// Have code written, built, tested and judged, as one run.
    #[command(subcommand)]
    Pipeline(pipeline::PipelineCommand),
    /// Look at tasks, cancel and repeat them.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Show everything that happened to a trace.
    Trace(trace::TraceArgs),
    /// Judge what the bus recorded.
    Gate(gate::GateArgs),
    /// Check the real path of a running host end to end, line by line.
    Smoke(smoke::SmokeArgs),
    /// Work with plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Look at the flags of routes, and set them for every host.
    #[command(subcommand)]
    Flag(flag::FlagCommand),
    /// Look at routes, pause and resume them.
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Roll a plugin version out, share by share, as long as the gate passes.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Have a version run tasks beside what serves, and compare.
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    /// Let the mock stand in for a real executor that is down.
    #[command(subcommand)]
    Fallback(fallback::FallbackCommand),
    /// Bring the database's schema up to date.
    Migrate(migrate::MigrateArgs),
    /// Examine the installation and say what to mend.
    Doctor(doctor::DoctorArgs),
    /// Say what an error's code means, and what mends it.
    Explain(explain::ExplainArgs),
    /// Print completions for a shell.
    Completions(complete::CompletionsArgs),
    /// Show and check settings.
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// Compile one component; the host starts this with limits.
    #[command(hide = true)]
    CompileComponent { digest: String },
}

/// What every command gets.
struct Context {
    layers: Layers,
    output: Output,
}

impl Context {
    fn config(&self) -> Outcome<Config> {
        Ok(Config::from_layers(&self.layers)?)
    }

    /// What it takes to compile and run a plugin at hand, whatever the rest of
    /// the configuration says.
    fn plugin_config(&self) -> Outcome<Config> {
        let few = self
            .layers
            .only(&["cache_dir", "guest_threads", "state_dir"]);
        Ok(Config::from_layers(&few)?)
    }
}

/// Parses the arguments, runs the command, reports its failure.
pub fn main() -> ExitCode {
    complete::answer_shell();
    let typed = examples::added(Cli::command()).try_get_matches();
    let cli = match typed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; anything else is a mistake.
            if !error.use_stderr() {
                let _ = error.print();
                return Exit::Ok.into();
            }
            let json = std::env::args().any(|arg| arg == "--json");
            Output { json }.usage(&error);
            return Exit::Usage.into();
        }
    };
    let output = Output {
        json: cli.global.json,
    };
    if let Command::CompileComponent { digest } = &cli.command {
        return crate::plugin::compile::child_main(digest);
    }
    match execute(cli, output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn execute(cli: Cli, output: Output) -> Outcome {
    let verbosity = match (&cli.command, cli.global.quiet, cli.global.verbose) {
        (_, true, _) => Verbosity::Quiet,
        (_, _, true) => Verbosity::Debug,
        (Command::Run(_), false, false) => Verbosity::Host,
        _ => Verbosity::Command,
    };
    telemetry::install(cli.global.log_filter.as_deref(), verbosity)
        .map_err(|error| Failure::new(Exit::Usage, "log_filter_invalid", error))?;
    if let Command::Explain(args) = &cli.command {
        return explain::explain(output, args);
    }
    let context = Context {
        layers: layers(&cli.global, takes_values(&cli.command))?,
        output,
    };
    match cli.command {
        Command::Run(args) => run::run(context, args),
        Command::Demo(args) => demo::demo(context, args),
        Command::Submit(args) => on_runtime(submit::submit(context, args)),
        Command::Pipeline(command) => on_runtime(pipeline::pipeline(context, command)),
        Command::Task(command) => on_runtime(task::task(context, command)),
        Command::Trace(args) => on_runtime(trace::trace(context, args)),
        Command::Gate(args) => on_runtime(gate::gate(context, args)),
        Command::Smoke(args) => on_runtime(smoke::smoke(context, args)),
        Command::Plugin(command) => plugin::plugin(context, command),
        Command::Flag(command) => on_runtime(flag::flag(context, command)),
        Command::Route(command) => on_runtime(route::route(context, command)),
        Command::Rollout(command) => on_runtime(rollout::rollout(context, command)),
        Command::Shadow(command) => on_runtime(shadow::shadow(context, command)),
        Command::Fallback(command) => on_runtime(fallback::fallback(context, command)),
        Command::Migrate(args) => on_runtime(migrate::migrate(context, args)),
        Command::Doctor(args) => on_runtime(doctor::doctor(context, args)),
        Command::Completions(args) => complete::completions(&context, &args),
        Command::Config(command) => settings::config(&context, &command),
        // Answered before there was anything to log or to configure.
        Command::CompileComponent { .. } | Command::Explain(_) => Ok(Exit::Internal),
    }
}

/// Whether `--config` gives a plugin its values rather than the host its file.
const fn takes_values(command: &Command) -> bool {
    match command {
        Command::Plugin(command) => command.takes_values(),
        _ => false,
    }
}

fn layers(global: &Global, takes_values: bool) -> Outcome<Layers> {
    let mut layers = Layers::new(environment());
    layers.read_project(std::path::Path::new("cogo.toml"))?;
    if let Some(file) = global.config.as_ref().filter(|_| !takes_values) {
        layers.read_explicit(std::path::Path::new(file))?;
    }
    if let Some(dir) = &global.state_dir {
        layers.set_flag("state_dir", "state-dir", dir.to_string_lossy());
    }
    Ok(layers)
}

/// The environment; a variable that is no UTF-8 can hold no setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.into_string().ok()?))
    })
}

/// Runs a command that ends by itself; the host makes its own runtimes.
fn on_runtime(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
