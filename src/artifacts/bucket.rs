//! Contents in a bucket of an S3-compatible store, one object each.
//!
//! Object names are digests below a prefix. Where the store is and who may use
//! it comes from the usual `AWS_*` variables. What the store says when it fails
//! is told; what it was asked with is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::signer::Signer as _;
use object_store::{ClientOptions, ObjectStoreExt as _, RetryConfig};

use super::{ArtifactError, Content};
use crate::ids::Digest;

/// A request, in all.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request that fails is repeated.
const RETRY: Duration = Duration::from_secs(10);
/// How long a signed link works: longer than a task waits for its retries, and
/// less than the week that S3 allows.
const LINK: Duration = Duration::from_secs(24 * 3600);

/// A bucket of contents.
#[derive(Debug, Clone)]
pub struct Bucket {
    s3: Arc<AmazonS3>,
    prefix: Path,
}

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the artifacts' bucket `{url}` cannot be used: {problem}")]
pub struct InvalidBucket {
    url: String,
    problem: String,
}

impl Bucket {
    /// The bucket of `s3://NAME/PREFIX`. Nothing is sent.
    ///
    /// # Errors
    /// Where the URL names no bucket, or a variable makes no sense.
    pub fn open(url: &str) -> Result<Self, InvalidBucket> {
        let invalid = |problem: String| InvalidBucket {
            url: url.to_owned(),
            problem,
        };
        let rest = url.strip_prefix("s3://").unwrap_or_default();
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(invalid("expected s3://BUCKET/PREFIX".to_owned()));
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| invalid(error.to_string()))?;
        let builder = AmazonS3Builder::from_env().with_bucket_name(name);
        // Who names an endpoint without TLS means it.
        let plain = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint]
            .iter()
            .filter_map(|key| builder.get_config_value(key))
            .any(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new()
            .with_timeout(TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(plain);
        let retry = RetryConfig {
            max_retries: 2,
            retry_timeout: RETRY,
            ..RetryConfig::default()
        };
        // The process's choice of cryptography; whoever is first, makes it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let s3 = builder
            .with_client_options(options)
            .with_retry(retry)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            s3: Arc::new(s3),
            prefix,
        })
    }

    fn object(&self, digest: &Digest) -> Path {
        let hex = digest.hex();
        let (shelf, name) = hex.split_at(2);
        self.prefix.clone().join(shelf).join(name)
    }

    pub(super) async fn put(&self, digest: &Digest, body: Bytes) -> Result<(), ArtifactError> {
        let object = self.object(digest);
        let put = self.s3.put(&object, body.into()).await;
        put.map(|_| ()).map_err(|error| unavailable(&error))
    }

    pub(super) async fn get(
        &self,
        digest: &Digest,
        expected: u64,
    ) -> Result<Option<Content>, ArtifactError> {
        let found = match self.s3.get(&self.object(digest)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        if found.meta.size > expected {
            return Ok(Some(Content::Longer));
        }
        let body = found.bytes().await.map_err(|error| unavailable(&error))?;
        Ok(Some(Content::Whole(body)))
    }

    /// A link that works for a day without credentials.
    pub(super) async fn link(&self, digest: &Digest) -> Result<String, ArtifactError> {
        let object = self.object(digest);
        let signed = self.s3.signed_url(http::Method::GET, &object, LINK);
        match signed.await {
            Ok(url) => Ok(url.into()),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn unavailable(error: &object_store::Error) -> ArtifactError {
    let text = error.to_string();
    ArtifactError::Unavailable(text.chars().take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_name() {
        for url in ["s3://", "s3:///x", "s3://b/../x"] {
            let refused = Bucket::open(url).unwrap_err().to_string();
            assert!(refused.contains(url), "{refused}");
        }
    }
}
