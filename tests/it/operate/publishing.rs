//! Plugins that are published and retracted through the host that owns the bus.

use std::fs;
use std::io::Cursor;

use cogo_host::ids::Digest;
use minisign::KeyPair;
use serde_json::Value;

use super::versions::marked_of;
use crate::support::process::{Host, Installation, until};
use crate::swap::harness::{NAME, version};
use crate::whole_path;

const TOKEN: &str = "0123456789abcdef";

/// Writes a version of the guest beside the bus; its file's name and its digest.
fn guest(here: &Installation, n: u32) -> (String, String) {
    let bytes = version(n).component();
    let file = format!("guest-{n}.wasm");
    fs::write(here.path().join(&file), &bytes).unwrap();
    (file, Digest::of(&bytes).to_string())
}

fn listed(host: &Host) -> Option<Value> {
    let listing = host.get("/api/plugins");
    let plugins = listing["plugins"].as_array().unwrap();
    plugins
        .iter()
        .find(|plugin| plugin["name"] == NAME)
        .cloned()
}

fn serves(host: &Host, digest: &str) {
    until("the version serves", &mut || {
        (listed(host)?["serving"]["digest"] == digest).then_some(())
    });
}

/// The events of a type, oldest first.
fn events(host: &Host, event_type: &str) -> Vec<Value> {
    let found = host.get(&format!("/api/metrics/bus/events?type={event_type}"));
    found["events"].as_array().unwrap().clone()
}

#[test]
fn a_version_is_published_once_and_retracted_unless_it_was_decided_on() {
    let here = Installation::new();
    let mut host = here.host(&[]);
    let ((file_1, one), (file_2, two)) = (guest(&here, 1), guest(&here, 2));
    let publish = |file: &str| {
        let args = ["plugin", "publish", file, "--reason", "as told", "--json"];
        here.run(&args)
    };
    let done = publish(&file_1).expect(0).data();
    assert_eq!(
        (&done["changed"], &done["digest"]),
        (&true.into(), &one.clone().into())
    );
    serves(&host, &one);
    assert_eq!(publish(&file_1).expect(0).data()["changed"], false);
    let _ = publish(&file_2).expect(0);
    serves(&host, &two);

    // What is no component is refused, by the same checks as a file.
    fs::write(here.path().join("junk.wasm"), "junk").unwrap();
    let refused = publish("junk.wasm").expect(2).json();
    assert!(
        refused["error"]["code"].as_str().unwrap().starts_with("P1"),
        "{refused}"
    );
    let path = "/api/plugins/published";
    let (status, refused) = host.post_bytes(path, "application/wasm", b"junk", None);
    assert_eq!(status, 422, "{refused}");
    assert!(refused["error"]["hint"].is_string(), "{refused}");
    let (status, _) = host.post_bytes(path, "text/plain", b"junk", None);
    assert_eq!(status, 415);
    let (status, _) = host.post_bytes(&format!("{path}?force=1"), "application/wasm", b"", None);
    assert_eq!(status, 400);

    let retract = |digest: &str| here.run(&["plugin", "retract", digest, "--json"]);
    let unknown = Digest::of(b"unknown").to_string();
    let refused = retract(&unknown).expect(4).json();
    assert_eq!(refused["error"]["code"], "version_not_found");
    let _ = retract("sha256:beef").expect(2);
    let (status, _) = host.post(
        &format!("{path}/sha256:beef/retract"),
        &serde_json::json!({}),
    );
    assert_eq!(status, 400);

    // Decided for every host: it stays as long as that is so.
    let _ = here.run(&["plugin", "rollback", NAME]).expect(0);
    serves(&host, &one);
    let refused = retract(&one).expect(2).json();
    assert_eq!(refused["error"]["code"], "version_serves");
    serves(&host, &one);
    assert_eq!(retract(&two).expect(0).data()["changed"], true);
    assert_eq!(retract(&two).expect(0).data()["changed"], false);

    let published = events(&host, "plugin_published");
    assert_eq!(published.len(), 2, "{published:?}");
    assert_eq!(published[0]["reason"], "as told");
    assert!(
        published[0]["payload"]["actor"].is_string(),
        "{published:?}"
    );
    assert_eq!(events(&host, "plugin_retracted").len(), 1);

    // Without a host, the bus tells.
    host.process.signal("TERM");
    assert_eq!(host.process.wait(), Some(0));
    let listing = here.run(&["plugin", "list", "--json"]).expect(0).data();
    assert_eq!(listing["running"], false);
    let rows = listing["published"].as_array().unwrap();
    let retracted: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["digest"].as_str().unwrap(),
                !row["retracted_at"].is_null(),
            )
        })
        .collect();
    assert_eq!(retracted, [(&*two, true), (&*one, false)]);
    let text = here.run(&["plugin", "list"]).expect(0).stdout;
    assert!(text.contains("on the bus"), "{text}");
}

#[test]
fn a_new_host_goes_back_to_what_served_on_the_one_before() {
    let here = Installation::new();
    let mut host = here.host(&[]);
    let versions = [1, 2, 3].map(|n| guest(&here, n));
    for (file, digest) in &versions {
        let _ = here.run(&["plugin", "publish", file]).expect(0);
        serves(&host, digest);
    }
    let known = here
        .path()
        .join(".cogo/plugins")
        .join(NAME)
        .join("served.json");
    until("what served is written down", &mut || {
        let text = fs::read_to_string(&known).ok()?;
        versions
            .iter()
            .all(|(_, digest)| text.contains(digest))
            .then_some(())
    });
    // However it ends.
    host.process.kill();
    let host = here.host(&[]);
    let first = &versions[0].1;
    let back = ["plugin", "rollback", NAME, "--to", &first[..19], "--json"];
    let done = here.run(&back).expect(0).data();
    assert_eq!(done["to"]["digest"], *first);
    serves(&host, first);
    let done = here.run(&["plugin", "list", "--json"]).expect(0).data();
    assert_eq!(done["running"], true);
    assert_eq!(done["published"].as_array().unwrap().len(), 3);
}

#[test]
fn a_published_plugin_keeps_no_host_from_starting() {
    const ROUTE: &str = "sandbox/run";
    let here = Installation::new();
    let mut host = here.host(&[]);
    let (file, digest) = guest(&here, 1);
    let _ = here.run(&["plugin", "publish", &file]).expect(0);
    serves(&host, &digest);
    // The plugin that had the route goes on with it, and the operator is told so.
    let told = |host: &Host| {
        let ready = host.get("/readyz");
        let checks = ready["checks"].as_array().unwrap();
        let routes = checks.iter().find(|check| check["name"] == "routes");
        routes.unwrap().clone()
    };
    let as_before = |host: &Host| {
        let task = ["--payload", r#"{"command":"true"}"#, "--wait"];
        let submitted = here.submit(ROUTE, &task);
        let shown = whole_path::task(&here, submitted["id"].as_str().unwrap());
        (shown["history"][0]["plugin"].clone(), told(host))
    };
    until("the rival is noticed", &mut || {
        told(&host)["detail"].as_str()?.contains(NAME).then_some(())
    });
    let before = as_before(&host);
    let detail = before.1["detail"].as_str().unwrap().to_owned();
    let retract = format!("`cogo-host plugin retract {digest}`");
    for part in [ROUTE, "it stays with cogo-worker and mock", &retract] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(before.0, "mock");

    host.process.signal("TERM");
    assert_eq!(host.process.wait(), Some(0));
    let host = here.host(&[]);
    serves(&host, &digest);
    assert_eq!(as_before(&host), before);
    let _ = here.run(&["plugin", "retract", &digest]).expect(0);
    until("nobody is in the way", &mut || {
        let detail = told(&host)["detail"].as_str()?.to_owned();
        (!detail.contains(NAME)).then_some(())
    });
}

#[test]
fn a_promoted_version_keeps_no_host_from_starting() {
    const ROUTE: &str = "code/build-test";
    let here = Installation::new()
        .with("COGO_STAGE", "staging")
        .with("AGENT_SERVICE", "code")
        .with("COGO_WORKER_URL", "http://127.0.0.1:9")
        .with("COGO_HOST_TOKEN", TOKEN)
        .with("COGO_PLUGINS_DIR", "plugins");
    let bytes = marked_of("cogo-worker", "next");
    let candidate = format!("cogo-worker@{}", Digest::of(&bytes));
    fs::create_dir(here.path().join("plugins")).unwrap();
    fs::write(here.path().join("plugins/cogo-worker.wasm"), bytes).unwrap();
    let config = here.path().join("cogo.toml");
    fs::write(&config, "[plugin.cogo-worker]\nkind = \"real\"\n").unwrap();
    let mut host = here.host(&[]);
    let start = ["rollout", "start", "--route", ROUTE, "--reason", "as told"];
    let share = ["--steps", "100", "--candidate", &candidate];
    let _ = here.run(&[&start[..], &share].concat()).expect(0);
    let promote = ["rollout", "promote", "--reason", "as told"];
    until("the step has begun", &mut || {
        (here.run(&promote).code == 0).then_some(())
    });
    let served = |host: &Host| {
        let status = host.get("/api/integration/status");
        status["routes"][0]["plugins"].clone()
    };
    let before = served(&host);
    assert_eq!(before["pair"]["real"], "cogo-worker", "{before}");
    host.process.signal("TERM");
    assert_eq!(host.process.wait(), Some(0));
    // Nobody says any more that this version is real: it counts as another mock.
    fs::remove_file(&config).unwrap();
    assert_eq!(served(&here.host(&[])), before);
}

#[test]
fn where_signatures_are_required_nothing_is_published_without_one() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let sign = |keys: &KeyPair, bytes: &[u8]| {
        let signed = minisign::sign(Some(&keys.pk), &keys.sk, Cursor::new(bytes), None, None);
        signed.unwrap().into_string()
    };
    let here = Installation::new()
        .with("COGO_STAGE", "staging")
        .with("ENABLE_COGO_WORKER", "false")
        .with("AGENT_SERVICE", "code")
        .with("COGO_HOST_TOKEN", TOKEN)
        .with("COGO_TRUSTED_KEYS", &keys.pk.to_base64())
        .with("COGO_SIGNED_STAGES", "staging");
    let host = here.host(&[]);
    let (file, digest) = guest(&here, 1);
    let bytes = fs::read(here.path().join(&file)).unwrap();

    // Nobody does either without a token.
    let path = "/api/plugins/published";
    let (status, refused) = host.post_bytes(path, "application/wasm", &bytes, None);
    assert_eq!(
        (status, &refused["error"]["code"]),
        (401, &"token_missing".into())
    );
    let wrong = Some("0123456789abcdee");
    let (status, _) = host.post_bytes(path, "application/wasm", &bytes, wrong);
    assert_eq!(status, 401);
    let retract = format!("{path}/{digest}/retract");
    let (status, _) = host.post(&retract, &serde_json::json!({}));
    assert_eq!(status, 401);

    let publish = || here.run(&["plugin", "publish", &file, "--json"]);
    assert_eq!(publish().expect(2).json()["error"]["code"], "P105");
    let stranger = KeyPair::generate_unencrypted_keypair().unwrap();
    let beside = here.path().join("guest-1.wasm.minisig");
    for signature in [sign(&stranger, &bytes), sign(&keys, b"other bytes")] {
        fs::write(&beside, signature).unwrap();
        assert_eq!(publish().expect(2).json()["error"]["code"], "P106");
    }
    assert!(listed(&host).is_none());
    fs::write(&beside, sign(&keys, &bytes)).unwrap();
    let _ = publish().expect(0);
    until("it is a candidate", &mut || {
        (listed(&host)?["candidates"][0]["digest"] == digest).then_some(())
    });
    let _ = here.run(&["plugin", "retract", &digest]).expect(0);
    until("it is none any more", &mut || {
        listed(&host).is_none().then_some(())
    });
}
