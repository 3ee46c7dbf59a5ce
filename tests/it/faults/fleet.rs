//! Hosts of one bus as processes that may die, and a look at that bus that no
//! host knows of.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cogo_host::control::{Decider, Decision};
use cogo_host::ids::{Digest, MessageId};
use cogo_host::rollout::Change;
use cogo_host::store::{
    AttemptRow, EventFilter, NewRollout, RolloutMove, StartedRollout, Store, StoreError,
};
use cogo_host::task::{NewTask, TaskRow};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::runtime::Runtime;

use crate::support::bed::Backdoor;
use crate::support::invariants::Watch;
use crate::support::postgres::ServerDoor;
use crate::support::process::{Finished, Host, Installation, Process, sources, until};
use crate::support::sqlite::FileDoor;
use crate::support::{all_tasks, hand, postgres, sqlite};

/// A lease that runs out soon. A host on a busy machine still renews it.
pub const SHORT_LEASE_MS: u64 = 1_500;
/// A lease that runs out only when a test says so.
pub const LONG_LEASE_MS: u64 = 600_000;

/// How many attempts a host runs at once.
pub const CONCURRENCY: u64 = 16;

/// So that only hosts that died can use up a task's attempts.
const MAX_ATTEMPTS: u32 = 20;

/// Secrets of every host: the password of its bus, which the tests' cluster does
/// not ask for, and the token of its API.
const PASSWORD: &str = "canary-of-the-bus-0123456789";
const TOKEN: &str = "canary-of-the-api-0123456789";

/// What no host here serves.
const UNSERVED: &str = "nobody/serves-it";

/// One host and its directory, over all of its lives.
pub struct Member {
    here: Installation,
    host: Option<Host>,
    /// What its connections are called at the server.
    pub name: String,
}

impl Member {
    /// Not started. A host of the bus at `url`, which retries soon and looks
    /// for tasks often.
    pub fn new(name: &str, url: &str, lease_ms: u64) -> Self {
        let url = match url.starts_with("postgres:") {
            true => {
                let more = if url.contains('?') { '&' } else { '?' };
                let url = url.replacen('@', &format!(":{PASSWORD}@"), 1);
                format!("{url}{more}application_name={name}&sslmode=disable")
            }
            false => url.to_owned(),
        };
        let here = Installation::new()
            .with("DATABASE_URL", &url)
            .with("HOLDER_ID", name)
            .with("RECLAIM_AFTER_MS", &lease_ms.to_string())
            .with("BUS_POLL_MS", "100")
            .with("COGO_RETRY_BASE_MS", "50")
            .with("COGO_HOST_TOKEN", TOKEN)
            .with("COGO_MAX_ATTEMPTS", &MAX_ATTEMPTS.to_string())
            .with("COGO_CONCURRENCY", &CONCURRENCY.to_string());
        Self {
            here,
            host: None,
            name: name.to_owned(),
        }
    }

    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.here = self.here.with(variable, value);
        self
    }

    /// By a clock that is wrong by so much, such as `+1h`.
    #[must_use]
    pub fn at_clock(mut self, offset: &str) -> Self {
        self.here = self.here.at_clock(offset);
        self
    }

    #[must_use]
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    pub fn start(&mut self) {
        assert!(self.host.is_none(), "{} runs already", self.name);
        self.host = Some(self.here.host(&[]));
    }

    /// A host that writes where nobody may listen.
    pub fn start_unready(&self, stdout: Stdio) -> Process {
        let mut command = self.here.command(&["run", "--json", "--port", "0"]);
        command.stdout(stdout);
        Process::unready(command)
    }

    fn host(&mut self) -> &mut Host {
        self.host.as_mut().unwrap()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.host().process
    }

    /// What its readiness says of the routes that are held.
    pub fn holds(&self) -> String {
        self.host.as_ref().unwrap().holds()
    }

    /// Runs a command with this host's settings.
    pub fn run(&self, args: &[&str]) -> Finished {
        self.here.run(args)
    }

    /// Runs a command that asks this host.
    pub fn ask(&self, args: &[&str]) -> Finished {
        let output = self.here.command(args).env("PORT", self.port()).output();
        Finished::new(args, output.unwrap())
    }

    /// Where its API listens.
    pub fn port(&self) -> &str {
        let api = &self.host.as_ref().unwrap().api;
        api.rsplit(':').next().unwrap()
    }

    /// What its API answers to a GET without a token.
    pub fn get(&self, path: &str) -> serde_json::Value {
        self.host.as_ref().unwrap().get(path)
    }

    pub fn path(&self) -> &Path {
        self.here.path()
    }

    /// The name of this life in `claimed_by`.
    pub fn holder(&self) -> String {
        self.host.as_ref().unwrap().holder.clone()
    }

    pub fn kill(&mut self) {
        self.process().kill();
        self.ended();
    }

    /// What it said in its life holds no secret.
    fn ended(&mut self) {
        let log = self.log();
        let told = log
            .lines()
            .find(|l| l.contains(PASSWORD) || l.contains(TOKEN));
        assert_eq!(told, None, "11: a secret in the log of {}", self.name);
        self.host = None;
    }

    /// Asks for a drain and waits for its end.
    pub fn drain(&mut self) {
        self.process().signal("TERM");
        assert_eq!(self.process().wait(), Some(0), "{}", self.log());
        self.ended();
    }

    pub fn log(&self) -> String {
        let host = self.host.as_ref();
        host.map(|host| host.process.stderr()).unwrap_or_default()
    }

    /// Fails the test if the host has ended.
    pub fn must_run(&mut self) {
        let runs = self.process().is_running();
        assert!(runs, "{} has ended:\n{}", self.name, self.log());
    }
}

/// The bus, seen by a program that is no host.
pub struct Bus {
    runtime: Runtime,
    store: Arc<dyn Store>,
    /// Where the bus is in Postgres.
    pool: Option<PgPool>,
    /// The same for statements that every database knows.
    door: Box<dyn Backdoor>,
    pub watch: Watch,
    pub url: String,
}

impl Bus {
    /// A fresh one in the cluster that tests share.
    pub fn shared() -> Self {
        let runtime = Runtime::new().unwrap();
        let url = runtime.block_on(postgres::migrated());
        Self::postgres(runtime, url)
    }

    /// The same, with bystanders.
    pub fn crowded() -> Self {
        Self::shared().with_bystanders()
    }

    /// A fresh one in a cluster of its own.
    pub fn alone(cluster: &postgres::cluster::Cluster) -> Self {
        let runtime = Runtime::new().unwrap();
        let url = runtime.block_on(async {
            let url = cluster.fresh("template1").await;
            let store = postgres::open(&url).await;
            store.migrate(false).await.unwrap();
            store.close().await.unwrap();
            url
        });
        Self::postgres(runtime, url)
    }

    fn postgres(runtime: Runtime, url: String) -> Self {
        let (store, pool, door) = runtime.block_on(async {
            let pool = PgPoolOptions::new().max_connections(3);
            let pool = pool.connect_lazy(&url).unwrap();
            let door = ServerDoor::open(&url);
            (postgres::open(&url).await, pool, door)
        });
        Self {
            runtime,
            store: Arc::new(store),
            pool: Some(pool),
            door: Box::new(door),
            watch: watch(),
            url,
        }
    }

    /// A fresh one in a file.
    pub fn file(path: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let (store, door) =
            runtime.block_on(async { (sqlite::open(path).await, FileDoor::open(path, None)) });
        Self {
            runtime,
            store: Arc::new(store),
            pool: None,
            door: Box::new(door),
            watch: watch(),
            url: format!("sqlite://{}", path.display()),
        }
    }

    /// Puts on it what no host may touch, whatever happens: rows of a route that
    /// none serves, and a rollout that ended. Only the bundled `mock` is there
    /// to run.
    #[must_use]
    pub fn with_bystanders(self) -> Self {
        self.watch.unknown(UNSERVED);
        self.watch.served("mock", bundled("mock"));
        self.runtime.block_on(async {
            // One that is too old for its time to live, and one that is held by
            // a worker that knows no leases.
            for (status, holder, payload) in [
                ("queued", "NULL", r#"{"__assignment":{"ttl_ms":1}}"#),
                ("claimed", "'ts-worker'", "{}"),
            ] {
                let (service, role) = UNSERVED.split_once('/').unwrap();
                let id = MessageId::generate();
                let sql = format!(
                    "INSERT INTO agent_messages (id, service, role, payload, status, claimed_by)
                     VALUES ('{id}', '{service}', '{role}', '{payload}', '{status}', {holder})"
                );
                self.door.execute(&sql).await;
                self.watch.acknowledge([id]);
            }
            aborted_rollout(&*self.store).await;
        });
        self.check();
        self
    }

    /// The same bus by way of another port.
    pub fn url_by(&self, port: u16) -> String {
        let (before, database) = self.url.rsplit_once('/').unwrap();
        let (before, _) = before.rsplit_once(':').unwrap();
        format!("{before}:{port}/{database}")
    }

    /// Puts tasks on the bus, however often that takes: they are acknowledged.
    pub fn submit(&self, tasks: &[NewTask]) {
        until("the tasks are on the bus", &mut || {
            let done = self.runtime.block_on(self.store.enqueue(tasks));
            match done {
                Ok(_) => Some(()),
                // Either nothing of it was done, or all.
                Err(error) => self.is_there(tasks[0].id).then_some(()).or_else(|| {
                    assert!(is_passing(&error), "{error}");
                    None
                }),
            }
        });
        self.watch.acknowledge(tasks.iter().map(|task| task.id));
    }

    fn is_there(&self, id: MessageId) -> bool {
        let found = self.runtime.block_on(self.store.task(id));
        found.is_ok_and(|task| task.is_some())
    }

    /// Every task that somebody serves; `None` while the database is away.
    pub fn try_tasks(&self) -> Option<Vec<TaskRow>> {
        let read = self.runtime.block_on(self.store.tasks(&all_tasks()));
        let tasks = read.map_err(|error| assert!(is_passing(&error), "{error}"));
        let mut tasks = tasks.ok()?;
        self.watch.look(&tasks);
        // Bystanders wait for ever.
        tasks.retain(|task| format!("{}/{}", task.service, task.role) != UNSERVED);
        Some(tasks)
    }

    pub fn tasks(&self) -> Vec<TaskRow> {
        until("the database answers", &mut || self.try_tasks())
    }

    pub fn task(&self, id: MessageId) -> TaskRow {
        let task = self.runtime.block_on(self.store.task(id));
        task.unwrap().unwrap()
    }

    pub fn attempts(&self, id: MessageId) -> Vec<AttemptRow> {
        self.runtime.block_on(self.store.attempts(id)).unwrap()
    }

    /// How the attempts of a task ended, in order.
    pub fn outcomes(&self, id: MessageId) -> Vec<String> {
        let attempts = self.attempts(id);
        attempts.into_iter().map(|one| one.outcome).collect()
    }

    pub fn count_events(&self, event_type: &str, id: Option<MessageId>) -> usize {
        let filter = EventFilter {
            event_type: Some(event_type.to_owned()),
            message_id: id,
            limit: 1_000_000,
            ..EventFilter::default()
        };
        let events = self.runtime.block_on(self.store.events(&filter));
        events.unwrap().len()
    }

    /// Looks at every task until `found` sees what it waits for.
    pub fn until(&self, what: &str, mut found: impl FnMut(&[TaskRow]) -> bool) {
        until(what, &mut || {
            let tasks = self.try_tasks()?;
            found(&tasks).then_some(())
        });
    }

    /// Waits until all of these have ended.
    pub fn until_ended(&self, tasks: &[NewTask]) {
        let ids: std::collections::HashSet<MessageId> = tasks.iter().map(|t| t.id).collect();
        self.until("the tasks have ended", |rows| {
            let of_these = rows.iter().filter(|row| ids.contains(&row.id));
            let ended = of_these.filter(|row| row.status.is_terminal());
            ended.count() == ids.len()
        });
    }

    pub fn cancel(&self, id: MessageId) {
        let cancelled = self.runtime.block_on(self.store.cancel(id, "test"));
        assert!(cancelled.unwrap().is_some());
    }

    /// Checks every invariant; the bus must be at rest.
    pub fn check(&self) {
        self.runtime.block_on(self.watch.check(&*self.store));
    }

    pub fn check_drained(&self, holder: &str) {
        let held = self.tasks();
        let held = held
            .iter()
            .find(|t| t.lease_expires_at.is_some() && t.claimed_by.as_deref() == Some(holder));
        assert!(held.is_none(), "12: {holder} still holds {held:?}");
    }

    /// What SQLite itself says of a file.
    pub fn integrity(&self, path: &Path) -> String {
        self.runtime.block_on(sqlite::quick_check(path))
    }

    fn pool(&self) -> &PgPool {
        self.pool.as_ref().unwrap()
    }

    /// Statements as another program would send them.
    pub fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        self.runtime
            .block_on(sqlx::raw_sql(sql).execute(self.pool()))
            .unwrap();
    }

    /// The first column of all rows, as numbers.
    pub fn numbers(&self, sql: &str) -> Vec<i64> {
        let sql = AssertSqlSafe(format!("SELECT t.x::bigint FROM ({sql}) AS t(x)"));
        let rows = self
            .runtime
            .block_on(sqlx::query(sql).fetch_all(self.pool()))
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// A row as another program inserts it, by the original columns alone.
    pub fn insert_foreign(&self, task: &NewTask) {
        let (id, key, payload) = (task.id, &task.route.key, &task.payload);
        self.execute(&format!(
            "INSERT INTO agent_messages (id, service, role, payload, status)
             VALUES ('{id}', '{}', '{}', '{payload}', 'queued')",
            key.service(),
            key.role(),
        ));
        self.watch.acknowledge([id]);
    }

    /// How many tasks a host holds.
    pub fn held_by(&self, holder: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM agent_messages
             WHERE status = 'claimed' AND claimed_by = '{holder}'"
        );
        self.numbers(&sql)[0]
    }

    /// Undoes what a server process has begun, and waits until it is gone.
    pub fn undo(&self, pid: i64) {
        let _ = self.numbers(&format!("SELECT pg_terminate_backend({pid})::integer"));
        self.until_gone(pid);
    }

    pub fn until_gone(&self, pid: i64) {
        let left = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid}");
        until("the server's process is gone", &mut || {
            self.numbers(&left).is_empty().then_some(())
        });
    }

    /// Nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        let is_over = |tasks: Vec<TaskRow>| tasks.iter().all(|task| task.status.is_terminal());
        self.try_tasks().is_some_and(is_over)
    }

    /// Lets the leases of a host be over.
    pub fn end_leases(&self, holder: &str) {
        self.execute(&format!(
            "UPDATE agent_messages SET lease_expires_at = now() - interval '1 second'
             WHERE status = 'claimed' AND claimed_by = '{holder}'"
        ));
    }

    /// Puts a gate before every change of a task's state.
    ///
    /// A lock on the table would hold a statement up while it is prepared, when
    /// nothing has begun; a trigger does it in the middle of its work.
    pub fn install_gate(&self) {
        self.execute(
            "CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
             CREATE TRIGGER gate BEFORE UPDATE ON agent_messages FOR EACH ROW
             WHEN (OLD.status IS DISTINCT FROM NEW.status)
             EXECUTE FUNCTION wait_at_the_gate()",
        );
    }

    /// Until the gate is let go of, no task changes its state.
    pub fn close_gate(&self) -> ClosedGate<'_> {
        let transaction = self.runtime.block_on(async {
            let mut transaction = self.pool().begin().await.unwrap();
            sqlx::raw_sql("SELECT pg_advisory_xact_lock(1)")
                .execute(&mut *transaction)
                .await
                .unwrap();
            transaction
        });
        ClosedGate {
            bus: self,
            transaction: Some(transaction),
        }
    }
}

/// Knows of what every host here has in common.
fn watch() -> Watch {
    let watch = Watch::default();
    watch.max_attempts(MAX_ATTEMPTS);
    watch.secret(PASSWORD);
    watch.secret(TOKEN);
    watch
}

/// Which version of a bundled plugin a host has, by its file.
fn bundled(plugin: &str) -> Digest {
    let path = sources().join(format!("plugins/prebuilt/{plugin}.wasm"));
    Digest::of(&std::fs::read(path).unwrap())
}

async fn aborted_rollout(store: &dyn Store) {
    let decision = Decision {
        by: Decider::Named("test".to_owned()),
        reason: None,
    };
    let new = NewRollout {
        route: hand::key(UNSERVED),
        plugin: "nobodys".parse().unwrap(),
        candidate: Digest::of(b"new"),
        stable: Some(Digest::of(b"old")),
        steps: "50,100".parse().unwrap(),
        interval: Duration::from_secs(1),
        by: decision.by.clone(),
        reason: None,
    };
    let StartedRollout::Now(row) = store.start_rollout(&new).await.unwrap() else {
        panic!("a fresh bus has a rollout");
    };
    let change = RolloutMove {
        row: &row,
        change: &Change::Abort,
        decision: &decision,
        report: None,
    };
    assert!(store.move_rollout(&change).await.unwrap().is_some());
}

/// An error that passes by itself.
fn is_passing(error: &StoreError) -> bool {
    error.is_transient()
        || matches!(error, StoreError::Refused(text) if text.contains("duplicate key"))
}

/// While this is held, claims and settlements wait in the server.
pub struct ClosedGate<'a> {
    bus: &'a Bus,
    transaction: Option<sqlx::Transaction<'static, sqlx::Postgres>>,
}

impl ClosedGate<'_> {
    /// The server process that has the host `name` waiting with a statement
    /// that contains `text`.
    pub fn waiting(&self, name: &str, text: &str) -> Option<i64> {
        let pids = self.bus.numbers(&format!(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = '{name}'
               AND wait_event_type = 'Lock'
               AND position('{text}' IN query) > 0"
        ));
        pids.first().copied()
    }
}

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            let _ = self.bus.runtime.block_on(transaction.rollback());
        }
    }
}
