//! `plugin list|inspect|check|build|run|test|rollback`.

mod inspect;
mod list;
mod rollback;
mod run;
mod subject;
mod test;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::output::{Exit, Failure, Outcome};
use super::{Context, on_runtime};
use crate::ids::PluginName;
use crate::packaging::{self, LockFile};
use crate::plugin::catalog::DigestPrefix;
use crate::plugin::load::LoadError;

#[derive(Subcommand)]
pub enum PluginCommand {
    /// List the plugins of the running host, or, without one, those that a host
    /// with these settings would load.
    List,
    /// Show what a component is, imports and exports, and whether it fits.
    Inspect(inspect::InspectArgs),
    /// Say whether components can be loaded, and if not, what to mend.
    Check(inspect::CheckArgs),
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
    /// sandbox; the result on stdout, the log on stderr.
    Run(run::RunArgs),
    /// Run a plugin's golden tasks, and what every executor must do.
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
        PluginCommand::Inspect(args) => inspect::inspect(&context, &args),
        PluginCommand::Check(args) => inspect::check(&context, &args),
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

fn refused(exit: Exit, error: LoadError) -> Failure {
    let hint = error.hint();
    let code = error.code();
    Failure::new(exit, code, error).hint(hint)
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
