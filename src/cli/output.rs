//! What commands print and how they end.
//!
//! stdout is the answer and nothing else; logs, progress and hints go to
//! stderr. With `--json` every command prints one object, failures included, so
//! that a script can always parse what it gets.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use crate::codes;
use crate::config::ConfigError;
use crate::store::StoreError;

/// Exit codes by cause, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// What was asked for came out negative: a task failed, a gate failed.
    Negative = 1,
    /// Usage or configuration.
    Usage = 2,
    Inconclusive = 3,
    NotFound = 4,
    Denied = 5,
    /// The database, the host or a port is not to be had.
    Unavailable = 6,
    /// A bug.
    Internal = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, how to mend it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub code: String,
    pub error: anyhow::Error,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, code: &str, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            error: error.into(),
            hint: None,
        }
    }

    pub fn message(exit: Exit, code: &str, message: impl fmt::Display) -> Self {
        Self::new(exit, code, anyhow::anyhow!("{message}"))
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, where there may be none.
    #[must_use]
    pub fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint.clone();
        Self {
            hint,
            ..Self::new(Exit::Usage, "config_invalid", error)
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (exit, code) = match &error {
            StoreError::Unavailable(_) => (Exit::Unavailable, "database_unavailable"),
            StoreError::Insecure { .. } => (Exit::Usage, "database_insecure"),
            StoreError::Full(_) => (Exit::Unavailable, "database_full"),
            StoreError::Newer { .. } => (Exit::Usage, "database_newer"),
            StoreError::NotMigrated => (Exit::Usage, "database_not_migrated"),
            StoreError::Missing(_) => (Exit::NotFound, "database_missing"),
            StoreError::Denied(_) => (Exit::Denied, "database_denied"),
            StoreError::ReadOnly(_) => (Exit::Denied, "database_read_only"),
            StoreError::Corrupt(_) => (Exit::Unavailable, "database_corrupt"),
            StoreError::Inconsistent { .. } => (Exit::Internal, "database_inconsistent"),
            StoreError::Refused(_) => (Exit::Internal, "database_refused"),
        };
        let hint = error.hint();
        Self::new(exit, code, error).hint(hint)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Internal, "internal", error)
    }
}

pub type Outcome<T = Exit> = Result<T, Failure>;

/// Where to read on about a code, if there is more to read.
pub fn explain_line(code: &str) -> Option<String> {
    // What is wrong with the command line says it all.
    let (_, entry) = codes::find(code).filter(|_| code != "usage")?;
    Some(format!(" more: cogo-host explain {}", entry.code))
}

/// Prints answers the way the command line asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints an answer: as JSON under the name of its schema, or as text.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is no error.
    pub fn answer<T: Serialize>(
        self,
        schema: &str,
        data: &T,
        text: impl FnOnce() -> String,
    ) -> Outcome<()> {
        let printed = if self.json {
            let envelope = json!({
                "schema": format!("cogo-host.{schema}.v1"),
                "ok": true,
                "data": data,
            });
            format!("{envelope:#}")
        } else {
            text()
        };
        self.print(printed.trim_end())
    }

    /// Prints one line of a stream of answers: NDJSON, or text.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is no error.
    pub fn line<T: Serialize>(
        self,
        schema: &str,
        data: &T,
        text: impl FnOnce() -> String,
    ) -> Outcome<()> {
        if self.json {
            let schema = format!("cogo-host.{schema}.v1");
            let line = json!({ "schema": schema, "ok": true, "data": data });
            self.print(&line.to_string())
        } else {
            self.print(&text())
        }
    }

    /// Prints a failure: to stdout as JSON where asked for, always to stderr
    /// as text.
    pub fn failure(self, failure: &Failure) {
        let chain: Vec<String> = failure.error.chain().map(ToString::to_string).collect();
        if self.json {
            let envelope = json!({
                "ok": false,
                "error": {
                    "code": failure.code,
                    "message": chain.join(": "),
                    "hint": failure.hint,
                    "exit": failure.exit as u8,
                },
            });
            // Nothing is left to do if stdout is gone, too.
            let _ = self.print(&format!("{envelope:#}"));
        }
        let mut text = format!("error[{}]: {}", failure.code, chain.join("\n  caused by: "));
        if let Some(hint) = &failure.hint {
            text += &format!("\n hint: {hint}");
        }
        if let Some(line) = explain_line(&failure.code) {
            text += &format!("\n{line}");
        }
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Prints what is wrong with the arguments.
    pub fn usage(self, error: &clap::Error) {
        if self.json {
            let message = error.to_string();
            let (first, rest) = message.split_once("\n\n").unwrap_or((&message, ""));
            let failure =
                Failure::message(Exit::Usage, "usage", first.trim_start_matches("error: "));
            self.failure(&failure.hint(rest.trim()));
        } else {
            // Nothing is left to do if stderr is gone.
            let _ = error.print();
        }
    }

    /// One line for people on stderr, such as the next command to type.
    pub fn note(self, text: impl fmt::Display) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    fn print(self, text: &str) -> Outcome<()> {
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(error)
                    .context("cannot write to stdout")
                    .into())
            }
            _ => Ok(()),
        }
    }
}
