//! Sorts what went wrong with a request into the error codes of WASI HTTP, so
//! that a guest can tell "try again" from "never".

use std::error::Error as StdError;
use std::io;

use wasmtime_wasi_http::Error;

use super::client::AddressRefused;

/// The refusal of the resolver, if that is what stopped the request.
pub(super) fn address_refused(cause: &reqwest::Error) -> Option<&AddressRefused> {
    chain(cause).find_map(|cause| cause.downcast_ref())
}

/// A request that got no response.
pub(super) fn classify(cause: &reqwest::Error) -> Error {
    if let Some(tls) = chain(cause).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return match tls {
            rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        };
    }
    if cause.is_timeout() {
        return Error::ConnectionTimeout;
    }
    if cause.is_dns() {
        return Error::DnsError {
            rcode: Some("the name does not resolve".to_owned()),
            info_code: None,
        };
    }
    match chain(cause).find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => classify_io(cause),
        None if cause.is_connect() => Error::DestinationUnavailable,
        None => Error::HttpProtocolError,
    }
}

/// A response that broke off.
pub(super) fn classify_body(cause: &reqwest::Error) -> Error {
    if cause.is_timeout() {
        return Error::ConnectionReadTimeout;
    }
    match chain(cause).find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => classify_io(cause),
        None => Error::HttpResponseIncomplete,
    }
}

fn classify_io(cause: &io::Error) -> Error {
    match cause.kind() {
        // A rustls error may travel inside of one of these.
        io::ErrorKind::InvalidData => Error::TlsProtocolError,
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationUnavailable
        }
        io::ErrorKind::UnexpectedEof => Error::HttpResponseIncomplete,
        _ => Error::ConnectionTerminated,
    }
}

/// The error and its causes. What an I/O error wraps is listed too.
fn chain<'a>(
    cause: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(
        Some(cause),
        |cause| -> Option<&'a (dyn StdError + 'static)> {
            let cause: &'a (dyn StdError + 'static) = *cause;
            match cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner as &(dyn StdError + 'static)),
                None => cause.source(),
            }
        },
    )
}
