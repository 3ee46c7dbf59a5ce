//! What can be seen of a trial from outside, in the one shape that results are
//! printed in and expectations are written in.

use serde::Serialize;
use serde_json::{Value, json};

use super::shelf::Shelf;
use crate::attempt::{
    AttemptEnd, AttemptReport, Blame, Measured, Problem, StagedArtifact, StopReason, Usage,
};
use crate::plugin::outbound::{SeenRequest, Wire};
use crate::report::Report;

/// Texts of artifacts up to this many bytes are shown.
const SHOWN_BYTES: usize = 64 * 1024;

/// What came of a trial, and what it did on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observed {
    pub outcome: OutcomeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ObservedProblem>,
    /// Why it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<StopReason>,
    pub artifacts: Vec<ObservedArtifact>,
    pub requests: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// How an attempt ended, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeName {
    Completed,
    Retryable,
    Permanent,
    Stopped,
    HostFault,
}

impl OutcomeName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retryable => "retryable",
            Self::Permanent => "permanent",
            Self::Stopped => "stopped",
            Self::HostFault => "host-fault",
        }
    }
}

/// Why an attempt ended without a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedProblem {
    pub code: String,
    pub message: String,
    pub blame: Blame,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A file that the attempt stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObservedArtifact {
    pub path: String,
    pub content_type: String,
    pub bytes: u64,
    /// JSON where it is JSON, else text; absent where it is large or neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// In place of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Observed {
    pub(super) fn of(report: &AttemptReport, shelf: &Shelf, wire: &Wire) -> Self {
        let measured = &report.measured;
        let artifacts = report.artifacts.iter();
        let empty = Self {
            outcome: OutcomeName::Completed,
            report: None,
            snippet: None,
            url: None,
            problem: None,
            reason: None,
            artifacts: artifacts.map(|staged| artifact(staged, shelf)).collect(),
            requests: requests(measured, wire),
            usage: Some(measured.usage.clone()).filter(|usage| *usage != Usage::default()),
        };
        let failed = |outcome, problem: &Problem, retry_after_ms| Self {
            outcome,
            problem: Some(ObservedProblem {
                code: problem.code.clone(),
                message: problem.message.clone(),
                blame: problem.blame,
                retry_after_ms,
            }),
            ..empty.clone()
        };
        match &report.end {
            AttemptEnd::Completed(outcome) => Self {
                report: Some(outcome.report.clone()),
                snippet: outcome.snippet.clone(),
                url: outcome.url.clone(),
                ..empty
            },
            AttemptEnd::Retryable { problem, after } => {
                let after = after.map(crate::millis::millis);
                failed(OutcomeName::Retryable, problem, after)
            }
            AttemptEnd::Permanent(problem) => failed(OutcomeName::Permanent, problem, None),
            AttemptEnd::HostFault(problem) => failed(OutcomeName::HostFault, problem, None),
            AttemptEnd::Stopped(reason) => Self {
                outcome: OutcomeName::Stopped,
                reason: Some(*reason),
                ..empty
            },
        }
    }
}

fn artifact(staged: &StagedArtifact, shelf: &Shelf) -> ObservedArtifact {
    let body = shelf.stored(staged.digest).unwrap_or_default();
    let content = serde_json::from_slice(&body).ok().or_else(|| {
        let text = std::str::from_utf8(&body).ok()?;
        Some(Value::String(text.to_owned()))
    });
    let content = content.filter(|_| body.len() <= SHOWN_BYTES);
    ObservedArtifact {
        path: staged.path.clone(),
        content_type: staged.content_type.clone(),
        bytes: staged.bytes,
        digest: content.is_none().then(|| staged.digest.to_string()),
        content,
    }
}

/// What the mock saw, or what the spans tell of real requests.
fn requests(measured: &Measured, wire: &Wire) -> Vec<Value> {
    let shown = |seen: &SeenRequest| serde_json::to_value(seen).unwrap_or_default();
    match wire {
        Wire::Mock(mock) => mock.seen().iter().map(shown).collect(),
        Wire::Network => {
            let sent = measured.spans.iter().filter(|span| span.name == "http");
            sent.map(|span| json!(span.fields)).collect()
        }
    }
}
