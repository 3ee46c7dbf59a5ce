//! Carries a [`Request`] out over `wasi:http`.
//!
//! Every wait is for the answer, the stop signal and the request's own timer
//! together, whichever comes first. Resources are dropped children first: the
//! component model traps on the opposite order.

use ::http::Uri;

use super::{Error, Method, Request, Response};
use crate::bindings::wasi::clocks::monotonic_clock;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    self as wasi, Fields, FutureIncomingResponse, HeaderError, IncomingResponse, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme,
};
use crate::bindings::wasi::io::poll::Pollable;
use crate::bindings::wasi::io::streams::StreamError;
use crate::host::{Stoppable, nanoseconds};

/// How much is asked of the answer's body at once.
const READ_BYTES: u64 = 64 * 1024;

/// Sends `request` and reads the answer.
pub(crate) fn send(request: &Request) -> Result<Response, Error> {
    let patience = Patience::new(request);
    let outgoing = prepare(request)?;
    let body = outgoing
        .body()
        .map_err(|()| Error::Invalid("the request takes no body".into()))?;
    let pending = outgoing_handler::handle(outgoing, Some(options(request)))?;
    // Where the body is not taken, the answer tells why better than the stream.
    let written = write(body, &request.body, &patience);
    match written {
        Err(Error::Protocol(_)) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    let answer = receive(&pending, &patience)?;
    read(&answer, request.max_response_bytes, &patience)
}

/// How long a request may be waited for: until the attempt is asked to end, or
/// its own time is up.
struct Patience {
    stop: Stoppable,
    timer: Pollable,
}

impl Patience {
    fn new(request: &Request) -> Self {
        Self {
            stop: Stoppable::new(),
            timer: monotonic_clock::subscribe_duration(nanoseconds(request.timeout)),
        }
    }

    fn wait(&self, event: &Pollable, awaited: &str) -> Result<(), Error> {
        match self.stop.wait_until(event, &self.timer) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Timeout(format!("{awaited} took too long"))),
            Err(interrupted) => Err(interrupted.into()),
        }
    }
}

fn prepare(request: &Request) -> Result<OutgoingRequest, Error> {
    let uri: Uri = request
        .url
        .parse()
        .map_err(|error| Error::Invalid(format!("{} is no URL: {error}", request.url)))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => {
            return Err(Error::Invalid(format!(
                "{} is neither http nor https",
                request.url
            )));
        }
    };
    let authority = uri.authority().map(|authority| authority.as_str());
    let path = uri.path_and_query().map(|path| path.as_str());

    let outgoing = OutgoingRequest::new(headers(request)?);
    outgoing
        .set_method(&method(request.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(authority))
        .and_then(|()| outgoing.set_path_with_query(path))
        .map_err(|()| Error::Invalid(format!("{} is no URL to send to", request.url)))?;
    Ok(outgoing)
}

fn headers(request: &Request) -> Result<Fields, Error> {
    let fields = Fields::new();
    let append = |name: &str, value: &str| {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| match error {
                HeaderError::Forbidden => {
                    Error::Invalid(format!("the header {name} is the host's to set"))
                }
                HeaderError::InvalidSyntax | HeaderError::Immutable => Error::Invalid(format!(
                    "the header {name} has a name or value that is not valid"
                )),
            })
    };
    for (name, value) in &request.headers {
        append(name, value)?;
    }
    if !request.body.is_empty() {
        append("content-length", &request.body.len().to_string())?;
    }
    Ok(fields)
}

fn method(method: Method) -> wasi::Method {
    match method {
        Method::Get => wasi::Method::Get,
        Method::Post => wasi::Method::Post,
        Method::Put => wasi::Method::Put,
        Method::Patch => wasi::Method::Patch,
        Method::Delete => wasi::Method::Delete,
    }
}

fn options(request: &Request) -> RequestOptions {
    let options = RequestOptions::new();
    let connect = nanoseconds(request.connect_timeout.min(request.timeout));
    let total = nanoseconds(request.timeout);
    // A host may not know an option; the timer bounds the whole in any case.
    let _ = options.set_connect_timeout(Some(connect));
    let _ = options.set_first_byte_timeout(Some(total));
    let _ = options.set_between_bytes_timeout(Some(total));
    options
}

fn write(body: OutgoingBody, mut bytes: &[u8], patience: &Patience) -> Result<(), Error> {
    if !bytes.is_empty() {
        let stream = body
            .write()
            .map_err(|()| Error::Invalid("the request takes no body".into()))?;
        let writable = stream.subscribe();
        while !bytes.is_empty() {
            patience.wait(&writable, "sending the request")?;
            let room = stream.check_write().map_err(|_| refused())?;
            let taken = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            if !now.is_empty() {
                stream.write(now).map_err(|_| refused())?;
            }
            bytes = later;
        }
        stream.flush().map_err(|_| refused())?;
        patience.wait(&writable, "sending the request")?;
        stream.check_write().map_err(|_| refused())?;
    }
    OutgoingBody::finish(body, None).map_err(Error::from)
}

fn refused() -> Error {
    Error::Protocol("the request's body was not taken".into())
}

fn receive(
    pending: &FutureIncomingResponse,
    patience: &Patience,
) -> Result<IncomingResponse, Error> {
    let ready = pending.subscribe();
    loop {
        match pending.get() {
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(code))) => return Err(code.into()),
            Some(Err(())) => return Err(Error::Protocol("the answer was already taken".into())),
            None => patience.wait(&ready, "the answer")?,
        }
    }
}

fn read(answer: &IncomingResponse, limit: usize, patience: &Patience) -> Result<Response, Error> {
    let mut response = Response::new(answer.status());
    response.headers = answer.headers().entries();
    match read_body(answer, limit, patience, &mut response.body) {
        Ok(()) => Ok(response),
        Err(Error::Interrupted(reason)) => Err(Error::Interrupted(reason)),
        // The status is worth more than the lost rest of the body.
        Err(error) => Ok(response.cut_by(error)),
    }
}

fn read_body(
    answer: &IncomingResponse,
    limit: usize,
    patience: &Patience,
    collected: &mut Vec<u8>,
) -> Result<(), Error> {
    let unreadable = |()| Error::Protocol("the answer's body was already taken".into());
    let body = answer.consume().map_err(unreadable)?;
    let stream = body.stream().map_err(unreadable)?;
    let readable = stream.subscribe();
    loop {
        match stream.read(READ_BYTES) {
            Ok(chunk) if chunk.is_empty() => patience.wait(&readable, "the answer's body")?,
            Ok(chunk) => {
                let room = limit.saturating_sub(collected.len());
                let fitting = chunk.get(..room).unwrap_or(&chunk);
                collected.extend_from_slice(fitting);
                if chunk.len() > room {
                    return Err(Error::TooLarge(limit));
                }
            }
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match wasi::http_error_code(&error) {
                    Some(code) => code.into(),
                    None => Error::Unreachable(format!(
                        "the answer broke off: {}",
                        error.to_debug_string()
                    )),
                });
            }
        }
    }
}
