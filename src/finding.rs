//! What an examination finds: checks as data, and the state of each.
//!
//! Pure. Whoever examines a part of the world names its checks beside the
//! questions that it asks; what they mean for a command is decided here.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Something that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable, for scripts: `world.what`.
    pub id: &'static str,
    pub title: &'static str,
    /// How bad it is where it does not hold.
    pub severity: Severity,
    /// What to do then.
    pub fix: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The host works, worse than it could.
    Warning,
    /// Tasks are not executed, or may be executed wrongly.
    Error,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pass,
    Warn,
    Fail,
    /// It cannot be told from here, or does not apply.
    Unknown,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// A check and how it came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub check: Check,
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What would mend it without anybody deciding anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}

/// Something that can be done about a finding, and undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    MakeDirectory(PathBuf),
    /// Leaves a file or directory to its owner alone.
    Restrict(PathBuf),
    /// Brings the bus's schema up to date.
    Migrate,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeDirectory(path) => write!(f, "make the directory {}", path.display()),
            Self::Restrict(path) => write!(f, "let only its owner use {}", path.display()),
            Self::Migrate => f.write_str("bring the schema of the bus up to date"),
        }
    }
}

impl Finding {
    /// Says how it can be mended, where it does not hold.
    #[must_use]
    pub fn mended_by(mut self, remedy: Remedy) -> Self {
        if matches!(self.state, State::Warn | State::Fail) {
            self.remedy = Some(remedy);
        }
        self
    }
}

impl Check {
    pub fn pass(self, detail: impl Into<String>) -> Finding {
        self.found(State::Pass, detail)
    }

    /// It does not hold.
    pub fn bad(self, detail: impl Into<String>) -> Finding {
        let state = match self.severity {
            Severity::Warning => State::Warn,
            Severity::Error => State::Fail,
        };
        self.found(state, detail)
    }

    pub fn unknown(self, detail: impl Into<String>) -> Finding {
        self.found(State::Unknown, detail)
    }

    /// One or the other.
    pub fn holds(self, holds: bool, detail: impl Into<String>) -> Finding {
        match holds {
            true => self.pass(detail),
            false => self.bad(detail),
        }
    }

    fn found(self, state: State, detail: impl Into<String>) -> Finding {
        Finding {
            check: self,
            state,
            detail: detail.into(),
            remedy: None,
        }
    }
}

/// The worst of what was found.
pub fn worst(findings: &[Finding]) -> State {
    let rank = |state: State| match state {
        State::Unknown => 0,
        State::Pass => 1,
        State::Warn => 2,
        State::Fail => 3,
    };
    let states = findings.iter().map(|finding| finding.state);
    states
        .max_by_key(|state| rank(*state))
        .unwrap_or(State::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Check = Check {
        id: "world.what",
        title: "what",
        severity: Severity::Warning,
        fix: "mend it",
    };

    #[test]
    fn a_check_that_does_not_hold_is_as_bad_as_it_says() {
        let error = Check {
            severity: Severity::Error,
            ..CHECK
        };
        assert_eq!(CHECK.bad("x").state, State::Warn);
        assert_eq!(error.bad("x").state, State::Fail);
        assert_eq!(error.holds(true, "x").state, State::Pass);
    }

    #[test]
    fn only_what_does_not_hold_is_mended() {
        let remedy = || Remedy::MakeDirectory("d".into());
        assert_eq!(CHECK.pass("x").mended_by(remedy()).remedy, None);
        assert_eq!(CHECK.unknown("x").mended_by(remedy()).remedy, None);
        let mended = CHECK.bad("x").mended_by(remedy());
        assert_eq!(mended.remedy, Some(remedy()));
    }

    #[test]
    fn the_worst_counts() {
        assert_eq!(worst(&[]), State::Pass);
        let found = [CHECK.pass("a"), CHECK.bad("b"), CHECK.unknown("c")];
        assert_eq!(worst(&found), State::Warn);
    }
}
