//! What every request passes before a handler sees it, and what every answer
//! carries: the `Host` list, the cross-site check, the token, security headers.
//!
//! **Invariant:** it wraps the whole router, unknown paths included, so that a
//! new route cannot be left unguarded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::auth::{Access, Actor, Schemes};
use super::error::ApiError;
use super::pages;
use super::query::shortened;

/// Reached without a token, so that a supervisor can ask.
pub(super) const LIVENESS: &str = "/healthz";

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
        ),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Has a browser ask for the token, as the password of whatever name.
const ASK_FOR_TOKEN: HeaderValue = HeaderValue::from_static(
    "Basic realm=\"cogo-host: any name, the token as password\", charset=\"UTF-8\"",
);

/// What a request knows of the connection it came over.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    /// Ends answers that would otherwise go on for ever.
    pub(super) closing: CancellationToken,
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the request has no usable `Host` header")]
    HostMissing,
    #[error("this host is not called `{host}`")]
    HostUnknown { host: String },
    #[error("the request comes from another site")]
    CrossSite,
    #[error("this needs a token")]
    TokenMissing,
    #[error("this needs a token, and the host has none configured")]
    NoTokenConfigured,
    #[error("the token is not valid here")]
    WrongToken,
    #[error("too many wrong tokens from this address")]
    TooManyFailures { left: Duration },
}

impl Denied {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::HostMissing => StatusCode::BAD_REQUEST,
            Self::HostUnknown { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite | Self::NoTokenConfigured => StatusCode::FORBIDDEN,
            Self::TokenMissing | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::TooManyFailures { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::HostMissing => "host_missing",
            Self::HostUnknown { .. } => "host_unknown",
            Self::CrossSite => "cross_site",
            Self::TokenMissing => "token_missing",
            Self::NoTokenConfigured => "token_not_configured",
            Self::WrongToken => "token_wrong",
            Self::TooManyFailures { .. } => "token_failures",
        }
    }

    pub(super) const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::HostUnknown { .. } => {
                Some("call it by a loopback name or its address, or add the name to `host_names`")
            }
            Self::TokenMissing => Some("send the header `authorization: Bearer TOKEN`"),
            Self::NoTokenConfigured => {
                Some("set `COGO_HOST_TOKEN` or `host_token_file` for the host, and restart it")
            }
            Self::HostMissing
            | Self::CrossSite
            | Self::WrongToken
            | Self::TooManyFailures { .. } => None,
        }
    }
}

/// The middleware around everything.
pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let path = shortened(request.uri().path());
    let asker = Asker::of(&request);
    let mut response = match admit(&shared, &request) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(denied) => {
            tracing::info!(http.path = %path, code = denied.code(), "refused {method} {path}: {denied}");
            ApiError::from(denied).into_response()
        }
    };
    response = asker.served(response);
    shared.answered.count(response.status());
    tracing::debug!(http.path = %path, http.status = response.status().as_u16(), "answered {method} {path}");
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

/// In what shape who asks can read an answer.
struct Asker {
    /// Reads pages, and asked for one.
    page: bool,
    /// Can ask a person for the token.
    browser: bool,
}

impl Asker {
    fn of(request: &Request) -> Self {
        let (method, headers) = (request.method(), request.headers());
        Self {
            page: pages::is_page(method, request.uri().path(), headers),
            browser: may_be_basic(method) && pages::wants_page(headers),
        }
    }

    fn served(&self, response: Response) -> Response {
        let status = response.status();
        let error = status.is_client_error() || status.is_server_error();
        let mut response = match error && self.page {
            true => pages::in_place_of(response),
            false => response,
        };
        if status == StatusCode::UNAUTHORIZED && self.browser {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, ASK_FOR_TOKEN);
        }
        response
    }
}

/// A browser sends what it was once told with everything that follows, whoever
/// caused it: good enough to look at things, not to change them.
fn may_be_basic(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

fn admit(shared: &Shared, request: &Request) -> Result<Actor, Denied> {
    let (headers, method) = (request.headers(), request.method());
    let host = only_host(headers)?;
    check_host(shared, &host)?;
    // The absolute form of a request names its host twice.
    if let Some(named) = request.uri().authority() {
        check_host(shared, named)?;
    }
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    let schemes = match may_be_basic(method) {
        true => Schemes::BearerOrBasic,
        false => Schemes::Bearer,
    };
    // What a browser was told once goes with requests of other sites, too.
    let unasked = schemes.present_basic(headers) && !is_link(request);
    if !reads || unasked {
        check_site(headers, &host)?;
    }
    let access = match (request.uri().path(), reads) {
        (LIVENESS, true) => Access::Liveness,
        (_, true) => Access::Read,
        (_, false) => Access::Write,
    };
    let connection = request.extensions().get::<Connection>();
    let peer = connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.peer.ip());
    let auth = &shared.api.auth;
    auth.admit(headers, schemes, access, peer, Instant::now())
}

/// Whether somebody followed a link to a page, from wherever: the page is all
/// they get, in a window of its own.
fn is_link(request: &Request) -> bool {
    let says = |name, value| request.headers().get(name).is_some_and(|v| v == value);
    pages::is_entrance(request.uri().path())
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}

fn only_host(headers: &HeaderMap) -> Result<Authority, Denied> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Denied::HostMissing);
    };
    Authority::try_from(host.as_bytes()).map_err(|_| Denied::HostMissing)
}

fn check_host(shared: &Shared, authority: &Authority) -> Result<(), Denied> {
    // `user@host` is no host.
    let plain = !authority.as_str().contains('@');
    if plain && shared.api.hosts.allow(authority.host()) {
        return Ok(());
    }
    Err(Denied::HostUnknown {
        host: shortened(authority.as_str()),
    })
}

/// Browsers say where a request comes from; programs say nothing.
fn check_site(headers: &HeaderMap, host: &Authority) -> Result<(), Denied> {
    let own = match (headers.get("sec-fetch-site"), headers.get(header::ORIGIN)) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) => origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, from)| from.eq_ignore_ascii_case(host.as_str())),
        (None, None) => true,
    };
    if own { Ok(()) } else { Err(Denied::CrossSite) }
}
