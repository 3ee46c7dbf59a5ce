//! Shorthands on the contract's types. They only build values; what the values
//! mean is said in `wit/executor.wit`.

use std::time::Duration;

use crate::{
    ArtifactError, BuildTestReport, CodegenReport, Descriptor, Failure, Kind, Outcome, Problem,
    Report, SandboxReport,
};

impl Descriptor {
    /// A plugin that handles nothing yet. `name` is lower-case kebab, `version`
    /// is SemVer.
    pub fn new(name: &str, version: &str, kind: Kind) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            kind,
            handles: Vec::new(),
            config_keys: Vec::new(),
            egress: Vec::new(),
        }
    }

    /// What the plugin executes, each as `service/role`.
    #[must_use]
    pub fn handling<'a>(mut self, roles: impl IntoIterator<Item = &'a str>) -> Self {
        self.handles = roles.into_iter().map(String::from).collect();
        self
    }

    /// The keys it reads with [`Host::config`](crate::Host::config).
    #[must_use]
    pub fn reading<'a>(mut self, config_keys: impl IntoIterator<Item = &'a str>) -> Self {
        self.config_keys = config_keys.into_iter().map(String::from).collect();
        self
    }

    /// The origins it calls: `scheme://host[:port]`, or `config:KEY` for the
    /// origin of the URL under that key.
    #[must_use]
    pub fn calling<'a>(mut self, origins: impl IntoIterator<Item = &'a str>) -> Self {
        self.egress = origins.into_iter().map(String::from).collect();
        self
    }
}

impl Failure {
    /// Worth another attempt. `code` is stable and machine-readable, `message`
    /// is for people.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Retryable(Problem::new(code, message))
    }

    /// Will not get better.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Permanent(Problem::new(code, message))
    }

    /// Asks for a pause before the next attempt. Means something on a retryable
    /// failure only, and changes no other.
    #[must_use]
    pub fn retry_after(self, pause: Option<Duration>) -> Self {
        match self {
            Self::Retryable(problem) => Self::Retryable(Problem {
                retry_after_ms: pause.map(milliseconds),
                ..problem
            }),
            other => other,
        }
    }
}

impl Problem {
    /// A problem without a wish for the next attempt.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry_after_ms: None,
        }
    }
}

impl Outcome {
    /// An outcome that is its report, with a line for people made from it.
    pub fn new(report: Report) -> Self {
        Self {
            snippet: report.summary(),
            report,
            url: None,
            attributes: Vec::new(),
        }
    }

    /// Replaces the one line that people see in lists.
    #[must_use]
    pub fn with_snippet(mut self, snippet: impl Into<String>) -> Self {
        self.snippet = Some(snippet.into());
        self
    }

    /// Adds a fact for those who look closer.
    #[must_use]
    pub fn with_attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }
}

impl Report {
    /// The report in a few words; `None` for a report without a type.
    pub fn summary(&self) -> Option<String> {
        let summary = match self {
            Report::BuildTest(report) if report.failures > 0 => {
                let tests = counted(report.tests, "test");
                format!("{} of {tests} failed", report.failures)
            }
            Report::BuildTest(report) if report.passed => {
                format!("{} passed", counted(report.tests, "test"))
            }
            // Such as a project that does not build, or a collection error.
            Report::BuildTest(report) => {
                format!("failed after {}", counted(report.tests, "test"))
            }
            Report::Codegen(report) => format!("edits to {}", counted(report.files, "file")),
            Report::Sandbox(report) => format!("exit code {}", report.exit_code),
            Report::Custom(_) => return None,
        };
        Some(summary)
    }
}

impl From<Report> for Outcome {
    fn from(report: Report) -> Self {
        Self::new(report)
    }
}

impl From<BuildTestReport> for Outcome {
    fn from(report: BuildTestReport) -> Self {
        Self::new(Report::BuildTest(report))
    }
}

impl From<CodegenReport> for Outcome {
    fn from(report: CodegenReport) -> Self {
        Self::new(Report::Codegen(report))
    }
}

impl From<SandboxReport> for Outcome {
    fn from(report: SandboxReport) -> Self {
        Self::new(Report::Sandbox(report))
    }
}

/// For plugins without codes of their own.
impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Unavailable(why) => {
                Failure::retryable("artifacts_unavailable", format!("no artifact store: {why}"))
            }
            ArtifactError::InvalidPath(path) => Failure::permanent(
                "artifact_refused",
                format!("{path} is no path for an artifact"),
            ),
            ArtifactError::TooLarge(limit) => Failure::permanent(
                "artifact_refused",
                format!("the artifact is over {limit} bytes"),
            ),
            ArtifactError::NotFound => {
                Failure::permanent("artifact_not_found", "there is no such artifact")
            }
        }
    }
}

fn counted(number: u32, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Whole milliseconds, at most what the contract can carry.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_touches_retryable_failures_only() {
        let pause = Some(Duration::from_secs(3));
        let Failure::Retryable(problem) = Failure::retryable("c", "m").retry_after(pause) else {
            panic!("stays retryable");
        };
        assert_eq!(problem.retry_after_ms, Some(3_000));

        let permanent = Failure::permanent("c", "m");
        assert_eq!(permanent.clone().retry_after(pause), permanent);
        assert_eq!(
            Failure::Interrupted.retry_after(pause),
            Failure::Interrupted
        );
    }

    #[test]
    fn outcomes_say_in_a_line_what_they_are() {
        let report = |passed, tests, failures| BuildTestReport {
            passed,
            tests,
            failures,
            duration_ms: 1,
            report_url: None,
        };
        for (report, expected) in [
            (report(true, 12, 0), "12 tests passed"),
            (report(true, 1, 0), "1 test passed"),
            (report(false, 12, 3), "3 of 12 tests failed"),
            (report(false, 0, 0), "failed after 0 tests"),
        ] {
            assert_eq!(Outcome::from(report).snippet.as_deref(), Some(expected));
        }
        assert_eq!(Outcome::new(Report::Custom("{}".into())).snippet, None);
    }

    #[test]
    fn pauses_beyond_the_contract_saturate() {
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
