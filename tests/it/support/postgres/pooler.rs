//! A pooler that hands out a server connection for each transaction, in front
//! of a cluster.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SUPERUSER, UNPRIVILEGED, free_port, is_root};

/// Few servers for each database, so that clients meet one another's.
const SERVERS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(15);

/// Starts the pooler; the port that it listens on. It ends with its cluster.
///
/// # Panics
/// Where its binary is missing or does not start.
pub fn start(cluster: &Cluster) -> u16 {
    let binary = find_binary();
    let dir = cluster.socket_dir();
    let port = free_port();
    let users = dir.join("pgbouncer.users");
    fs::write(&users, format!("\"{SUPERUSER}\" \"\"\n")).unwrap();
    let config = dir.join("pgbouncer.ini");
    let text = format!(
        "[databases]
* = host=127.0.0.1 port={}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {}
pool_mode = transaction
default_pool_size = {SERVERS}
server_idle_timeout = 2
max_client_conn = 2000
ignore_startup_parameters = extra_float_digits
pidfile = {}
logfile = {}
",
        cluster.port(),
        users.display(),
        dir.join("pgbouncer.pid").display(),
        dir.join("pgbouncer.log").display(),
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(binary);
    command.args(["--quiet", "--daemon"]).arg(&config);
    if is_root() {
        use std::os::unix::process::CommandExt;
        for file in [&users, &config] {
            chown(file, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    let status = command.stdin(Stdio::null()).status().unwrap();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || fs::read_to_string(dir.join("pgbouncer.log")).unwrap_or_default();
        let alive = status.success() && begun.elapsed() < PATIENCE;
        assert!(alive, "the pooler does not start ({status}):\n{}", log());
    }
    port
}

fn find_binary() -> PathBuf {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("COGO_PG_BIN").map(PathBuf::from));
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path));
    }
    places.push(PathBuf::from("/usr/sbin"));
    let mut binaries = places.iter().map(|place| place.join("pgbouncer"));
    binaries.find(|binary| binary.is_file()).unwrap_or_else(|| {
        panic!(
            "no pooler to test with: `pgbouncer` was not found in COGO_PG_BIN, PATH or \
             /usr/sbin. Install it (Debian, Ubuntu: `apt-get install pgbouncer`; macOS: \
             `brew install pgbouncer`)."
        )
    })
}
