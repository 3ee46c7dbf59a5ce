//! The real binary: a plugin's file is replaced, broken, rolled back and removed
//! under it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::process::{Host, Installation, sources};

/// The bundled mock with a mark in it, so that it is another version.
fn marked(mark: &str) -> Vec<u8> {
    let path = sources().join("plugins/prebuilt/mock.wasm");
    let mut bytes = fs::read(path).unwrap();
    let name = b"mark";
    let length = u8::try_from(1 + name.len() + mark.len()).unwrap();
    // A custom section: its id, its length, its name, its content.
    bytes.extend([0, length, u8::try_from(name.len()).unwrap()]);
    bytes.extend(name);
    bytes.extend(mark.as_bytes());
    bytes
}

fn put(directory: &Path, bytes: &[u8]) -> String {
    let draft = directory.join("mock.wasm.draft");
    fs::write(&draft, bytes).unwrap();
    fs::rename(&draft, directory.join("mock.wasm")).unwrap();
    cogo_host::ids::Digest::of(bytes).to_string()
}

struct Running {
    here: Installation,
    _host: Host,
}

impl Running {
    fn start() -> Self {
        let here = Installation::new()
            .with("COGO_PLUGINS_DIR", "plugins")
            .with("COGO_HOST_TOKEN", "a-token-of-some-length");
        fs::create_dir(here.path().join("plugins")).unwrap();
        let host = here.host(&[]);
        Self { here, _host: host }
    }

    fn list(&self) -> Value {
        self.here
            .run(&["plugin", "list", "--json"])
            .expect(0)
            .data()
    }

    fn mock(&self) -> Value {
        let listing = self.list();
        assert_eq!(listing["running"], true);
        let plugins = listing["plugins"].as_array().unwrap();
        let mock = plugins.iter().find(|plugin| plugin["name"] == "mock");
        mock.unwrap().clone()
    }

    /// Waits until the host serves this version of the mock.
    fn serves(&self, digest: &str) {
        self.here.until("the version serves", || {
            (self.mock()["serving"]["digest"] == digest).then_some(())
        });
    }

    /// The digest that a task submitted now runs on.
    fn runs_on(&self) -> String {
        let repo = ["--wait", "--repo", "https://example.com/r.git"];
        let submitted = self.here.submit("code/build-test", &repo);
        let id = submitted["id"].as_str().unwrap();
        let shown = self
            .here
            .run(&["task", "show", "--json", id])
            .expect(0)
            .data();
        let digest = shown["history"][0]["digest"].as_str().unwrap();
        assert_eq!(shown["result"]["digest"], digest);
        digest.to_owned()
    }
}

#[test]
fn a_plugin_is_swapped_under_a_running_host() {
    let running = Running::start();
    let directory = running.here.path().join("plugins");
    let bundled = running.runs_on();

    let one = put(&directory, &marked("one"));
    running.serves(&one);
    assert_eq!(running.runs_on(), one);
    let two = put(&directory, &marked("two"));
    running.serves(&two);
    assert_eq!(running.runs_on(), two);

    // Broken: shown, and without effect.
    put(&directory, &marked("three")[..5_000]);
    let error = running.here.until("the file is refused", || {
        running.mock()["last_error"].as_str().map(str::to_owned)
    });
    assert!(error.starts_with("P111"), "{error}");
    assert_eq!(running.runs_on(), two);
    let text = running.here.run(&["plugin", "list"]).expect(0).stdout;
    assert!(text.contains("its file is refused"), "{text}");
    assert!(text.contains("hint: copy or build it again"), "{text}");

    // Back, by an operator.
    let back = [
        "plugin",
        "rollback",
        "mock",
        "--json",
        "--reason",
        "two is too slow",
    ];
    let done = running.here.run(&back).expect(0).data();
    assert_eq!(done["from"]["digest"], two);
    assert_eq!(done["to"]["digest"], one);
    assert_eq!(running.runs_on(), one);
    let trace = done["trace_id"].as_str().unwrap();
    let story = running.here.until("the rollback is recorded", || {
        let story = running.here.run(&["trace", "--json", trace]);
        (story.code == 0).then(|| story.data())
    });
    let event = &story["events"][0];
    assert_eq!(event["event_type"], "plugin_rolled_back");
    assert_eq!(event["reason"], "two is too slow");
    assert_eq!(event["payload"]["to"]["digest"], one);
    assert!(!event["payload"]["actor"].as_str().unwrap().is_empty());

    let prefix = &bundled[..19];
    let _ = running
        .here
        .run(&["plugin", "rollback", "mock", "--to", prefix])
        .expect(0);
    assert_eq!(running.runs_on(), bundled);
    let _ = running
        .here
        .run(&["plugin", "rollback", "nobody"])
        .expect(4);
    let _ = running
        .here
        .run(&["plugin", "rollback", "mock", "--to", "zz"])
        .expect(2);

    // Gone: the bundled one.
    let four = put(&directory, &marked("four"));
    running.serves(&four);
    fs::remove_file(directory.join("mock.wasm")).unwrap();
    running.serves(&bundled);
    assert_eq!(running.runs_on(), bundled);
}

#[test]
fn without_a_host_there_is_nothing_to_roll_back() {
    let here = Installation::new().with("COGO_PLUGINS_DIR", "plugins");
    let finished = here.run(&["plugin", "rollback", "mock"]).expect(6);
    assert!(
        finished.stderr.contains("no host runs"),
        "{}",
        finished.stderr
    );
    let listing = here.run(&["plugin", "list", "--json"]).expect(0).data();
    assert_eq!(listing["running"], false);
    assert_eq!(listing["directory"]["state"], "missing");
    assert_eq!(listing["plugins"][0]["name"], "cogo-worker");
}
