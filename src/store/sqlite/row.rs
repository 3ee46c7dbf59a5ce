//! How SQLite hands out cells. Text that is no UTF-8 is mended; instants and
//! identifiers are text.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::ids::MessageId;
use crate::store::cells::{self, Columns, Unread};

/// One row of a table.
pub(super) type Cells<'r> = cells::Cells<'r, SqliteRow>;

impl Columns for SqliteRow {
    fn int(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn flag(&self, column: &str) -> Result<Option<bool>, sqlx::Error> {
        Ok(self.int(column)?.map(|flag| flag != 0))
    }

    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        let bytes: Option<Vec<u8>> = self.try_get(column)?;
        Ok(bytes.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        }))
    }

    fn instant(&self, column: &str) -> Result<Option<DateTime<Utc>>, Unread> {
        let Some(text) = self.text(column)? else {
            return Ok(None);
        };
        match DateTime::parse_from_rfc3339(&text) {
            Ok(instant) => Ok(Some(instant.to_utc())),
            Err(_) => Err(Unread::Form(format!("is no instant: `{text}`"))),
        }
    }

    fn id(&self, column: &str) -> Result<Option<MessageId>, Unread> {
        let Some(text) = self.text(column)? else {
            return Ok(None);
        };
        let id = text.parse();
        id.map(Some)
            .map_err(|cause| Unread::Form(format!("{cause}")))
    }

    fn key(&self) -> Option<String> {
        ["id", "message_id"]
            .iter()
            .find_map(|column| self.try_get_unchecked::<String, _>(column).ok())
    }
}
