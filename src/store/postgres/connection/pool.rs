//! The connections that are open, and how one is made.
//!
//! Not the client's own pool: that one asks the server a question whenever a
//! connection comes back, and hands out the one that idled longest. Here coming
//! back costs nothing, and what came back last goes out first, so that a quiet
//! host goes on with one whose plans are at hand, and the others are closed.
//!
//! **Invariant:** what is dropped instead of given back is closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SET_SESSION;
use crate::store::StoreError;
use crate::store::postgres::Step;

/// Few, since poolers that keep a server for each session have few to give, and
/// since batches, not connections, make it fast.
const CONNECTIONS: usize = 5;
/// A connection that idled for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const MAX_IDLE: Duration = Duration::from_secs(5 * 60);
/// What a session of the server remembers only ever grows.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// When a server that starts is asked again; twice as long each time.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// The connections to one database.
pub(super) struct Pool {
    options: PgConnectOptions,
    /// Behind a pooler of transactions, each transaction has settings of its own.
    pooled: bool,
    places: Arc<Semaphore>,
    /// What came back last is the last.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    conn: PgConnection,
    made: Instant,
    since: Instant,
}

/// A connection that is lent out.
pub(super) struct Lent {
    pub(super) conn: PgConnection,
    made: Instant,
    pool: Arc<Pool>,
    /// Free once the connection is back, or closed.
    place: OwnedSemaphorePermit,
}

impl Pool {
    /// Connects nowhere yet.
    pub(super) fn new(options: PgConnectOptions, pooled: bool) -> Arc<Self> {
        Arc::new(Self {
            options,
            pooled,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
        })
    }

    /// Lends a connection that answers, as soon as one is to be had.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where none is, whatever the server says: it let
    /// this host in before, so that this is no fault of what shall be sent, and
    /// passes, by itself or by somebody's doing.
    pub(super) async fn lend(self: &Arc<Self>) -> Step<Lent> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| closed())?;
        let (conn, made) = match self.kept().await {
            Some(kept) => kept,
            None => {
                let connected = self.connect().await;
                let refused = |cause: sqlx::Error| StoreError::Unavailable(cause.to_string());
                (connected.map_err(refused)?, Instant::now())
            }
        };
        Ok(Lent {
            conn,
            made,
            pool: Arc::clone(self),
            place,
        })
    }

    /// One that is open already, and when it was made.
    async fn kept(&self) -> Option<(PgConnection, Instant)> {
        loop {
            // The lock is not held while the server is asked.
            let Idle {
                mut conn,
                made,
                since,
            } = self.idle.lock().pop()?;
            if since.elapsed() <= TRUSTED_IDLE || conn.ping().await.is_ok() {
                return Some((conn, made));
            }
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut pause = ASK_AGAIN;
        let mut conn = loop {
            match self.options.connect().await {
                Err(error) if is_starting(&error) => {
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(ASK_AGAIN_MAX);
                }
                connected => break connected?,
            }
        };
        if !self.pooled {
            sqlx::raw_sql(SET_SESSION).execute(&mut conn).await?;
        }
        Ok(conn)
    }

    /// Closes what idles; what is lent out is closed when it comes back.
    pub(super) async fn close(&self) {
        self.places.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for Idle { conn, .. } in idle {
            // It may be gone: that is what is wanted.
            let _ = conn.close().await;
        }
    }
}

impl Lent {
    /// Only for a connection that has nothing left to do.
    pub(super) fn give_back(self) {
        let now = Instant::now();
        let mut idle = self.pool.idle.lock();
        // Those in front came back first.
        let unused = idle
            .iter()
            .take_while(|idle| now.duration_since(idle.since) > MAX_IDLE)
            .count();
        idle.drain(..unused);
        if now.duration_since(self.made) <= MAX_AGE && !self.pool.places.is_closed() {
            idle.push(Idle {
                conn: self.conn,
                made: self.made,
                since: now,
            });
        }
        drop(idle);
        drop(self.place);
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the connections are closed".to_owned())
}

/// Whether a server may let us in a moment later: it starts, or somebody who
/// left is not quite gone.
/// Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        // cannot_connect_now, too_many_connections
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300")),
        _ => false,
    }
}
