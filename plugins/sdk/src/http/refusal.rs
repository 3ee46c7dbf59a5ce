//! `wasi:http` error codes, sorted by who can help and put into words.

use std::borrow::Cow;

use super::Error;
use crate::bindings::wasi::http::types::ErrorCode;

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        let make = match class(&code) {
            Class::Denied => Error::Denied,
            Class::Timeout => Error::Timeout,
            Class::Unreachable => Error::Unreachable,
            Class::Invalid => Error::Invalid,
            Class::Protocol => Error::Protocol,
        };
        make(words(code).into_owned())
    }
}

/// The variants of [`Error`] that an error code can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Denied,
    Timeout,
    Unreachable,
    Invalid,
    Protocol,
}

fn class(code: &ErrorCode) -> Class {
    use ErrorCode as E;
    match code {
        E::HttpRequestDenied | E::DestinationIpProhibited => Class::Denied,

        E::DnsTimeout
        | E::ConnectionTimeout
        | E::ConnectionReadTimeout
        | E::ConnectionWriteTimeout
        | E::HttpResponseTimeout => Class::Timeout,

        E::DnsError(_)
        | E::DestinationNotFound
        | E::DestinationUnavailable
        | E::DestinationIpUnroutable
        | E::ConnectionRefused
        | E::ConnectionTerminated
        | E::ConnectionLimitReached
        | E::TlsProtocolError
        | E::TlsCertificateError
        | E::TlsAlertReceived(_)
        | E::LoopDetected
        | E::ConfigurationError
        | E::InternalError(_) => Class::Unreachable,

        E::HttpRequestLengthRequired
        | E::HttpRequestBodySize(_)
        | E::HttpRequestMethodInvalid
        | E::HttpRequestUriInvalid
        | E::HttpRequestUriTooLong
        | E::HttpRequestHeaderSectionSize(_)
        | E::HttpRequestHeaderSize(_)
        | E::HttpRequestTrailerSectionSize(_)
        | E::HttpRequestTrailerSize(_) => Class::Invalid,

        E::HttpResponseIncomplete
        | E::HttpResponseHeaderSectionSize(_)
        | E::HttpResponseHeaderSize(_)
        | E::HttpResponseBodySize(_)
        | E::HttpResponseTrailerSectionSize(_)
        | E::HttpResponseTrailerSize(_)
        | E::HttpResponseTransferCoding(_)
        | E::HttpResponseContentCoding(_)
        | E::HttpUpgradeFailed
        | E::HttpProtocolError => Class::Protocol,
    }
}

fn words(code: ErrorCode) -> Cow<'static, str> {
    use ErrorCode as E;
    let fixed = match code {
        E::DnsError(details) => return with("the host name could not be resolved", details.rcode),
        E::TlsAlertReceived(details) => {
            return with("TLS was refused by the peer", details.alert_message);
        }
        E::InternalError(details) => return with("the request could not be carried out", details),

        E::DnsTimeout => "resolving the host name took too long",
        E::DestinationNotFound => "the destination was not found",
        E::DestinationUnavailable => "the destination is unavailable",
        E::DestinationIpProhibited => "the destination's address is not allowed",
        E::DestinationIpUnroutable => "the destination's address cannot be routed to",
        E::ConnectionRefused => "the connection was refused",
        E::ConnectionTerminated => "the connection was closed before an answer",
        E::ConnectionTimeout => "connecting took too long",
        E::ConnectionReadTimeout => "reading took too long",
        E::ConnectionWriteTimeout => "writing took too long",
        E::ConnectionLimitReached => "too many connections are open",
        E::TlsProtocolError => "TLS could not be agreed on",
        E::TlsCertificateError => "the peer's certificate is not valid",
        E::HttpRequestDenied => "the host does not allow this request",
        E::HttpRequestLengthRequired => "the request needs a length",
        E::HttpRequestBodySize(_) => "the request's body is too large",
        E::HttpRequestMethodInvalid => "the request's method is not valid",
        E::HttpRequestUriInvalid => "the request's URL is not valid",
        E::HttpRequestUriTooLong => "the request's URL is too long",
        E::HttpRequestHeaderSectionSize(_) | E::HttpRequestHeaderSize(_) => {
            "the request's headers are too large"
        }
        E::HttpRequestTrailerSectionSize(_) | E::HttpRequestTrailerSize(_) => {
            "the request's trailers are too large"
        }
        E::HttpResponseIncomplete => "the answer broke off",
        E::HttpResponseHeaderSectionSize(_) | E::HttpResponseHeaderSize(_) => {
            "the answer's headers are too large"
        }
        E::HttpResponseBodySize(_) => "the answer's body is too large",
        E::HttpResponseTrailerSectionSize(_) | E::HttpResponseTrailerSize(_) => {
            "the answer's trailers are too large"
        }
        E::HttpResponseTransferCoding(_) => "the answer's transfer coding is unknown",
        E::HttpResponseContentCoding(_) => "the answer's content coding is unknown",
        E::HttpResponseTimeout => "the answer took too long",
        E::HttpUpgradeFailed => "the connection could not be upgraded",
        E::HttpProtocolError => "the answer is no proper HTTP",
        E::LoopDetected => "the request went in a circle",
        E::ConfigurationError => "the host cannot send requests",
    };
    Cow::Borrowed(fixed)
}

fn with(words: &'static str, details: Option<String>) -> Cow<'static, str> {
    match details {
        Some(details) if !details.is_empty() => Cow::Owned(format!("{words}: {details}")),
        _ => Cow::Borrowed(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::wasi::http::types::DnsErrorPayload;

    #[test]
    fn codes_are_sorted_by_who_can_help() {
        for (code, expected) in [
            (ErrorCode::HttpRequestDenied, Class::Denied),
            (ErrorCode::DestinationIpProhibited, Class::Denied),
            (ErrorCode::ConnectionRefused, Class::Unreachable),
            (ErrorCode::TlsCertificateError, Class::Unreachable),
            (ErrorCode::InternalError(None), Class::Unreachable),
            (ErrorCode::ConnectionTimeout, Class::Timeout),
            (ErrorCode::HttpResponseTimeout, Class::Timeout),
            (ErrorCode::HttpRequestBodySize(Some(9)), Class::Invalid),
            (ErrorCode::HttpResponseIncomplete, Class::Protocol),
        ] {
            assert_eq!(class(&code), expected, "{code:?}");
        }
    }

    #[test]
    fn details_are_kept() {
        let code = ErrorCode::DnsError(DnsErrorPayload {
            rcode: Some("NXDOMAIN".into()),
            info_code: None,
        });
        assert_eq!(
            Error::from(code),
            Error::Unreachable("the host name could not be resolved: NXDOMAIN".into())
        );
        assert_eq!(
            Error::from(ErrorCode::InternalError(Some(String::new()))),
            Error::Unreachable("the request could not be carried out".into())
        );
    }
}
