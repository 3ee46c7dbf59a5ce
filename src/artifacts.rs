//! Files that attempts leave behind: staged by content while the attempt runs,
//! visible once it settles.
//!
//! The bytes lie under their digest; what makes them an artifact is a row that
//! the settlement writes. So an attempt that lost its lease publishes nothing,
//! and a path never reaches the file system: it is a key, checked all the same.

pub mod bucket;
pub mod directory;
pub mod published;
pub mod unpublished;

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::attempt::StagedArtifact;
use crate::ids::TraceId;

/// The largest artifact that a plugin may store, in bytes.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Where codegen leaves its edits, below the artifacts of its task.
pub const EDITS_PATH: &str = "edits.json";

/// Everything but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A relative path of plain segments, such as `build-test/report.json`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactPath(String);

/// Why a path cannot name an artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` cannot name an artifact: {why}")]
pub struct InvalidArtifactPath {
    path: String,
    why: &'static str,
}

impl ArtifactPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArtifactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ArtifactPath {
    type Err = InvalidArtifactPath;

    fn from_str(text: &str) -> Result<Self, InvalidArtifactPath> {
        let invalid = |why| {
            Err(InvalidArtifactPath {
                path: text.chars().take(120).collect(),
                why,
            })
        };
        if text.is_empty() || text.len() > 512 {
            return invalid("expected 1 to 512 bytes");
        }
        if text.starts_with('/') {
            return invalid("it is absolute");
        }
        for segment in text.split('/') {
            match segment {
                "" => return invalid("it has an empty segment"),
                "." | ".." => return invalid("it climbs"),
                _ if segment.chars().any(|c| c.is_control() || c == '\\') => {
                    return invalid("it holds a control character or a backslash");
                }
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why an artifact could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    InvalidPath(#[from] InvalidArtifactPath),
    #[error("the artifact has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("there is no such artifact")]
    NotFound,
    /// The bus knows it and the store of contents does not.
    #[error("the content of `{path}` of task `{task_id}` has vanished from the artifact store")]
    Gone { task_id: String, path: String },
    #[error("the content of `{path}` of task `{task_id}` is not the one that was stored: {found}")]
    Changed {
        task_id: String,
        path: String,
        found: String,
    },
    #[error("artifacts are unavailable: {0}")]
    Unavailable(String),
}

impl ArtifactError {
    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidPath(_) => "artifact_path_invalid",
            Self::TooLarge { .. } => "artifact_too_large",
            Self::NotFound => "artifact_not_found",
            Self::Gone { .. } => "artifact_gone",
            Self::Changed { .. } => "artifact_changed",
            Self::Unavailable(_) => "artifacts_unavailable",
        }
    }
}

/// What lies under a digest.
enum Content {
    Whole(Bytes),
    /// More than there should be, so not read.
    Longer,
}

/// Where attempts put artifacts and read those of their trace.
#[async_trait]
pub trait Artifacts: Send + Sync + 'static {
    /// Keeps the bytes; they become visible when the attempt that lists the
    /// answer settles.
    async fn stage(
        &self,
        path: ArtifactPath,
        content_type: String,
        body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError>;

    /// The URL that the artifact has once it is published.
    fn url(&self, task_id: &str, path: &ArtifactPath) -> String;

    /// Reads a published artifact of the trace by its URL.
    async fn read(&self, trace_id: &TraceId, url: &str) -> Result<Bytes, ArtifactError>;
}

/// The URL of an artifact below `base`, with the task's label and each segment
/// of the path percent-encoded.
pub fn artifact_url(base: &str, task_id: &str, path: &ArtifactPath) -> String {
    let task = utf8_percent_encode(task_id, SEGMENT);
    let mut url = format!("{}/{task}", base.trim_end_matches('/'));
    for segment in path.as_str().split('/') {
        url.push('/');
        url.extend(utf8_percent_encode(segment, SEGMENT));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_or_hide_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0b",
            "a\nb",
        ] {
            assert!(bad.parse::<ArtifactPath>().is_err(), "{bad:?}");
        }
        assert!("build-test/report.json".parse::<ArtifactPath>().is_ok());
        assert!("a/..b/ü.txt".parse::<ArtifactPath>().is_ok());
    }

    #[test]
    fn a_task_label_cannot_leave_its_segment() {
        let path = "r 1.json".parse().unwrap();
        let url = artifact_url("http://h/artifacts/", "../a/b?c#d", &path);
        assert_eq!(url, "http://h/artifacts/..%2Fa%2Fb%3Fc%23d/r%201.json");
    }
}
