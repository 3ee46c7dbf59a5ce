//! `plugin test`: golden tasks and the battery, on the bundled plugins.

use serde_json::{Value, json};

use crate::guest::{Guest, Returns};
use crate::support::process::{Finished, Installation};

struct Shelf(Installation);

impl Shelf {
    fn new() -> Self {
        Self(Installation::new())
    }

    fn write(&self, name: &str, value: &Value) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.0.path().join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn test(&self, component: &str, more: &[&str]) -> Finished {
        let args = ["plugin", "test", "--component", component];
        self.0.run(&[&args[..], more].concat())
    }

    /// A task of the bundled adapter whose worker is mocked.
    fn with_worker_task(self) -> Self {
        let rule = json!({
            "method": "POST",
            "url": "http://worker.test/run/build-test",
            "respond": { "json": { "passed": true, "tests": 3, "failures": 0,
                                   "duration_ms": 5, "report_url": null } },
        });
        let task = json!({
            "route": "code/build-test",
            "payload": { "repo": "r" },
            "config": { "COGO_WORKER_URL": "http://worker.test" },
            "http": [rule],
        });
        self.write("tasks/passes.task.json", &task);
        self
    }
}

#[test]
fn an_expectation_is_written_compared_and_brought_up_to_date() {
    let shelf = Shelf::new().with_worker_task();
    let missing = shelf.test("cogo-worker", &["--golden-only"]).expect(1);
    assert!(
        missing.stdout.contains("`--update` writes it"),
        "{}",
        missing.stdout
    );

    let _ = shelf
        .test("cogo-worker", &["--golden-only", "--update"])
        .expect(0);
    let written = shelf.read("tasks/passes.expect.json");
    assert_eq!(written["report"]["tests"], 3);
    assert_eq!(written["requests"][0]["body"]["repo"], "r");
    let _ = shelf.test("cogo-worker", &["--golden-only"]).expect(0);

    let by_hand = json!({
        "outcome": "completed",
        "report": { "$subset": { "passed": true, "tests": 4 } },
        "requests": [{ "$subset": { "url": { "$pattern": ".*/run/build-test" } } }],
    });
    shelf.write("tasks/passes.expect.json", &by_hand);
    let differs = shelf.test("cogo-worker", &["--golden-only"]).expect(1);
    assert!(
        differs.stdout.contains("report.tests"),
        "{}",
        differs.stdout
    );
    assert!(differs.stdout.contains("- 4"), "{}", differs.stdout);
    let _ = shelf
        .test("cogo-worker", &["--golden-only", "--update"])
        .expect(0);
    let updated = shelf.read("tasks/passes.expect.json");
    assert_eq!(updated["report"]["tests"], 3);
    assert_eq!(updated["requests"], by_hand["requests"], "what holds stays");
    assert!(
        updated.get("artifacts").is_none(),
        "what was not expected is not"
    );
}

#[test]
fn the_bundled_plugins_do_what_every_executor_must() {
    let shelf = Shelf::new().with_worker_task();
    let _ = shelf.test("cogo-worker", &["--update"]).expect(0);
    let _ = shelf
        .0
        .run(&["plugin", "test", "--component", "cogo-worker"])
        .expect(0);
    let mock = Shelf::new();
    let tested = mock.test("mock", &["--json"]).expect(0).data();
    let names: Vec<&str> = tested
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 8, "{names:?}");
}

#[test]
fn two_components_are_compared_task_by_task() {
    let shelf = Shelf::new();
    let task = json!({ "route": "sandbox/run", "payload": { "command": "ls" } });
    shelf.write("ls.task.json", &task);
    let compare = |old: &str, new: &str| shelf.0.run(&["plugin", "test", "--compare", old, new]);
    let _ = compare("mock", "mock").expect(0);
    let differs = compare("mock", "cogo-worker").expect(1);
    assert!(differs.stdout.contains("outcome\n"), "{}", differs.stdout);
    assert!(
        differs.stdout.contains("- \"completed\""),
        "{}",
        differs.stdout
    );
}

#[test]
fn the_junit_report_names_each_test() {
    let shelf = Shelf::new();
    shelf.write(
        "bad.task.json",
        &json!({ "route": "sandbox/run", "payload": { "command": "ls" } }),
    );
    shelf.write("bad.expect.json", &json!({ "outcome": "permanent" }));
    let args = ["--golden-only", "--junit", "report.xml"];
    let _ = shelf.test("mock", &args).expect(1);
    let report = std::fs::read_to_string(shelf.0.path().join("report.xml")).unwrap();
    for part in [
        "name=\"golden\" timestamp=\"20",
        "tests=\"1\" failures=\"1\" errors=\"0\" time=\"",
        "<property name=\"component\" value=\"bundled mock sha256:",
        "<failure type=\"golden\" message=\"outcome\">",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

/// What the battery says of a plugin, by the names of its checks.
fn battery(shelf: &Shelf, component: &str) -> Vec<(String, String)> {
    let tested = shelf.test(component, &["--json"]);
    let tested = tested.data();
    let of_battery = tested.as_array().unwrap().iter();
    let of_battery = of_battery.filter(|test| test["suite"] == "conformance");
    let word = |test: &Value| match (&test["failure"], &test["open"]) {
        (Value::String(failure), _) => format!("fails: {failure}"),
        (_, Value::String(open)) => format!("open: {open}"),
        _ => "holds".to_owned(),
    };
    of_battery
        .map(|test| (test["name"].as_str().unwrap().to_owned(), word(test)))
        .collect()
}

fn said<'a>(found: &'a [(String, String)], check: &str) -> &'a str {
    let found = found.iter().find(|(name, _)| name == check);
    &found.unwrap().1
}

#[test]
fn giving_way_is_shown_by_a_task_that_waits_and_by_no_other() {
    let shelf = Shelf::new();
    let quick = json!({ "route": "code/build-test", "payload": {} });
    shelf.write("a.task.json", &quick);
    let found = battery(&shelf, "mock");
    for check in ["deadline-obeyed", "cancel-noticed"] {
        let open = said(&found, check);
        assert!(open.starts_with("open: no golden task keeps it"), "{open}");
        assert!(open.contains("`code/build-test`"), "{open}");
    }
    // One for each route, behind the one that does not wait.
    for route in ["code/build-test", "codegen/generate", "sandbox/run"] {
        let waits = json!({
            "route": route,
            "deadline_ms": 100,
            "payload": { "command": "ls", "spec": "x", "mock": { "behaviour": "stall" } },
        });
        shelf.write(&format!("b-{}.task.json", route.replace('/', "-")), &waits);
    }
    let found = battery(&shelf, "mock");
    assert_eq!(said(&found, "deadline-obeyed"), "holds");
    assert_eq!(said(&found, "cancel-noticed"), "holds");
}

#[test]
fn an_executor_that_does_not_give_way_is_told_so() {
    let shelf = Shelf::new();
    let loops = json!({
        "route": "code/build-test",
        "deadline_ms": 100,
        "payload": { "mock": { "behaviour": "loop" } },
    });
    shelf.write("loops.task.json", &loops);
    let found = battery(&shelf, "mock");
    for check in ["deadline-obeyed", "cancel-noticed"] {
        let fails = said(&found, check);
        assert!(fails.contains("the host had to cut it off"), "{fails}");
        assert!(fails.contains("`host.stop`"), "{fails}");
    }
    assert_eq!(said(&found, "describe-deterministic"), "holds");
}

#[test]
fn an_executor_that_trusts_everybody_is_told_so() {
    let shelf = Shelf::new();
    let write = |guest: &Guest| {
        let bytes = guest.component();
        std::fs::write(shelf.0.path().join("guest.wasm"), bytes).unwrap();
    };
    // Whatever it is given, it is content.
    let content = Returns::Sandbox {
        exit_code: 0,
        stdout: String::new(),
    };
    write(&Guest::returning(content));
    let fails = battery(&shelf, "guest.wasm");
    let fails = said(&fails, "bad-payload-permanent");
    assert!(fails.contains("the payload `` was completed"), "{fails}");
    // Whatever it is given, it traps.
    write(&Guest::new("unreachable"));
    let found = battery(&shelf, "guest.wasm");
    for (check, part) in [
        (
            "hostile-task-no-trap",
            "an empty object: retryable (plugin_trap",
        ),
        (
            "hostile-answer-no-trap",
            "an empty answer: retryable (plugin_trap",
        ),
        ("no-config-no-trap", "retryable (plugin_trap"),
    ] {
        let fails = said(&found, check);
        assert!(fails.contains(part), "{fails}");
    }
}
