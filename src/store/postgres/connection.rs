//! The connections to one Postgres database.
//!
//! **Invariant:** a connection goes back to the pool only when its turn ended
//! cleanly ([`Turn::finish`]); after an error, or with a caller that went away,
//! it is closed, which rolls back, so that no state of a half-done transaction
//! reaches the next turn.
//!
//! Behind a pooler that hands out a server connection for each transaction
//! only, every turn is one explicit transaction, and no statement is kept
//! prepared: the next turn may meet another server.

mod pool;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgSslMode};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Postgres};
use url::Url;

use self::pool::{Lent, Pool};
use super::{Step, Trouble, tls};
use crate::store::StoreError;

/// How long a call waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The port by which Supabase's pooler hands out transactions.
const TRANSACTION_POOLER_PORT: u16 = 6543;
/// What a URL may call the file of the server's CA certificate.
const ROOT_CERTIFICATE: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// What a connection is set to. Scans of whole tables are for reports alone,
/// and a plan that was made while a table was small must not become one; the
/// costs that forbid them must not call the compiler of expressions either. Then
/// all values lead to one plan, and it is made once: planning a claim takes
/// longer than running it.
macro_rules! settings {
    ($set:literal) => {
        concat!(
            $set,
            " statement_timeout = '10s'; ",
            $set,
            " lock_timeout = '2s'; ",
            $set,
            " idle_in_transaction_session_timeout = '30s'; ",
            $set,
            " enable_seqscan = off; ",
            $set,
            " enable_hashjoin = off; ",
            $set,
            " enable_mergejoin = off; ",
            $set,
            " jit = off; ",
            $set,
            " plan_cache_mode = force_generic_plan"
        )
    };
}

const SET_SESSION: &str = settings!("SET");
const BEGIN: &str = "BEGIN";
const BEGIN_POOLED: &str = concat!("BEGIN; ", settings!("SET LOCAL"));

/// The pool, and how the database is reached.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Arc<Pool>,
    options: PgConnectOptions,
    /// Each transaction may run on another server connection.
    pooled: bool,
}

/// The options of a URL, and whether it leads through a transaction pooler.
///
/// # Errors
/// [`StoreError::Refused`] for an option that cannot be, [`StoreError::Insecure`]
/// for a CA certificate that cannot be read; neither names a secret.
pub(super) fn options(url: &Url) -> Result<(PgConnectOptions, bool), StoreError> {
    let mut url = url.clone();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let asked = pairs.iter().find(|(key, _)| key == "pgbouncer");
    let pooled = match asked {
        Some((_, value)) => value == "true",
        None => url.port() == Some(TRANSACTION_POOLER_PORT),
    };
    let says_ssl = pairs
        .iter()
        .any(|(key, _)| key == "sslmode" || key == "ssl-mode");
    let names_itself = pairs.iter().any(|(key, _)| key == "application_name");
    url.query_pairs_mut()
        .clear()
        .extend_pairs(pairs.iter().filter(|(key, _)| key != "pgbouncer"));
    let options = PgConnectOptions::from_url(&url).map_err(|cause| match cause {
        sqlx::Error::Configuration(cause) => {
            StoreError::Refused(format!("the URL's options: {cause}"))
        }
        other => StoreError::Refused(other.to_string()),
    })?;
    let mut options = options.disable_statement_logging();
    if !names_itself {
        options = options.application_name("cogo-host");
    }
    // Left to itself, the client may fall back to clear text.
    let host = options.get_host();
    let supabase = host.ends_with(".supabase.co") || host.ends_with(".supabase.com");
    if supabase && !says_ssl {
        options = options.ssl_mode(PgSslMode::Require);
    }
    let root = pairs
        .iter()
        .find(|(key, _)| ROOT_CERTIFICATE.contains(&key.as_str()));
    options = tls::checked(options, root.map(|(_, file)| file.as_str()))?;
    if pooled {
        options = options.statement_cache_capacity(0);
    }
    Ok((options, pooled))
}

/// Where the database is, for people: never with a password.
pub(super) fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("database `{database}` at {}", socket.display()),
        None => format!(
            "database `{database}` at {}:{}",
            options.get_host(),
            options.get_port()
        ),
    }
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, pooled: bool) -> Self {
        Self {
            pool: Pool::new(options.clone(), pooled),
            options,
            pooled,
        }
    }

    pub(super) const fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Connects once outside of the pool, which would only say that it waited.
    pub(super) async fn probe(&self) -> Step<PgConnection> {
        match tokio::time::timeout(ACQUIRE_TIMEOUT, self.options.connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(silent()),
        }
    }

    /// A turn of one statement.
    pub(super) async fn turn(&self) -> Step<Turn> {
        let lent = tokio::time::timeout(ACQUIRE_TIMEOUT, self.pool.lend()).await;
        let mut turn = Turn {
            lent: lent.map_err(|_| silent())??,
            in_transaction: false,
            pooled: self.pooled,
        };
        if self.pooled {
            turn.begin(BEGIN_POOLED).await?;
        }
        Ok(turn)
    }

    /// A turn of several statements, all or nothing.
    pub(super) async fn transaction(&self) -> Step<Turn> {
        let mut turn = self.turn().await?;
        if !turn.in_transaction {
            turn.begin(BEGIN).await?;
        }
        Ok(turn)
    }

    /// A turn that sees one state of the database throughout.
    pub(super) async fn snapshot(&self) -> Step<Turn> {
        let mut turn = self.transaction().await?;
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(turn.conn())
            .await?;
        Ok(turn)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

fn silent() -> Trouble {
    let problem = format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs());
    StoreError::Unavailable(problem).into()
}

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// A connection for as long as one call needs it. It is closed where the turn is
/// dropped before its end.
pub(super) struct Turn {
    lent: Lent,
    in_transaction: bool,
    pooled: bool,
}

impl Turn {
    async fn begin(&mut self, sql: &'static str) -> Step<()> {
        sqlx::raw_sql(sql).execute(self.conn()).await?;
        self.in_transaction = true;
        Ok(())
    }

    /// The connection, to run one statement on.
    pub(super) const fn conn(&mut self) -> &mut PgConnection {
        &mut self.lent.conn
    }

    /// A statement as this connection can have it.
    pub(super) fn query<'q>(&self, sql: &'static str) -> Statement<'q> {
        sqlx::query(sql).persistent(!self.pooled)
    }

    /// Begins a part of the transaction that can be undone by itself. What is put
    /// off until the commit is checked within it.
    pub(super) async fn begin_part(&mut self) -> Step<()> {
        let begin = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT part";
        sqlx::raw_sql(begin).execute(self.conn()).await?;
        Ok(())
    }

    pub(super) async fn undo_part(&mut self) -> Step<()> {
        let undo = "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part";
        sqlx::raw_sql(undo).execute(self.conn()).await?;
        Ok(())
    }

    /// Commits, where there is something to commit, and ends the turn.
    pub(super) async fn finish(mut self) -> Step<()> {
        if self.in_transaction {
            sqlx::raw_sql("COMMIT").execute(self.conn()).await?;
        }
        self.lent.give_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (PgConnectOptions, bool) {
        options(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_transaction_pooler_is_known_by_port_or_word() {
        assert!(!parsed("postgres://u@h/d").1);
        assert!(parsed("postgres://u@h:6543/d").1);
        assert!(parsed("postgres://u@h/d?pgbouncer=true").1);
        assert!(!parsed("postgres://u@h:6543/d?pgbouncer=false").1);
    }

    #[test]
    fn supabase_is_reached_by_tls_unless_the_url_says_otherwise() {
        let mode = |url: &str| format!("{:?}", parsed(url).0.get_ssl_mode());
        assert_eq!(mode("postgres://u@db.x.supabase.co/d"), "Require");
        assert_eq!(
            mode("postgres://u@db.x.supabase.co/d?sslmode=verify-full"),
            "VerifyFull"
        );
        assert_eq!(mode("postgres://u@h/d"), "Prefer");
    }

    #[test]
    fn the_place_names_host_and_database_but_no_password() {
        let (options, _) = parsed("postgres://u:s3cret@h:5433/d");
        assert_eq!(place(&options), "database `d` at h:5433");
        let error = options_error("postgres://u:s3cret@h/d?sslmode=maybe");
        assert!(
            error.contains("maybe") && !error.contains("s3cret"),
            "{error}"
        );
    }

    fn options_error(url: &str) -> String {
        options(&url.parse().unwrap()).unwrap_err().to_string()
    }
}
