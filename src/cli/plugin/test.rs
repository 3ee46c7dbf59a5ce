//! `plugin test`: golden tasks, and what every executor must do.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::super::junit::{self, Case, CaseResult, Suite};
use super::super::output::{Exit, Failure, Outcome};
use super::subject;
use crate::cli::Context;
use crate::expect::{Difference, Expectation};
use crate::ids::Digest;
use crate::millis::millis;
use crate::plugin::load::Candidate;
use crate::trial::conformance::{Battery, Check};
use crate::trial::golden::{Golden, GoldenError};
use crate::trial::{TrialError, Trials};

const EXAMPLES: &str = "\
Examples:
  cogo-host plugin test my-plugin
  cogo-host plugin test my-plugin --update
  cogo-host plugin test my-plugin --compare old.wasm new.wasm
  cogo-host plugin test my-plugin --junit report.xml

A golden task is DIR/tasks/NAME.task.json with NAME.expect.json beside it; what they
hold: cogo-host explain golden-tasks. Ends with 0 when all hold, with 1 when one does not.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct TestArgs {
    /// The plugin's directory, with its golden tasks.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// The component; by default the only `*.wasm` in the directory, or
    /// NAME.wasm here for a directory NAME.
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Write what came as what is expected, where they differ.
    #[arg(long)]
    update: bool,
    /// Run the golden tasks on two components and show where they differ.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["update", "component"])]
    compare: Vec<PathBuf>,
    /// Leave out what every executor must do.
    #[arg(long)]
    golden_only: bool,
    /// Write a JUnit report, too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// One test and how it came out.
#[derive(Debug, Clone, Serialize)]
struct Tested {
    suite: &'static str,
    name: String,
    took_ms: u64,
    passed: bool,
    /// What was written anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    updated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// What it could not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<String>,
}

/// What was tested, for reports.
struct Tests {
    components: Vec<(&'static str, Candidate)>,
    tested: Vec<Tested>,
}

pub fn test(context: &Context, args: TestArgs) -> Outcome {
    let goldens = Golden::find(&args.directory).map_err(unreadable)?;
    let Tests { components, tested } = subject::with_trials(context, None, async |trials| {
        Ok(match args.compare.as_slice() {
            [old, new] => {
                let (old, new) = (subject::read(old)?, subject::read(new)?);
                Tests {
                    tested: compare(trials, &goldens, &old, &new).await?,
                    components: vec![("old", old), ("new", new)],
                }
            }
            _ => {
                let candidate = subject::read(&component(&args)?)?;
                Tests {
                    tested: all(trials, &args, &goldens, &candidate).await?,
                    components: vec![("component", candidate)],
                }
            }
        })
    })?;
    if tested.is_empty() {
        let message = format!("there is no golden task in {}", args.directory.display());
        return Err(Failure::message(Exit::NotFound, "tests_missing", message)
            .hint("write NAME.task.json there; `cogo-host explain golden-tasks` shows one"));
    }
    if let Some(file) = &args.junit {
        write_junit(file, &components, &tested)?;
    }
    context
        .output
        .answer("plugin-test", &tested, || shown(&tested))?;
    let failed = tested.iter().any(|tested| !tested.passed);
    Ok(if failed { Exit::Negative } else { Exit::Ok })
}

pub fn unreadable(error: GoldenError) -> Failure {
    Failure::new(Exit::Usage, "golden_invalid", error)
        .hint("`cogo-host explain golden-tasks` shows both files")
}

/// The component that is meant.
fn component(args: &TestArgs) -> Outcome<PathBuf> {
    if let Some(file) = &args.component {
        return Ok(file.clone());
    }
    subject::component_of(&args.directory).map_err(|failure| match failure.code.as_str() {
        "component_ambiguous" => failure.hint("name one with --component"),
        "component_missing" => {
            let built = failure.hint.clone().unwrap_or_default();
            failure.hint(format!("{built}, or name it with --component"))
        }
        _ => failure,
    })
}

async fn all(
    trials: &Trials,
    args: &TestArgs,
    goldens: &[Golden],
    candidate: &Candidate,
) -> Outcome<Vec<Tested>> {
    let mut tested = Vec::new();
    for golden in goldens {
        tested.push(one(trials, args, golden, candidate).await?);
    }
    if args.golden_only {
        return Ok(tested);
    }
    let battery = Battery {
        trials,
        candidate,
        samples: goldens
            .iter()
            .map(|golden| (&golden.given.task, golden.setup()))
            .collect(),
    };
    for check in Check::ALL {
        let start = Instant::now();
        let checked = battery.run(check).await;
        let failure = checked
            .failure
            .map(|failure| format!("{failure}\nwanted: {}", check.wants()));
        tested.push(Tested {
            suite: "conformance",
            name: check.name().to_owned(),
            took_ms: millis(start.elapsed()),
            passed: failure.is_none(),
            updated: false,
            failure,
            open: checked.open,
        });
    }
    Ok(tested)
}

async fn one(
    trials: &Trials,
    args: &TestArgs,
    golden: &Golden,
    candidate: &Candidate,
) -> Outcome<Tested> {
    let mut tested = Tested {
        suite: "golden",
        name: golden.name.clone(),
        took_ms: 0,
        passed: true,
        updated: false,
        failure: None,
        open: None,
    };
    let tried = match golden.run(trials, candidate.clone()).await {
        Ok(tried) => tried,
        // The component as a whole is at fault, so no other test is worth it.
        Err(TrialError::Load(error)) => return Err(super::refused(Exit::Negative, error)),
        Err(error) => {
            tested.passed = false;
            tested.failure = Some(format!("{error}\n hint: {}", error.hint()));
            return Ok(tested);
        }
    };
    tested.took_ms = millis(tried.trial.took);
    let failure = match &tried.differences {
        Some(differences) if differences.is_empty() => return Ok(tested),
        Some(differences) => lines(differences),
        None => {
            let file = golden.expect_file().display();
            format!(
                "there is no {file}; `--update` writes it:\n{:#}",
                tried.observed
            )
        }
    };
    if args.update {
        golden.update(&tried.observed).map_err(unreadable)?;
        tested.updated = true;
    } else {
        let log = tried.trial.measured.log.iter();
        let log: String = log
            .map(|line| format!("\nlog {}: {}", line.level.as_str(), line.message))
            .collect();
        tested.passed = false;
        tested.failure = Some(failure + &log);
    }
    Ok(tested)
}

fn lines(differences: &[Difference]) -> String {
    let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// What the new component does differently.
async fn compare(
    trials: &Trials,
    goldens: &[Golden],
    old: &Candidate,
    new: &Candidate,
) -> Outcome<Vec<Tested>> {
    let mut tested = Vec::new();
    for golden in goldens {
        let run = async |candidate: &Candidate| match golden.run(trials, candidate.clone()).await {
            Err(TrialError::Load(error)) => Err(super::refused(Exit::Negative, error)),
            other => Ok(other),
        };
        let (before, after) = (run(old).await?, run(new).await?);
        let (took_ms, failure) = match (before, after) {
            (Ok(before), Ok(after)) => {
                let exactly = serde_json::json!({ "$exact": before.observed });
                let differences = Expectation::parse(&exactly)
                    .map(|expected| expected.differences(&after.observed))
                    .unwrap_or_default();
                let failure = (!differences.is_empty()).then(|| lines(&differences));
                (millis(after.trial.took), failure)
            }
            (Err(_), Err(_)) => (0, None),
            (Err(error), Ok(_)) => (0, Some(format!("only the new one runs it: {error}"))),
            (Ok(_), Err(error)) => (0, Some(format!("only the old one runs it: {error}"))),
        };
        tested.push(Tested {
            suite: "compare",
            name: golden.name.clone(),
            took_ms,
            passed: failure.is_none(),
            updated: false,
            failure,
            open: None,
        });
    }
    Ok(tested)
}

fn shown(tested: &[Tested]) -> String {
    let mut text = String::new();
    let mut suite = "";
    for one in tested {
        if suite != one.suite {
            suite = one.suite;
            let _ = writeln!(text, "{suite}");
        }
        let word = match (one.passed, one.updated) {
            (true, true) => "new ",
            (true, false) => "ok  ",
            (false, _) => "FAIL",
        };
        let _ = writeln!(text, "  {word}  {:36} {:>6} ms", one.name, one.took_ms);
        for line in one.failure.iter().flat_map(|failure| failure.lines()) {
            let _ = writeln!(text, "        {line}");
        }
        if let Some(open) = &one.open {
            let _ = writeln!(text, "        not shown: {open}");
        }
    }
    let passed = tested.iter().filter(|one| one.passed).count();
    let _ = write!(text, "{passed} of {} passed", tested.len());
    if tested
        .iter()
        .any(|one| !one.passed && one.suite == "golden")
    {
        text += "; if what came is right, `--update` makes it what is expected";
    }
    text
}

fn write_junit(
    file: &Path,
    components: &[(&'static str, Candidate)],
    tested: &[Tested],
) -> Outcome<()> {
    let property = |(name, candidate): &(&'static str, Candidate)| {
        let digest = Digest::of(&candidate.bytes);
        (*name, format!("{} {digest}", candidate.place))
    };
    let suite = |name: &'static str| Suite {
        name,
        properties: components.iter().map(property).collect(),
        cases: tested
            .iter()
            .filter(|one| one.suite == name)
            .map(case)
            .collect(),
    };
    let suites = ["golden", "conformance", "compare"].map(suite);
    let suites: Vec<Suite<'_>> = suites.into_iter().filter(|s| !s.cases.is_empty()).collect();
    std::fs::write(file, junit::report(&junit::Run::here(), &suites) + "\n").map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot write {}", file.display()));
        Failure::new(Exit::Usage, "output_unwritable", error)
    })
}

fn case(one: &Tested) -> Case {
    Case {
        name: one.name.clone(),
        seconds: one.took_ms as f64 / 1000.0,
        result: match &one.failure {
            Some(failure) => CaseResult::Failure(failure.clone()),
            None => CaseResult::Pass,
        },
    }
}
