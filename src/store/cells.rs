//! Cells of a row of any database, read the way that never wedges: numbers are
//! clamped, and what cannot be read names its table, row and column.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::ids::MessageId;

/// What went wrong inside, before it is known which database it was.
#[derive(Debug)]
pub(super) enum Trouble {
    Sql(sqlx::Error),
    Store(StoreError),
}

pub(super) type Step<T> = std::result::Result<T, Trouble>;

impl From<sqlx::Error> for Trouble {
    fn from(cause: sqlx::Error) -> Self {
        Self::Sql(cause)
    }
}

impl From<StoreError> for Trouble {
    fn from(cause: StoreError) -> Self {
        Self::Store(cause)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(cause: serde_json::Error) -> Self {
        Self::Store(StoreError::Refused(format!(
            "cannot write as JSON: {cause}"
        )))
    }
}

/// How one database hands out the cells of a row.
pub(super) trait Columns {
    fn int(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn flag(&self, column: &str) -> Result<Option<bool>, sqlx::Error>;
    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn instant(&self, column: &str) -> Result<Option<DateTime<Utc>>, Unread>;
    fn id(&self, column: &str) -> Result<Option<MessageId>, Unread>;
    /// The key of the row, for messages, where it has one.
    fn key(&self) -> Option<String>;
}

/// Why a cell cannot be read.
#[derive(Debug)]
pub(super) enum Unread {
    Sql(sqlx::Error),
    Form(String),
}

impl From<sqlx::Error> for Unread {
    fn from(cause: sqlx::Error) -> Self {
        Self::Sql(cause)
    }
}

/// One row of `table`.
pub(super) struct Cells<'r, R> {
    row: &'r R,
    table: &'static str,
}

impl<'r, R: Columns> Cells<'r, R> {
    pub(super) const fn of(table: &'static str, row: &'r R) -> Self {
        Self { row, table }
    }

    /// The error of a row that is not what it should be.
    pub(super) fn wrong(&self, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Inconsistent {
            table: self.table,
            row: self.row.key().unwrap_or_else(|| "unknown".to_owned()),
            problem: problem.to_string(),
        }
    }

    fn trouble(&self, column: &str, problem: Unread) -> Trouble {
        match problem {
            Unread::Sql(cause) => cause.into(),
            Unread::Form(problem) => self.wrong(format!("`{column}` {problem}")).into(),
        }
    }

    fn some<T>(&self, column: &str, value: Option<T>) -> Step<T> {
        Ok(value.ok_or_else(|| self.wrong(format!("`{column}` is null")))?)
    }

    pub(super) fn int(&self, column: &str) -> Step<Option<i64>> {
        Ok(self.row.int(column)?)
    }

    /// A count: nothing is zero, and what does not fit is the nearest that does.
    pub(super) fn count(&self, column: &str) -> Step<u64> {
        let value = self.int(column)?.unwrap_or(0);
        Ok(u64::try_from(value).unwrap_or(0))
    }

    pub(super) fn count32(&self, column: &str) -> Step<u32> {
        Ok(u32::try_from(self.count(column)?).unwrap_or(u32::MAX))
    }

    /// The same, where nothing is nothing.
    pub(super) fn count32_opt(&self, column: &str) -> Step<Option<u32>> {
        let value = self.int(column)?;
        Ok(value.map(|value| u32::try_from(value.max(0)).unwrap_or(u32::MAX)))
    }

    pub(super) fn int32(&self, column: &str) -> Step<i32> {
        let value = self.int(column)?.unwrap_or(0);
        Ok(i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX }))
    }

    /// An index into what was asked; what is none is one that nothing has.
    pub(super) fn place(&self, column: &str) -> Step<usize> {
        let value = self.int(column)?.unwrap_or(-1);
        Ok(usize::try_from(value).unwrap_or(usize::MAX))
    }

    pub(super) fn flag(&self, column: &str) -> Step<bool> {
        Ok(self.row.flag(column)?.unwrap_or(false))
    }

    pub(super) fn text(&self, column: &str) -> Step<Option<String>> {
        Ok(self.row.text(column)?)
    }

    pub(super) fn required_text(&self, column: &str) -> Step<String> {
        let text = self.text(column)?;
        self.some(column, text)
    }

    pub(super) fn id(&self, column: &str) -> Step<MessageId> {
        let id = self.row.id(column);
        let id = id.map_err(|problem| self.trouble(column, problem))?;
        self.some(column, id)
    }

    /// Text in the form of its type.
    pub(super) fn parsed<T>(&self, column: &str) -> Step<T>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text = self.required_text(column)?;
        let parsed = text.parse();
        Ok(parsed.map_err(|cause| self.wrong(format!("`{column}`: {cause}")))?)
    }

    /// The same, where nothing is nothing.
    pub(super) fn parsed_opt<T>(&self, column: &str) -> Step<Option<T>>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        match self.text(column)? {
            None => Ok(None),
            Some(_) => self.parsed(column).map(Some),
        }
    }

    /// JSON; what is none is handed on as the text that it is.
    pub(super) fn json(&self, column: &str) -> Step<Option<serde_json::Value>> {
        let text = self.text(column)?;
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))))
    }

    /// JSON of a shape of ours; anything else is its default.
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self, column: &str) -> Step<T> {
        let text = self.text(column)?;
        Ok(text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default())
    }

    pub(super) fn instant(&self, column: &str) -> Step<Option<DateTime<Utc>>> {
        let instant = self.row.instant(column);
        instant.map_err(|problem| self.trouble(column, problem))
    }

    pub(super) fn required_instant(&self, column: &str) -> Step<DateTime<Utc>> {
        let instant = self.instant(column)?;
        self.some(column, instant)
    }
}
