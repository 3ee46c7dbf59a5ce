//! The `cogo-host` program.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cogo_host::packaging::{self, LockFile};

/// Runs executor plugins, sandboxed WebAssembly components, for the COGO job bus.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work on plugins.
    #[command(subcommand)]
    Plugin(Plugin),
}

#[derive(Subcommand)]
enum Plugin {
    /// Compile a plugin's sources to a component.
    Build {
        /// The cargo package.
        directory: PathBuf,
        /// Where the component goes; NAME.wasm here by default.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Fail rather than bring Cargo.lock up to date.
        #[arg(long)]
        locked: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Plugin(Plugin::Build {
        directory,
        output,
        locked,
    }) = Cli::parse().command;
    let lock_file = if locked {
        LockFile::Keep
    } else {
        LockFile::Update
    };
    let packaged = packaging::build(&directory, lock_file)?;
    let output = output.unwrap_or_else(|| format!("{}.wasm", packaged.stamp.name).into());
    std::fs::write(&output, &packaged.bytes)
        .with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}
