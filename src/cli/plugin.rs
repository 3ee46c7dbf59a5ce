//! `plugin list|inspect|build|run|rollback`.

mod list;
mod rollback;
mod run;
mod subject;
mod test;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::output::{Exit, Failure, Outcome};
use super::run::with_guests;
use super::{Context, on_runtime};
use crate::host;
use crate::ids::PluginName;
use crate::packaging::{self, LockFile};
use crate::plugin::catalog::DigestPrefix;
use crate::plugin::inspect::{self, Inspection};
use crate::plugin::limits::Limits;
use crate::plugin::load::{Candidate, Descriptor, LoadError, Settings};

#[derive(Subcommand)]
pub enum PluginCommand {
    /// List the plugins of the running host, or, without one, those that a host
    /// with these settings would load.
    List,
    /// Show what a component is, imports and exports, and whether it fits.
    Inspect {
        file: PathBuf,
        /// Print its world in WIT, too.
        #[arg(long)]
        wit: bool,
    },
    /// Compile a plugin's sources to a component.
    Build {
        /// The cargo package.
        directory: PathBuf,
        /// Where the component goes; NAME.wasm here by default.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Fail rather than bring Cargo.lock up to date.
        #[arg(long)]
        locked: bool,
    },
    /// Run a component on one task: no bus, no configuration, the host's own
    /// sandbox.
    ///
    /// The result goes to stdout, the plugin's log to stderr. Ends with 0 when
    /// the task completed, with 1 when it failed.
    Run(run::RunArgs),
    /// Run a plugin's golden tasks, and what every executor must do.
    ///
    /// Ends with 0 when all hold, with 1 when one does not.
    Test(test::TestArgs),
    /// Put an earlier version back into service on the running host, at once.
    ///
    /// It stays until the plugin's file changes.
    Rollback {
        name: PluginName,
        /// Which version: the first digits of its digest, as `plugin list`
        /// shows them. By default the latest that was not itself rolled back.
        #[arg(long, value_name = "DIGEST")]
        to: Option<DigestPrefix>,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

impl PluginCommand {
    /// See [`super::takes_values`].
    pub const fn takes_values(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

pub fn plugin(context: Context, command: PluginCommand) -> Outcome {
    match command {
        PluginCommand::List => list::list(&context),
        PluginCommand::Inspect { file, wit } => inspect(&context, &file, wit),
        PluginCommand::Build {
            directory,
            output,
            locked,
        } => build(&context, &directory, output, locked),
        PluginCommand::Run(args) => run::run(&context, args),
        PluginCommand::Test(args) => test::test(&context, args),
        PluginCommand::Rollback { name, to, reason } => {
            on_runtime(rollback::roll_back(context, name, to, reason))
        }
    }
}

/// What a file is, and, where it fits, what it says of itself.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    file: Inspection,
    descriptor: Option<Descriptor>,
    /// What an attempt of it would run under.
    limits: Option<Limits>,
}

fn inspect(context: &Context, file: &Path, wit: bool) -> Outcome {
    let config = context.config()?;
    let candidate = Candidate::read(file, None).map_err(|error| {
        let exit = if file.exists() {
            Exit::Usage
        } else {
            Exit::NotFound
        };
        refused(exit, error)
    })?;
    let mut inspected = Inspected {
        file: inspect::inspect(&candidate.bytes),
        descriptor: None,
        limits: None,
    };
    if inspected.file.problems.is_empty() {
        let loaded = with_guests(&config, async |guests| {
            let loader = host::plugin_loader(&config, guests)?;
            Ok(loader.load(candidate, &Settings::default()).await)
        })?;
        match loaded {
            Ok(plugin) => {
                inspected.descriptor = Some(plugin.descriptor().clone());
                inspected.limits = Some(plugin.limits().as_ref().clone());
            }
            Err(error) => inspected.file.problems.push(error.into()),
        }
    }
    let fits = inspected.file.problems.is_empty();
    context
        .output
        .answer("plugin-inspect", &inspected, || described(&inspected, wit))?;
    Ok(if fits { Exit::Ok } else { Exit::Negative })
}

fn refused(exit: Exit, error: LoadError) -> Failure {
    let hint = error.hint();
    let code = error.code();
    Failure::new(exit, code, error).hint(hint)
}

fn described(inspected: &Inspected, wit: bool) -> String {
    let file = &inspected.file;
    let mut lines = vec![
        format!("digest    {}", file.digest),
        format!("size      {:.1} kB", file.bytes as f64 / 1000.0),
    ];
    if let Some(descriptor) = &inspected.descriptor {
        let handles: Vec<String> = descriptor.handles.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "name      {} {}",
            descriptor.name, descriptor.version
        ));
        lines.push(format!("handles   {}", handles.join(", ")));
        lines.push(format!("reads     {}", or_nothing(&descriptor.config_keys)));
        lines.push(format!("calls     {}", or_nothing(&descriptor.egress)));
    }
    if let Some(limits) = &inspected.limits {
        lines.push(format!(
            "limits    {} MiB, {} s, {} at once",
            limits.memory_bytes / (1 << 20),
            limits.deadline.as_secs(),
            limits.concurrency
        ));
    }
    if let Some(component) = &file.component {
        lines.push(format!(
            "profile   {}",
            format!("{:?}", component.profile).to_lowercase()
        ));
        lines.extend(
            component
                .imports
                .iter()
                .map(|name| format!("imports   {name}")),
        );
        lines.extend(
            component
                .exports
                .iter()
                .map(|name| format!("exports   {name}")),
        );
        if let Some(text) = component.wit.as_ref().filter(|_| wit) {
            lines.push(format!("\n{text}"));
        }
    }
    for problem in &file.problems {
        lines.push(format!("problem   {}: {}", problem.code, problem.message));
        lines.push(format!("  hint:   {}", problem.hint));
    }
    if file.problems.is_empty() {
        lines.push("it fits the world `executor-plugin` of this host".to_owned());
    }
    lines.join("\n")
}

fn or_nothing(list: &[String]) -> String {
    if list.is_empty() {
        "nothing".to_owned()
    } else {
        list.join(", ")
    }
}

fn build(context: &Context, directory: &Path, output: Option<PathBuf>, locked: bool) -> Outcome {
    let lock_file = if locked {
        LockFile::Keep
    } else {
        LockFile::Update
    };
    let packaged = packaging::build(directory, lock_file)
        .map_err(|error| Failure::new(Exit::Negative, "build_failed", error))?;
    let stamp = &packaged.stamp;
    let output = output.unwrap_or_else(|| format!("{}.wasm", stamp.name).into());
    std::fs::write(&output, &packaged.bytes).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot write {}", output.display()));
        Failure::new(Exit::Usage, "output_unwritable", error)
    })?;
    let data = json!({
        "file": output,
        "name": stamp.name,
        "version": stamp.version,
        "bytes": packaged.bytes.len(),
        "digest": crate::ids::Digest::of(&packaged.bytes),
        "source_digest": stamp.source.digest,
    });
    context.output.answer("plugin-build", &data, || {
        format!(
            "{}: {} {}, {:.1} kB",
            output.display(),
            stamp.name,
            stamp.version,
            packaged.bytes.len() as f64 / 1000.0
        )
    })?;
    Ok(Exit::Ok)
}
