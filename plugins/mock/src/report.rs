//! What the mock reports of work it never did.

use std::borrow::Cow;
use std::hash::Hasher;

use cogo_edits::{Change, Edit, Edits, MAX_TASK_ID};
use cogo_executor::json::Object;
use cogo_executor::payload::{BuildTest, Codegen, Program, Role, Sandbox};
use cogo_executor::{
    BuildTestReport, CodegenReport, Failure, Host, Outcome, Report, SandboxReport, Task,
};
use fnv::FnvHasher;
use serde::Serialize;

use crate::{Behaviour, Steering};

/// Under the artifacts of the task.
const EDITS_PATH: &str = "edits.json";
/// Under the artifacts of the task.
const REPORT_PATH: &str = "report.json";
/// How much of a program is repeated in its output, in characters.
const ECHO_CHARS: usize = 1_000;

/// What a task asks for, by its role.
pub(crate) enum Work<'a> {
    BuildTest {
        seed: u64,
    },
    Codegen {
        seed: u64,
        task: &'a Task,
        wanted: Codegen<'a>,
        /// The payload's `ref`, where git could take it for one.
        base_ref: Option<Cow<'a, str>>,
    },
    Sandbox {
        seed: u64,
        wanted: Sandbox<'a>,
    },
}

/// The artifact of a build-test.
#[derive(Serialize)]
struct StoredReport {
    passed: bool,
    tests: u32,
    failures: u32,
    duration_ms: u64,
}

impl<'a> Work<'a> {
    pub(crate) fn read(role: Role, task: &'a Task, object: &Object<'a>) -> Result<Self, Failure> {
        Ok(match role {
            Role::BuildTest => {
                let wanted = BuildTest::read(object)?;
                let inputs = [wanted.repo, wanted.reference, wanted.edits_url];
                let seed = seed(
                    task,
                    inputs
                        .iter()
                        .map(|input| input.as_deref().unwrap_or_default()),
                );
                Work::BuildTest { seed }
            }
            Role::Codegen => {
                let wanted = Codegen::read(object)?;
                let seed = seed(task, [wanted.spec.as_str()]);
                let base_ref = object.optional::<Cow<'a, str>>("ref").unwrap_or_default();
                Work::Codegen {
                    seed,
                    task,
                    wanted,
                    base_ref: base_ref.filter(|name| cogo_edits::is_usable_ref(name)),
                }
            }
            Role::Sandbox => {
                let wanted = Sandbox::read(object)?;
                let seed = seed(task, [echo(&wanted.program).as_str()]);
                Work::Sandbox { seed, wanted }
            }
        })
    }

    pub(crate) fn report(&self, steering: &Steering, host: &impl Host) -> Result<Outcome, Failure> {
        if steering.behaviour == Behaviour::WrongReport {
            return Ok(self.wrong_report());
        }
        match self {
            Work::BuildTest { seed } => build_test(*seed, steering, host),
            Work::Codegen {
                seed,
                task,
                wanted,
                base_ref,
            } => codegen(*seed, task, (wanted, base_ref.as_deref()), steering, host),
            Work::Sandbox { seed, wanted } => sandbox(*seed, wanted, steering, host),
        }
    }

    fn wrong_report(&self) -> Outcome {
        match self {
            Work::BuildTest { .. } => Report::Custom("{}".into()).into(),
            Work::Codegen { seed, .. } | Work::Sandbox { seed, .. } => BuildTestReport {
                passed: true,
                tests: tests(*seed),
                failures: 0,
                duration_ms: duration_ms(*seed),
                report_url: None,
            }
            .into(),
        }
    }
}

fn build_test(seed: u64, steering: &Steering, host: &impl Host) -> Result<Outcome, Failure> {
    let tests = steering.tests.unwrap_or_else(|| tests(seed));
    let failures = match (steering.failures, steering.behaviour) {
        (Some(failures), _) => failures,
        (None, Behaviour::TestsFail) => tests.min(1),
        (None, _) => 0,
    };
    if failures > tests {
        let message = format!("payload.mock.failures: {failures} are more than the {tests} tests");
        return Err(Failure::permanent("payload_invalid", message));
    }
    let mut report = BuildTestReport {
        passed: failures == 0 && steering.behaviour != Behaviour::TestsFail,
        tests,
        failures,
        duration_ms: steering.duration_ms.unwrap_or_else(|| duration_ms(seed)),
        report_url: None,
    };
    if steering.artifact {
        let stored = StoredReport {
            passed: report.passed,
            tests: report.tests,
            failures: report.failures,
            duration_ms: report.duration_ms,
        };
        let url = host.store_artifact(REPORT_PATH, "application/json", &json(&stored)?)?;
        report.report_url = Some(url);
    }
    Ok(report.into())
}

fn codegen(
    seed: u64,
    task: &Task,
    (wanted, base_ref): (&Codegen<'_>, Option<&str>),
    steering: &Steering,
    host: &impl Host,
) -> Result<Outcome, Failure> {
    let note = Change::Content(format!(
        "# Written by the mock executor\n\n{}\n",
        wanted.spec.as_str()
    ));
    let edit = Edit::new(format!("docs/mock-{seed:016x}.md"), note);
    // A label may be longer than the format has room for.
    let label = Some(task.id.as_str()).filter(|id| (1..=MAX_TASK_ID).contains(&id.chars().count()));
    let edits = Edits::new(label, base_ref, vec![edit])
        .map_err(|error| Failure::permanent(error.code(), error.to_string()))?;
    let edits_url = host.store_artifact(EDITS_PATH, "application/json", &edits.to_json())?;
    Ok(CodegenReport {
        edits_url,
        files: 1,
        duration_ms: steering.duration_ms.unwrap_or_else(|| duration_ms(seed)),
    }
    .into())
}

fn sandbox(
    seed: u64,
    wanted: &Sandbox<'_>,
    steering: &Steering,
    host: &impl Host,
) -> Result<Outcome, Failure> {
    let default_exit = i32::from(steering.behaviour == Behaviour::TestsFail);
    let report = SandboxReport {
        exit_code: steering.exit_code.unwrap_or(default_exit),
        stdout: format!("mock: {}\n", echo(&wanted.program)),
        stderr: String::new(),
        truncated: false,
        duration_ms: steering.duration_ms.unwrap_or_else(|| duration_ms(seed)),
    };
    let stored = match steering.artifact {
        true => Some(host.store_artifact(
            "stdout.txt",
            "text/plain; charset=utf-8",
            report.stdout.as_bytes(),
        )?),
        false => None,
    };
    let mut outcome = Outcome::from(report);
    outcome.url = stored;
    Ok(outcome)
}

/// The program in a line, at most so long.
fn echo(program: &Program<'_>) -> String {
    let line = match program {
        Program::Command(command) => command.to_string(),
        Program::Arguments(arguments) => arguments.join(" "),
        Program::Source { code, language } => format!("{language}: {code}"),
    };
    match line.char_indices().nth(ECHO_CHARS) {
        Some((end, _)) => line.get(..end).unwrap_or_default().to_owned(),
        None => line,
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value)
        .map_err(|error| Failure::permanent("mock_broken", format!("no JSON form: {error}")))
}

/// A number that the same task with the same inputs has every time. The trace is
/// left out: a repeated submission is the same work.
fn seed<'a>(task: &'a Task, inputs: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = FnvHasher::default();
    for part in std::iter::once(task.id.as_str()).chain(inputs) {
        hasher.write(part.as_bytes());
        // Not valid in UTF-8, so parts cannot run into each other.
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

fn tests(seed: u64) -> u32 {
    between(seed, 12, 60)
}

fn duration_ms(seed: u64) -> u64 {
    u64::from(between(seed >> 16, 500, 5_000))
}

/// A number from `low` up to and without `high`.
fn between(seed: u64, low: u32, high: u32) -> u32 {
    let span = u64::from(high - low);
    low + u32::try_from(seed % span).unwrap_or_default()
}
