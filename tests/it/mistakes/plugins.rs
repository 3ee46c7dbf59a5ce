//! What people who write plugins get wrong: one snapshot of the whole message
//! for each mistake. A message names the place, the cause and the cure, and
//! where to read on.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::guest::fetch::Fetch;
use crate::guest::{Guest, RESULT, Returns};
use crate::support::process::Installation;

/// A place to make mistakes in.
struct Desk(Installation);

impl Desk {
    fn new() -> Self {
        Self(Installation::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string());
    }

    fn wat(&self, name: &str, text: &str) {
        self.write(name, wat::parse_str(text).unwrap());
    }

    fn guest(&self, name: &str, guest: &Guest) {
        self.write(name, guest.component());
    }

    /// Makes the mistake and keeps all that was said of it.
    fn said(&self, mistake: &str, args: &[&str], exit: i32) {
        let ran = self.0.run(args).expect(exit);
        // What people read: the result of a `check` or `test` is on stdout.
        let text = match ran.stdout.trim_start().starts_with('{') {
            true => ran.stderr,
            false => ran.stdout + &ran.stderr,
        };
        let text = steady(&text.replace(self.0.path().to_str().unwrap(), "[HERE]"));
        assert!(!text.contains("os error"), "{text}");
        let shown = format!("$ cogo-host {}\n{text}", args.join(" "));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(mistake, shown.trim_end());
        });
    }
}

/// The text without what differs from run to run.
fn steady(text: &str) -> String {
    // Progress is shown as it comes, before or after a line of the log.
    let kept = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("progress "));
    let lines = kept.map(|line| {
        let line = match line.split_once("sha256:") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
                format!("{before}sha256:…{rest}")
            }
            None => line.to_owned(),
        };
        match line.split_once(" ms") {
            Some((before, after)) => {
                let kept = before.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                format!("{} [N] ms{after}", kept.trim_end())
            }
            None => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A component with these imports and exports and nothing in them.
fn hollow(imports: &[&str], exports: &[&str]) -> String {
    let import = |name: &&str| format!("(import \"{name}\" (instance))");
    let export = |name: &&str| format!("(export \"{name}\" (instance $nothing))");
    let imports: String = imports.iter().map(import).collect();
    let exports: String = exports.iter().map(export).collect();
    format!("(component {imports} (component $c) (instance $nothing (instantiate $c)) {exports})")
}

const OURS: [&str; 2] = ["cogo:executor/plugin@0.1.0", "cogo:executor/executor@0.1.0"];

#[test]
fn components_that_do_not_fit() {
    let desk = Desk::new();
    let check = |mistake: &str, file: &str, exit: i32| {
        desk.said(mistake, &["plugin", "check", file], exit);
    };
    let other = ["cogo:executor/plugin@0.3.0", "cogo:executor/executor@0.3.0"];
    desk.wat("newer.wasm", &hollow(&["cogo:executor/host@0.3.0"], &other));
    check("wrong-world-version", "newer.wasm", 1);
    desk.wat("half.wasm", &hollow(&[], &OURS[..1]));
    check("missing-export", "half.wasm", 1);
    desk.wat(
        "files.wasm",
        &hollow(
            &["wasi:filesystem/types@0.2.6", "wasi:cli/environment@0.2.6"],
            &OURS[..1],
        ),
    );
    check("std-fs-in-a-guest", "files.wasm", 1);
    desk.wat("tensor.wasm", &hollow(&["wasi:nn/tensor@0.2.0"], &OURS));
    check("unknown-wasi-import", "tensor.wasm", 1);
    desk.wat("next.wasm", &hollow(&["wasi:http/types@0.3.0"], &OURS));
    check("wasi-of-another-version", "next.wasm", 1);
    desk.wat(
        "server.wasm",
        &hollow(&["wasi:http/incoming-handler@0.2.6"], &OURS),
    );
    check("a-plugin-that-serves", "server.wasm", 1);
    desk.wat(
        "private.wasm",
        &hollow(&["acme:billing/charge@1.0.0"], &OURS),
    );
    check("an-import-of-its-own", "private.wasm", 1);
    desk.wat("hollow.wasm", &hollow(&[], &OURS));
    check("exports-of-another-type", "hollow.wasm", 1);
    let gc = hollow(&[], &OURS).replacen(
        "(component ",
        "(component (core module (type (struct (field i32)))) ",
        1,
    );
    desk.wat("gc.wasm", &gc);
    check("a-proposal-that-is-off", "gc.wasm", 1);
}

#[test]
fn files_that_are_no_component() {
    let desk = Desk::new();
    let check = |mistake: &str, file: &str, exit: i32| {
        desk.said(mistake, &["plugin", "check", file], exit);
    };
    desk.wat("module.wasm", "(module)");
    check("a-core-module", "module.wasm", 1);
    desk.write("text.wasm", "(component)");
    check("a-text-file", "text.wasm", 1);
    desk.write("empty.wasm", "");
    check("an-empty-file", "empty.wasm", 1);
    desk.write("native.wasm", "\x7fELF\x02");
    check("a-native-file", "native.wasm", 1);
    let whole = Guest::returning(Returns::Interrupted).component();
    desk.write("broken.wasm", &whole[..whole.len() / 2]);
    check("a-damaged-file", "broken.wasm", 1);
    let large = std::fs::File::create(desk.path("large.wasm")).unwrap();
    large.set_len(40 << 20).unwrap();
    check("a-file-too-large", "large.wasm", 2);
    std::fs::create_dir(desk.path("directory.wasm")).unwrap();
    check("a-directory", "directory.wasm", 4);
    check("a-typo-in-the-file", "modul.wasm", 4);
    check("a-typo-in-a-bundled-name", "cogo-worke", 4);
    check("no-such-file", "dist/plugin.wasm", 4);
}

#[test]
fn descriptors_that_cannot_be_used() {
    let desk = Desk::new();
    let good = || Guest::returning(Returns::Interrupted);
    let check = |mistake: &str, guest: &Guest| {
        desk.guest("my-plugin.wasm", guest);
        desk.said(mistake, &["plugin", "check", "my-plugin.wasm"], 1);
    };
    let mut guest = good();
    guest.describe = "unreachable".to_owned();
    check("describe-traps", &guest);
    let mut guest = good();
    guest.name = "My Plugin".to_owned();
    check("a-name-that-is-none", &guest);
    let mut guest = good();
    guest.version = "1.0".to_owned();
    check("a-version-that-is-none", &guest);
    let mut guest = good();
    guest.handles = vec!["build-test".to_owned()];
    check("a-route-that-is-none", &guest);
    check("an-origin-that-is-none", &good().egress(&["worker:8080"]));
}

#[test]
fn attempts_that_fail() {
    let desk = Desk::new();
    let run = |mistake: &str, args: &[&str]| {
        desk.said(mistake, &[&["plugin", "run"][..], args].concat(), 1);
    };
    let steered = |mistake: &str, steering: &str| {
        let field = format!("mock={steering}");
        run(
            mistake,
            &["mock", "--route", "code/build-test", "--task", &field],
        );
    };
    let worker = ["cogo-worker", "--route", "code/build-test"];
    let url = ["--config", "COGO_WORKER_URL=http://worker.test"];
    run(
        "a-host-that-is-not-allowed",
        &[&worker[..], &url[..]].concat(),
    );
    desk.json("answers.json", &json!([]));
    let calling = Fetch::get("api.test", "/").guest();
    desk.guest("calls.wasm", &calling.clone().egress(&["config:API"]));
    let unset = ["plugin", "run", "calls.wasm", "--task", "command=ls"];
    desk.said("a-key-that-says-what-it-calls", &unset, 0);
    let allowed = [&unset[..], &["--allow-host", "http://api.test"]].concat();
    desk.said("an-allowed-host-and-no-key", &allowed, 0);
    desk.guest("calls.wasm", &calling);
    desk.said("an-origin-that-is-not-declared", &allowed, 0);
    let mocked = [&worker[..], &url[..], &["--http-mock", "answers.json"]].concat();
    run("a-request-without-an-answer", &mocked);
    run("a-missing-config-value", &worker);
    steered("too-much-memory", r#"{"behaviour":"allocate"}"#);
    steered("a-trap-of-a-bundled-plugin", r#"{"behaviour":"trap"}"#);
    steered(
        "a-report-of-another-role",
        r#"{"behaviour":"wrong-report"}"#,
    );
    steered("an-unknown-steering", r#"{"behavior":"trap"}"#);
    run(
        "a-payload-without-its-field",
        &["mock", "--route", "sandbox/run"],
    );
    let ended = |mistake: &str, payload: Value| {
        let task = json!({ "route": "code/build-test", "payload": payload, "deadline_ms": 150 });
        desk.json("task.json", &task);
        run(mistake, &["mock", "--task", "task.json"]);
    };
    ended(
        "an-expired-deadline",
        json!({ "mock": { "behaviour": "loop" } }),
    );
    ended(
        "a-spent-budget",
        json!({ "mock": { "usage": { "tokens": 10 } }, "__assignment": { "budget": { "maxTokens": 5 } } }),
    );
    ended(
        "another-model",
        json!({ "mock": { "usage": { "tokens": 1, "model": "b" } }, "__assignment": { "model": "a" } }),
    );
}

#[test]
fn a_trap_shows_the_functions_of_the_guest_by_their_names() {
    let desk = Desk::new();
    let guest = Guest::new(&format!(
        "(call $_ZN9my_plugin5parse17h0123456789abcdefE) (i32.const {RESULT})"
    ))
    .items("(func $_ZN9my_plugin5parse17h0123456789abcdefE (call $rust_panic))")
    .items("(func $rust_panic unreachable)");
    desk.guest("trap.wasm", &guest);
    let args = ["plugin", "run", "trap.wasm", "--task", "command=ls"];
    desk.said("a-trap-with-names", &args, 1);
}

#[test]
fn tasks_and_command_lines_that_make_no_sense() {
    let desk = Desk::new();
    let run = |mistake: &str, args: &[&str], exit: i32| {
        desk.said(
            mistake,
            &[&["plugin", "run", "mock"][..], args].concat(),
            exit,
        );
    };
    run("no-route-where-there-are-several", &[], 2);
    run("a-route-of-another-plugin", &["--route", "docs/render"], 4);
    run("a-task-that-is-no-json", &["--task", "{"], 2);
    run("a-task-file-that-is-not-there", &["--task", "taks.json"], 4);
    run("two-tasks", &["--task", "{}", "{}"], 2);
    desk.write("typo.json", "{\n  \"payload\": {},\n  \"dedline_ms\": 5\n}");
    run("a-typo-in-a-task", &["--task", "typo.json"], 2);
    run(
        "config-without-a-value",
        &["--config", "COGO_WORKER_URL"],
        2,
    );
    run("limits-that-do-not-exist", &["--limits", "prod"], 2);
    run(
        "a-mock-and-an-allowed-host",
        &["--http-mock", "m.json", "--allow-host", "a"],
        2,
    );
    desk.json(
        "rules.json",
        &json!([{ "url": "http://a", "respond": {}, "fail": "dns" }]),
    );
    run(
        "a-rule-with-two-answers",
        &["--http-mock", "rules.json", "--route", "sandbox/run"],
        2,
    );
    desk.said(
        "a-command-that-does-not-exist",
        &["plugin", "chek", "x.wasm"],
        2,
    );
    desk.said("a-code-that-does-not-exist", &["explain", "plugin_trp"], 4);
    desk.write(
        "cogo.toml",
        "stage = \"development\"\n[plugin.mock]\nalow = []\n",
    );
    desk.said("a-bad-key-in-toml", &["config", "validate"], 2);
}

#[test]
fn golden_tasks_that_make_no_sense() {
    let desk = Desk::new();
    let test = |mistake: &str, directory: &str, exit: i32| {
        desk.said(
            mistake,
            &["plugin", "test", directory, "--golden-only"],
            exit,
        );
    };
    test("no-such-directory", "absent", 2);
    std::fs::create_dir(desk.path("bare")).unwrap();
    test("nothing-built-yet", "bare", 4);
    let mock = cogo_host::plugin::bundled::candidates().find(|c| c.place.ends_with("mock"));
    let mock = mock.unwrap().bytes;
    for directory in ["none", "two", "field", "matcher", "differs"] {
        desk.write(&format!("{directory}/one.wasm"), &mock);
    }
    desk.write("two/other.wasm", &mock);
    test("two-components", "two", 2);
    test("no-golden-task", "none", 4);
    let task = json!({ "route": "code/build-test", "payload": { "mock": { "tests": 3 } } });
    for (directory, expected) in [
        ("field", json!({ "result": { "passed": true } })),
        (
            "matcher",
            json!({ "report": { "$subst": { "passed": true } } }),
        ),
        (
            "differs",
            json!({ "outcome": "completed", "report": { "$subset": { "tests": 4 } } }),
        ),
    ] {
        desk.json(&format!("{directory}/t.task.json"), &task);
        desk.json(&format!("{directory}/t.expect.json"), &expected);
    }
    test("an-expectation-of-nothing", "field", 2);
    test("a-matcher-that-does-not-exist", "matcher", 2);
    test("a-result-that-differs", "differs", 1);
}
