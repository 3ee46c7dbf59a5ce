//! The URL of a service, as an operator configures it.

use std::fmt;

use ::http::Uri;

/// Where a service is reached: `http` or `https`, a host, and perhaps a path
/// that all its own paths lie under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    origin: String,
    /// Without a slash at its end.
    prefix: String,
}

/// What is wrong with a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrlError(String);

impl fmt::Display for BaseUrlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BaseUrlError {}

impl BaseUrl {
    /// Reads a configured URL; slashes at its end are ignored.
    ///
    /// # Errors
    ///
    /// When `text` is no absolute `http` or `https` URL, or holds credentials, a
    /// query or a fragment. The error does not repeat the text: it may hold a
    /// secret by mistake.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let refuse = |complaint: &str| Err(BaseUrlError(complaint.into()));
        let text = text.trim();
        let uri: Uri = match text.parse() {
            Ok(uri) => uri,
            Err(error) => return Err(BaseUrlError(format!("it is no URL: {error}"))),
        };
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            Some(_) => return refuse("it is neither http nor https"),
            None => return refuse("it does not begin with http:// or https://"),
        };
        let Some(authority) = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
        else {
            return refuse("it names no host");
        };
        if authority.as_str().contains('@') {
            return refuse("it holds credentials, which do not belong into a URL");
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
            return refuse("its port is not a number from 0 to 65535");
        }
        if text.contains(['?', '#']) {
            return refuse("it has a query or a fragment; paths are added at its end");
        }
        Ok(Self {
            origin: format!("{scheme}://{authority}"),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The URL of a path below this one. `path` begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.prefix)
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_slashes_are_joined_cleanly() {
        for (base, expected) in [
            ("http://worker:8080", "http://worker:8080/run"),
            ("http://worker:8080/", "http://worker:8080/run"),
            (
                " https://a.example/cogo/v1// ",
                "https://a.example/cogo/v1/run",
            ),
            ("http://[::1]:9000/x", "http://[::1]:9000/x/run"),
            ("HTTP://Worker", "http://Worker/run"),
        ] {
            let base = BaseUrl::parse(base).expect(base);
            assert_eq!(base.join("/run"), expected);
        }
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for (text, complaint) in [
            ("", "it is no URL: "),
            ("worker", "it does not begin with http:// or https://"),
            ("worker:8080", "it does not begin with http:// or https://"),
            ("/run", "it does not begin with http:// or https://"),
            ("ftp://a/", "it is neither http nor https"),
            ("http://", "it is no URL: "),
            ("http:///run", "it is no URL: "),
            ("http://:80/", "it names no host"),
            ("http://a b/", "it is no URL: "),
            ("http://user:secret@a/", "it holds credentials"),
            ("http://a:99999/", "its port is not a number"),
            ("http://a:/", "its port is not a number"),
            ("http://a/?x=1", "it has a query or a fragment"),
            ("http://a/#x", "it has a query or a fragment"),
        ] {
            let error = BaseUrl::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(complaint), "{text:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
