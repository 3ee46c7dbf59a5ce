//! The style, the script and the icon: embedded, and served under names that
//! hold the hash of their bytes, so that a browser may keep them for ever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::PREFIX;
use crate::api::error::ApiError;
use crate::api::query::shortened;
use crate::ids::Digest;

/// What is under a hash never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// A file of the dashboard.
pub(super) struct Asset {
    url: String,
    media_type: &'static str,
    bytes: &'static [u8],
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, bytes: &'static [u8]) -> Self {
        let hash = Digest::of(bytes).hex();
        let hash = hash.get(..16).unwrap_or(&hash);
        Self {
            url: format!("{PREFIX}assets/{stem}.{hash}.{extension}"),
            media_type,
            bytes,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("assets/style.css");
    Asset::new("style", "css", "text/css; charset=utf-8", bytes)
});
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("assets/live.js");
    Asset::new("live", "js", "text/javascript; charset=utf-8", bytes)
});
static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("assets/icon.svg");
    Asset::new("icon", "svg", "image/svg+xml", bytes)
});

pub(super) fn style() -> &'static Asset {
    &STYLE
}

pub(super) fn script() -> &'static Asset {
    &SCRIPT
}

pub(super) fn icon() -> &'static Asset {
    &ICON
}

pub(super) async fn show(Path(name): Path<String>) -> Result<Response, ApiError> {
    let path = format!("{PREFIX}assets/{name}");
    let all = [style(), script(), icon()];
    let Some(asset) = all.into_iter().find(|asset| asset.url == path) else {
        return Err(ApiError::UnknownPath(shortened(&path)));
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, FOR_EVER),
    ];
    Ok((headers, asset.bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_stays_small() {
        assert!(
            script().bytes.len() <= 10 * 1024,
            "{}",
            script().bytes.len()
        );
    }
}
