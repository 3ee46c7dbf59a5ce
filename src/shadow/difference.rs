//! What two runs of one task differ in.
//!
//! Pure: what each run came to in, the difference out. Two runs *agree* when they
//! end alike, with the same verdict and the same counts. How long they took, what
//! they printed and which code they failed with is told, and breaks no agreement:
//! no two runs are alike in that.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attempt::{AttemptEnd, AttemptReport, Blame, Problem, StagedArtifact, StopReason};
use crate::ids::Digest;
use crate::report::{Outcome, Report};
use crate::rollout::verdict::{SLOWER, SLOWER_BY_MS};

/// The code of a shadow run that could not go on without a side effect.
pub const EFFECTS_REFUSED: &str = "effects_refused";

/// The longest text that is kept of a run, in characters.
const SAID: usize = 300;
/// The most counts that are kept of a report without a type of its own.
const COUNTS: usize = 32;

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    #[serde(flatten)]
    pub end: End,
    pub run_ms: u64,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum End {
    Done(Found),
    Failed {
        code: String,
        message: String,
        /// Another attempt would have been worth it.
        retryable: bool,
    },
    /// It says nothing of its version: the host was at fault, or what it needs
    /// to do is refused in a shadow.
    Nothing {
        code: String,
        message: String,
    },
}

/// What a report says, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// The case of the report, as `result.type` names it.
    pub report: String,
    /// Whether tests passed, or a command ended with 0.
    pub passed: Option<bool>,
    /// Whatever it counts, by name.
    pub counts: BTreeMap<String, i64>,
    /// Of what was printed, written or returned; absent where that is nothing.
    pub content: Option<Digest>,
    /// One line for people.
    pub snippet: String,
}

/// In what two runs differ.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One reported and the other failed, or only one failure is worth a retry.
    Outcome,
    Verdict,
    Counts,
    /// Both failed alike, with different codes.
    Code,
    Content,
    /// The candidate took much longer.
    Duration,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Outcome,
        Self::Verdict,
        Self::Counts,
        Self::Code,
        Self::Content,
        Self::Duration,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Verdict => "verdict",
            Self::Counts => "counts",
            Self::Code => "code",
            Self::Content => "content",
            Self::Duration => "duration",
        }
    }

    /// Whether runs that differ in it disagree.
    pub const fn disagrees(self) -> bool {
        matches!(self, Self::Outcome | Self::Verdict | Self::Counts)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the comparison of two runs found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Absent where either run says nothing.
    pub agrees: Option<bool>,
    pub differences: Vec<Kind>,
}

/// Compares what a candidate came to with what stable did.
pub fn compare(stable: &Seen, candidate: &Seen) -> Comparison {
    let differs: &dyn Fn(Kind) -> bool = match (&stable.end, &candidate.end) {
        (End::Nothing { .. }, _) | (_, End::Nothing { .. }) => {
            return Comparison {
                agrees: None,
                differences: Vec::new(),
            };
        }
        (End::Done(one), End::Done(other)) => &|kind| match kind {
            Kind::Outcome => one.report != other.report,
            Kind::Verdict => one.passed != other.passed,
            Kind::Counts => one.counts != other.counts,
            Kind::Code => false,
            Kind::Content => one.content != other.content,
            Kind::Duration => is_slow(stable.run_ms, candidate.run_ms),
        },
        (
            End::Failed {
                code, retryable, ..
            },
            End::Failed {
                code: other_code,
                retryable: other_retryable,
                ..
            },
        ) => &move |kind| match kind {
            Kind::Outcome => retryable != other_retryable,
            Kind::Code => code != other_code,
            Kind::Verdict | Kind::Counts | Kind::Content | Kind::Duration => false,
        },
        (End::Done(_), End::Failed { .. }) | (End::Failed { .. }, End::Done(_)) => {
            &|kind| kind == Kind::Outcome
        }
    };
    let differences: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| differs(*kind))
        .collect();
    Comparison {
        agrees: Some(!differences.iter().any(|kind| kind.disagrees())),
        differences,
    }
}

/// Whether a run is slow by the measure of stable's.
const fn is_slow(stable_ms: u64, candidate_ms: u64) -> bool {
    candidate_ms > stable_ms.saturating_mul(SLOWER)
        && candidate_ms > stable_ms.saturating_add(SLOWER_BY_MS)
}

impl Seen {
    /// What the end of an attempt comes to.
    pub fn of(report: &AttemptReport) -> Self {
        let end = match (&report.end, report.measured.effects_refused()) {
            (AttemptEnd::Completed(outcome), _) => End::Done(Found::of(outcome, &report.artifacts)),
            (_, 1..) => End::Nothing {
                code: EFFECTS_REFUSED.to_owned(),
                message: "it cannot do its work without side effects, which are refused here"
                    .to_owned(),
            },
            (AttemptEnd::Retryable { problem, .. }, 0) => End::failed(problem, true),
            (AttemptEnd::Permanent(problem), 0) => End::failed(problem, false),
            (AttemptEnd::HostFault(problem), 0) => End::nothing(problem),
            (AttemptEnd::Stopped(StopReason::Deadline), 0) => End::Failed {
                code: "deadline_exceeded".to_owned(),
                message: "it was not done in time".to_owned(),
                retryable: true,
            },
            (AttemptEnd::Stopped(reason), 0) => End::Nothing {
                code: reason.as_str().to_owned(),
                message: "it was made to give way".to_owned(),
            },
        };
        Self {
            end,
            run_ms: u64::try_from(report.measured.run.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// In a few words, for people.
    pub fn said(&self) -> String {
        match &self.end {
            End::Done(found) => format!("done ({})", found.snippet),
            End::Failed { code, .. } => format!("failed ({code})"),
            End::Nothing { code, .. } => format!("says nothing ({code})"),
        }
    }
}

impl End {
    fn failed(problem: &Problem, retryable: bool) -> Self {
        match problem.blame {
            Blame::Host => Self::nothing(problem),
            Blame::Guest | Blame::Worker => Self::Failed {
                code: problem.code.clone(),
                message: cut(&problem.message),
                retryable,
            },
        }
    }

    fn nothing(problem: &Problem) -> Self {
        Self::Nothing {
            code: problem.code.clone(),
            message: cut(&problem.message),
        }
    }

    /// As the bus keeps it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Failed { .. } => "failed",
            Self::Nothing { .. } => "nothing",
        }
    }
}

impl Found {
    fn of(outcome: &Outcome, artifacts: &[StagedArtifact]) -> Self {
        let report = &outcome.report;
        let (passed, counts, content) = match report {
            Report::BuildTest {
                passed,
                tests,
                failures,
                ..
            } => {
                let counts = [("tests", *tests), ("failures", *failures)];
                (Some(*passed), counts.map(counted).into(), None)
            }
            Report::Codegen { files, .. } => {
                let counts = BTreeMap::from([counted(("files", *files))]);
                (None, counts, written(artifacts))
            }
            Report::Sandbox {
                exit_code,
                stdout,
                stderr,
                ..
            } => {
                let counts = BTreeMap::from([counted(("exit_code", *exit_code))]);
                let printed = Digest::of(format!("{stdout}\0{stderr}").as_bytes());
                (Some(*exit_code == 0), counts, Some(printed))
            }
            Report::Custom { value } => {
                let passed = value.get("passed").and_then(Value::as_bool);
                let numbers = value.iter().filter(|(name, _)| !name.ends_with("_ms"));
                let numbers =
                    numbers.filter_map(|(name, value)| Some((cut(name), value.as_i64()?)));
                let text = serde_json::to_vec(value).unwrap_or_default();
                let counts = numbers.take(COUNTS).collect();
                (passed, counts, Some(Digest::of(&text)))
            }
        };
        let snippet = outcome.snippet.clone();
        Self {
            report: report.case().to_owned(),
            passed,
            counts,
            content,
            snippet: cut(&snippet.unwrap_or_else(|| report.summary())),
        }
    }
}

fn counted<N: Into<i64>>((name, count): (&str, N)) -> (String, i64) {
    (name.to_owned(), count.into())
}

/// One digest of all files that a run left.
fn written(artifacts: &[StagedArtifact]) -> Option<Digest> {
    let files: BTreeMap<&str, String> = artifacts
        .iter()
        .map(|artifact| (artifact.path.as_str(), artifact.digest.to_string()))
        .collect();
    let list = files
        .iter()
        .map(|(path, digest)| format!("{path} {digest}\n"));
    (!files.is_empty()).then(|| Digest::of(list.collect::<String>().as_bytes()))
}

fn cut(text: &str) -> String {
    text.chars().take(SAID).collect()
}

/// The differences in words, from stable to candidate.
pub fn told(stable: &Seen, candidate: &Seen, comparison: &Comparison) -> String {
    let told = comparison.differences.iter().map(|kind| {
        let change = match (kind, &stable.end, &candidate.end) {
            (Kind::Verdict, End::Done(one), End::Done(other)) => {
                format!("{} → {}", verdict(one.passed), verdict(other.passed))
            }
            (Kind::Counts, End::Done(one), End::Done(other)) => counts(&one.counts, &other.counts),
            (Kind::Content, ..) => "not the same".to_owned(),
            (Kind::Duration, ..) => format!("{} → {} ms", stable.run_ms, candidate.run_ms),
            _ => format!("{} → {}", stable.said(), candidate.said()),
        };
        format!("{kind}: {change}")
    });
    told.collect::<Vec<_>>().join("; ")
}

const fn verdict(passed: Option<bool>) -> &'static str {
    match passed {
        Some(true) => "passed",
        Some(false) => "failed",
        None => "none",
    }
}

fn counts(one: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>) -> String {
    let shown = |count: Option<&i64>| count.map_or_else(|| "none".to_owned(), i64::to_string);
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    let changed = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    let changed = changed.map(|name| {
        let (before, after) = (shown(one.get(name)), shown(other.get(name)));
        format!("{name} {before} → {after}")
    });
    changed.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
