//! Which version of a plugin serves is decided for all hosts of a bus at once.

use std::fs;

use serde_json::Value;

use crate::faults::fleet::{Bus, LONG_LEASE_MS, Member};
use crate::support::process::{sources, until};

/// The bundled mock with a mark in it, so that it is another version.
pub fn marked(mark: &str) -> Vec<u8> {
    marked_of("mock", mark)
}

/// The same of any bundled plugin.
pub fn marked_of(plugin: &str, mark: &str) -> Vec<u8> {
    let path = sources().join(format!("plugins/prebuilt/{plugin}.wasm"));
    let mut bytes = fs::read(path).unwrap();
    let name = b"mark";
    let length = u8::try_from(1 + name.len() + mark.len()).unwrap();
    // A custom section: its id, its length, its name, its content.
    bytes.extend([0, length, u8::try_from(name.len()).unwrap()]);
    bytes.extend(name);
    bytes.extend(mark.as_bytes());
    bytes
}

fn member(name: &str, bus: &Bus) -> Member {
    Member::new(name, &bus.url, LONG_LEASE_MS)
        .with("COGO_PLUGINS_DIR", "plugins")
        .with("COGO_PLUGINS_QUIET_MS", "20")
}

fn put(host: &Member, bytes: &[u8]) -> String {
    let directory = host.path().join("plugins");
    fs::create_dir_all(&directory).unwrap();
    let draft = directory.join("mock.wasm.draft");
    fs::write(&draft, bytes).unwrap();
    fs::rename(&draft, directory.join("mock.wasm")).unwrap();
    cogo_host::ids::Digest::of(bytes).to_string()
}

fn mock(host: &Member) -> Value {
    let listing = host.get("/api/plugins");
    let plugins = listing["plugins"].as_array().unwrap();
    let mock = plugins.iter().find(|plugin| plugin["name"] == "mock");
    mock.unwrap().clone()
}

fn serves(host: &Member, digest: &str) {
    until("the version serves", &mut || {
        (mock(host)["serving"]["digest"] == digest).then_some(())
    });
}

#[test]
fn a_rollback_reaches_every_host_and_outlives_them() {
    let bus = Bus::shared();
    let mut hosts = ["one", "two"].map(|name| member(name, &bus).started());
    let (mut first, mut second) = (String::new(), String::new());
    for host in &hosts {
        first = put(host, &marked("first"));
        serves(host, &first);
        second = put(host, &marked("second"));
        serves(host, &second);
    }
    let back = [
        "plugin", "rollback", "mock", "--reason", "too slow", "--json",
    ];
    let done = hosts[0].ask(&back).expect(0).data();
    assert_eq!(done["everywhere"], true, "{done}");
    for host in &hosts {
        serves(host, &first);
        assert_eq!(mock(host)["rolled_back_from"], second);
    }
    let trace = done["trace_id"].as_str().unwrap();
    until("the other host has told that it followed", &mut || {
        let story = hosts[0].run(&["trace", "--json", trace]).expect(0).data();
        let events = story["events"].as_array().unwrap().clone();
        let types: Vec<&str> = events
            .iter()
            .map(|event| event["event_type"].as_str().unwrap())
            .collect();
        (types == ["plugin_rolled_back", "plugin_swapped"]).then(|| {
            assert_eq!(events[0]["reason"], "too slow");
            let host = events[1]["payload"]["host"].as_str().unwrap();
            assert!(host.starts_with("two:"), "{host}");
        })
    });
    for host in &mut hosts {
        host.drain();
        host.start();
        serves(host, &first);
        // And then to what is newer than the decision.
        let third = put(host, &marked("third"));
        serves(host, &third);
    }
}

fn file(host: &Member, name: &str, bytes: &[u8]) -> (String, String) {
    let path = host.path().join(name);
    fs::write(&path, bytes).unwrap();
    let digest = cogo_host::ids::Digest::of(bytes).to_string();
    (path.display().to_string(), digest)
}

#[test]
fn what_is_published_serves_on_every_host_and_outlives_them() {
    let bus = Bus::shared();
    let mut hosts = ["one", "two"].map(|name| member(name, &bus).started());
    let bundled = mock(&hosts[0])["serving"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let (path, digest) = file(&hosts[0], "new.wasm", &marked("published"));
    let publish = [
        "plugin",
        "publish",
        &path,
        "--reason",
        "it is faster",
        "--json",
    ];
    let done = hosts[0].run(&publish).expect(0).data();
    assert_eq!(
        (&done["plugin"], &done["digest"]),
        (&"mock".into(), &digest.clone().into())
    );
    for host in &hosts {
        serves(host, &digest);
        assert_eq!(mock(host)["source"]["type"], "published");
    }
    // Again it changes nothing, and other bytes of the same version are refused.
    let again = hosts[1]
        .run(&["plugin", "publish", &path, "--json"])
        .expect(0);
    assert_eq!(again.data()["changed"], false);
    let (other, _) = file(&hosts[1], "other.wasm", &marked("other"));
    let refused = hosts[1].run(&["plugin", "publish", &other]).expect(2);
    assert!(
        refused.stderr.contains("raise the version"),
        "{}",
        refused.stderr
    );
    // The directory is the local override.
    let own = put(&hosts[1], &marked("own"));
    serves(&hosts[1], &own);
    serves(&hosts[0], &digest);

    hosts[0].drain();
    hosts[0].start();
    assert_eq!(mock(&hosts[0])["serving"]["digest"], digest);
    let retract = ["plugin", "retract", &digest];
    let _ = hosts[0].run(&retract).expect(0);
    serves(&hosts[0], &bundled);
    serves(&hosts[1], &own);
}

#[test]
fn in_staging_what_is_published_is_a_candidate_on_every_host() {
    let bus = Bus::shared();
    let hosts = ["one", "two"].map(|name| {
        let member = member(name, &bus)
            .with("COGO_STAGE", "staging")
            .with("ENABLE_COGO_WORKER", "false")
            .with("AGENT_SERVICE", "code");
        member.started()
    });
    let (path, digest) = file(&hosts[0], "new.wasm", &marked("candidate"));
    let _ = hosts[0].run(&["plugin", "publish", &path]).expect(0);
    for host in &hosts {
        until("the candidate is ready", &mut || {
            let mock = mock(host);
            assert_ne!(mock["serving"]["digest"], digest);
            (mock["candidates"][0]["digest"] == digest).then_some(())
        });
    }
    // Every host says so on the bus.
    let lacking = format!("SELECT count(*) FROM executor_hosts WHERE NOT digests ? '{digest}'");
    until("both hosts have told", &mut || {
        (bus.numbers(&lacking) == [0]).then_some(())
    });
}
