//! Cells of a row, read the way that never wedges: text that is no UTF-8 is
//! mended, numbers are clamped, and what still cannot be read names its table,
//! row and column.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::StoreError;

use super::Step;

/// One row of `table`.
pub(super) struct Cells<'r> {
    row: &'r SqliteRow,
    table: &'static str,
}

impl<'r> Cells<'r> {
    pub(super) const fn of(table: &'static str, row: &'r SqliteRow) -> Self {
        Self { row, table }
    }

    /// The error of a row that is not what it should be.
    pub(super) fn wrong(&self, problem: impl std::fmt::Display) -> StoreError {
        let key = ["id", "message_id"]
            .iter()
            .find_map(|column| self.row.try_get_unchecked::<String, _>(column).ok());
        StoreError::Inconsistent {
            table: self.table,
            row: key.unwrap_or_else(|| "unknown".to_owned()),
            problem: problem.to_string(),
        }
    }

    pub(super) fn int(&self, column: &str) -> Step<Option<i64>> {
        Ok(self.row.try_get(column)?)
    }

    /// A count: nothing is zero, and what does not fit is the nearest that does.
    pub(super) fn count(&self, column: &str) -> Step<u64> {
        let value = self.int(column)?.unwrap_or(0);
        Ok(u64::try_from(value).unwrap_or(0))
    }

    pub(super) fn count32(&self, column: &str) -> Step<u32> {
        Ok(u32::try_from(self.count(column)?).unwrap_or(u32::MAX))
    }

    pub(super) fn int32(&self, column: &str) -> Step<i32> {
        let value = self.int(column)?.unwrap_or(0);
        Ok(i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX }))
    }

    pub(super) fn flag(&self, column: &str) -> Step<bool> {
        Ok(self.int(column)?.unwrap_or(0) != 0)
    }

    pub(super) fn text(&self, column: &str) -> Step<Option<String>> {
        let bytes: Option<Vec<u8>> = self.row.try_get(column)?;
        Ok(bytes.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        }))
    }

    pub(super) fn required_text(&self, column: &str) -> Step<String> {
        let text = self.text(column)?;
        Ok(text.ok_or_else(|| self.wrong(format!("`{column}` is null")))?)
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
        let Some(text) = self.text(column)? else {
            return Ok(None);
        };
        match DateTime::parse_from_rfc3339(&text) {
            Ok(instant) => Ok(Some(instant.to_utc())),
            Err(_) => Err(self
                .wrong(format!("`{column}` is no instant: `{text}`"))
                .into()),
        }
    }

    pub(super) fn required_instant(&self, column: &str) -> Step<DateTime<Utc>> {
        let instant = self.instant(column)?;
        Ok(instant.ok_or_else(|| self.wrong(format!("`{column}` is null")))?)
    }
}
