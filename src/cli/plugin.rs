//! `plugin list|inspect|build`.

use std::path::PathBuf;

use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::json;

use super::output::{Exit, Failure, Outcome};
use super::{Context, run};
use crate::host;
use crate::packaging::{self, LockFile};
use crate::plugin::catalog::Listed;

#[derive(Subcommand)]
pub enum PluginCommand {
    /// List the plugins that a host with these settings loads.
    List,
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
}

pub fn plugin(context: Context, command: PluginCommand) -> Outcome {
    match command {
        PluginCommand::List => list(&context),
        PluginCommand::Build {
            directory,
            output,
            locked,
        } => build(&context, &directory, output, locked),
    }
}

fn list(context: &Context) -> Outcome {
    let config = context.config()?;
    let listed = run::with_guests(&config, async |guests| {
        let catalog = host::load_plugins(&config, guests).await?;
        Ok(catalog.list())
    })?;
    context
        .output
        .answer("plugin-list", &listed, || table(&listed))?;
    Ok(Exit::Ok)
}

fn table(listed: &[Listed]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["NAME", "VERSION", "KIND", "SOURCE", "HANDLES", "DIGEST"]);
    for plugin in listed {
        let name = plugin.name.to_string();
        if let Some(serving) = &plugin.serving {
            let handles: Vec<String> = serving.handles.iter().map(ToString::to_string).collect();
            table.add_row([
                name.clone(),
                serving.version.clone(),
                format!("{:?}", serving.kind).to_lowercase(),
                format!("{:?}", serving.source).to_lowercase(),
                handles.join(", "),
                serving.digest.to_string().chars().take(19).collect(),
            ]);
        }
        if let Some(failure) = &plugin.last_failure {
            table.add_row([
                name,
                format!("refused {}", failure.code),
                String::new(),
                String::new(),
                failure.message.clone(),
                String::new(),
            ]);
        }
    }
    table.trim_fmt()
}

fn build(
    context: &Context,
    directory: &std::path::Path,
    output: Option<PathBuf>,
    locked: bool,
) -> Outcome {
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
