//! Sends the requests of guests: `wasi:http/outgoing-handler` over `reqwest`.
//!
//! A request is judged by the [`Policy`] before anything is sent, its addresses
//! again when its name was resolved, and the connection goes to an address that
//! was judged. No proxy of the environment, no redirects, no decompression, no
//! cookies. It runs on the runtime for input and output and is aborted when the
//! guest lets go of it. What is refused reaches the guest as an error, and the
//! attempt's log as the grant to paste.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use uuid::Uuid;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::attempt::{Denial, InShadow, LogLevel, SideEffects};
use crate::ids::{PluginName, TraceId};
use crate::plugin::egress::{Allowed, Origin, Policy};
use crate::plugin::journal::{Fields, Journal, OpenSpan};
use crate::plugin::limits::OutboundLimits;

mod body;
mod client;
mod cure;
mod failure;
mod mock;

use client::Clients;
use mock::Arriving;
pub use mock::{HttpMock, InvalidMock, SeenRequest};

/// Requests of all plugins at the same time.
const HOST_CONCURRENCY: usize = 64;
/// Requests of all shadows at the same time, beside those.
const SHADOW_CONCURRENCY: usize = 16;

const USER_AGENT: &str = concat!("cogo-host/", env!("CARGO_PKG_VERSION"));

const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Names the shadow that a request belongs to, where it does.
const X_COGO_SHADOW: HeaderName = HeaderName::from_static("x-cogo-shadow");

/// Headers that speak of one connection, of the body's framing, or that the
/// host sets itself.
const NOT_FORWARDED: [HeaderName; 16] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    X_TRACE_ID,
    TRACEPARENT,
    TRACESTATE,
    X_COGO_SHADOW,
];

/// What all plugins of the process share for their requests.
#[derive(Debug, Clone)]
pub struct OutboundPermits {
    attempts: Arc<Semaphore>,
    /// A shadow never keeps an attempt waiting.
    shadows: Arc<Semaphore>,
}

impl Default for OutboundPermits {
    fn default() -> Self {
        Self {
            attempts: Arc::new(Semaphore::new(HOST_CONCURRENCY)),
            shadows: Arc::new(Semaphore::new(SHADOW_CONCURRENCY)),
        }
    }
}

/// Where a plugin's requests go.
#[derive(Debug, Clone, Default)]
pub enum Wire {
    #[default]
    Network,
    /// Nowhere: the operator's grants do not matter, the plugin's own list does.
    Mock(Arc<HttpMock>),
}

/// Where a missing grant is to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GrantsFrom {
    #[default]
    Configuration,
    CommandLine,
}

/// The way out for one plugin: its policy, its permits, its connections.
pub(crate) struct Outlet {
    plugin: PluginName,
    policy: Policy,
    wire: Wire,
    grants_from: GrantsFrom,
    limits: OutboundLimits,
    permits: Arc<Semaphore>,
    host: OutboundPermits,
    clients: Clients,
}

impl Outlet {
    pub(crate) fn new(
        plugin: PluginName,
        policy: Policy,
        (wire, grants_from): (Wire, GrantsFrom),
        limits: OutboundLimits,
        host: &OutboundPermits,
    ) -> Self {
        Self {
            plugin,
            policy,
            wire,
            grants_from,
            permits: Arc::new(Semaphore::new(limits.concurrency)),
            host: host.clone(),
            clients: Clients::new(limits.clone()),
            limits,
        }
    }

    async fn permits(&self, shadow: bool) -> Result<Vec<OwnedSemaphorePermit>, Error> {
        // The plugin's first: one that floods must not hold the host's.
        let pools = match shadow {
            true => vec![&self.host.shadows],
            false => vec![&self.permits, &self.host.attempts],
        };
        let mut permits = Vec::with_capacity(pools.len());
        for pool in pools {
            let permit = Arc::clone(pool).acquire_owned().await;
            permits.push(permit.map_err(|_| Error::ConnectionLimitReached)?);
        }
        Ok(permits)
    }
}

/// Sends the requests of one attempt.
pub(crate) struct Hooks {
    way: Option<Way>,
}

/// What an attempt needs to send requests; a plugin that is only described has
/// none.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) io: Handle,
    pub(crate) trace_id: TraceId,
    /// Set where the attempt is a shadow.
    pub(crate) shadow: Option<InShadow>,
}

impl Hooks {
    pub(crate) const fn new(way: Way) -> Self {
        Self { way: Some(way) }
    }

    pub(crate) const fn closed() -> Self {
        Self { way: None }
    }
}

type Response = http::Response<WasiBody>;
type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response, Done), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    /// `reqwest` sets it from the URL; one more would be two.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Done,
    ) -> Sending {
        let Some(way) = self.way.clone() else {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        let options = options.unwrap_or_default();
        // Judged here, on the guest's own time: a flood of refused requests
        // costs the host nothing.
        match way.admit(&request) {
            Err(error) => Box::new(async move { Err(error) }),
            Ok(admitted) => Box::new(async move {
                let io = way.io.clone();
                let sending = io.spawn(way.send(admitted, request, options));
                match AbortOnDropHandle::new(sending).await {
                    Ok(Ok(response)) => Ok((response, Box::new(async { Ok(()) }) as Done)),
                    Ok(Err(error)) => Err(error),
                    Err(cause) => Err(Error::InternalError(Some(cause.to_string()))),
                }
            }),
        }
    }
}

/// A request that may go out.
struct Admitted {
    url: Url,
    allowed: Allowed,
    span: OpenSpan,
}

impl Way {
    /// Counts and judges a request, and opens its span.
    fn admit(&self, request: &http::Request<WasiBody>) -> Result<Admitted, Error> {
        let limits = &self.outlet.limits;
        let url =
            Url::parse(&request.uri().to_string()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let span = self.open_span(request.method(), &url);
        let refuse = |denial: Denial, error: Error, say: &str| {
            self.journal.count_denied(denial);
            let fields = Fields::from([("error".to_owned(), say.to_owned())]);
            self.journal.close(span, fields);
            Err(error)
        };
        if !self.journal.count_request(limits.requests) {
            let say = format!("an attempt may send {} requests", limits.requests);
            return refuse(Denial::TooMany, Error::ConnectionLimitReached, &say);
        }
        if request.headers().len() > limits.headers {
            let say = format!("a request may have {} headers", limits.headers);
            let error = Error::HttpRequestHeaderSectionSize(None);
            return refuse(Denial::TooManyHeaders, error, &say);
        }
        if self.is_refused_effect(request.method()) {
            let say = "it would have an effect, and this is a shadow without side effects";
            self.journal
                .note(LogLevel::Info, format!("request refused: {say}"));
            return refuse(Denial::SideEffect, Error::HttpRequestDenied, say);
        }
        match self.outlet.policy.judge(&url) {
            Ok(allowed) => Ok(Admitted { url, allowed, span }),
            Err(refusal) => {
                let cure = cure::of(&refusal, &self.outlet);
                let say = format!("request refused: {refusal}\n{cure}");
                self.journal.note(LogLevel::Warn, say);
                refuse(
                    refusal.denial(),
                    Error::HttpRequestDenied,
                    &refusal.to_string(),
                )
            }
        }
    }

    /// Whether a request would change something where nothing must be changed.
    fn is_refused_effect(&self, method: &http::Method) -> bool {
        let terms = self.shadow.as_ref().map(|shadow| shadow.side_effects);
        let reads = matches!(*method, http::Method::GET | http::Method::HEAD);
        terms == Some(SideEffects::Refuse) && !reads
    }

    /// Names the origin and the path: a query may hold secrets, and a path is
    /// cut where it is long.
    fn open_span(&self, method: &http::Method, url: &Url) -> OpenSpan {
        let origin = Origin::of(url).map_or_else(|_| "?".to_owned(), |origin| origin.to_string());
        let path: String = url.path().chars().take(200).collect();
        let fields = Fields::from([
            (
                "method".to_owned(),
                method.as_str().chars().take(20).collect(),
            ),
            ("url".to_owned(), format!("{origin}{path}")),
        ]);
        self.journal.open("http", fields)
    }

    async fn send(
        self,
        admitted: Admitted,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response, Error> {
        let span = admitted.span;
        let sent = self.exchange(admitted, request, options).await;
        if let Err(error) = &sent {
            let fields = Fields::from([("error".to_owned(), error.to_string())]);
            self.journal.close(span, fields);
        }
        sent
    }

    async fn exchange(
        &self,
        admitted: Admitted,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response, Error> {
        let limits = &self.outlet.limits;
        let (parts, body) = request.into_parts();
        let body = buffered(body, limits.request_body_bytes).await?;
        if let Wire::Mock(mock) = &self.outlet.wire {
            return self.mocked(mock, &admitted, &parts, &body, options).await;
        }
        let permits = self.outlet.permits(self.shadow.is_some()).await?;

        let mut outgoing = reqwest::Request::new(parts.method.clone(), admitted.url);
        *outgoing.headers_mut() = self.headers(parts.headers);
        if !body.is_empty() || carries_body(&parts.method) {
            *outgoing.body_mut() = Some(body.into());
        }
        let client = self.outlet.clients.get(admitted.allowed)?;
        let answer = match options.first_byte_timeout {
            Some(limit) => tokio::time::timeout(limit, client.execute(outgoing))
                .await
                .map_err(|_| Error::HttpResponseTimeout)?,
            // The attempt's deadline ends it: a build-test takes its time.
            None => client.execute(outgoing).await,
        };
        let answer = answer.map_err(|cause| self.failed(&cause))?;
        self.journal.annotate(
            admitted.span,
            "status",
            answer.status().as_u16().to_string(),
        );
        self.receive(answer, admitted.span, permits, options)
    }

    /// The answer of a mock, under the limits of a real one.
    async fn mocked(
        &self,
        mock: &HttpMock,
        admitted: &Admitted,
        parts: &http::request::Parts,
        body: &[u8],
        options: RequestOptions,
    ) -> Result<Response, Error> {
        let mut headers = parts.headers.clone();
        for name in NOT_FORWARDED {
            headers.remove(name);
        }
        let arriving = Arriving {
            method: &parts.method,
            url: &admitted.url,
            headers: &headers,
            body,
        };
        let rule = arriving.rule_to_add();
        let Some(given) = mock.answer(arriving) else {
            let refused = format!(
                "request refused: no rule of the HTTP mock is for {} {}\nto answer it, add {rule}",
                parts.method, admitted.url
            );
            self.journal.note(LogLevel::Warn, refused);
            return Err(Error::HttpRequestDenied);
        };
        match options.first_byte_timeout {
            Some(limit) if limit < given.delay => {
                tokio::time::sleep(limit).await;
                return Err(Error::HttpResponseTimeout);
            }
            _ => tokio::time::sleep(given.delay).await,
        }
        let answer = given.answer?;
        let bytes = answer.body().len();
        if bytes > self.outlet.limits.response_body_bytes {
            return Err(Error::HttpResponseBodySize(u64::try_from(bytes).ok()));
        }
        let status = answer.status().as_u16().to_string();
        let fields = [("status", status), ("bytes", bytes.to_string())];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        self.journal.close(admitted.span, Fields::from(fields));
        Ok(answer.map(|body| {
            Full::new(body)
                .map_err(|never| match never {})
                .boxed_unsync()
        }))
    }

    fn receive(
        &self,
        answer: reqwest::Response,
        span: OpenSpan,
        permits: Vec<OwnedSemaphorePermit>,
        options: RequestOptions,
    ) -> Result<Response, Error> {
        let limits = &self.outlet.limits;
        let size: usize = answer
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if answer.headers().len() > limits.headers || size > limits.header_bytes {
            let size = u32::try_from(size).ok();
            return Err(Error::HttpResponseHeaderSectionSize(size));
        }
        let announced = answer.content_length();
        let max = limits.response_body_bytes as u64;
        if announced.is_some_and(|bytes| bytes > max) {
            return Err(Error::HttpResponseBodySize(announced));
        }
        let between = options
            .between_bytes_timeout
            .unwrap_or(limits.between_bytes);
        let answer: http::Response<reqwest::Body> = answer.into();
        let (mut parts, body) = answer.into_parts();
        for name in [
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ] {
            parts.headers.remove(name);
        }
        let body = body::Limited::new(
            body,
            max,
            between,
            permits,
            (Arc::clone(&self.journal), span),
        );
        Ok(http::Response::from_parts(parts, body.boxed_unsync()))
    }

    /// What the guest set, without what is the host's to say.
    fn headers(&self, mut headers: HeaderMap) -> HeaderMap {
        for name in NOT_FORWARDED {
            headers.remove(name);
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT));
        // Visible ASCII by construction of a trace id.
        if let Ok(value) = HeaderValue::from_str(self.trace_id.as_str()) {
            headers.insert(X_TRACE_ID, value);
        }
        let shadow = self.shadow.as_ref().map(|shadow| shadow.id.as_str());
        if let Some(Ok(value)) = shadow.map(HeaderValue::from_str) {
            headers.insert(X_COGO_SHADOW, value);
        }
        // W3C Trace Context, section 3.2: version, trace, parent, sampled. A new
        // parent for each request.
        let parent = Uuid::new_v4().as_simple().to_string();
        let parent = parent.get(..16).unwrap_or("0000000000000001");
        if let Ok(value) = HeaderValue::from_str(&format!("00-{}-{parent}-01", self.trace_id.w3c()))
        {
            headers.insert(TRACEPARENT, value);
        }
        headers
    }

    /// Sorts a failure for the guest, and tells the log what a guest cannot see.
    fn failed(&self, cause: &reqwest::Error) -> Error {
        if let Some(refused) = failure::address_refused(cause) {
            self.journal.count_denied(refused.denial());
            self.journal
                .note(LogLevel::Warn, format!("request refused: {refused}"));
            return Error::DestinationIpProhibited;
        }
        failure::classify(cause)
    }
}

/// Methods whose requests say that they carry nothing.
fn carries_body(method: &http::Method) -> bool {
    matches!(
        *method,
        http::Method::POST | http::Method::PUT | http::Method::PATCH
    )
}

/// Collects a request's body, so that it goes out with its length and nothing is
/// half sent when the guest dies.
async fn buffered(body: WasiBody, max: usize) -> Result<Bytes, Error> {
    let mut body = body;
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if collected.len() + data.len() > max {
                return Err(Error::HttpRequestBodySize(u64::try_from(max).ok()));
            }
            collected.extend_from_slice(&data);
        }
    }
    Ok(collected.into())
}
