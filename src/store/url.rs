//! Where the bus is: a URL, parsed once, and the store that it leads to.
//!
//! A URL may hold a password: it is shown only without one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::{OpenMode, PostgresStore, Result, SqliteStore, Store};

/// A bus, by its URL.
#[derive(Clone, PartialEq, Eq)]
pub enum BusUrl {
    /// `sqlite://relative/path` or `sqlite:///absolute/path`.
    Sqlite(PathBuf),
    /// `postgres://…` as libpq knows it.
    Postgres(url::Url),
}

/// Why a text leads to no bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBusUrl {
    #[error("expected `postgres://USER:PASSWORD@HOST/DATABASE` or `sqlite://PATH`")]
    Scheme,
    /// The cause names no part of the URL, which may hold a password.
    #[error("it is no URL: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("`sqlite://` lacks a path: expected `sqlite://PATH` or `sqlite:///ABSOLUTE/PATH`")]
    NoPath,
    #[error("a bus in memory would be lost with its host: name a file")]
    InMemory,
    #[error("`sqlite://` takes no options: remove `?` and what follows")]
    Options,
    #[error("the path is not UTF-8 once its percent-encoding is undone")]
    NotUtf8,
}

impl FromStr for BusUrl {
    type Err = InvalidBusUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBusUrl> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            return sqlite_path(rest.strip_prefix("//").unwrap_or(rest)).map(Self::Sqlite);
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(url::Url::parse(text)?));
        }
        Err(InvalidBusUrl::Scheme)
    }
}

fn sqlite_path(encoded: &str) -> Result<PathBuf, InvalidBusUrl> {
    if encoded.contains('?') {
        return Err(InvalidBusUrl::Options);
    }
    let path = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| InvalidBusUrl::NotUtf8)?;
    match path.as_ref() {
        "" | "/" => Err(InvalidBusUrl::NoPath),
        ":memory:" => Err(InvalidBusUrl::InMemory),
        path => Ok(PathBuf::from(path)),
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => {
                let mut shown = url.clone();
                if shown.password().is_some() && shown.set_password(Some("***")).is_err() {
                    return f.write_str("postgres://***");
                }
                // Options may hold a password too.
                shown.set_query(None);
                fmt::Display::fmt(&shown, f)
            }
        }
    }
}

impl fmt::Debug for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens the bus at `url`.
///
/// # Errors
/// Whatever keeps the database from being used, naming it.
pub async fn open(url: &BusUrl, mode: OpenMode) -> Result<Arc<dyn Store>> {
    match url {
        BusUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, mode).await?)),
        BusUrl::Postgres(url) => Ok(Arc::new(PostgresStore::open(url).await?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_absolute_and_decoded() {
        let path = |text: &str| match text.parse() {
            Ok(BusUrl::Sqlite(path)) => path.display().to_string(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(path("sqlite://.cogo/bus.db"), ".cogo/bus.db");
        assert_eq!(path("sqlite:///var/bus.db"), "/var/bus.db");
        assert_eq!(path("sqlite:bus.db"), "bus.db");
        assert_eq!(path("sqlite://my%20bus.db"), "my bus.db");
    }

    #[test]
    fn what_leads_nowhere_is_refused_by_name() {
        let error = |text: &str| text.parse::<BusUrl>().unwrap_err();
        assert_eq!(error("sqlite://"), InvalidBusUrl::NoPath);
        assert_eq!(error("sqlite::memory:"), InvalidBusUrl::InMemory);
        assert_eq!(error("sqlite://a.db?mode=ro"), InvalidBusUrl::Options);
        assert_eq!(error("mysql://h/d"), InvalidBusUrl::Scheme);
        assert!(matches!(
            error("postgres://h:x/d"),
            InvalidBusUrl::Malformed(_)
        ));
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: BusUrl = "postgres://cogo:s3cret@db/bus?password=s3cret"
            .parse()
            .unwrap();
        assert!(!format!("{url} {url:?}").contains("s3cret"), "{url}");
    }
}
