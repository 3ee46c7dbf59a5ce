//! The component that a command is about, and the sandbox to try it in.

use std::path::Path;

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

/// Reads a component from its file; a name without a file is that of a bundled
/// plugin.
///
/// # Errors
/// `P102` with the nearest file or bundled plugin, `P101` for what is too large.
pub fn read(file: &Path) -> Outcome<Candidate> {
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
