//! A wire to Postgres that breaks when told to.
//!
//! It forwards whole messages of the protocol, so that it can cut a connection
//! at the one moment that matters most: when a statement has been committed and
//! its answer has not arrived. Source: PostgreSQL documentation, "Message
//! Formats". Connections must not ask for TLS (`sslmode=disable`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};

/// How the wire behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Open,
    /// Nobody listens.
    Refusing,
    /// Takes everything and delivers nothing until it is open again.
    BlackHole,
    /// Delivers with a delay, each way.
    Slow(Duration),
}

/// What becomes of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its connection is cut before the server sees it.
    Lost,
    /// Its connection is cut once the server has committed it, and before the
    /// answer is delivered.
    AnswerLost,
    /// It and what follows on its connection stay on the way until released.
    Late,
}

/// A port that leads to a server, over a wire that a test holds in its hand.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Ends everything when dropped.
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    upstream: SocketAddr,
    wire: watch::Sender<Wire>,
    /// Connections made before this changed are cut.
    generation: watch::Sender<u64>,
    state: Mutex<State>,
    /// What is late may go on.
    released: Notify,
}

#[derive(Default)]
struct State {
    /// What becomes of the next statement that contains this text.
    armed: Option<(&'static str, Fate)>,
    /// How many statements met their fate.
    met: u32,
}

impl Proxy {
    /// Listens on a free port of loopback and leads to that of a server.
    pub fn start(server: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from(([127, 0, 0, 1], server)),
            wire: watch::Sender::new(Wire::Open),
            generation: watch::Sender::new(0),
            state: Mutex::default(),
            released: Notify::new(),
        });
        let _entered = runtime.enter();
        // Bound for good, and never listening: the port stays ours while
        // connections to it are refused.
        let keeper = socket(0);
        let port = keeper.local_addr().unwrap().port();
        runtime.spawn(serve(keeper, Arc::clone(&shared)));
        drop(_entered);
        Self {
            port,
            shared,
            _runtime: runtime,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the wire. One that refuses cuts what is connected, too.
    pub fn set(&self, wire: Wire) {
        self.shared.wire.send_replace(wire);
        if wire == Wire::Refusing {
            self.cut();
        }
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.shared.generation.send_modify(|now| *now += 1);
    }

    /// Decides what becomes of the next statement that contains `text`.
    pub fn doom(&self, text: &'static str, fate: Fate) {
        self.shared.state.lock().armed = Some((text, fate));
    }

    /// How many statements met their fate so far.
    pub fn met(&self) -> u32 {
        self.shared.state.lock().met
    }

    /// Delivers what is late.
    pub fn release(&self) {
        self.shared.released.notify_waiters();
    }
}

/// Bound to that port of loopback, 0 for a free one.
fn socket(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], port)))
        .unwrap();
    socket
}

async fn serve(keeper: TcpSocket, shared: Arc<Shared>) {
    let port = keeper.local_addr().unwrap().port();
    let mut wire = shared.wire.subscribe();
    loop {
        let open = wire.wait_for(|wire| *wire != Wire::Refusing).await.is_ok();
        if !open {
            return;
        }
        let listener = socket(port).listen(64).unwrap();
        tokio::select! {
            () = accept(&listener, &shared) => {}
            _ = wire.wait_for(|wire| *wire == Wire::Refusing) => {}
        }
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(relay(client, Arc::clone(shared)));
    }
}

/// One connection, until both sides have ended it or the test cuts it.
async fn relay(mut client: TcpStream, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    let mut wire = shared.wire.subscribe();
    if wire
        .wait_for(|wire| *wire != Wire::BlackHole)
        .await
        .is_err()
    {
        return;
    }
    let Ok(mut server) = TcpStream::connect(shared.upstream).await else {
        return;
    };
    let link = Link {
        shared: Arc::clone(&shared),
        swallow: Mutex::new(false),
        over: Notify::new(),
    };
    let was_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::join!(
                link.requests(from_client, to_server),
                link.answers(from_server, to_client),
            )
        };
        tokio::select! {
            _ = both => false,
            () = link.over.notified() => true,
            _ = generation.changed() => true,
        }
    };
    if was_cut {
        // A reset rather than an orderly end.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

struct Link {
    shared: Arc<Shared>,
    /// The answer under way is to be lost.
    swallow: Mutex<bool>,
    /// The connection is to be cut.
    over: Notify,
}

impl Link {
    async fn requests(&self, from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        // The end of what one side says is told to the other.
        let _ = self.forward_requests(BufReader::new(from), &mut to).await;
        let _ = to.shutdown().await;
    }

    async fn answers(&self, from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let _ = self.forward_answers(BufReader::new(from), &mut to).await;
        let _ = to.shutdown().await;
    }

    async fn forward_requests(
        &self,
        mut from: BufReader<ReadHalf<'_>>,
        to: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
        // The first message has no tag.
        let length = from.read_u32().await?;
        let mut first = length.to_be_bytes().to_vec();
        read_rest(&mut from, length, &mut first).await?;
        to.write_all(&first).await?;
        loop {
            self.dawdle(&mut from).await?;
            let (tag, message) = read_message(&mut from).await?;
            let sql = statement(tag, &message, &mut prepared);
            match sql.and_then(|sql| self.fate(sql)) {
                None => {}
                Some(Fate::AnswerLost) => *self.swallow.lock() = true,
                Some(Fate::Late) => {
                    let released = self.shared.released.notified();
                    self.meet();
                    released.await;
                }
                Some(Fate::Lost) => {
                    self.meet();
                    self.over.notify_one();
                    return std::future::pending().await;
                }
            }
            self.pass().await;
            to.write_all(&message).await?;
        }
    }

    async fn forward_answers(
        &self,
        mut from: BufReader<ReadHalf<'_>>,
        to: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        loop {
            self.dawdle(&mut from).await?;
            let (tag, message) = read_message(&mut from).await?;
            self.pass().await;
            if !*self.swallow.lock() {
                to.write_all(&message).await?;
            } else if tag == b'Z' {
                // Ready for the next: what came before is committed.
                self.meet();
                self.over.notify_one();
                return std::future::pending().await;
            }
        }
    }

    fn fate(&self, sql: &str) -> Option<Fate> {
        let mut state = self.shared.state.lock();
        let doomed = state.armed.filter(|(text, _)| sql.contains(text));
        if doomed.is_some() {
            state.armed = None;
        }
        doomed.map(|(_, fate)| fate)
    }

    fn meet(&self) {
        self.shared.state.lock().met += 1;
    }

    /// Waits for as long as the wire is a black hole.
    async fn pass(&self) {
        let mut wire = self.shared.wire.subscribe();
        let _ = wire.wait_for(|wire| *wire != Wire::BlackHole).await;
    }

    /// Waits before what arrives anew, where the wire is slow.
    async fn dawdle(&self, from: &mut BufReader<ReadHalf<'_>>) -> io::Result<()> {
        if from.buffer().is_empty() {
            from.get_ref().readable().await?;
            let wire = *self.shared.wire.borrow();
            if let Wire::Slow(delay) = wire {
                tokio::time::sleep(delay).await;
            }
        }
        Ok(())
    }
}

/// A message with its tag and length in front, as it is sent.
async fn read_message(from: &mut BufReader<ReadHalf<'_>>) -> io::Result<(u8, Vec<u8>)> {
    let tag = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut message = vec![tag];
    message.extend(length.to_be_bytes());
    read_rest(from, length, &mut message).await?;
    Ok((tag, message))
}

/// The length counts itself.
async fn read_rest(
    from: &mut BufReader<ReadHalf<'_>>,
    length: u32,
    message: &mut Vec<u8>,
) -> io::Result<()> {
    let start = message.len();
    let body = usize::try_from(length).unwrap().saturating_sub(4);
    message.resize(start + body, 0);
    from.read_exact(&mut message[start..]).await?;
    Ok(())
}

/// The statement that a message has the server execute, if it does.
fn statement<'a>(
    tag: u8,
    message: &'a [u8],
    prepared: &'a mut HashMap<Vec<u8>, String>,
) -> Option<&'a str> {
    let mut texts = message[5..].split(|byte| *byte == 0);
    match tag {
        // A simple query.
        b'Q' => std::str::from_utf8(texts.next()?).ok(),
        // Parse: the statement's name, then its text.
        b'P' => {
            let name = texts.next()?.to_vec();
            let sql = String::from_utf8_lossy(texts.next()?).into_owned();
            prepared.insert(name, sql);
            None
        }
        // Bind: the portal's name, then the statement's.
        b'B' => prepared.get(texts.nth(1)?).map(String::as_str),
        _ => None,
    }
}
