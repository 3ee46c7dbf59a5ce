//! Request bodies: JSON of a bounded size that arrives within a bounded time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::payload;

/// The largest body: a payload of the largest size, and what is around it.
pub(super) const MAX_BYTES: usize = payload::MAX_BYTES + 64 * 1024;
/// How long a body may take to arrive; a megabyte over a bad line takes less.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a body is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is `{given}`; expected `{expected}`")]
    ContentType {
        given: String,
        expected: &'static str,
    },
    #[error("the body has more than {max} bytes")]
    TooLarge { max: usize },
    #[error("the body did not arrive within {} seconds", PATIENCE.as_secs())]
    Slow,
    #[error("the body broke off")]
    Broken,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body is not what is expected here: {0}")]
    Unfit(serde_json::Error),
}

impl BodyError {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken | Self::NotJson(_) => StatusCode::BAD_REQUEST,
            Self::Unfit(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::ContentType { .. } => "content_type_unsupported",
            Self::TooLarge { .. } => "body_too_large",
            Self::Slow => "body_timeout",
            Self::Broken => "body_incomplete",
            Self::NotJson(_) => "json_invalid",
            Self::Unfit(_) => "body_invalid",
        }
    }

    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ContentType {
                expected: "application/wasm",
                ..
            } => Some("send the header `content-type: application/wasm`"),
            Self::ContentType { .. } => Some("send the header `content-type: application/json`"),
            Self::TooLarge { .. } => Some("put large input behind a URL"),
            Self::Slow | Self::Broken | Self::NotJson(_) | Self::Unfit(_) => None,
        }
    }
}

/// A body read as `T`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        check_content_type(request.headers(), "application/json")?;
        let bytes = read(request.into_body(), MAX_BYTES).await?;
        let value = serde_json::from_slice(&bytes).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => BodyError::Unfit(error),
            _ => BodyError::NotJson(error),
        })?;
        Ok(Self(value))
    }
}

/// Besides saying what is meant, this keeps out what a web page may send to
/// another origin without asking first.
fn check_content_type(headers: &HeaderMap, expected: &'static str) -> Result<(), BodyError> {
    let given = headers.get(header::CONTENT_TYPE);
    let text = given.map_or("", |value| value.to_str().unwrap_or("?"));
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    let given = match text {
        "" => "of no declared type".to_owned(),
        text => super::query::shortened(text),
    };
    Err(BodyError::ContentType { given, expected })
}

/// A component, as it is.
pub(super) struct Wasm(pub(super) Bytes);

impl<S: Sync> FromRequest<S> for Wasm {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        const EXPECTED: &str = "application/wasm";
        check_content_type(request.headers(), EXPECTED)?;
        let max = usize::try_from(crate::plugin::load::MAX_BYTES).unwrap_or(usize::MAX);
        Ok(Self(read(request.into_body(), max).await?))
    }
}

async fn read(body: Body, max: usize) -> Result<Bytes, BodyError> {
    let collected = Limited::new(body, max).collect();
    match tokio::time::timeout(PATIENCE, collected).await {
        Err(_) => Err(BodyError::Slow),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { max }),
        Ok(Err(_)) => Err(BodyError::Broken),
    }
}
