//! A running API, and two clients: one that behaves, and one that sends
//! whatever bytes a test wants.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cogo_host::api::{self, Api, Auth, HostNames, Tokens};
use cogo_host::artifacts::directory::Directory;
use cogo_host::artifacts::published::{Contents, PublishedArtifacts};
use cogo_host::bus::{self, BusHandle, BusSettings};
use cogo_host::gate::Thresholds;
use cogo_host::ids::{HolderId, MessageId};
use cogo_host::retry::RetryPolicy;
use cogo_host::stage::Stage;
use cogo_host::store::{OpenMode, Retention, SqliteStore, Store};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::described;
use super::host::{Desk, Facts, Obedient, OnePlugin, Operator};

pub const TOKEN: &str = "a-token-of-some-length";
/// No test takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the API under test is set up.
pub struct Setup {
    pub stage: Stage,
    /// What it would listen on; the tests always come over loopback.
    pub bind: IpAddr,
    pub writes_need_token: bool,
    pub tokens: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            stage: Stage::Development,
            bind: IpAddr::from([127, 0, 0, 1]),
            writes_need_token: false,
            tokens: String::new(),
        }
    }
}

pub struct TestApi {
    pub address: SocketAddr,
    pub store: Arc<dyn Store>,
    pub bus: BusHandle,
    pub facts: Arc<Facts>,
    pub operator: Arc<Operator>,
    pub shutdown: CancellationToken,
    pub served: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
    hanging: Mutex<mpsc::UnboundedReceiver<MessageId>>,
    client: reqwest::Client,
    directory: tempfile::TempDir,
}

impl Drop for TestApi {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.bus.drain();
    }
}

impl TestApi {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bus.db");
        let store = SqliteStore::open(&file, OpenMode::Create).await.unwrap();
        store.migrate(false).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let artifacts = PublishedArtifacts::new(
            Contents::Directory(Directory::new(directory.path().join("artifacts"))),
            &format!("http://{address}/artifacts"),
            Arc::clone(&store),
        );
        let (hanging_tx, hanging) = mpsc::unbounded_channel();
        let executor = Obedient {
            artifacts: artifacts.clone(),
            hanging: hanging_tx,
        };
        let holder = HolderId::generate("test-host");
        let bus = bus::start(
            Arc::clone(&store),
            Arc::new(executor),
            Arc::new(OnePlugin),
            holder,
            settings(setup.stage),
        )
        .unwrap();
        let facts = Facts::new(setup.stage);
        let operator = Arc::new(Operator::default());
        let tokens = Tokens::parse(&setup.tokens).unwrap();
        let router = api::router(Api {
            store: Arc::clone(&store),
            artifacts,
            bus: bus.clone(),
            facts: facts.clone(),
            plugins: operator.clone(),
            routes: Arc::new(Desk),
            pipelines: Arc::default(),
            thresholds: Thresholds::default(),
            window_min: 60,
            auth: Auth::for_bind(setup.bind, setup.writes_need_token, tokens).unwrap(),
            hosts: HostNames::new(setup.bind, ["bus.example".to_owned()]),
        });
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(api::serve(listener, router, shutdown.clone()));
        Self {
            address,
            store,
            bus,
            facts,
            operator,
            shutdown,
            served: Mutex::new(Some(served)),
            hanging: Mutex::new(hanging),
            client: client(),
            directory,
        }
    }

    pub fn artifacts_root(&self) -> PathBuf {
        self.directory.path().join("artifacts")
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// A POST with nothing in it.
    pub async fn order(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path)).await
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let sent = request.body().and_then(|body| body.as_bytes());
        let sent = sent.map(<[u8]>::to_vec);
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        let answer = Answer {
            status,
            headers,
            body: body.to_vec(),
        };
        described::check(&method, &path, sent.as_deref(), &answer);
        answer
    }

    /// Submits a build-test and gives its id.
    pub async fn submit(&self, task: Value) -> String {
        let mut body = json!({ "service": "code", "role": "build-test" });
        let fields = task.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let answer = self.post("/api/tasks", &body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits for an attempt of this task that hangs.
    pub async fn hangs(&self, id: &str) {
        let hung = tokio::time::timeout(PATIENCE, self.hanging.lock().await.recv()).await;
        assert_eq!(hung.unwrap().unwrap().to_string(), id);
    }

    /// Follows the events from the first one on until one is of this type.
    pub async fn until(&self, trace: &str, event_type: &str) -> Value {
        let path = format!("/api/events?after=0&trace={trace}&type={event_type}");
        self.follow(self.request(Method::GET, &path))
            .await
            .next()
            .await
    }

    pub async fn follow(&self, request: RequestBuilder) -> Following {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Following {
            chunks: response.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    /// Sends a request byte by byte as given and reads until the host closes.
    pub async fn raw(&self, request: &[u8]) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            // A host that refuses a body may reset what it did not read.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        Answer::parse(&answer)
    }

    /// A request with this target and these header lines, as they are.
    pub async fn raw_head(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.raw(head.as_bytes()).await
    }
}

fn client() -> reqwest::Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    client.build().unwrap()
}

fn settings(stage: Stage) -> BusSettings {
    BusSettings {
        stage,
        concurrency: 4,
        lease: Duration::from_secs(30),
        // Too long to wait for: what runs was woken.
        poll: Duration::from_secs(600),
        retry: RetryPolicy::DEFAULT,
        drain: Duration::from_secs(5),
        stop_grace: Duration::from_secs(2),
        retention: Retention {
            tasks: None,
            events: None,
            batch: 100,
        },
        until_idle: false,
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            (name, value.trim().parse().unwrap())
        });
        Self {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error, whose shape is checked by the way.
    pub fn code(&self) -> String {
        let body = self.json();
        let error = body["error"].as_object().unwrap();
        let known = ["code", "message", "hint"];
        assert!(error.keys().all(|key| known.contains(&&**key)), "{body}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{body}");
        assert_eq!(self.header("content-type"), "application/json");
        error["code"].as_str().unwrap().to_owned()
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    pub fn hint(&self) -> String {
        let body = self.json();
        body["error"]["hint"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Server-sent events as they come.
pub struct Following {
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Following {
    /// The next event's data; comments and the like are skipped.
    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("the stream ended")
    }

    /// `None` once the host has ended the stream in order.
    pub async fn try_next(&mut self) -> Option<Value> {
        loop {
            while let Some((message, rest)) = self.text.split_once("\n\n") {
                let data = message.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if data.is_some() {
                    return data;
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.chunks.next()).await;
            let chunk = chunk.expect("nothing came")?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
