//! `plugin build`: from sources to a component, in whichever language.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::Context;
use super::super::output::{Exit, Failure, Outcome};
use crate::ids::Digest;
use crate::packaging::{self, BuildError, LockFile, Packaged};
use crate::plugin::inspect;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host plugin build my-runner\n  cogo-host plugin build . -o plugins/my-runner.wasm\n  cogo-host plugin build . --locked --if-changed"
)]
pub struct BuildArgs {
    /// Where the sources lie: Cargo.toml, package.json, pyproject.toml or
    /// plugin.toml says what they are.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Where the component goes; NAME.wasm beside the sources by default.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Fail rather than bring Cargo.lock up to date.
    #[arg(long)]
    locked: bool,
    /// Do nothing where the output was built from these sources already.
    #[arg(long)]
    if_changed: bool,
}

pub fn build(context: &Context, args: BuildArgs) -> Outcome {
    let lock_file = if args.locked {
        LockFile::Keep
    } else {
        LockFile::Update
    };
    let output = match args.output {
        Some(output) => output,
        None => default_output(&args.directory)?,
    };
    if args.if_changed && is_current(&output, &args.directory) {
        let data = json!({ "file": output, "built": false });
        context.output.answer("plugin-build", &data, || {
            format!("{} is up to date", output.display())
        })?;
        return Ok(Exit::Ok);
    }
    let packaged = packaging::build(&args.directory, lock_file).map_err(unbuilt)?;
    write(&output, &packaged.bytes)?;
    answer(context, &output, &packaged)?;
    Ok(Exit::Ok)
}

/// Where the component of a directory's sources goes unless told otherwise.
pub fn default_output(directory: &Path) -> Outcome<PathBuf> {
    let outline = packaging::outline(directory).map_err(|error| unbuilt(error.into()))?;
    Ok(directory.join(format!("{}.wasm", outline.name)))
}

fn is_current(output: &Path, directory: &Path) -> bool {
    std::fs::read(output).is_ok_and(|bytes| packaging::verify(&bytes, directory).is_ok())
}

/// Puts a component in its place at once: whoever reads it sees the old one or
/// the new one.
pub fn write(output: &Path, bytes: &[u8]) -> Outcome<()> {
    let unwritable = |error: std::io::Error| {
        let error = anyhow::Error::new(error).context(format!("cannot write {}", output.display()));
        Failure::new(Exit::Usage, "output_unwritable", error)
            .hint("name another file with --output")
    };
    let parent = output
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".cogo-build-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(unwritable)?;
    std::io::Write::write_all(&mut file, bytes).map_err(unwritable)?;
    file.persist(output)
        .map_err(|error| unwritable(error.error))?;
    Ok(())
}

fn answer(context: &Context, output: &Path, packaged: &Packaged) -> Outcome<()> {
    let stamp = &packaged.stamp;
    let outline = inspect::inspect(&packaged.bytes);
    let profile = outline.component.as_ref().map(|found| found.profile);
    let imports = outline.component.map(|found| found.imports);
    let data = json!({
        "file": output,
        "built": true,
        "name": stamp.name,
        "version": stamp.version,
        "language": packaged.language.as_str(),
        "bytes": packaged.bytes.len(),
        "digest": Digest::of(&packaged.bytes),
        "source_digest": stamp.source.digest,
        "world": packaging::world(),
        "profile": profile,
        "imports": imports,
        "problems": outline.problems,
    });
    context.output.answer("plugin-build", &data, || {
        let profile = profile.map_or(String::new(), |profile| {
            format!(", profile {}", format!("{profile:?}").to_lowercase())
        });
        format!(
            "{}: {} {} in {}, {:.1} kB\nworld     {}{profile}\ndigest    {}\nsources   {}",
            output.display(),
            stamp.name,
            stamp.version,
            packaged.language,
            packaged.bytes.len() as f64 / 1000.0,
            packaging::world(),
            Digest::of(&packaged.bytes),
            stamp.source.digest,
        )
    })?;
    for problem in &outline.problems {
        context.output.note(format_args!(
            "it will not load: {}: {}\n hint: {}",
            problem.code, problem.message, problem.hint
        ));
    }
    Ok(())
}

/// A missing toolchain is no fault of the sources.
pub fn unbuilt(error: BuildError) -> Failure {
    let exit = match error {
        BuildError::Toolchain(_) => Exit::Unavailable,
        BuildError::Manifest(_) => Exit::Usage,
        _ => Exit::Negative,
    };
    let (code, hint) = (error.code(), error.hint());
    Failure::new(exit, code, error).maybe_hint(hint)
}
