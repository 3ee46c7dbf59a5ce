//! The real binary: how soon after its start a waiting task is done, and what
//! it occupies when idle.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::median;

pub fn start_and_size() {
    let dir = tempfile::tempdir().unwrap();
    // The first start compiles the bundled plugins; those after find them.
    let started = median(5, || first_task_ms(dir.path()));
    println!("process: start to first task (aim ≤ 300) {started:8.0} ms");
    let mut host = Host::start(dir.path());
    // Idle means settled: whatever the start left to do is done by now.
    std::thread::sleep(Duration::from_secs(2));
    let resident = host.resident_mb();
    host.stop();
    println!("process: resident memory, idle (≤ 80)    {resident:8.1} MB");
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cogo-host"));
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PORT", "0")
        .stderr(Stdio::null());
    command
}

/// From the start of the process until a task that waited for it was done, by
/// the bus's own record.
fn first_task_ms(dir: &Path) -> f64 {
    let submit = [
        "submit",
        "--json",
        "--service",
        "code",
        "--role",
        "build-test",
        "--repo",
        "r",
    ];
    let submitted = command(dir, &submit).output().unwrap();
    assert!(submitted.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&submitted.stdout).unwrap();
    let id = answer["data"]["id"].as_str().unwrap();
    let begun = SystemTime::now();
    let ended = command(dir, &["run", "--until-idle"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success());
    let shown = command(dir, &["task", "show", "--json", id])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let done = shown["data"]["done_at"].as_str().unwrap();
    let done: SystemTime = chrono::DateTime::parse_from_rfc3339(done).unwrap().into();
    done.duration_since(begun).unwrap_or_default().as_secs_f64() * 1e3
}

struct Host(Child);

impl Host {
    fn start(dir: &Path) -> Self {
        let mut child = command(dir, &["run"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains("http://"), "{line}");
        Self(child)
    }

    fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kb: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kb / 1000.0
    }

    fn stop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
