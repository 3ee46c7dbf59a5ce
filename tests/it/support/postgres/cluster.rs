//! A private Postgres cluster: made from nothing, gone with the process that
//! made it, however that ends.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

pub const SUPERUSER: &str = "cogo";

/// `nobody`: the server refuses to run as root.
pub const UNPRIVILEGED: u32 = 65534;
const TOOLS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Ends the server and removes its files once standard input closes, which
/// happens however the test process goes away.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r _
pid() { head -n 1 "$1" 2>/dev/null; }
# A pooler keeps nothing, and one that was started in the background ignores all
# that is milder.
pooler=$(pid "$1/pgbouncer.pid")
[ -z "$pooler" ] || kill -KILL "$pooler" 2>/dev/null
server=$(pid "$1/data/postmaster.pid")
if [ -n "$server" ]; then
  kill -QUIT "$server" 2>/dev/null
  while kill -0 "$server" 2>/dev/null; do sleep 0.05; done
fi
rm -rf "$1"
"#;

/// What the server's log says of a connection that it lets in.
const AUTHORIZED: &str = "connection authorized: ";

/// A running cluster.
pub struct Cluster {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    databases: AtomicU32,
    watchdog: Child,
}

impl Cluster {
    /// # Panics
    /// Where the server's binaries are missing or do not start.
    pub fn start() -> Self {
        let bin = find_binaries();
        let dir = tempfile::Builder::new().prefix("cogo-pg-").tempdir();
        let dir = dir.map(TempDir::keep).unwrap();
        if is_root() {
            chown(&dir, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut cluster = Self {
            bin,
            dir,
            port: 0,
            databases: AtomicU32::new(0),
            watchdog,
        };
        cluster.init();
        // Somebody may take the port between our look and the server's.
        let started = (0..5).any(|_| {
            cluster.port = free_port();
            cluster.try_start()
        });
        assert!(started, "the server does not start:\n{}", cluster.log());
        cluster
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command
            .current_dir(&self.dir)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if is_root() {
            command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
        command
    }

    fn init(&self) {
        let output = self
            .tool("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8"])
            .args(["--username", SUPERUSER, "--pgdata"])
            .arg(self.dir.join("data"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb failed: {said}");
        let settings = format!(
            "listen_addresses = '127.0.0.1'
unix_socket_directories = '{}'
max_connections = 400
log_connections = on
log_line_prefix = '%m [%p] %qin %d '
fsync = off
full_page_writes = off
wal_level = logical
shared_buffers = 64MB
min_wal_size = 64MB
max_wal_size = 128MB
",
            self.dir.display()
        );
        let file = self.dir.join("data/postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
    }

    /// Starts the server and waits until it answers.
    pub fn try_start(&self) -> bool {
        let status = self
            .tool("pg_ctl")
            .args(["start", "--wait", "--timeout=60", "--silent", "--pgdata"])
            .arg(self.dir.join("data"))
            .arg("--log")
            .arg(self.dir.join("log"))
            .arg(format!("--options=-p {}", self.port))
            .status();
        status.unwrap().success()
    }

    /// From now on the server offers TLS, with this certificate and its key, as
    /// PEM.
    pub fn offer_tls(&self, certificate: &str, key: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let data = self.dir.join("data");
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = data.join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                chown(&file, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
            }
        }
        let settings = data.join("postgresql.conf");
        let mut settings = fs::OpenOptions::new().append(true).open(settings).unwrap();
        settings.write_all(b"ssl = on\n").unwrap();
        self.stop_fast();
        assert!(self.try_start(), "no server with TLS:\n{}", self.log());
    }

    /// Ends the server as a crash would.
    pub fn kill(&self) {
        self.stop("immediate");
    }

    /// Ends the server as a restart would: cuts every connection, and writes
    /// what it has to write.
    pub fn stop_fast(&self) {
        self.stop("fast");
    }

    fn stop(&self, mode: &str) {
        let status = self
            .tool("pg_ctl")
            .args(["stop", "--silent", "--mode", mode, "--pgdata"])
            .arg(self.dir.join("data"))
            .status();
        assert!(status.unwrap().success());
    }

    /// `kill -9` of the first process of the server; the others find out.
    pub fn kill_postmaster(&self) {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap();
        let killed = Command::new("kill").args(["-s", "KILL", pid]).status();
        assert!(killed.unwrap().success());
    }

    /// Starts a server again that may still be falling apart.
    pub fn start_again(&self) {
        let started = (0..60).any(|_| self.try_start());
        assert!(started, "the server does not start again:\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// How many connections to a database the server has let in. It writes each
    /// down before it answers anything.
    pub fn let_in(&self, database: &str) -> usize {
        let wanted = format!("database={database}");
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(AUTHORIZED));
        lines
            .filter(|line| line.split(' ').any(|word| word == wanted))
            .count()
    }

    /// The server processes that executed prepared statements in a database, one
    /// for each execution, where the session has them logged. The server writes
    /// each down before it begins.
    pub fn executions(&self, database: &str) -> Vec<String> {
        let wanted = format!(" in {database} LOG:  execute ");
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(&wanted));
        let processes = lines.filter_map(|line| line.split(['[', ']']).nth(1));
        processes.map(str::to_owned).collect()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// A new database, a copy of `template`; its URL.
    pub async fn fresh(&self, template: &str) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.create(&name, template).await;
        self.url(&name)
    }

    pub async fn create(&self, name: &str, template: &str) {
        let mut conn = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let sql = format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}""#);
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut conn)
            .await
            .unwrap();
        conn.close().await.unwrap();
    }

    /// Drops a database whose test has ended: hundreds of them fill a disk.
    pub async fn discard(&self, name: &str) {
        let mut conn = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let sql = format!(r#"DROP DATABASE "{name}" WITH (FORCE)"#);
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut conn)
            .await
            .unwrap();
        conn.close().await.unwrap();
    }
}

/// For clusters that a test makes for itself; the shared one ends with the
/// process, which closes the watchdog's input as well.
impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// `COGO_PG_BIN`, then what `pg_config` names, Debian's layout, and `PATH`.
fn find_binaries() -> PathBuf {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("COGO_PG_BIN").map(PathBuf::from));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let place = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        places.push(PathBuf::from(place));
    }
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions
            .filter_map(|version| Some(version.ok()?.path().join("bin")))
            .collect();
        versions.sort();
        places.extend(versions.into_iter().rev());
    }
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path));
    }
    let complete = |place: &&PathBuf| TOOLS.iter().all(|tool| place.join(tool).is_file());
    let found = places.iter().find(complete).cloned();
    found.unwrap_or_else(|| {
        panic!(
            "no Postgres server to test with: {TOOLS:?} were not found in COGO_PG_BIN, \
             by `pg_config --bindir`, in /usr/lib/postgresql/*/bin, or in PATH. \
             Install it (Debian, Ubuntu: `apt-get install postgresql`; macOS: \
             `brew install postgresql`), or name its bin directory in COGO_PG_BIN."
        )
    })
}
