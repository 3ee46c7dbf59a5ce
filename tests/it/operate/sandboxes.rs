//! Commands that misbehave, through the whole path: the worker ends them, and the
//! task is done with a report that says so.

use serde_json::{Value, json};

use crate::support::process::{Installation, Worker};
use crate::whole_path::{count, ended, events};

/// Runs a command on a worker's sandbox; the task as it ended.
fn run(here: &Installation, payload: &Value) -> Value {
    let payload = payload.to_string();
    let submitted = here.submit("sandbox/run", &["--payload", &payload]);
    let shown = ended(here, submitted["id"].as_str().unwrap());
    let trace = events(here, submitted["trace_id"].as_str().unwrap());
    assert_eq!(shown["status"], "done", "{shown:#}");
    assert_eq!(count(&trace, "sandbox_done"), 1);
    shown["result"].clone()
}

#[test]
fn a_command_that_oversteps_its_limits_is_ended_and_reported() {
    let root = Installation::new();
    let worker = Worker::start(root.path(), 0);
    let here = Installation::new().with("COGO_WORKER_URL", &worker.url);
    let _host = here.host(&[]);
    let flag = ["flag", "set", "sandbox/run", "on", "--reason", "a test"];
    let _ = here.run(&flag).expect(0);

    let endless = json!({ "command": "while :; do :; done", "limits": { "cpu_ms": 300 } });
    let result = run(&here, &endless);
    assert_eq!(result["attributes"]["limit"], "cpu_ms", "{result:#}");
    assert!(result["exit_code"].as_i64().unwrap() < 0, "{result:#}");
    assert_eq!(
        (&result["kind"], &result["attributes"]["isolation"]),
        (&json!("real"), &json!("namespaces"))
    );

    let idle = json!({ "command": "sleep 1000", "limits": { "wall_ms": 300 } });
    assert_eq!(run(&here, &idle)["attributes"]["limit"], "wall_ms");

    let forks = json!({
        "command": "while sleep 100 & do :; done",
        "limits": { "processes": 16, "wall_ms": 20_000 },
    });
    let result = run(&here, &forks);
    assert_ne!(result["exit_code"], 0, "{result:#}");

    let filling = json!({
        "code": "while True: open('/scratch/x', 'ab').write(b'x' * 65536)",
        "language": "python",
        "limits": { "disk_mb": 1 },
    });
    let result = run(&here, &filling);
    assert!(
        result["stderr"].as_str().unwrap().contains("No space left"),
        "{result:#}"
    );

    let talking = json!({ "command": "yes | head -c 100000", "limits": { "log_bytes": 1000 } });
    let result = run(&here, &talking);
    assert_eq!(
        (&result["truncated"], &result["exit_code"]),
        (&json!(true), &json!(0))
    );
    assert!(result["stdout"].as_str().unwrap().len() < 2_000);
}
