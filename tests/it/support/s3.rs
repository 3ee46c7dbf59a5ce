//! A small store that speaks as much of S3 as the host does, in memory: objects
//! are put and fetched by path, and only with a signature that is genuine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use super::process::Installation;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const KEY_ID: &str = "AKIDTEST";
const SECRET: &str = "secret";
const REGION: &str = "eu-test-1";

/// A running store.
pub struct S3 {
    pub endpoint: String,
    shelf: Arc<Mutex<Shelf>>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Shelf {
    objects: BTreeMap<String, Bytes>,
    /// Objects that were fetched by a signed link.
    linked: Vec<String>,
    /// Takes nothing now.
    refuses: bool,
    refused: usize,
}

impl S3 {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shelf));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            endpoint,
            shelf,
            runtime: Some(runtime),
        }
    }

    /// The paths of all objects, with their bucket.
    pub fn paths(&self) -> Vec<String> {
        self.shelf.lock().unwrap().objects.keys().cloned().collect()
    }

    /// The objects that were fetched by a signed link.
    pub fn linked(&self) -> Vec<String> {
        self.shelf.lock().unwrap().linked.clone()
    }

    /// An installation that keeps its artifacts here.
    pub fn keep_artifacts_of(&self, here: Installation) -> Installation {
        here.with("ARTIFACTS_BASE", "s3://artifacts/staging/cogo/")
            .with("ARTIFACTS_LINKS", "signed")
            .with("AWS_ACCESS_KEY_ID", KEY_ID)
            .with("AWS_SECRET_ACCESS_KEY", SECRET)
            .with("AWS_REGION", REGION)
            .with("AWS_ENDPOINT_URL", &self.endpoint)
    }

    /// Takes no object as long as this is so.
    pub fn refuse(&self, refuses: bool) {
        self.shelf.lock().unwrap().refuses = refuses;
    }

    /// How often an object was not taken.
    pub fn refused(&self) -> usize {
        self.shelf.lock().unwrap().refused
    }

    /// Replaces an object, or takes it away.
    pub fn tamper(&self, path: &str, to: Option<&str>) {
        let objects = &mut self.shelf.lock().unwrap().objects;
        match to {
            Some(text) => objects.insert(path.to_owned(), Bytes::from(text.to_owned())),
            None => objects.remove(path),
        };
    }

    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a request carries its signature.
#[derive(PartialEq)]
enum Signed {
    Header,
    Link,
}

/// What a request says of its signature, in AWS Signature Version 4.
struct Claimed {
    signed: Signed,
    date: String,
    /// The key's id, and what it is for.
    credential: String,
    headers: String,
    signature: String,
}

impl Claimed {
    fn read(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let query = uri.query().unwrap_or_default();
        let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
        if let Some(signature) = query.get("X-Amz-Signature") {
            let field = |name: &str| query.get(name).map(ToString::to_string);
            let algorithm = field("X-Amz-Algorithm")?;
            let claimed = Self {
                signed: Signed::Link,
                date: field("X-Amz-Date")?,
                credential: field("X-Amz-Credential")?,
                headers: field("X-Amz-SignedHeaders")?,
                signature: signature.to_string(),
            };
            let is_whole = algorithm == ALGORITHM && field("X-Amz-Expires")? == "86400";
            return is_whole.then_some(claimed);
        }
        let said = text(headers, header::AUTHORIZATION.as_str())?;
        let said = said.strip_prefix(ALGORITHM)?;
        let field = |name: &str| {
            let mut fields = said
                .split(',')
                .filter_map(|field| field.trim().split_once('='));
            fields.find_map(|(n, value)| (n == name).then(|| value.to_owned()))
        };
        Some(Self {
            signed: Signed::Header,
            date: text(headers, "x-amz-date")?.to_owned(),
            credential: field("Credential")?,
            headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }

    /// The request in the form that is signed.
    fn canonical(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let mut query: Vec<&str> = uri.query().unwrap_or_default().split('&').collect();
        query.retain(|pair| !pair.starts_with("X-Amz-Signature="));
        query.sort_unstable();
        let mut signed = String::new();
        for name in self.headers.split(';') {
            signed += &format!("{name}:{}\n", text(headers, name)?.trim());
        }
        let payload = match self.signed {
            Signed::Header => text(headers, "x-amz-content-sha256")?,
            Signed::Link => "UNSIGNED-PAYLOAD",
        };
        let (path, query, names) = (uri.path(), query.join("&"), &self.headers);
        Some(format!(
            "{method}\n{path}\n{query}\n{signed}\n{names}\n{payload}"
        ))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// How a request is signed, if it is by whom the store knows and as it stands.
fn signed(method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Option<Signed> {
    let claimed = Claimed::read(uri, headers)?;
    let day = claimed.date.get(..8)?;
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let canonical = claimed.canonical(method, uri, headers)?;
    let digest = hex::encode(Sha256::digest(canonical));
    let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{digest}", claimed.date);
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET}").into_bytes(), |key, part| {
            hmac(&key, part)
        });
    let body = hex::encode(Sha256::digest(body));
    let is_whole = claimed.signed == Signed::Link
        || text(headers, "x-amz-content-sha256") == Some(body.as_str());
    let genuine = claimed.credential == format!("{KEY_ID}/{scope}")
        && claimed.headers.split(';').any(|name| name == "host")
        && claimed.signature == hex::encode(hmac(&key, &to_sign))
        && is_whole;
    genuine.then_some(claimed.signed)
}

async fn answer(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(signed) = signed(&method, &uri, &headers, &body) else {
        return (
            StatusCode::FORBIDDEN,
            "<Error><Code>AccessDenied</Code></Error>",
        )
            .into_response();
    };
    let path = uri.path().trim_start_matches('/').to_owned();
    let mut shelf = shelf.lock().unwrap();
    let tag = |body: &Bytes| format!("\"{}\"", hex::encode(Sha256::digest(body)));
    match method {
        Method::PUT if shelf.refuses => {
            shelf.refused += 1;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Method::PUT => {
            let tag = tag(&body);
            shelf.objects.insert(path, body);
            ([(header::ETAG, tag)], ()).into_response()
        }
        Method::GET => {
            if matches!(signed, Signed::Link) {
                shelf.linked.push(path.clone());
            }
            match shelf.objects.get(&path) {
                Some(body) => {
                    let modified = "Mon, 23 Nov 2026 09:00:00 GMT".to_owned();
                    let about = [(header::ETAG, tag(body)), (header::LAST_MODIFIED, modified)];
                    (about, body.clone()).into_response()
                }
                None => {
                    let error = "<Error><Code>NoSuchKey</Code></Error>";
                    (StatusCode::NOT_FOUND, error).into_response()
                }
            }
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}
