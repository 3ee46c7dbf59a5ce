//! The command line as scripts and shells see it: JSON from every command, one
//! table of exit codes, short help, completions with live names, no colour where
//! none is wanted.

use std::process::Command;

use serde_json::Value;

use crate::support::process::Installation;

/// Every command that does something, found by asking for help.
fn commands(here: &Installation) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let below = subcommands(&help(here, &path));
        if below.is_empty() {
            found.push(path);
            continue;
        }
        open.extend(
            below
                .into_iter()
                .map(|name| [path.clone(), vec![name]].concat()),
        );
    }
    found.sort();
    assert!(found.len() > 25, "{found:?}");
    found
}

fn help(here: &Installation, path: &[String]) -> String {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("--help");
    here.run(&args).expect(0).stdout
}

fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// One object, or one a line.
fn objects(stdout: &str) -> Vec<Value> {
    if let Ok(whole) = serde_json::from_str(stdout) {
        return vec![whole];
    }
    let lines = stdout.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[test]
fn every_command_answers_in_json_also_when_it_fails() {
    let here = Installation::new();
    let _ = here.run(&["migrate"]).expect(0);
    for path in commands(&here) {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--json");
        if args[0] == "run" {
            // The one that would not end by itself.
            args.extend(["--until-idle", "--port", "0"]);
        }
        let finished = here.run(&args);
        let answers = objects(&finished.stdout);
        assert!(
            !answers.is_empty(),
            "{args:?} says nothing: {}",
            finished.stderr
        );
        for answer in answers {
            if answer["ok"] == true {
                let schema = answer["schema"].as_str().unwrap();
                assert!(
                    schema.starts_with("cogo-host.") && schema.ends_with(".v1"),
                    "{args:?}"
                );
                assert!(!answer["data"].is_null(), "{args:?}: {answer}");
            } else {
                assert_eq!(answer["ok"], false, "{args:?}: {answer}");
                assert!(answer["error"]["code"].is_string(), "{args:?}: {answer}");
                assert!(answer["error"]["message"].is_string(), "{args:?}: {answer}");
                assert_eq!(answer["error"]["exit"], finished.code, "{args:?}: {answer}");
            }
        }
    }
}

#[test]
fn help_is_short() {
    let here = Installation::new();
    for path in commands(&here) {
        let lines = help(&here, &path).lines().count();
        assert!(lines <= 50, "{path:?}: {lines} lines");
    }
    let whole = help(&here, &[]);
    assert!(whole.lines().count() <= 50, "{whole}");
    assert!(whole.contains("Exit codes: 0 ok"), "{whole}");
}

/// What ends how. A script that branches on a code relies on these.
const EXITS: &[(&[&str], i32)] = &[
    (&["--version"], 0),
    (&["--help"], 0),
    (&["plugin", "--help"], 0),
    (&["config", "show"], 0),
    (&["config", "schema"], 0),
    (&["config", "validate"], 0),
    (&["completions", "zsh"], 0),
    (&["doctor"], 0),
    (&["doctor", "--fix"], 0),
    (&["plugin", "list"], 0),
    (&["migrate"], 0),
    (&["task", "list"], 0),
    (&["route", "list"], 0),
    (&["flag", "list"], 0),
    (&["run", "--until-idle", "--port", "0"], 0),
    (&["plugin", "new", "made", "--lang", "wat"], 0),
    (&["plugin", "build", "made"], 0),
    (&["plugin", "inspect", "made/made.wasm"], 0),
    (&["plugin", "dev", "made", "--once"], 0),
    (&["plugin", "inspect", "made/plugin.wat"], 1),
    (&[], 2),
    (&["tsak", "list"], 2),
    (&["task", "show", "not-an-id"], 2),
    (&["completions", "tcsh"], 2),
    (&["plugin", "new", "Made"], 2),
    (&["plugin", "new", "made"], 2),
    (&["plugin", "build", "."], 2),
    (&["doctor", "--yes"], 2),
    (&["run", "--port", "100000"], 2),
    (&["config", "show", "--config", "absent.toml"], 2),
    (&["gate"], 3),
    (&["plugin", "inspect", "absent.wasm"], 4),
    (&["trace", "nothing"], 4),
    (&["task", "show", "018f0000-0000-7000-8000-000000000000"], 4),
    (&["plugin", "rollback", "mock"], 6),
];

#[test]
fn commands_end_with_the_code_of_what_happened() {
    let here = Installation::new();
    for (args, code) in EXITS {
        let _ = here.run(args).expect(*code);
    }
    // A database that is not there is none of the command's doing.
    let gone = Installation::new().with("DATABASE_URL", "postgres://127.0.0.1:1/none");
    for args in [&["task", "list"][..], &["doctor"]] {
        let _ = gone.run(args).expect(6);
    }
}

/// What a shell is offered behind these words.
fn completed(here: &Installation, words: &[&str]) -> Vec<String> {
    let mut command = here.command(&["--", "cogo-host"]);
    let output = command
        .args(words)
        .env("COMPLETE", "fish")
        .output()
        .unwrap();
    assert!(output.status.success());
    let offered = String::from_utf8(output.stdout).unwrap();
    let values = offered.lines().filter_map(|line| line.split('\t').next());
    values.map(str::to_owned).collect()
}

#[test]
fn shells_complete_live_names() {
    let here = Installation::new();
    let payload = ["--payload", "{}", "--trace-id", "trace-of-mine"];
    let task = here.submit("code/build-test", &payload);
    let id = task["id"].as_str().unwrap().to_owned();
    std::fs::create_dir(here.path().join("plugins")).unwrap();
    std::fs::write(here.path().join("plugins/my-own.wasm"), "").unwrap();
    let toml = "plugins_dir = \"plugins\"\n[route.\"docs/render\"]\nplugin = \"my-own\"\n";
    std::fs::write(here.path().join("cogo.toml"), toml).unwrap();
    for (words, offered) in [
        (&["task", "show", ""][..], id.as_str()),
        (&["task", "cancel", ""], &id),
        (&["trace", ""], "trace-of-mine"),
        (&["gate", "--trace", ""], "trace-of-mine"),
        (&["task", "list", "--route", ""], "docs/render"),
        (&["route", "pause", ""], "docs/render"),
        (&["flag", "set", "co"], "code/build-test"),
        (&["plugin", "rollback", ""], "my-own"),
        (&["plugin", "rollback", "m"], "mock"),
        (&["plu"], "plugin"),
        (&["submit", "--se"], "--service"),
    ] {
        let found = completed(&here, words);
        assert!(
            found.iter().any(|value| value == offered),
            "{words:?}: {found:?}"
        );
    }
    assert!(
        completed(&here, &["plugin", "new", ""])
            .iter()
            .all(|name| name != "mock")
    );
    // Without a bus there is nothing to offer, and nothing to complain about.
    assert!(!completed(&Installation::new(), &["task", "show", ""]).contains(&id));
}

#[test]
fn every_shell_gets_a_script_that_calls_back() {
    let here = Installation::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = here.run(&["completions", shell]).expect(0).stdout;
        assert!(
            script.contains("COMPLETE") && script.contains("cogo-host"),
            "{shell}: {script}"
        );
    }
    // Where the shell is at hand, it takes it.
    let script = here.run(&["completions", "bash"]).expect(0).stdout;
    let status = Command::new("bash")
        .args(["-n", "-c", &script])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let here = Installation::new();
    let log = |environment: &[(&str, &str)]| {
        // A terminal is made by `script`, which is part of every Linux.
        let program = env!("CARGO_BIN_EXE_cogo-host");
        let line = format!("{program} run --until-idle --port 0");
        // Nothing of the tests' own environment: with CI set, any terminal has
        // colours.
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(here.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", here.path())
            .env("TERM", "xterm")
            .envs(environment.iter().copied());
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    assert!(log(&[]).contains("\u{1b}["));
    assert!(!log(&[("NO_COLOR", "1")]).contains("\u{1b}["));
    assert!(!log(&[("TERM", "dumb")]).contains("\u{1b}["));
    assert!(log(&[("NO_COLOR", "")]).contains("\u{1b}["));
    // Nor where nobody looks.
    let piped = here.run(&["run", "--until-idle", "--port", "0"]).expect(0);
    assert!(!piped.stderr.contains('\u{1b}') && !piped.stdout.contains('\u{1b}'));
}
