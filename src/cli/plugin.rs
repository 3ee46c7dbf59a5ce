//! `plugin new|build|dev|run|test|check|inspect|list|publish|retract|rollback`.

mod build;
mod dev;
mod inspect;
mod list;
mod new;
mod publish;
mod rollback;
mod run;
mod subject;
mod test;

use std::path::PathBuf;

use clap::Subcommand;

use super::output::{Exit, Failure, Outcome};
use super::{Context, on_runtime};
use crate::control::Reason;
use crate::ids::{Digest, PluginName};
use crate::plugin::catalog::DigestPrefix;
use crate::plugin::load::LoadError;

#[derive(Subcommand)]
pub enum PluginCommand {
    /// Write the sources of a plugin to start from.
    New(new::NewArgs),
    /// Make a component of a plugin's sources.
    Build(build::BuildArgs),
    /// Build, check and swap at every change of a plugin's sources.
    Dev(dev::DevArgs),
    /// List the plugins of the running host, or, without one, those that a host
    /// with these settings would load.
    List,
    /// Show what a component is, imports and exports, and whether it fits.
    Inspect(inspect::InspectArgs),
    /// Say whether components can be loaded, and if not, what to mend.
    Check(inspect::CheckArgs),
    /// Run a component on one task: no bus, no configuration, the host's own
    /// sandbox; the result on stdout, the log on stderr.
    Run(run::RunArgs),
    /// Run a plugin's golden tasks, and what every executor must do.
    Test(test::TestArgs),
    /// Put a component on the bus, for every host.
    ///
    /// In development it serves at once; in staging, and in production where a
    /// trusted key signed it, it becomes a candidate. What is published never
    /// changes: another version needs another number.
    Publish {
        /// The component, or the directory that it was built in.
        file: PathBuf,
        /// Its signature as minisign writes it; FILE.minisig where it exists.
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
    /// Have no host use a published version any more.
    Retract {
        /// Its whole digest, `sha256:…`.
        digest: Digest,
        /// Why; recorded with your name.
        #[arg(long, value_name = "TEXT")]
        reason: Option<Reason>,
    },
    /// Put an earlier version back into service on every host, at once.
    ///
    /// It stays until another is promoted; in development, until the plugin's
    /// file changes.
    Rollback {
        /// The plugin.
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
        PluginCommand::New(args) => new::new(&context, args),
        PluginCommand::Build(args) => build::build(&context, args),
        PluginCommand::Dev(args) => dev::dev(&context, args),
        PluginCommand::Run(args) => run::run(&context, args),
        PluginCommand::Test(args) => test::test(&context, args),
        PluginCommand::Publish {
            file,
            signature,
            reason,
        } => publish::publish(&context, &file, signature, reason),
        PluginCommand::Retract { digest, reason } => {
            on_runtime(publish::retract(context, digest, reason))
        }
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
