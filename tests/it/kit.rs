//! From an empty directory to a running executor: `plugin new`, `plugin build`,
//! and the host that runs what they made. Nothing is replaced: compilers are those
//! that `tests/setup` installed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::process::{Host, Installation, Process, sources};

/// An installation in which compilers find what they need.
fn workshop() -> Installation {
    let real = |name: &str| std::env::var(name).unwrap_or_default();
    let mut here = Installation::new()
        .with("HOME", &real("HOME"))
        // Compiled once for all tests, wherever the plugin lies.
        .with(
            "CARGO_TARGET_DIR",
            &guests().join("build/new").to_string_lossy(),
        );
    for name in [
        "CARGO_HOME",
        "RUSTUP_HOME",
        "COGO_TOOLCHAIN_CACHE",
        "XDG_CACHE_HOME",
    ] {
        if std::env::var_os(name).is_some() {
            here = here.with(name, &real(name));
        }
    }
    here
}

fn guests() -> PathBuf {
    sources().join("target/guests")
}

/// A new plugin called `my-plugin`, built.
fn made(here: &Installation, language: &str) -> Value {
    let made = here
        .run(&["plugin", "new", "my-plugin", "--lang", language, "--json"])
        .expect(0)
        .data();
    assert_eq!(made["language"], language);
    borrow_tools(here.path(), language);
    let built = here
        .run(&["plugin", "build", "my-plugin", "--json"])
        .expect(0)
        .data();
    assert_eq!(built["name"], "my-plugin", "{built}");
    assert_eq!(built["version"], "0.1.0");
    assert_eq!(built["world"], "cogo:executor/executor-plugin@0.1.0");
    assert_eq!(built["problems"], Value::Array(Vec::new()), "{built}");
    let component = here.path().join("my-plugin/my-plugin.wasm");
    assert_eq!(fs::metadata(component).unwrap().len(), built["bytes"]);
    // Golden tasks and what every executor must do, unchanged.
    let tested = here
        .run(&["plugin", "test", "my-plugin", "--json"])
        .expect(0)
        .data();
    let tested = tested.as_array().unwrap();
    assert!(
        tested.len() > 4 && tested.iter().all(|test| test["passed"] == true),
        "{tested:?}"
    );
    built
}

/// What a person installs once, taken from where `tests/setup` did.
fn borrow_tools(here: &Path, language: &str) {
    let name = match language {
        "javascript" => "node_modules",
        "python" => ".venv",
        _ => return,
    };
    let installed = sources().join("examples/plugins").join(language).join(name);
    assert!(
        installed.is_dir(),
        "{}: run tests/setup first",
        installed.display()
    );
    std::os::unix::fs::symlink(installed, here.join("my-plugin").join(name)).unwrap();
}

/// Puts the plugin into service on a host of its own.
fn serves(here: &Installation) -> Host {
    let plugins = here.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(
        here.path().join("my-plugin/my-plugin.wasm"),
        plugins.join("my-plugin.wasm"),
    )
    .unwrap();
    fs::write(
        here.path().join("cogo.toml"),
        "plugins_dir = \"plugins\"\n[route.\"code/build-test\"]\nplugin = \"my-plugin\"\n\
         [plugin.my-plugin]\n\
         config = { GREETING = \"Ahoj\", FETCH_ORIGIN = \"http://127.0.0.1:9\" }\n",
    )
    .unwrap();
    here.host(&[])
}

/// What became of a task that was submitted to it.
fn runs(here: &Installation, payload: &str) -> Value {
    let _host = serves(here);
    here.submit("code/build-test", &["--payload", payload, "--wait"])
}

#[test]
fn a_plugin_written_by_hand_runs() {
    let here = workshop();
    let built = made(&here, "wat");
    assert_eq!(built["profile"], "minimal");
    let task = runs(&here, "{}");
    assert_eq!(task["status"], "done", "{task:#}");
    assert_eq!(task["result_snippet"], "Ahoj", "{task:#}");
}

#[test]
fn a_plugin_in_rust_is_built_without_this_repository_and_runs() {
    let here = workshop();
    let built = made(&here, "rust");
    assert_eq!(built["profile"], "minimal");
    // No place of this machine is left in it.
    let component = fs::read(here.path().join("my-plugin/my-plugin.wasm")).unwrap();
    let text = String::from_utf8_lossy(&component);
    for place in [here.path().to_str().unwrap(), "registry/src"] {
        assert!(!text.contains(place), "it names {place}");
    }
    let task = runs(&here, r#"{"greet":"you"}"#);
    assert_eq!(task["status"], "done", "{task:#}");
    assert_eq!(task["result_snippet"], "Ahoj, you!", "{task:#}");
}

#[test]
fn a_plugin_in_javascript_is_built() {
    assert_eq!(made(&workshop(), "javascript")["profile"], "wasi");
}

#[test]
fn a_plugin_in_python_is_built() {
    assert_eq!(made(&workshop(), "python")["profile"], "wasi");
}

#[test]
fn what_has_not_changed_is_not_built_again() {
    let here = workshop();
    made(&here, "wat");
    let build = ["plugin", "build", "my-plugin", "--if-changed", "--json"];
    assert_eq!(here.run(&build).expect(0).data()["built"], false);
    let text = here.path().join("my-plugin/plugin.wat");
    let changed = fs::read_to_string(&text)
        .unwrap()
        .replace("Hello, world!", "Hi there, all");
    fs::write(&text, changed).unwrap();
    assert_eq!(here.run(&build).expect(0).data()["built"], true);
}

#[test]
fn a_plugin_is_never_written_over_something() {
    let here = Installation::new();
    let new = ["plugin", "new", "my-plugin", "--lang", "wat"];
    let _ = here.run(&new).expect(0);
    let refused = here.run(&new).expect(2);
    for part in ["error[new_refused]", "my-plugin is there already", "--dir"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    for name in ["My-Plugin", "-x", "a--b", "a_b"] {
        let refused = here
            .run(&["plugin", "new", "--lang", "wat", "--", name])
            .expect(2);
        assert!(refused.stderr.contains("lower-case"), "{}", refused.stderr);
    }
    let refused = here
        .run(&["plugin", "new", "x", "--lang", "cobol"])
        .expect(2);
    assert!(
        refused.stderr.contains("rust, javascript, python or wat"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_missing_toolchain_is_named_with_what_to_install() {
    for (language, parts) in [
        (
            "rust",
            &[
                "rustc",
                "https://rustup.rs",
                "rustup target add wasm32-unknown-unknown",
            ][..],
        ),
        ("javascript", &["node", "apt-get install nodejs npm"]),
        (
            "python",
            &[
                "componentize-py",
                "-m venv .venv",
                "pip install -r requirements.txt",
            ],
        ),
    ] {
        let here = Installation::new().with("PATH", "");
        let new = ["plugin", "new", "my-plugin", "--lang", language];
        let made = here.run(&new).expect(0);
        let refused = here.run(&["plugin", "build", "my-plugin"]).expect(6);
        for part in parts {
            // Already when it is written, not only when it is built.
            assert!(made.stderr.contains(part), "{part}: {}", made.stderr);
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
        assert!(refused.stderr.contains("error[toolchain_missing]"));
    }
}

#[test]
fn sources_that_are_wrong_are_named_with_their_place() {
    let here = Installation::new();
    let _ = here
        .run(&["plugin", "new", "my-plugin", "--lang", "wat"])
        .expect(0);
    let text = here.path().join("my-plugin/plugin.wat");
    let good = fs::read_to_string(&text).unwrap();
    let manifest = here.path().join("my-plugin/plugin.toml");
    for (broken, said) in [
        (good.replace("(call $put", "(call $putt"), "plugin.wat:"),
        (
            good.replace("#describe", "#describes"),
            "cannot become a component",
        ),
    ] {
        fs::write(&text, broken).unwrap();
        let refused = here.run(&["plugin", "build", "my-plugin"]).expect(1);
        assert!(
            refused.stderr.contains("error[build_failed]"),
            "{}",
            refused.stderr
        );
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    fs::write(&manifest, "[plugin]\nname = \"x\"\n").unwrap();
    let refused = here.run(&["plugin", "build", "my-plugin"]).expect(2);
    assert!(
        refused.stderr.contains("plugin.toml has no plugin.version"),
        "{}",
        refused.stderr
    );
    fs::remove_file(manifest).unwrap();
    let refused = here.run(&["plugin", "build", "my-plugin"]).expect(2);
    assert!(refused.stderr.contains("plugin new"), "{}", refused.stderr);
}

/// Which digest of the plugin the host runs.
fn serving(host: &Host) -> Value {
    let listing = host.get("/api/plugins");
    let plugins = listing["plugins"].as_array().unwrap();
    let own = plugins.iter().find(|plugin| plugin["name"] == "my-plugin");
    own.unwrap()["serving"]["digest"].clone()
}

#[test]
fn an_edit_reaches_the_running_host_and_a_broken_one_does_not() {
    let here = workshop();
    let built = made(&here, "wat");
    let host = serves(&here);
    assert_eq!(serving(&host), built["digest"]);
    let text = here.path().join("my-plugin/plugin.wat");
    let good = fs::read_to_string(&text).unwrap();
    let watching = here.command(&["plugin", "dev", "my-plugin", "--json"]);
    let (dev, line) = Process::start(watching, |line| line.contains("plugin-dev"));
    let round: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(round["data"]["served"]["by"], host.api, "{round}");

    fs::write(&text, good.replace("greeted", "saluted")).unwrap();
    let edited = here.until("the edit is served", || {
        Some(serving(&host)).filter(|digest| *digest != built["digest"])
    });
    fs::write(
        &text,
        good.replace("example_permanent", "example_otherwise"),
    )
    .unwrap();
    here.until("the golden task is named", || {
        dev.stderr()
            .contains("golden task `fails-for-good`")
            .then_some(())
    });
    assert_eq!(serving(&host), edited);
    fs::write(&text, good.replace("(call $put", "(call $putt")).unwrap();
    here.until("the mistake is named", || {
        dev.stderr()
            .contains("failed to find name `$putt`")
            .then_some(())
    });
    assert_eq!(serving(&host), edited);

    // One that is built and would not load is not handed over either.
    drop(dev);
    fs::write(&text, good.replace("code/build-test", "code-build-test")).unwrap();
    let refused = here
        .run(&["plugin", "dev", "my-plugin", "--once"])
        .expect(1);
    assert!(
        refused.stderr.contains("code-build-test"),
        "{}",
        refused.stderr
    );
    assert_eq!(serving(&host), edited);
    fs::write(&text, good).unwrap();
    let mended = here
        .run(&["plugin", "dev", "my-plugin", "--once", "--json"])
        .expect(0);
    assert_eq!(mended.data()["digest"], built["digest"]);
    assert_eq!(serving(&host), built["digest"]);
}

/// The commands of the first shell block behind a heading of the README, as they
/// stand there.
fn transcript(heading: &str) -> Vec<String> {
    let readme = fs::read_to_string(sources().join("README.md")).unwrap();
    let (_, section) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = block.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn the_quickstart_of_the_readme_is_true() {
    let here = workshop();
    let program = Path::new(env!("CARGO_BIN_EXE_cogo-host")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let lines = transcript("Write a plugin");
    assert!(lines.len() >= 4, "{lines:?}");
    for line in &lines {
        // The environment of an installation, for a shell.
        let given = here.command(&[]);
        let given = given
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        let mut shell = std::process::Command::new("sh");
        shell.env_clear().envs(given).env("PATH", &path);
        let output = shell
            .args(["-ec", line])
            .current_dir(here.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
    assert!(here.path().join("plugins/my-plugin.wasm").is_file());
}
