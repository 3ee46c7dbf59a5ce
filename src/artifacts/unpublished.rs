//! Artifacts of a run whose result nobody gets: told by their content, kept
//! nowhere.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ArtifactError, ArtifactPath, Artifacts};
use crate::attempt::StagedArtifact;
use crate::ids::{Digest, TraceId};

/// Reads what others published, and keeps nothing.
pub struct Unpublished(pub Arc<dyn Artifacts>);

#[async_trait]
impl Artifacts for Unpublished {
    async fn stage(
        &self,
        path: ArtifactPath,
        content_type: String,
        body: Bytes,
    ) -> Result<StagedArtifact, ArtifactError> {
        Ok(StagedArtifact {
            path: path.as_str().to_owned(),
            content_type,
            digest: Digest::of(&body),
            bytes: body.len() as u64,
        })
    }

    fn url(&self, task_id: &str, path: &ArtifactPath) -> String {
        self.0.url(task_id, path)
    }

    async fn read(&self, trace_id: &TraceId, url: &str) -> Result<Bytes, ArtifactError> {
        self.0.read(trace_id, url).await
    }
}
