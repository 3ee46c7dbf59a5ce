//! The real binary and the real worker, as processes of their own.
//!
//! Whatever a test starts dies with it. Nothing here sleeps for luck: a process
//! is ready when it says so, a task has ended when the bus says so.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// Long enough for a loaded machine; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The directory of the sources.
pub fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory with a bus of its own, and the commands that use it.
pub struct Installation {
    pub dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Installation {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// By a clock that is wrong by so much, such as `+1h`. What is measured is not.
    #[must_use]
    pub fn at_clock(self, offset: &str) -> Self {
        self.with("LD_PRELOAD", faketime().to_str().unwrap())
            .with("FAKETIME", offset)
            .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with("FAKETIME_DONT_RESET", "1")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary, in this directory, with this installation's environment only.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cogo-host"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            // Whoever serves at the usual port of this machine is none of ours.
            .env("PORT", "0")
            // Compiling the bundled plugins once for all tests.
            .env("COGO_CACHE_DIR", cache_dir())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        let output = self.command(args).output().unwrap();
        Finished::new(args, output)
    }

    /// Submits a task to a `service/role`; what the command says of it.
    pub fn submit(&self, route: &str, more: &[&str]) -> Value {
        let (service, role) = route.split_once('/').unwrap();
        let submit = ["submit", "--json", "--service", service, "--role", role];
        self.run(&[&submit[..], more].concat()).expect(0).data()
    }

    /// Starts `cogo-host run` and waits until it serves.
    pub fn host(&self, args: &[&str]) -> Host {
        let mut all = vec!["run", "--json"];
        all.extend(args);
        let command = self.command(&all);
        let (process, line) = Process::start(command, |line| line.contains("\"api\""));
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["schema"], "cogo-host.ready.v1");
        let said = |field: &str| ready["data"][field].as_str().unwrap().to_owned();
        Host {
            process,
            holder: said("holder"),
            api: said("api"),
        }
    }

    /// Waits until `look` answers something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, &mut look)
    }
}

/// Waits until `look` answers something, by looking again and again.
pub fn until<T>(what: &str, look: &mut dyn FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The library that shows a process another time.
///
/// # Panics
/// Where it is missing: a test that is skipped shows nothing.
fn faketime() -> PathBuf {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    let found = places
        .map(PathBuf::from)
        .into_iter()
        .find(|place| place.is_file());
    found.expect("no libfaketime to test with; Debian, Ubuntu: `apt-get install faketime`")
}

fn cache_dir() -> PathBuf {
    // Made by the host, with the mode that it trusts.
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")
}

/// A command that has ended.
pub struct Finished {
    pub args: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn new(args: &[&str], output: Output) -> Self {
        Self {
            args: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the command ended with this code.
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "cogo-host {}\nstdout: {}\nstderr: {}",
            self.args, self.stdout, self.stderr
        );
        self
    }

    /// The answer of a `--json` command.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("cogo-host {}: {error}: {}", self.args, self.stdout))
    }

    pub fn data(&self) -> Value {
        self.json()["data"].clone()
    }
}

/// A running process whose stdout is read to the end.
pub struct Process {
    child: Child,
    pub stderr_file: PathBuf,
    _log: tempfile::TempDir,
}

impl Process {
    /// Starts a process whose stdout is somebody else's.
    pub fn unready(mut command: Command) -> Self {
        let log = tempfile::tempdir().unwrap();
        let stderr_file = log.path().join("stderr");
        let stderr = std::fs::File::create(&stderr_file).unwrap();
        let child = command.stderr(stderr).spawn().unwrap();
        Self {
            child,
            stderr_file,
            _log: log,
        }
    }

    /// Starts a process and waits for the line that `ready` recognises.
    pub fn start(mut command: Command, ready: impl Fn(&str) -> bool) -> (Self, String) {
        command.stdout(Stdio::piped());
        let program = format!("{command:?}");
        let mut process = Self::unready(command);
        let stdout = process.child.stdout.take().unwrap();
        let (lines_tx, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines_tx.send(line);
            }
        });
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if ready(&line) => return (process, line),
                Ok(_) => {}
                Err(_) => panic!("{program} did not get ready: {}", process.stderr()),
            }
        }
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr_file).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end and tells the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        until("the process has ended", &mut || {
            self.child.try_wait().unwrap()
        })
        .code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of the process ---\n{}", self.stderr());
        }
    }
}

/// A running host.
pub struct Host {
    pub process: Process,
    /// What it writes to `claimed_by`.
    pub holder: String,
    /// Where its API listens.
    pub api: String,
}

impl Host {
    /// What its API answers to a GET without a token.
    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.get_raw(path).1).unwrap()
    }

    /// The status and the text of its API's answer to a GET without a token.
    pub fn get_raw(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, path, |request| request)
    }

    /// What its API answers to a POST without a token, with its status.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask(Method::POST, path, |request| request.json(body));
        (status, serde_json::from_str(&text).unwrap())
    }

    /// What its API answers to a POST of these bytes, with its status.
    pub fn post_bytes(
        &self,
        path: &str,
        kind: &str,
        bytes: &[u8],
        token: Option<&str>,
    ) -> (u16, Value) {
        let (status, text) = self.ask(Method::POST, path, |request| {
            let request = request.header("content-type", kind).body(bytes.to_vec());
            match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            }
        });
        (status, serde_json::from_str(&text).unwrap())
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> (u16, String) {
        let url = format!("{}{path}", self.api);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = with(client.request(method, url)).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    /// What its readiness says of the routes that are held.
    pub fn holds(&self) -> String {
        let ready = self.get("/readyz");
        let checks = ready["checks"].as_array().unwrap();
        let holds = checks.iter().find(|check| check["name"] == "holds");
        holds.unwrap()["detail"].as_str().unwrap().to_owned()
    }
}

/// The example worker, as a process of its own.
pub struct Worker {
    pub url: String,
    _process: Process,
    _state: tempfile::TempDir,
}

impl Worker {
    /// Starts a worker that may read below `root`, on a free port or the given.
    pub fn start(root: &Path, port: u16) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command
            .arg(sources().join("examples/cogo-worker"))
            .args(["--port", &port.to_string()])
            .arg("--state-dir")
            .arg(state.path())
            .arg("--allow-root")
            .arg(root);
        let ready = "cogo-worker listening on ";
        let (process, line) = Process::start(command, |line| line.starts_with(ready));
        let url = line.trim_start_matches(ready).trim().to_owned();
        Self {
            _process: process,
            url,
            _state: state,
        }
    }
}
