//! Artifacts in a local directory, one file per content.
//!
//! File names are digests, so nothing that a guest or a request says ever
//! becomes part of a path. A file is complete or absent: it is written beside
//! its place, synced and renamed.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::{ArtifactError, ArtifactPath, Artifacts, MAX_BYTES, artifact_url};
use crate::attempt::StagedArtifact;
use crate::ids::{Digest, TraceId};
use crate::store::{ArtifactRow, Store};

/// A directory of contents, and the store that says what they are.
#[derive(Clone)]
pub struct LocalArtifacts {
    root: Arc<Path>,
    /// What the URLs of artifacts begin with, without a slash at the end.
    base_url: Arc<str>,
    store: Arc<dyn Store>,
}

impl LocalArtifacts {
    pub fn new(root: PathBuf, base_url: &str, store: Arc<dyn Store>) -> Self {
        Self {
            root: root.into(),
            base_url: base_url.trim_end_matches('/').into(),
            store,
        }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let (shelf, name) = hex.split_at(2);
        self.root.join(shelf).join(name)
    }

    /// The newest published artifact of that task and path, and its bytes.
    ///
    /// # Errors
    /// `NotFound` also when the path could never name one.
    pub async fn open(
        &self,
        task_id: &str,
        path: &str,
    ) -> Result<(ArtifactRow, Bytes), ArtifactError> {
        let path: ArtifactPath = path.parse().map_err(|_| ArtifactError::NotFound)?;
        let row = self
            .store
            .artifact(task_id, path.as_str())
            .await
            .map_err(|error| ArtifactError::Unavailable(error.to_string()))?
            .ok_or(ArtifactError::NotFound)?;
        let bytes = self.content(&row).await?;
        Ok((row, bytes))
    }

    /// Whether all hosts see the same contents.
    pub const fn is_shared(&self) -> bool {
        false
    }

    /// The bytes of a published artifact, exactly those that were stored.
    ///
    /// # Errors
    /// `Gone` and `Changed` where they are not there any more.
    pub async fn content(&self, row: &ArtifactRow) -> Result<Bytes, ArtifactError> {
        let file = self.file(&row.digest);
        // A byte more than there should be tells that there are too many.
        let limit = row.bytes.saturating_add(1);
        let read = blocking(move || match read_up_to(&file, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ArtifactError::Unavailable(error.to_string())),
        });
        let Some(bytes) = read.await? else {
            return Err(ArtifactError::Gone {
                task_id: row.task_id.clone(),
                path: row.path.clone(),
            });
        };
        checked(row, bytes)
    }

    /// The task's label and the path that a URL of ours names.
    fn parse_url(&self, url: &str) -> Option<(String, String)> {
        let rest = url.strip_prefix(&*self.base_url)?.strip_prefix('/')?;
        let (task, path) = rest.split_once('/')?;
        let decode = |text| {
            percent_decode_str(text)
                .decode_utf8()
                .ok()
                .map(|decoded| decoded.into_owned())
        };
        Some((decode(task)?, decode(path)?))
    }
}

#[async_trait]
impl Artifacts for LocalArtifacts {
    async fn stage(
        &self,
        path: ArtifactPath,
        content_type: String,
        body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        let bytes = body.len() as u64;
        if bytes > MAX_BYTES {
            return Err(ArtifactError::TooLarge { limit: MAX_BYTES });
        }
        let digest = Digest::of(&body);
        let file = self.file(&digest);
        blocking(move || {
            write_once(&file, &body)
                .map_err(|error| ArtifactError::Unavailable(format!("{}: {error}", file.display())))
        })
        .await?;
        Ok(StagedArtifact {
            path: path.as_str().to_owned(),
            content_type,
            digest,
            bytes,
        })
    }

    fn url(&self, task_id: &str, path: &ArtifactPath) -> String {
        artifact_url(&self.base_url, task_id, path)
    }

    async fn read(&self, trace_id: &TraceId, url: &str) -> Result<Bytes, ArtifactError> {
        let (task_id, path) = self.parse_url(url).ok_or(ArtifactError::NotFound)?;
        let (row, bytes) = self.open(&task_id, &path).await?;
        // Another trace's artifacts are none of this attempt's business, not
        // even their existence.
        if row.trace_id == *trace_id {
            Ok(bytes)
        } else {
            Err(ArtifactError::NotFound)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ArtifactError::Unavailable(error.to_string())))
}

fn read_up_to(file: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes, if they are those of the row.
fn checked(row: &ArtifactRow, bytes: Vec<u8>) -> Result<Bytes, ArtifactError> {
    let found = Digest::of(&bytes);
    if found == row.digest {
        return Ok(bytes.into());
    }
    let found = match bytes.len() as u64 {
        longer if longer > row.bytes => format!("it has more than {} bytes", row.bytes),
        bytes => format!("it has {bytes} bytes and the digest {found}"),
    };
    Err(ArtifactError::Changed {
        task_id: row.task_id.clone(),
        path: row.path.clone(),
        found,
    })
}

fn write_once(file: &Path, body: &[u8]) -> io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let shelf = file.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(shelf)?;
    let draft = shelf.join(format!(".{}", Uuid::new_v4().as_simple()));
    let written = std::fs::File::create_new(&draft).and_then(|mut open| {
        open.write_all(body)?;
        open.sync_all()?;
        std::fs::rename(&draft, file)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&draft);
    }
    written
}
