//! Servers on the loopback that answer as badly as they are told to.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a server does with a connection once the request has arrived.
#[derive(Clone)]
pub enum Answer {
    /// Sends this and closes.
    Raw(Vec<u8>),
    /// Sends this, and then nothing more, for ever.
    Stall(Vec<u8>),
    /// A head that announces nothing, then zeros without end.
    Endless,
}

impl Answer {
    pub fn ok(body: &str) -> Self {
        Self::Raw(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }
}

/// A server that runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    /// The requests that arrived, heads and bodies, as they came.
    pub requests: Arc<Mutex<Vec<String>>>,
    /// How many connections ended: the other side closed, or all was sent.
    pub ended: watch::Receiver<usize>,
    pub arrived: watch::Receiver<usize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (count_ended, ended) = watch::channel(0);
        let (count_arrived, arrived) = watch::channel(0);
        let seen = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (answer.clone(), Arc::clone(&seen));
                let (arrived, ended) = (count_arrived.clone(), count_ended.clone());
                tokio::spawn(async move {
                    serve(stream, answer, &seen, &arrived).await;
                    ended.send_modify(|ended| *ended += 1);
                });
            }
        });
        Self {
            address,
            requests,
            ended,
            arrived,
            accepting,
        }
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Answer,
    seen: &Mutex<Vec<String>>,
    arrived: &watch::Sender<usize>,
) {
    let Some(request) = read_request(&mut stream).await else {
        return;
    };
    seen.lock().push(request);
    arrived.send_modify(|arrived| *arrived += 1);
    match answer {
        Answer::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Stall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            // Until the other side gives up.
            let mut rest = [0; 64];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        }
        Answer::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            let mut sent = stream.write_all(head).await;
            while sent.is_ok() {
                sent = stream.write_all(&[0; 16 * 1024]).await;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0_usize);
            if body.len() >= length {
                return Some(text);
            }
        }
    }
}
