//! Artifacts as the bus knows them, over the contents wherever these lie.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::bucket::Bucket;
use super::directory::Directory;
use super::{ArtifactError, ArtifactPath, Artifacts, Content, MAX_BYTES, artifact_url};
use crate::attempt::StagedArtifact;
use crate::ids::{Digest, TraceId};
use crate::store::{ArtifactRow, Store};

/// Where the contents lie.
#[derive(Debug, Clone)]
pub enum Contents {
    /// On this host's disk.
    Directory(Directory),
    /// Where every host sees them.
    Bucket {
        bucket: Bucket,
        /// Workers get signed links into it, since they cannot reach the host.
        signed_links: bool,
    },
}

impl Contents {
    async fn put(&self, digest: &Digest, body: Bytes) -> Result<(), ArtifactError> {
        match self {
            Self::Directory(directory) => directory.put(digest, body).await,
            Self::Bucket { bucket, .. } => bucket.put(digest, body).await,
        }
    }

    async fn get(&self, digest: &Digest, expected: u64) -> Result<Option<Content>, ArtifactError> {
        match self {
            Self::Directory(directory) => directory.get(digest, expected).await,
            Self::Bucket { bucket, .. } => bucket.get(digest, expected).await,
        }
    }
}

/// The contents, and the store that says what they are.
#[derive(Clone)]
pub struct PublishedArtifacts {
    contents: Contents,
    /// What the URLs of artifacts begin with, without a slash at the end.
    base_url: Arc<str>,
    store: Arc<dyn Store>,
}

impl PublishedArtifacts {
    pub fn new(contents: Contents, base_url: &str, store: Arc<dyn Store>) -> Self {
        Self {
            contents,
            base_url: base_url.trim_end_matches('/').into(),
            store,
        }
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
        matches!(self.contents, Contents::Bucket { .. })
    }

    /// A link to the content for a worker that cannot reach the host, where such
    /// links are wanted.
    ///
    /// # Errors
    /// `Unavailable` where none can be signed now.
    pub async fn signed_link(&self, row: &ArtifactRow) -> Result<Option<String>, ArtifactError> {
        match &self.contents {
            Contents::Bucket {
                bucket,
                signed_links: true,
            } => bucket.link(&row.digest).await.map(Some),
            Contents::Bucket { .. } | Contents::Directory(_) => Ok(None),
        }
    }

    /// The bytes of a published artifact, exactly those that were stored.
    ///
    /// # Errors
    /// `Gone` and `Changed` where they are not there any more.
    pub async fn content(&self, row: &ArtifactRow) -> Result<Bytes, ArtifactError> {
        let (task_id, path) = (row.task_id.clone(), row.path.clone());
        let found = match self.contents.get(&row.digest, row.bytes).await? {
            None => return Err(ArtifactError::Gone { task_id, path }),
            Some(Content::Longer) => format!("it has more than {} bytes", row.bytes),
            Some(Content::Whole(bytes)) => match Digest::of(&bytes) {
                digest if digest == row.digest => return Ok(bytes),
                digest => format!("it has {} bytes and the digest {digest}", bytes.len()),
            },
        };
        Err(ArtifactError::Changed {
            task_id,
            path,
            found,
        })
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
impl Artifacts for PublishedArtifacts {
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
        self.contents.put(&digest, body).await?;
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
