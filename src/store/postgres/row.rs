//! How Postgres hands out cells, and how values are handed to it.
//!
//! Statements cast what they select (`::bigint`, `::text`), so that tables
//! which somebody else made may hold their own kinds of numbers and texts.

use std::borrow::Cow;
use std::io;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Step;
use crate::ids::MessageId;
use crate::store::cells::{Columns, Unread};

impl Columns for PgRow {
    fn int(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn flag(&self, column: &str) -> Result<Option<bool>, sqlx::Error> {
        self.try_get(column)
    }

    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn instant(&self, column: &str) -> Result<Option<DateTime<Utc>>, Unread> {
        Ok(self.try_get(column)?)
    }

    fn id(&self, column: &str) -> Result<Option<MessageId>, Unread> {
        let id: Option<Uuid> = self.try_get(column)?;
        Ok(id.map(MessageId))
    }

    fn key(&self) -> Option<String> {
        ["id", "message_id"]
            .iter()
            .find_map(|column| self.try_get::<Uuid, _>(column).ok())
            .map(|id| id.to_string())
    }
}

/// An instant as it can be read: Postgres knows endless ones and years that
/// nobody else does.
macro_rules! instant {
    ($column:literal) => {
        concat!(
            "CASE WHEN ",
            $column,
            " > '0001-01-01 UTC' AND ",
            $column,
            " < '9999-12-31 UTC' THEN ",
            $column,
            " END"
        )
    };
}
pub(super) use instant;

/// The same where there must be one: the nearest that can be read.
macro_rules! clamped {
    ($column:literal) => {
        concat!(
            "least(greatest(",
            $column,
            ", '0001-01-01 UTC'), '9999-12-31 UTC')"
        )
    };
}
pub(super) use clamped;

/// The milliseconds from an instant until now, whatever instant it is.
macro_rules! ms_since {
    ($instant:expr) => {
        concat!(
            "(extract(epoch FROM now() - CASE WHEN ",
            $instant,
            " IS NOT NULL THEN least(greatest(",
            $instant,
            ", '0001-01-01 UTC'), '9999-12-31 UTC') END) * 1000)::bigint"
        )
    };
}
pub(super) use ms_since;

/// An instant in microseconds since 1970; null where it is older than counts.
macro_rules! micros_of {
    ($instant:expr) => {
        concat!(
            "CASE WHEN ",
            $instant,
            " > '0001-01-01 UTC' THEN (extract(epoch FROM least(",
            $instant,
            ", '9999-12-31 UTC')) * 1000000)::bigint END"
        )
    };
}
pub(super) use micros_of;

/// JSON for a statement. Postgres stores no U+0000 in text; it becomes the
/// replacement character.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Step<String> {
    let mut bytes = Vec::with_capacity(1024);
    value.serialize(&mut Serializer::with_formatter(&mut bytes, WithoutNul))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// JSON that is text already, likewise.
pub(super) fn storable(json: &str) -> Step<Cow<'_, str>> {
    // What may be the end of an escaped backslash is looked at, too.
    if !json.contains("\\u0000") {
        return Ok(json.into());
    }
    let value: serde_json::Value = serde_json::from_str(json)?;
    Ok(to_json(&value)?.into())
}

/// A text for a statement, likewise.
pub(super) fn clean<'a>(text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
    let text = text.into();
    match text.contains('\0') {
        true => text.replace('\0', "\u{FFFD}").into(),
        false => text,
    }
}

struct WithoutNul;

impl Formatter for WithoutNul {
    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(0) => writer.write_all("\u{FFFD}".as_bytes()),
            escape => CompactFormatter.write_char_escape(writer, escape),
        }
    }
}

/// A duration in whole microseconds, at most a hundred years.
pub(super) fn micros(duration: std::time::Duration) -> i64 {
    const CAP: i64 = 100 * 365 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).unwrap_or(CAP).min(CAP)
}

/// What Postgres's 64-bit integers can hold of a count.
pub(super) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_nul_reaches_the_database() {
        let value = json!({ "a\u{0}b": "c\u{0}", "literal": "\\u0000" });
        let text = to_json(&value).unwrap();
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            back,
            json!({ "a\u{FFFD}b": "c\u{FFFD}", "literal": "\\u0000" })
        );
        assert_eq!(storable(&value.to_string()).unwrap(), text);
        assert_eq!(clean("a\u{0}"), "a\u{FFFD}");
    }

    #[test]
    fn durations_end_at_a_hundred_years() {
        assert_eq!(micros(std::time::Duration::from_millis(1)), 1000);
        assert_eq!(micros(std::time::Duration::MAX), 3_153_600_000_000_000);
    }
}
