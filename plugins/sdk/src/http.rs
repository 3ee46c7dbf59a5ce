//! A small HTTP client: one request, one answer, bounded in time and size.
//!
//! [`Host::send`](crate::Host::send) carries a [`Request`] out over `wasi:http`.
//! The host decides where a plugin may connect and adds the trace headers; it
//! follows no redirects, and neither does this client: a redirect is an answer
//! like any other.
//!
//! ```
//! use std::time::Duration;
//! use cogo_executor::http::Request;
//!
//! # fn main() -> Result<(), cogo_executor::http::Error> {
//! let request = Request::post("http://worker:8080/run")
//!     .header("accept", "application/json")
//!     .timeout(Duration::from_secs(60))
//!     .json(&serde_json::json!({ "task": "t-1" }))?;
//! # let _ = request;
//! # Ok(())
//! # }
//! ```

mod base_url;
mod refusal;
mod retry_after;
pub(crate) mod wire;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

pub use base_url::{BaseUrl, BaseUrlError};

use crate::host::Interrupted;
use crate::{Failure, StopReason};

/// Time for a request without a timeout of its own.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for connecting; a peer that is there answers much sooner.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer without a limit of its own.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// How a [`Request`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

/// A request, built by the methods of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How it is made.
    pub method: Method,
    /// Absolute, `http` or `https`.
    pub url: String,
    /// In the order they were added.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Sent with its length; empty means none.
    pub body: Vec<u8>,
    /// For connecting.
    pub connect_timeout: Duration,
    /// From the call to the last byte of the answer.
    pub timeout: Duration,
    /// Reading stops behind this many bytes of the answer's body.
    pub max_response_bytes: usize,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            timeout: DEFAULT_TIMEOUT,
            max_response_bytes: DEFAULT_MAX_RESPONSE_BYTES,
        }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::Get, url)
    }

    /// A `POST`.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Method::Post, url)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// Sets the body and says what it is.
    #[must_use]
    pub fn body(self, content_type: &str, body: Vec<u8>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = body;
        request
    }

    /// Sets a JSON body.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `body` has no JSON form.
    pub fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        match serde_json::to_vec(body) {
            Ok(text) => Ok(self.body("application/json", text)),
            Err(error) => Err(Error::Invalid(format!(
                "the body has no JSON form: {error}"
            ))),
        }
    }

    /// Limits the time from the call to the last byte of the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Limits the time for connecting, within the timeout of the whole.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Limits what is read of the answer's body.
    #[must_use]
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    cut: Option<Error>,
}

impl Response {
    /// An answer without headers and body; tests build theirs from it.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Marks the body as incomplete, and why.
    #[must_use]
    pub fn cut_by(mut self, error: Error) -> Self {
        self.cut = Some(error);
        self
    }

    /// The first header of that name, in any case; `None` where it is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// Why it did not arrive whole: too large, too slow, or broken off.
    pub fn body(&self) -> Result<&[u8], &Error> {
        match &self.cut {
            None => Ok(&self.body),
            Some(error) => Err(error),
        }
    }

    /// As much of the body as arrived within the limit, for a message.
    pub fn body_so_far(&self) -> &[u8] {
        &self.body
    }

    /// The pause that the peer asks for before the next try, from `Retry-After`:
    /// seconds, or a date, which is taken relative to the answer's own `Date`
    /// since a plugin has no clock of the wall. `None` where there is no such
    /// header, or none that can be understood.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after::pause(self.header("retry-after")?, self.header("date"))
    }
}

/// Why there is no answer, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request cannot be sent as it is; so is every repetition of it.
    Invalid(String),
    /// The host does not let the plugin connect there.
    Denied(String),
    /// No connection, or it was lost before an answer.
    Unreachable(String),
    /// Connecting or answering took too long.
    Timeout(String),
    /// What came back is no proper HTTP.
    Protocol(String),
    /// The answer's body is over the limit, which is in bytes.
    TooLarge(usize),
    /// The host wants the attempt to end.
    Interrupted(StopReason),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(words)
            | Error::Denied(words)
            | Error::Unreachable(words)
            | Error::Timeout(words)
            | Error::Protocol(words) => formatter.write_str(words),
            Error::TooLarge(limit) => write!(formatter, "the body is over {limit} bytes"),
            Error::Interrupted(_) => formatter.write_str("the attempt was asked to end"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Interrupted> for Error {
    fn from(Interrupted(reason): Interrupted) -> Self {
        Error::Interrupted(reason)
    }
}

/// For plugins without codes of their own.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Interrupted(_) => return Failure::Interrupted,
            Error::Invalid(_) => return Failure::permanent("request_invalid", error.to_string()),
            Error::Denied(_) => return Failure::permanent("egress_denied", error.to_string()),
            Error::Unreachable(_) => "unreachable",
            Error::Timeout(_) => "timeout",
            Error::Protocol(_) | Error::TooLarge(_) => "bad_response",
        };
        Failure::retryable(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_in_any_case_and_trimmed() {
        let response = Response::new(200)
            .with_header("Content-Type", " text/plain ")
            .with_header("broken", vec![0xff]);
        assert_eq!(response.header("content-type"), Some("text/plain"));
        assert_eq!(response.header("broken"), None);
        assert_eq!(response.header("absent"), None);
    }

    #[test]
    fn a_cut_body_is_never_taken_for_a_whole_one() {
        let response = Response::new(200)
            .with_body("{\"a\":")
            .cut_by(Error::TooLarge(5));
        assert_eq!(response.body(), Err(&Error::TooLarge(5)));
        assert_eq!(response.body_so_far(), b"{\"a\":");
    }

    #[test]
    fn errors_become_failures_by_who_can_help() {
        let words = || "why".to_owned();
        for (error, expected) in [
            (
                Error::Invalid(words()),
                Failure::permanent("request_invalid", "why"),
            ),
            (
                Error::Denied(words()),
                Failure::permanent("egress_denied", "why"),
            ),
            (
                Error::Unreachable(words()),
                Failure::retryable("unreachable", "why"),
            ),
            (
                Error::Timeout(words()),
                Failure::retryable("timeout", "why"),
            ),
            (
                Error::Protocol(words()),
                Failure::retryable("bad_response", "why"),
            ),
            (
                Error::TooLarge(9),
                Failure::retryable("bad_response", "the body is over 9 bytes"),
            ),
            (
                Error::Interrupted(StopReason::Draining),
                Failure::Interrupted,
            ),
        ] {
            assert_eq!(Failure::from(error), expected);
        }
    }

    #[test]
    fn a_json_body_brings_its_content_type() {
        let request = Request::post("http://a/")
            .json(&[1, 2])
            .expect("has a form");
        assert_eq!(request.body, b"[1,2]");
        assert_eq!(
            request.headers,
            [("content-type".into(), "application/json".to_owned())]
        );
    }
}
