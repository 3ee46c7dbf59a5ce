//! Why a database does not do what it is asked, sorted by who can do what about
//! it. Every store sorts the errors of its database into these.

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach or too busy for now; the same call may go through later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// TLS was asked for and is not to be had as asked.
    #[error("the connection cannot be secured: {problem}")]
    Insecure { problem: String, fix: &'static str },
    /// No room left; the host pauses claims until there is.
    #[error("the database has no space left: {0}")]
    Full(String),
    #[error("{database} has schema version {found}; this build knows {known}")]
    Newer {
        database: String,
        found: i64,
        known: i64,
    },
    #[error("the database has no schema yet")]
    NotMigrated,
    /// There is no database where one was named.
    #[error("there is no database: {0}")]
    Missing(String),
    /// The user may not do this, or is not let in.
    #[error("the database does not let this user: {0}")]
    Denied(String),
    /// It may be read but not written.
    #[error("the database cannot be written: {0}")]
    ReadOnly(String),
    #[error("the database file is damaged: {0}")]
    Corrupt(String),
    /// A row that cannot be read as what it should be.
    #[error("table `{table}`, row `{row}`: {problem}")]
    Inconsistent {
        table: &'static str,
        row: String,
        problem: String,
    },
    /// A statement that the database refuses: a bug here, or a schema that was
    /// changed by hand.
    #[error("the database refused a statement: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's doing.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
    }

    /// What the operator can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => {
                "check that the database runs, and that nothing else holds a lock on it"
            }
            Self::Insecure { fix, .. } => fix,
            Self::Full(_) => "free disk space; the host goes on by itself",
            Self::Newer { .. } => "use the newer cogo-host that migrated it",
            Self::NotMigrated => "run `cogo-host migrate`",
            Self::Missing(_) => {
                "check the path; `cogo-host run`, `submit` and `migrate` make a new database"
            }
            Self::Denied(_) => {
                "correct the user and password in the URL, or give the user the rights that `cogo-host doctor` finds missing"
            }
            Self::ReadOnly(_) => "give this user write access to the file and its directory",
            Self::Corrupt(_) => {
                "stop every process that uses the file, copy it away, and restore a backup or recover it with `sqlite3 FILE .recover`"
            }
            Self::Inconsistent { .. } => "correct the row, or remove it if it is not yours",
            Self::Refused(_) => "run `cogo-host migrate`, and report this if it stays",
        }
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;
