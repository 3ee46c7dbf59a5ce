//! The identifier in a path, parsed once.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::ApiError;
use super::query::shortened;

/// The only variable part of a path, decoded and parsed.
pub(super) struct Id<T>(pub(super) T);

/// The same, where nothing has a name of another form: no such path.
pub(super) struct Named<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: FromStr,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        let unknown = || ApiError::UnknownPath(shortened(parts.uri.path()));
        id.map(Self).ok_or_else(unknown)
    }
}

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr<Err: Display>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|error| ApiError::id(error.body_text()))?;
        text.parse().map(Self).map_err(ApiError::id)
    }
}
