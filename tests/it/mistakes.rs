//! What people get wrong, and what they are told: each mistake names its place,
//! its cause and the cure, and ends with the code of its kind.

mod plugins;

use std::net::TcpListener;

use crate::support::process::{Finished, Installation};

/// One mistake and what it must get.
struct Mistake<'a> {
    environment: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
    exit: i32,
    /// Stable, for scripts.
    code: &'a str,
    /// Parts of the message and of the cure.
    said: &'a [&'a str],
}

impl Mistake<'_> {
    fn check(&self, here: Installation) {
        let here = self
            .environment
            .iter()
            .fold(here, |here, (name, value)| here.with(name, value));
        let finished = here.run(self.args).expect(self.exit);
        for part in self.said.iter().chain([&self.code]) {
            assert!(
                finished.stderr.contains(part),
                "cogo-host {}: `{part}` is not in: {}",
                finished.args,
                finished.stderr
            );
        }
        // The same for a script, on stdout.
        let mut args = self.args.to_vec();
        args.push("--json");
        let answer = here.run(&args).expect(self.exit).json();
        assert_eq!(answer["ok"], false);
        assert_eq!(answer["error"]["code"], self.code);
        assert_eq!(answer["error"]["exit"], self.exit);
    }
}

const SUBMIT: [&str; 5] = ["submit", "--service", "code", "--role", "build-test"];

fn submit<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SUBMIT.iter().chain(more).copied().collect()
}

#[test]
fn submissions_that_could_never_run_are_refused_at_the_door() {
    let cases: [(Vec<&str>, i32, &str, &[&str]); 8] = [
        (
            submit(&["--payload", "{"]),
            2,
            "payload_invalid",
            &["--payload", "not JSON"],
        ),
        (
            submit(&["--payload", "[1]"]),
            2,
            "payload_invalid",
            &["JSON object"],
        ),
        (
            submit(&["--payload", "@absent.json"]),
            2,
            "payload_unreadable",
            &["absent.json"],
        ),
        (
            submit(&["--payload", r#"{"repo":7}"#]),
            2,
            "payload_invalid",
            &["`repo` is a number"],
        ),
        (
            submit(&["--trace-id", "a b"]),
            2,
            "submission_invalid",
            &["`trace_id`"],
        ),
        (
            submit(&["--max-attempts", "0"]),
            2,
            "submission_invalid",
            &["1 to 1000"],
        ),
        (
            vec!["submit", "--service", "docs", "--role", "render"],
            4,
            "route_unknown",
            &[
                "nobody handles the route `docs/render`",
                "code/build-test",
                "cogo.toml",
            ],
        ),
        (
            vec!["submit", "--service", "sandbox", "--role", "run"],
            2,
            "payload_invalid",
            &["`command` is missing"],
        ),
    ];
    for (args, exit, code, said) in cases {
        let mistake = Mistake {
            environment: &[],
            args: &args,
            exit,
            code,
            said,
        };
        let here = Installation::new();
        mistake.check(here);
    }
}

#[test]
fn a_host_that_cannot_do_its_work_does_not_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let production: &[(&str, &str)] = &[
        ("COGO_STAGE", "production"),
        ("ENABLE_COGO_WORKER", "false"),
        ("AGENT_SERVICE", "code"),
    ];
    let supabase: &[(&str, &str)] = &[
        ("SUPABASE_URL", "https://x.supabase.co"),
        ("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_x"),
    ];
    type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 12] = [
        (
            production,
            2,
            "config_invalid",
            &["environment ENABLE_COGO_WORKER", "production", "hint"],
        ),
        (
            &[("ENABLE_COGO_WORKER", "true")],
            2,
            "config_invalid",
            &["COGO_WORKER_URL is not set", "hint"],
        ),
        (
            &[("ENABLE_COGO_WORKER", "perhaps")],
            2,
            "config_invalid",
            &["expected true or false"],
        ),
        (
            &[("COGO_WORKER_URL", "worker:80")],
            2,
            "config_invalid",
            &["environment COGO_WORKER_URL", "http://"],
        ),
        (supabase, 2, "config_invalid", &["set DATABASE_URL"]),
        (
            &[("COGO_STAGE", "prod")],
            2,
            "config_invalid",
            &["`prod` is not a stage"],
        ),
        (
            &[("COGO_STAGE", "staging")],
            2,
            "config_invalid",
            &["no route is listed", "AGENT_SERVICE"],
        ),
        (
            &[("COGO_BIND", "0.0.0.0")],
            2,
            "token_missing",
            &["COGO_HOST_TOKEN"],
        ),
        (
            &[("COGO_BIND", "127.0.0.1:7171")],
            2,
            "config_invalid",
            &["`bind` = `127.0.0.1:7171`", "(PORT)"],
        ),
        (
            &[("PORT", &port)],
            6,
            "port_unavailable",
            &["cannot listen on 127.0.0.1", "--port"],
        ),
        (
            &[("DATABASE_URL", "mysql://u:hunter2@h/d")],
            2,
            "config_invalid",
            &["sqlite://PATH"],
        ),
        (
            &[("DATABASE_URL", "sqlite:///no/such/place/bus.db")],
            6,
            "bus_unavailable",
            &["/no/such/place"],
        ),
    ];
    for (environment, exit, code, said) in cases {
        let mistake = Mistake {
            environment,
            args: &["run"],
            exit,
            code,
            said,
        };
        mistake.check(Installation::new());
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let here = Installation::new();
    let _ = here.run(&["migrate"]).expect(0);
    let absent = "018f0000-0000-7000-8000-000000000000";
    let cases: [(&[&str], i32, &str); 6] = [
        (&["task", "show", absent], 4, "task_unknown"),
        (&["task", "cancel", absent], 4, "task_unknown"),
        (&["task", "retry", absent], 4, "task_unknown"),
        (&["trace", "nothing"], 4, "trace_unknown"),
        (&["plugin", "inspect", "absent.wasm"], 4, "P102"),
        (&["task", "show", "not-an-id"], 2, "usage"),
    ];
    for (args, exit, code) in cases {
        let mut args = args.to_vec();
        args.push("--json");
        let answer = here.run(&args).expect(exit).json();
        assert_eq!(answer["error"]["code"], code, "{args:?}");
    }
    // No data is no failure, and no success either.
    let _ = here.run(&["gate"]).expect(3);
    let _ = here.run(&["gate", "--trace", "nothing"]).expect(3);
}

#[test]
fn a_typo_in_the_configuration_is_named_with_its_line_and_neighbour() {
    let here = Installation::new();
    std::fs::write(
        here.path().join("cogo.toml"),
        "stage = \"staging\"\nbus_pol_ms = 5\n",
    )
    .unwrap();
    let finished = here.run(&["config", "validate"]).expect(2);
    assert!(
        finished.stderr.contains("cogo.toml:2"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("did you mean `bus_poll_ms`?"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_file_that_is_no_database_stays_as_it_is() {
    let here = Installation::new();
    let file = here.path().join("bus.db");
    std::fs::write(
        &file,
        "these are somebody's notes, not a database\n".repeat(100),
    )
    .unwrap();
    let before = std::fs::read(&file).unwrap();
    let url = format!("sqlite://{}", file.display());
    let here = here.with("DATABASE_URL", &url);
    for args in [&["run"][..], &["task", "list"], &["migrate"]] {
        let finished = here.run(args).expect(6);
        assert!(
            finished.stderr.contains("database_corrupt"),
            "{}",
            finished.stderr
        );
        assert!(finished.stderr.contains("bus.db"), "{}", finished.stderr);
    }
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_second_host_on_the_same_file_is_told_where_the_first_is() {
    let here = Installation::new();
    let _first = here.host(&[]);
    let second: Finished = here.run(&["run", "--port", "0"]).expect(6);
    assert!(second.stderr.contains("bus_owned"), "{}", second.stderr);
    assert!(
        second.stderr.contains("API at http://127.0.0.1:"),
        "{}",
        second.stderr
    );
}

#[test]
fn a_plugin_that_does_not_fit_says_why() {
    let here = Installation::new();
    let write = |name: &str, bytes: &[u8]| {
        let file = here.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let cases = [
        (write("text.wasm", b"hello"), "P110", "no component"),
        (write("empty.wasm", b""), "P110", "no component"),
        (
            write("module.wasm", b"\0asm\x01\0\0\0"),
            "P110",
            "core module",
        ),
    ];
    for (file, code, part) in cases {
        let answer = here
            .run(&["plugin", "inspect", "--json", &file])
            .expect(1)
            .data();
        assert_eq!(answer["problems"][0]["code"], code, "{answer}");
        let message = answer["problems"][0]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    }
}
