//! Artifacts of a trial, in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::artifacts::{ArtifactError, ArtifactPath, Artifacts, artifact_url};
use crate::attempt::StagedArtifact;
use crate::ids::{Digest, TraceId};

/// Below a name that no resolver knows: these URLs lead nowhere.
const BASE: &str = "http://artifacts.invalid";

/// What the task found there, and what the attempt stored.
#[derive(Debug)]
pub(super) struct Shelf {
    found: BTreeMap<String, Bytes>,
    // Held for a few instructions at a time, never across an await.
    stored: Mutex<BTreeMap<Digest, Bytes>>,
}

impl Shelf {
    /// A shelf on which earlier tasks of the trace left artifacts, by URL.
    pub(super) fn new(found: BTreeMap<String, Bytes>) -> Self {
        Self {
            found,
            stored: Mutex::default(),
        }
    }

    pub(super) fn stored(&self, digest: Digest) -> Option<Bytes> {
        self.stored.lock().get(&digest).cloned()
    }
}

#[async_trait]
impl Artifacts for Shelf {
    async fn stage(
        &self,
        path: ArtifactPath,
        content_type: String,
        body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        let staged = StagedArtifact {
            path: path.to_string(),
            content_type,
            digest: Digest::of(&body),
            bytes: body.len() as u64,
        };
        self.stored.lock().insert(staged.digest, body);
        Ok(staged)
    }

    fn url(&self, task_id: &str, path: &ArtifactPath) -> String {
        artifact_url(BASE, task_id, path)
    }

    async fn read(&self, _trace_id: &TraceId, url: &str) -> Result<Bytes, ArtifactError> {
        self.found.get(url).cloned().ok_or(ArtifactError::NotFound)
    }
}
