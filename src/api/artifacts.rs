//! `/artifacts/{task}/{path}`: what attempts published.
//!
//! **Invariants.** A path is a key, taken apart before it is decoded, so that
//! no encoding makes it climb; there is no listing. Content comes from guests
//! and shares an origin with the API, so it is never run: what a browser would
//! render as a document is downloaded instead, in a sandbox.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Shared;
use super::error::ApiError;
use crate::store::ArtifactRow;

const PREFIX: &str = "/artifacts/";
/// What browsers show without running it.
const INERT: [&str; 6] = [
    "text/plain",
    "application/json",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
];
const ANY: &str = "application/octet-stream";
/// `attr-char` of RFC 8187, section 3.2.1, as far as it matters here.
const FILE_NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) async fn fetch(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (task, path) = parse(uri.path()).ok_or(ApiError::NoArtifact)?;
    let (row, bytes) = shared.api.artifacts.open(&task, &path).await?;
    let etag = format!("\"{}\"", row.digest);
    let mut answer = about(&row, &etag);
    if matches_etag(&headers, &header::IF_NONE_MATCH, &etag) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    let total = bytes.len() as u64;
    let body = match wanted(&headers, &etag, total)? {
        None => bytes,
        Some(range) => {
            let (first, last) = (*range.start(), *range.end());
            let shown = format!("bytes {first}-{last}/{total}");
            set(&mut answer, header::CONTENT_RANGE, &shown);
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            cut(&bytes, &range)
        }
    };
    *answer.body_mut() = Body::from(body);
    Ok(answer)
}

/// The task's label and the path, each segment decoded for itself. A segment
/// that holds an encoded slash is none of ours: those that we hand out encode
/// the label alone so.
fn parse(path: &str) -> Option<(String, String)> {
    let (task, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let mut segments = Vec::new();
    for segment in rest.split('/') {
        let segment = decoded(segment)?;
        if segment.contains('/') {
            return None;
        }
        segments.push(segment);
    }
    Some((decoded(task)?, segments.join("/")))
}

fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// The headers that describe an artifact, whatever part of it is sent.
fn about(row: &ArtifactRow, etag: &str) -> Response {
    let mut answer = Response::new(Body::empty());
    let (kind, inert) = content_type(&row.content_type);
    set(&mut answer, header::CONTENT_TYPE, &kind);
    set(&mut answer, header::ETAG, etag);
    set(&mut answer, header::ACCEPT_RANGES, "bytes");
    set(&mut answer, header::LAST_MODIFIED, &http_date(row));
    // The newest artifact of a path may be another one tomorrow.
    set(&mut answer, header::CACHE_CONTROL, "private, no-cache");
    let policy = "default-src 'none'; sandbox; frame-ancestors 'none'";
    set(&mut answer, header::CONTENT_SECURITY_POLICY, policy);
    let name = row.path.rsplit('/').next().unwrap_or_default();
    let disposition = format!(
        "{}; filename*=UTF-8''{}",
        if inert { "inline" } else { "attachment" },
        utf8_percent_encode(name, FILE_NAME)
    );
    set(&mut answer, header::CONTENT_DISPOSITION, &disposition);
    answer
}

fn set(answer: &mut Response, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        answer.headers_mut().insert(name, value);
    }
}

/// Source: RFC 9110, section 5.6.7 (IMF-fixdate).
fn http_date(row: &ArtifactRow) -> String {
    row.created_at
        .format("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

/// The type to send, and whether a browser may show it. What the guest said is
/// kept only where it reads as a type.
fn content_type(said: &str) -> (String, bool) {
    let kind = said.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    match kind.split_once('/') {
        Some((class, rest)) if token(class) && token(rest) && kind.len() <= 127 => {}
        _ => return (ANY.to_owned(), false),
    }
    let inert = INERT.contains(&kind.as_str());
    if kind.starts_with("text/") {
        return (format!("{kind}; charset=utf-8"), inert);
    }
    (kind, inert)
}

fn matches_etag(headers: &HeaderMap, name: &HeaderName, etag: &str) -> bool {
    let lists = headers.get_all(name).iter();
    let mut tags = lists.flat_map(|list| list.to_str().unwrap_or_default().split(','));
    tags.any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// The part that is asked for; `None` for all of it. Several ranges at once,
/// another unit or a stale `If-Range` get all of it, as RFC 9110, section 14.2
/// allows.
fn wanted(
    headers: &HeaderMap,
    etag: &str,
    total: u64,
) -> Result<Option<RangeInclusive<u64>>, ApiError> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else {
        return Ok(None);
    };
    let fresh = headers.get(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let Some(range) = text.strip_prefix("bytes=").filter(|_| fresh) else {
        return Ok(None);
    };
    match part(range.trim(), total) {
        Part::Some(range) => Ok(Some(range)),
        Part::Unreadable => Ok(None),
        Part::Outside => Err(ApiError::RangeUnsatisfiable { bytes: total }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Some(RangeInclusive<u64>),
    /// Not one range of bytes.
    Unreadable,
    /// Nothing that there is.
    Outside,
}

fn part(range: &str, total: u64) -> Part {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let Some((first, last)) = range.split_once('-') else {
        return Part::Unreadable;
    };
    let end = total.saturating_sub(1);
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.min(end)),
        (Some(first), None) if last.is_empty() => (first, end),
        (None, Some(suffix)) if first.is_empty() => match suffix {
            0 => return Part::Outside,
            suffix => (total.saturating_sub(suffix), end),
        },
        _ => return Part::Unreadable,
    };
    if first >= total {
        return Part::Outside;
    }
    Part::Some(first..=last)
}

fn cut(bytes: &bytes::Bytes, range: &RangeInclusive<u64>) -> bytes::Bytes {
    // Within the length by `part`, and that is a `usize`.
    let first = usize::try_from(*range.start()).unwrap_or(0);
    let last = usize::try_from(*range.end()).unwrap_or(0);
    bytes.slice(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_one_by_one() {
        let parsed = |path: &str| parse(&format!("{PREFIX}{path}"));
        let found = |task: &str, path: &str| Some((task.to_owned(), path.to_owned()));
        assert_eq!(parsed("t%2F1/a/b%20c"), found("t/1", "a/b c"));
        // Decoded once: what is left is a name like any other.
        assert_eq!(parsed("t/%252e%252e"), found("t", "%2e%2e"));
        for bad in ["t", "t/a%2Fb", "t/%ff", "%ff/a"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_as_the_standard_reads_them() {
        for (range, expected) in [
            ("0-3", Part::Some(0..=3)),
            ("2-", Part::Some(2..=9)),
            ("-3", Part::Some(7..=9)),
            ("-99", Part::Some(0..=9)),
            ("0-99999999999999999999999", Part::Some(0..=9)),
            ("9-9", Part::Some(9..=9)),
            ("10-", Part::Outside),
            ("-0", Part::Outside),
            ("3-2", Part::Unreadable),
            ("0-1,4-5", Part::Unreadable),
            ("+1-2", Part::Unreadable),
            ("-", Part::Unreadable),
            ("x", Part::Unreadable),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("0-", 0), Part::Outside);
        assert_eq!(part("-5", 0), Part::Outside);
    }

    #[test]
    fn only_what_browsers_do_not_run_is_shown() {
        let text = "text/plain; charset=utf-8".to_owned();
        assert_eq!(content_type("Text/Plain; charset=x"), (text, true));
        assert!(!content_type("text/html").1);
        assert!(!content_type("image/svg+xml").1);
        for bad in ["", "html", "a/b/c", "text/pl ain", "text/\r\nx: y", "text/"] {
            assert_eq!(content_type(bad), (ANY.to_owned(), false), "{bad:?}");
        }
    }
}
