//! The API of a running host, as the commands use it.
//!
//! Reads nothing from the database; answers are the API's own JSON.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::output::{Exit, Failure, Outcome};
use crate::config::Secret;

/// A host's API.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: Option<Secret>,
    http: reqwest::Client,
}

impl Client {
    /// A client for the API at `base`, such as `http://127.0.0.1:7171`.
    pub fn new(base: &str, token: Option<Secret>) -> Outcome<Self> {
        // The process's choice of cryptography; whoever is first, makes it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(anyhow::Error::new)?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            token,
            http,
        })
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.send(self.http.get(self.url(path))).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Outcome<T> {
        self.send(self.http.post(self.url(path)).json(body)).await
    }

    /// Posts bytes of another kind than JSON.
    pub async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Outcome<T> {
        let request = self.http.post(self.url(path));
        self.send(request.header("content-type", kind).body(body))
            .await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Outcome<T> {
        self.send(self.http.put(self.url(path)).json(body)).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Outcome<T> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        let unreachable = |error: reqwest::Error| {
            let error = anyhow::Error::new(error)
                .context(format!("the host at {} does not answer", self.base));
            Failure::new(Exit::Unavailable, "host_unreachable", error)
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let error = anyhow::Error::new(error).context("the host's answer makes no sense");
                Failure::new(Exit::Internal, "bad_answer", error)
            });
        }
        Err(refusal(status.as_u16(), &body))
    }
}

/// The host's refusal in the host's own words.
fn refusal(status: u16, body: &[u8]) -> Failure {
    let exit = match status {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        429 | 503 => Exit::Unavailable,
        400..=499 => Exit::Usage,
        _ => Exit::Internal,
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = |field: &str| {
        body.pointer(&format!("/error/{field}"))
            .and_then(Value::as_str)
    };
    let message = error("message").map_or_else(|| format!("HTTP {status}"), str::to_owned);
    let failure = Failure::message(exit, error("code").unwrap_or("host_refused"), message);
    match error("hint") {
        Some(hint) => failure.hint(hint),
        None if exit == Exit::Denied => failure.hint("set COGO_HOST_TOKEN to a token of the host"),
        None => failure,
    }
}
