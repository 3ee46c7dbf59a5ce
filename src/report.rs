//! What an executor reports, as the host keeps it in `result`.
//!
//! Mirrors the report variant of the plugin contract (`wit/executor.wit`)
//! without naming the sandbox, so that bus, gates and API can read results
//! wherever they came from. It only describes: nothing here decides.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::route::{KnownRole, RouteKey};

/// What a finished attempt found. Tagged by `type` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Report {
    /// A build-test that ran; failing tests are a verdict, not a failure.
    BuildTest {
        passed: bool,
        tests: u32,
        failures: u32,
        duration_ms: u64,
        report_url: Option<String>,
    },
    Codegen {
        edits_url: String,
        files: u32,
        duration_ms: u64,
    },
    Sandbox {
        exit_code: i32,
        stdout: String,
        stderr: String,
        truncated: bool,
        duration_ms: u64,
    },
    /// For a role without a type of its own in this version of the contract.
    Custom { value: Map<String, Value> },
}

impl Report {
    /// The case's name, as `type` spells it.
    pub const fn case(&self) -> &'static str {
        match self {
            Self::BuildTest { .. } => "build-test",
            Self::Codegen { .. } => "codegen",
            Self::Sandbox { .. } => "sandbox",
            Self::Custom { .. } => "custom",
        }
    }

    /// Whether this is the case that the route's role promises.
    pub fn fits(&self, route: &RouteKey) -> bool {
        matches!(
            (route.known_role(), self),
            (Some(KnownRole::BuildTest), Self::BuildTest { .. })
                | (Some(KnownRole::Codegen), Self::Codegen { .. })
                | (Some(KnownRole::Sandbox), Self::Sandbox { .. })
                | (None, Self::Custom { .. })
        )
    }

    /// The URL that the report itself names.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::BuildTest { report_url, .. } => report_url.as_deref(),
            Self::Codegen { edits_url, .. } => Some(edits_url),
            Self::Sandbox { .. } | Self::Custom { .. } => None,
        }
    }

    /// The verdict of a build-test, nothing for other roles.
    pub const fn passed(&self) -> Option<bool> {
        match self {
            Self::BuildTest { passed, .. } => Some(*passed),
            _ => None,
        }
    }

    /// One line for people, where the plugin gave none.
    pub fn summary(&self) -> String {
        match self {
            Self::BuildTest {
                passed: true,
                tests,
                ..
            } => format!("{tests} tests passed"),
            Self::BuildTest {
                tests, failures, ..
            } => format!("{failures} of {tests} tests failed"),
            Self::Codegen { files, .. } => format!("edits for {files} files"),
            Self::Sandbox { exit_code, .. } => format!("exit code {exit_code}"),
            Self::Custom { .. } => "done".to_owned(),
        }
    }
}

/// What a plugin hands back for a finished attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub report: Report,
    /// Stored as `result_snippet`; the report's summary where absent.
    pub snippet: Option<String>,
    /// Stored as `result_url`; the report's own URL where absent.
    pub url: Option<String>,
    /// For what a later version wants to carry.
    pub attributes: Vec<(String, String)>,
}
