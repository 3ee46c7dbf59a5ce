//! Hints that something may be due: `LISTEN` and `NOTIFY`.
//!
//! A hint is never more than one: it may come for nothing, and a lost one costs
//! a poll. Hosts that have nothing to do say so in `executor_waiters`, and an
//! insert notifies only while one of them does and no other insert is about to,
//! because commits that notify queue for one lock. For a single task it names the
//! host that shall go first. All look a moment later: the one that was named may
//! be full or gone, and an insert that kept silent commits at about that time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::Connections;
use super::{ANSWER_TIMEOUT, PostgresStore, Step};
use crate::ids::HolderId;

const CHANNEL: &str = "cogo_bus";
/// How long a host counts as waiting once it has said so.
const ANNOUNCED: Duration = Duration::from_secs(4);
/// When it says so again.
const RENEW_AFTER: Duration = Duration::from_secs(2);
/// How far a look stays behind a hint: some claims and commits long.
const BEHIND: Duration = Duration::from_millis(10);
/// After so long without a hint, the server is asked whether it is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_secs(2);

/// What is left of hosts that went away is swept out with each announcement.
const ANNOUNCE: &str = "
WITH gone AS (
  DELETE FROM executor_waiters
  WHERE until < now() - interval '1 minute' AND holder <> $1
)
INSERT INTO executor_waiters (holder, until)
VALUES ($1, now() + $2 * interval '1 microsecond')
ON CONFLICT (holder) DO UPDATE SET until = excluded.until";

/// The listener, and when this host last said that it waits.
pub(super) struct Hints {
    options: PgConnectOptions,
    /// A pooler of transactions delivers no notification.
    pooled: bool,
    state: Mutex<State>,
    heard: Arc<Heard>,
    closed: CancellationToken,
}

/// The hints that nobody has waited for yet.
#[derive(Default)]
struct Heard {
    /// It is time to look.
    now: Notify,
    /// And again somewhat later.
    later: Notify,
}

impl Heard {
    fn hint(&self, named: &str, holder: &HolderId) {
        if named.is_empty() || named == holder.as_str() {
            self.now.notify_one();
        }
        self.later.notify_one();
    }

    async fn look_again_for_ever(self: Arc<Self>) {
        loop {
            self.later.notified().await;
            tokio::time::sleep(BEHIND).await;
            self.now.notify_one();
        }
    }
}

#[derive(Default)]
struct State {
    listening: bool,
    announced: Option<Instant>,
}

impl Hints {
    pub(super) fn new(options: PgConnectOptions, pooled: bool) -> Self {
        Self {
            options,
            pooled,
            state: Mutex::default(),
            heard: Arc::default(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Starts to listen, once, in the name of the first who waits.
    fn listen(&self, holder: &HolderId) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.listening, true) {
            self.spawn(listen_for_ever(
                self.options.clone(),
                Arc::clone(&self.heard),
                holder.clone(),
            ));
            self.spawn(Arc::clone(&self.heard).look_again_for_ever());
        }
    }

    /// Says that this host waits, where it is time to. What was inserted before
    /// a first announcement nobody has notified of, so that one is a hint, too.
    fn announce(&self, connections: &Connections, holder: &HolderId) {
        let mut state = self.state.lock();
        let age = state.announced.map(|at| at.elapsed());
        if age.is_some_and(|age| age < RENEW_AFTER) {
            return;
        }
        let fresh = age.is_some_and(|age| age < ANNOUNCED);
        state.announced = Some(Instant::now());
        let (connections, holder) = (connections.clone(), holder.clone());
        let heard = Arc::clone(&self.heard);
        // On its own, since whoever waits may let go at any moment, and a
        // statement that is let go of costs its connection.
        self.spawn(async move {
            match tokio::time::timeout(RENEW_AFTER, announce(&connections, &holder)).await {
                Ok(Ok(())) if fresh => {}
                Ok(Ok(())) => heard.now.notify_one(),
                Ok(Err(trouble)) => {
                    tracing::debug!(?trouble, "cannot say that this host waits; it polls");
                }
                Err(_) => tracing::debug!("no answer on saying that this host waits; it polls"),
            }
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        tokio::spawn(async move { closed.run_until_cancelled_owned(work).await });
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Waits for a hint. May be let go of at any moment.
pub(super) async fn wait(store: &PostgresStore, holder: &HolderId) {
    let hints = &store.hints;
    if hints.pooled {
        return std::future::pending().await;
    }
    hints.listen(holder);
    loop {
        hints.announce(&store.connections, holder);
        tokio::select! {
            () = hints.heard.now.notified() => return,
            () = tokio::time::sleep(RENEW_AFTER) => {}
        }
    }
}

async fn announce(connections: &Connections, holder: &HolderId) -> Step<()> {
    let mut turn = connections.turn().await?;
    let query = turn
        .query(ANNOUNCE)
        .bind(holder.as_str())
        .bind(super::row::micros(ANNOUNCED));
    query.execute(turn.conn()).await?;
    turn.finish().await
}

async fn listen_for_ever(options: PgConnectOptions, heard: Arc<Heard>, holder: HolderId) {
    loop {
        if let Err(error) = listen(&options, &heard, &holder).await {
            tracing::debug!(%error, "the connection for hints is lost; polling goes on");
        }
        tokio::time::sleep(RECONNECT.mul_f64(0.5 + rand::random::<f64>())).await;
    }
}

/// Listens on a connection of its own until that is lost.
async fn listen(
    options: &PgConnectOptions,
    heard: &Heard,
    holder: &HolderId,
) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with(options.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    // Whatever came before this was missed.
    heard.now.notify_one();
    loop {
        match tokio::time::timeout(SIGN_OF_LIFE, listener.try_recv()).await {
            Ok(Ok(Some(hint))) => heard.hint(hint.payload(), holder),
            // A connection that was made anew: something may be missed.
            Ok(Ok(None)) => heard.now.notify_one(),
            Ok(Err(error)) => return Err(error),
            // A wire that was cut without a word looks like one on which
            // nothing happens.
            Err(_) => {
                let asked = sqlx::raw_sql("SELECT 1").execute(&mut listener);
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
                answer.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            }
        }
    }
}
