//! The component that a command is about, and the sandbox to try it in.

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::super::output::{Exit, Failure, Outcome};
use super::super::run::with_guests;
use super::refused;
use crate::cli::Context;
use crate::config::nearest;
use crate::host;
use crate::plugin::bundled;
use crate::plugin::load::Candidate;
use crate::plugin::sandbox::{LogTap, Runtimes};
use crate::trial::Trials;

/// Reads a component from its file, or from the directory of its sources; a name
/// without a file is that of a bundled plugin.
///
/// # Errors
/// `P102` with the nearest file or bundled plugin, `P101` for what is too large,
/// those of [`component_of`] for a directory.
pub fn read(file: &Path) -> Outcome<Candidate> {
    let within = file.is_dir().then(|| component_of(file)).transpose()?;
    let file = within.as_deref().unwrap_or(file);
    if !file.exists() {
        let name = file.to_string_lossy();
        let named = |candidate: &Candidate| {
            let bundled = candidate.name.as_ref();
            bundled.is_some_and(|bundled| bundled.as_str() == name)
        };
        let found = bundled::candidates().find(named);
        if let Some(candidate) = found {
            return Ok(candidate);
        }
    }
    Candidate::read(file, None).map_err(|error| {
        if file.exists() {
            return refused(Exit::Usage, error);
        }
        let failure = refused(Exit::NotFound, error);
        match neighbour(file) {
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint(
                "expected a component's file, such as `cogo-host plugin build DIR` writes, or `mock` or `cogo-worker`, which are bundled",
            ),
        }
    })
}

/// The component of a plugin's directory: the only `*.wasm` in it, or NAME.wasm
/// here for a directory NAME.
///
/// # Errors
/// `component_missing`, or `component_ambiguous` where there are several.
pub fn component_of(directory: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_component = |path: &PathBuf| path.extension().is_some_and(|e| e == "wasm");
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_component).collect();
    found.sort();
    let here = directory.canonicalize().ok().and_then(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some(PathBuf::from(format!("{name}.wasm")))
    });
    match (found.as_slice(), here) {
        ([only], _) => Ok(only.clone()),
        ([], Some(here)) if here.is_file() => Ok(here),
        ([], _) => {
            let shown = directory.display();
            let message = format!("there is no component in {shown}");
            Err(
                Failure::message(Exit::NotFound, "component_missing", message)
                    .hint(format!("build it with `cogo-host plugin build {shown}`")),
            )
        }
        (several, _) => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            let message = format!("there are several components: {}", names.join(", "));
            Err(
                Failure::message(Exit::Usage, "component_ambiguous", message)
                    .hint("name the file of the one that is meant"),
            )
        }
    }
}

/// The file or bundled plugin whose name is most alike.
fn neighbour(file: &Path) -> Option<String> {
    let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let entries = std::fs::read_dir(directory.unwrap_or(Path::new("."))).ok();
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    names.extend(bundled::candidates().filter_map(|c| Some(c.name?.to_string())));
    let wanted = file.file_name()?.to_str()?;
    let near = nearest(wanted, names.iter().map(String::as_str))?;
    let path = directory.map(|dir| dir.join(near));
    let found = path.filter(|path| path.exists());
    Some(found.map_or_else(|| near.to_owned(), |path| path.display().to_string()))
}

/// Does `work` with a sandbox at hand.
pub fn with_trials<T>(
    context: &Context,
    tap: Option<LogTap>,
    work: impl AsyncFnOnce(&Trials) -> Outcome<T>,
) -> Outcome<T> {
    let config = context.plugin_config()?;
    with_guests(&config, async |guests| {
        let loader = host::plugin_loader(&config, guests)?;
        let runtimes = Runtimes {
            guest: guests.clone(),
            io: Handle::current(),
        };
        let trials = Trials::new(loader, runtimes);
        let trials = match tap {
            Some(tap) => trials.with_log_tap(tap),
            None => trials,
        };
        work(&trials).await
    })
}

/// Reads a text file that a command line names.
///
/// # Errors
/// `file_unreadable`, with the path.
pub fn read_text(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|cause| {
        let exit = match cause.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Usage,
        };
        let cause = match cause.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "this user must not read it".to_owned(),
            _ => cause.to_string(),
        };
        let message = format!("{} cannot be read: {cause}", path.display());
        Failure::message(exit, "file_unreadable", message)
    })
}
