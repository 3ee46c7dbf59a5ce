//! A small store that speaks as much of S3 as the host does, in memory: objects
//! are put and fetched by path, and only with a signature.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

pub const KEY_ID: &str = "AKIDTEST";
pub const REGION: &str = "eu-test-1";

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

/// How a request says who sends it; none where it does not.
enum Signed {
    Header,
    Link,
}

fn signed(uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Option<Signed> {
    let scope = format!("{REGION}/s3/aws4_request");
    let query = uri.query().unwrap_or_default();
    let linked = query.contains(&format!("X-Amz-Credential={KEY_ID}%2F"))
        && query.contains(&scope.replace('/', "%2F"))
        && query.contains("X-Amz-Expires=86400")
        && query.contains("X-Amz-Signature=");
    if linked {
        return Some(Signed::Link);
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text(header::AUTHORIZATION.as_str())?;
    let (_, signature) = authorization.rsplit_once("Signature=")?;
    let genuine = authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/"))
        && authorization.contains(&scope)
        && signature.len() == 64
        && text("x-amz-content-sha256") == Some(&hex::encode(Sha256::digest(body)));
    genuine.then_some(Signed::Header)
}

async fn answer(
    State(shelf): State<Arc<Mutex<Shelf>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(signed) = signed(&uri, &headers, &body) else {
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
