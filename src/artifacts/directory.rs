//! Contents in a local directory, one file each.
//!
//! File names are digests, so nothing that a guest or a request says ever
//! becomes part of a path. A file is complete or absent: it is written beside
//! its place, synced and renamed.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{ArtifactError, Content};
use crate::ids::Digest;

/// A directory of contents.
#[derive(Debug, Clone)]
pub struct Directory {
    root: Arc<Path>,
}

impl Directory {
    pub fn new(root: PathBuf) -> Self {
        Self { root: root.into() }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let (shelf, name) = hex.split_at(2);
        self.root.join(shelf).join(name)
    }

    pub(super) async fn put(&self, digest: &Digest, body: Bytes) -> Result<(), ArtifactError> {
        let file = self.file(digest);
        blocking(move || {
            write_once(&file, &body)
                .map_err(|error| ArtifactError::Unavailable(format!("{}: {error}", file.display())))
        })
        .await
    }

    pub(super) async fn get(
        &self,
        digest: &Digest,
        expected: u64,
    ) -> Result<Option<Content>, ArtifactError> {
        let file = self.file(digest);
        blocking(
            move || match read_up_to(&file, expected.saturating_add(1)) {
                Ok(bytes) if bytes.len() as u64 > expected => Ok(Some(Content::Longer)),
                Ok(bytes) => Ok(Some(Content::Whole(bytes.into()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ArtifactError::Unavailable(error.to_string())),
            },
        )
        .await
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
