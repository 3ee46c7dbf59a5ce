//! `plugin inspect` and `plugin check`: what a component is, and whether it
//! fits.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::super::output::{Exit, Outcome, explain_line};
use super::subject;
use crate::cli::Context;
use crate::packaging;
use crate::plugin::inspect::{self, Inspection};
use crate::plugin::limits::Limits;
use crate::plugin::load::{Candidate, Descriptor};
use crate::plugin::world::Stray;
use crate::trial::{Setup, Trials};

#[derive(Args)]
pub struct InspectArgs {
    /// The component, the directory that it was built in, or the name of a
    /// bundled plugin.
    file: PathBuf,
    /// Print its world in WIT, too.
    #[arg(long)]
    wit: bool,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host plugin check my-plugin.wasm\n  cogo-host plugin check plugins/*.wasm --json\n\nThe codes are explained by `cogo-host explain CODE`."
)]
pub struct CheckArgs {
    /// Components, or the directories that they were built in.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// What a file is, and, where it fits, what it says of itself.
#[derive(Serialize)]
struct Inspected {
    file: PathBuf,
    #[serde(flatten)]
    found: Inspection,
    descriptor: Option<Descriptor>,
    /// What an attempt of it would run under.
    limits: Option<Limits>,
    /// Where its types are not the contract's, in WIT.
    #[serde(skip_serializing_if = "Option::is_none")]
    types: Option<String>,
}

pub fn inspect(context: &Context, args: &InspectArgs) -> Outcome {
    let candidate = subject::read(&args.file)?;
    let inspected = subject::with_trials(context, None, async |trials| {
        Ok(look(trials, &args.file, candidate).await)
    })?;
    let fits = inspected.found.problems.is_empty();
    context.output.answer("plugin-inspect", &inspected, || {
        described(&inspected, args.wit)
    })?;
    Ok(if fits { Exit::Ok } else { Exit::Negative })
}

pub fn check(context: &Context, args: &CheckArgs) -> Outcome {
    let candidates = args
        .files
        .iter()
        .map(|file| Ok((file, subject::read(file)?)));
    let candidates = candidates.collect::<Outcome<Vec<_>>>()?;
    let checked = subject::with_trials(context, None, async |trials| {
        let mut checked = Vec::new();
        for (file, candidate) in candidates {
            checked.push(look(trials, file, candidate).await);
        }
        Ok(checked)
    })?;
    let fit = checked.iter().all(|one| one.found.problems.is_empty());
    context.output.answer("plugin-check", &checked, || {
        let texts: Vec<String> = checked.iter().map(verdict).collect();
        texts.join("\n")
    })?;
    Ok(if fit { Exit::Ok } else { Exit::Negative })
}

/// Looks at a component, and asks it what it is where it fits.
async fn look(trials: &Trials, file: &Path, candidate: Candidate) -> Inspected {
    let mut inspected = Inspected {
        file: file.to_owned(),
        found: inspect::inspect(&candidate.bytes),
        descriptor: None,
        limits: None,
        types: packaging::difference(&candidate.bytes),
    };
    if inspected.found.problems.is_empty() {
        match trials.load(candidate, &Setup::default()).await {
            Ok(plugin) => {
                inspected.descriptor = Some(plugin.descriptor().clone());
                inspected.limits = Some(plugin.limits().as_ref().clone());
            }
            Err(error) => inspected.found.problems.push(error.into()),
        }
    }
    inspected
}

fn size(bytes: u64) -> String {
    format!("{:.1} kB", bytes as f64 / 1000.0)
}

/// One line where it fits, and what is wrong where it does not.
fn verdict(inspected: &Inspected) -> String {
    let found = &inspected.found;
    let mut lines = Vec::new();
    if let Some(descriptor) = &inspected.descriptor {
        let handles: Vec<String> = descriptor.handles.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "ok: {} is {} {}, {}, {}, handles {}",
            inspected.file.display(),
            descriptor.name,
            descriptor.version,
            size(found.bytes),
            found.digest,
            handles.join(", ")
        ));
    } else {
        lines.push(format!(
            "refused: {}, {}, {}",
            inspected.file.display(),
            size(found.bytes),
            found.digest
        ));
    }
    lines.extend(problems(inspected));
    lines.extend(notes(found));
    lines.join("\n")
}

/// What is wrong, with the difference to the world, the cure and where to read
/// on.
fn problems(inspected: &Inspected) -> Vec<String> {
    let mut lines = Vec::new();
    let component = inspected.found.component.as_ref();
    for problem in &inspected.found.problems {
        lines.push(format!("error[{}]: {}", problem.code, problem.message));
        let difference = match problem.code {
            "P120" => component.map(|component| component.against_world.as_str()),
            "P121" => inspected.types.as_deref(),
            _ => None,
        };
        let difference = difference.unwrap_or_default();
        lines.extend(difference.lines().map(|line| format!("  | {line}")));
        lines.push(format!(" hint: {}", problem.hint));
        lines.extend(explain_line(problem.code));
    }
    lines
}

/// What is linked and leads nowhere; imports that have all of it in common share
/// a line.
fn notes(found: &Inspection) -> Vec<String> {
    let component = found.component.iter();
    let strays: Vec<&Stray> = component.flat_map(|c| &c.strays).collect();
    let alike = |one: &Stray, other: &Stray| {
        (one.from, one.meets, one.cure) == (other.from, other.meets, other.cure)
    };
    let mut lines = Vec::new();
    for (at, stray) in strays.iter().enumerate() {
        let before = strays.iter().take(at);
        if before.into_iter().any(|other| alike(other, stray)) {
            continue;
        }
        let same = strays.iter().filter(|other| alike(other, stray));
        let imports: Vec<&str> = same.map(|stray| stray.import.as_str()).collect();
        let imports = imports.join(", ");
        lines.push(format!("note: imports {imports}"));
        lines.push(format!("      ({}): {}", stray.from, stray.meets));
        lines.push(format!("      {}", stray.cure));
    }
    lines
}

fn described(inspected: &Inspected, wit: bool) -> String {
    let found = &inspected.found;
    let mut lines = vec![
        format!("digest    {}", found.digest),
        format!("size      {}", size(found.bytes)),
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
    if let Some(component) = &found.component {
        lines.push(format!("profile   {}", component.profile.as_str()));
        let imports = component.imports.iter();
        lines.extend(imports.map(|name| format!("imports   {name}")));
        let exports = component.exports.iter();
        lines.extend(exports.map(|name| format!("exports   {name}")));
        if let Some(text) = component.wit.as_ref().filter(|_| wit) {
            lines.push(format!("\n{text}"));
        }
    }
    lines.extend(problems(inspected));
    lines.extend(notes(found));
    if found.problems.is_empty() {
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
