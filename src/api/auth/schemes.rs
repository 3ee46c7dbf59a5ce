//! The two ways to present a token: as programs do, and as browsers do.

use axum::http::{HeaderMap, header};
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// How a request may present a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Schemes {
    /// As programs do.
    Bearer,
    /// Or as the password of any name, which is all that a browser can ask for.
    BearerOrBasic,
}

impl Schemes {
    /// Whether a token comes as a browser sends it, and that is allowed.
    pub(in crate::api) fn present_basic(self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION);
        let value = value.and_then(|value| value.to_str().ok());
        self == Self::BearerOrBasic && value.and_then(|v| credentials(v, "basic")).is_some()
    }

    /// The token in the value of a header.
    pub(super) fn token(self, value: &str) -> Option<String> {
        let bearer = credentials(value, "bearer").map(str::to_owned);
        bearer.or_else(|| match self {
            Self::Bearer => None,
            Self::BearerOrBasic => password(credentials(value, "basic")?),
        })
    }
}

/// What follows the name of a scheme, if it is this one.
fn credentials<'a>(value: &'a str, wanted: &str) -> Option<&'a str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case(wanted)
        .then(|| rest.trim_start())
}

/// Source: RFC 7617, section 2.
fn password(credentials: &str) -> Option<String> {
    let decoded = BASE64_STANDARD.decode(credentials.trim_end()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}
